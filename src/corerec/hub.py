"""Write a model as a folder for the Hugging Face Hub: config.json, model.safetensors and README.md, a model card.

    corerec.hub.write_folder(model, "movies")
    huggingface_hub.upload_folder(repo_id="you/movies", folder_path="movies")

`Bert4Rec.load("movies")` reads only model.safetensors, which holds the whole model. config.json repeats the settings
for people and other tools.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import blake2b
from importlib import metadata
from pathlib import Path

import numpy as np

from corerec.engines.bert4rec import checkpoint
from corerec.engines.bert4rec.recommender import Bert4Rec
from corerec.engines.bert4rec.training import EpochResult
from corerec.errors import DataError
from corerec.evaluation.report import Measure, Report
from corerec.files import atomic_folder

FORMAT = "corerec.bert4rec.hub"
FORMAT_VERSION = 1
CONFIG, CARD = "config.json", "README.md"
LIBRARY = "corerec-bert4rec"
TAGS = ("recommender-systems", "sequential-recommendation", "bert4rec")
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # as the Hub spells them


def write_folder(
    model: Bert4Rec,
    folder: str | os.PathLike[str],
    *,
    histories: bool = False,
    license: str | None = None,
    reports: Sequence[Report] = (),
) -> list[Path]:
    """Write a model as a folder for the Hub. The folder is written completely or not at all.

    Args:
        folder: the folder to write, which is created if it does not exist. Files of an earlier call are replaced,
            config.json last; other files stay as they are.
        histories: whether to keep the users' ids and events in model.safetensors. Without them, the model can answer
            only queries that contain a history, as a public model should.
        license: the Hub's name of a licence, such as "apache-2.0", for the card's header.
        reports: results of `evaluate` for this model, which the card shows as metrics.
    Returns:
        the files written.
    Raises:
        NotFittedError: the model is neither fitted nor loaded.
        DataError: the folder has other files of these names, or an edited card. Or the licence is not a name that the
            Hub knows, or an id is neither text nor a number.
        OSError: the folder cannot be written (`files.atomic_folder`).
    """
    folder, fitted = Path(folder), model.fitted
    if license is not None and not LICENSE.fullmatch(license):
        raise DataError(f"license must be a name as the Hub spells it, such as apache-2.0, not {license!r}")
    _check_contents(folder)
    names = (checkpoint.MODEL_FILE, CARD, CONFIG)
    card = model_card(model, histories=histories, license=license, reports=reports)
    with atomic_folder(folder, last=[CONFIG]) as unfinished:
        place = unfinished / checkpoint.MODEL_FILE
        checkpoint.save(fitted, place, name=model.name, histories=histories)
        (unfinished / CARD).write_text(card, encoding="utf-8", newline="\n")
        about = {
            "model_type": "bert4rec",
            "architectures": ["Bert4Rec"],
            "library_name": LIBRARY,
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "corerec_version": metadata.version(LIBRARY),
            "name": model.name,
            "fitted_at": fitted.fitted_at,
            "histories": histories and fitted.histories is not None,
            "model_config": asdict(fitted.config),
            "train_config": asdict(fitted.train_config),
            "card_digest": _digest(card.encode()),
        }
        (unfinished / CONFIG).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8", newline="\n")
    return [folder / name for name in names]


def model_card(
    model: Bert4Rec, *, histories: bool = False, license: str | None = None, reports: Sequence[Report] = ()
) -> str:
    """Return the model card in Markdown: a YAML header, usage, data, training, metrics and limits."""
    name = _plain(model.name)
    parts = [
        _header(name, model, license, reports),
        f"# {_escaped(name)}\n",
        "A sequential recommender: BERT4Rec ([Sun et al. 2019](https://arxiv.org/abs/1904.06690)), fitted with "
        f"CoreRec · BERT4Rec {metadata.version(LIBRARY)}. It ranks the items that may come next after a sequence of "
        "items.\n",
        _usage(model),
        "## Data\n",
        _table(_data(model)),
        "## Training\n",
        _table(_training(model)),
        "All settings are in config.json.\n",
        "## Metrics\n",
        _metrics(model, reports),
        "## Limits\n",
        "".join(f"- {limit}\n" for limit in _limits(model, histories)),
    ]
    return "\n".join(parts)


def reports_from(path: str | os.PathLike[str], name: str) -> list[Report]:
    """Read the reports of a model from a file of `corerec evaluate --json`.

    Args:
        name: the model's name.
    Raises:
        DataError: the file was not written by that command, or has no report of the model.
        OSError: the file cannot be read.
    """
    fields = set(Report.__dataclass_fields__)
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8"))
        known = [{key: value for key, value in record.items() if key in fields} for record in records]
        measures = [
            tuple(
                Measure(
                    each["metric"],
                    each["k"],
                    each["seen"],
                    each["mean"],
                    math.nan if each["error"] is None else each["error"],
                )
                for each in record.pop("measures")
            )
            for record in known
        ]
        reports = [Report(**record, measures=found) for record, found in zip(known, measures, strict=True)]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(f"{path} holds no figures; write them with: corerec evaluate MODEL LOG --json {path}") from None
    mine = [report for report in reports if report.scorer == name]
    if not mine:
        found = ", ".join(sorted({report.scorer for report in reports})) or "none"
        raise DataError(f"{path} has no figures of {name}, only of: {found}; evaluate this model")
    return mine


# ------------------------------------------------------------------------------------------------------- the card


def _header(name: str, model: Bert4Rec, license: str | None, reports: Sequence[Report]) -> str:
    """Return the YAML header. Texts are quoted as in JSON, which YAML reads."""
    lines = ["---", f"library_name: {LIBRARY}", "tags:", *(f"- {tag}" for tag in TAGS)]
    if license is not None:
        lines.append(f"license: {license}")
    figures = [
        ("held-out", f"{measure.metric}@{measure.k}", measure.mean) for report in reports for measure in report.measures
    ]
    best = _best_epoch(model)
    if best is not None:
        figures.append(("validation", "NDCG@10", best.ndcg or 0.0))
    if figures:
        lines += ["model-index:", f"- name: {json.dumps(name, ensure_ascii=False)}", "  results:"]
    for split, metric, value in figures:
        lines += [
            "  - task:",
            "      type: recommendation",
            "      name: sequential recommendation",
            "    dataset:",
            "      type: interactions",
            f"      name: {split} events",
            "    metrics:",
            f"    - type: {metric.lower()}",
            f"      name: {metric}",
            f"      value: {value:.6f}",
        ]
    return "\n".join([*lines, "---\n"])


def _usage(model: Bert4Rec) -> str:
    history = ", ".join(map(repr, model.items.ids[:3].tolist()))
    return (
        "## Use\n\n```python\nfrom corerec import Bert4Rec\nfrom huggingface_hub import snapshot_download\n\n"
        'model = Bert4Rec.load(snapshot_download("OWNER/NAME"))  # or the path of this folder\n'
        f"model.recommend(history=[{_plain(history)}], top_k=10)  # item ids, best first\n```\n"
    )


def _data(model: Bert4Rec) -> dict[str, str]:
    fitted = model.fitted
    counts = fitted.transitions.item_counts[1:]
    rows = {
        "events trained on": f"{fitted.fingerprint.num_events:,}",
        "items": f"{len(model.items):,}",
        "items without an event": f"{int((counts == 0).sum()):,}",
        "events per item, median": f"{np.median(counts):,.0f}",
    }
    if fitted.histories is not None:
        users, store = fitted.histories.snapshot()
        rows |= {
            "users": f"{len(users):,}",
            "events per user, median": f"{np.median(store.lengths):,.0f}" if len(store) else "0",
        }
    else:
        rows["users"] = "not stored"
    rows["ratings"] = "none" if fitted.ratings is None else "yes: `predict` answers on their scale"
    rows["times between events"] = "read" if fitted.config.gap_buckets else "not read; their order is"
    features = [] if fitted.content is None else [column.name for column in fitted.content.table.columns]
    rows["item features"] = ", ".join(map(_plain, features)) or "none"
    return rows


def _training(model: Bert4Rec) -> dict[str, str]:
    config, log = model.model_config, model.fitted.training_log
    parameters = sum(parameter.numel() for parameter in model.fitted.network.parameters())
    rows = {
        "parameters": f"{parameters:,}",
        "max_seq_len": f"{config.max_seq_len}",
        "hidden_dim, num_layers, num_heads": f"{config.hidden_dim}, {config.num_layers}, {config.num_heads}",
        "ended": model.fitted.fitted_at,
    }
    if log:
        rows |= {
            "epochs": f"{len(log)}",
            "seconds": f"{sum(result.seconds for result in log):,.1f}",
            "loss of the last epoch (nats)": f"{log[-1].loss:.4f}",
        }
    return rows


def _metrics(model: Bert4Rec, reports: Sequence[Report]) -> str:
    best, parts = _best_epoch(model), []
    if best is not None:
        parts.append(f"Validation NDCG@10 during training: {best.ndcg:.4f}, after epoch {best.epoch}.\n")
    for report in reports:
        about = f"{report.num_questions:,} users, {report.candidates}, {report.histories} histories"
        leaked = f"; **{report.seen_answers:,} of the answers were trained on**" if report.seen_answers else ""
        parts.append(f"Measured by `corerec evaluate`: {_plain(about)}{leaked}.\n")
        parts.append(
            "| metric | seen items | mean | standard error |\n| --- | --- | --- | --- |\n"
            + "".join(
                f"| {measure.metric}@{measure.k} | {measure.seen} | {measure.mean:.4f} | {measure.error:.4f} |\n"
                for measure in report.measures
            )
        )
    if not parts:
        parts.append("None were measured: `corerec evaluate MODEL LOG` measures them on held-out events.\n")
    return "\n".join(parts)


def _limits(model: Bert4Rec, histories: bool) -> list[str]:
    limits = [
        "It ranks the items of its log"
        + (" and those that `add_items` adds" if model.fitted.content is not None else "")
        + "; it knows nothing of others.",
        "It repeats what users did: items that were seldom shown are seldom recommended.",
        "Its figures are of the log that it was fitted on, and say little of other data.",
    ]
    if histories and model.fitted.histories is not None:
        limits.append("**The file holds users' ids and their events.** Keep it private.")
    else:
        limits.append("The file holds no users: pass `history=[item ids]`.")
    limits.append(
        "The file holds how often which item followed which, and hashes of what it was trained on: (user, item) pairs, "
        "and runs of items. Who has the file can test a guess, such as whether a user whose id they know met an item."
    )
    return limits


def _best_epoch(model: Bert4Rec) -> EpochResult | None:
    validated = [result for result in model.fitted.training_log if result.ndcg is not None]
    return max(validated, key=lambda result: result.ndcg or 0.0, default=None)


def _table(rows: dict[str, str]) -> str:
    head = "|  |  |\n| --- | --- |\n"
    return head + "".join(f"| {name} | {_escaped(value)} |\n" for name, value in rows.items())


def _plain(text: str) -> str:
    """Return one line of characters that YAML and UTF-8 can hold."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split()) or "model"


def _escaped(text: str) -> str:
    """Escape text for Markdown, so that no table cell ends early and no tag begins."""
    return text.replace("|", "\\|").replace("<", "&lt;")


# --------------------------------------------------------------------------------------------------- the folder


def _digest(card: bytes) -> str:
    return blake2b(card, digest_size=16).hexdigest()


def _check_contents(folder: Path) -> None:
    """Raise an error if the folder has files that another program wrote, or a card that was edited."""
    present = [name for name in (checkpoint.MODEL_FILE, CARD, CONFIG) if (folder / name).exists()]
    if not present:
        return
    try:
        about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        is_ours, written = about["format"] == FORMAT, about["card_digest"]
    except (OSError, ValueError, TypeError, KeyError):
        is_ours, written = False, None
    if not is_ours:
        raise DataError(f"{folder} has a file {present[0]} that is not of a model card of ours; name another folder")
    if CARD in present and _digest((folder / CARD).read_bytes()) != written:
        raise DataError(f"{folder / CARD} was edited since it was written; move it away, or name another folder")
