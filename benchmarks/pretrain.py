"""Pre-training: compare a model of a large log, fine-tuned on a small log, with a model of the small log alone.

    python benchmarks/pretrain.py --data ml-1m-sasrec.txt.gz
    python benchmarks/pretrain.py --data ml-1m-sasrec.txt.gz --skip-newest 5      # to choose settings by

Users are divided: most make the large log, others the small one, so no user is in both. A share of the items is taken
out of the large log, so that the small one has items that were never met. The newest events of the small log's users
are held out. Each is asked for from all that its user did before it, the whole catalogue ranked, seen items excluded.

    pre-trained   fitted to the large log, then `fit_more(catalogue="replace")` on the small one
    equal time    fitted to the small log alone, for as many epochs as take the fine-tuning's seconds or more
    alone         fitted to the small log alone, with the default number of epochs
    not tuned     fitted to the large log, asked with the small log's histories; it misses the items taken out

Seconds are of the processor, so that other work on the machine does not count.
"""

from __future__ import annotations

import copy
import json
import math
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from arguments import settings_of
from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore, flat_ranges
from corerec.data.splitting import Holdout
from corerec.data.tables import read_events
from corerec.engines.bert4rec import Bert4Rec
from corerec.evaluation.evaluate import compare
from machine import describe

out = Console(highlight=False, soft_wrap=True)


def log_of(log: Interactions, sequences: SequenceStore, rows: np.ndarray, kept: np.ndarray) -> Interactions:
    """A log of some users' sequences, numbered anew.

    Args:
        sequences: of all users.
        rows: int64 (users,), which of them.
        kept: bool (V + 1,), which items stay.
    """
    store = sequences.select(rows)
    users = np.repeat(log.users.ids[rows], store.lengths)
    stay = kept[store.items]
    return Interactions.from_columns(users[stay], log.items.ids[store.items[stay] - 1])


def questions(log: Interactions, rows: np.ndarray, newest: int, skipped: int) -> tuple[SequenceStore, Holdout]:
    """All users' sequences without the given users' newest events, and these as questions.

    Args:
        newest: events of each user to ask for.
        skipped: events after them that are left out of everything.
    """
    store = log.sequences
    ends = store.offsets[1:].copy()
    ends[rows] -= skipped
    firsts = ends[rows] - newest
    at, _ = flat_ranges(firsts, ends[rows])
    owners = np.repeat(rows, newest)
    asked = Holdout(store.ranges(store.offsets[owners], at), store.ranges(at, at + 1), owners + 1, log.users, log.items)
    ends[rows] = firsts
    return store.ranges(store.offsets[:-1], ends), asked


def timed_fit(log: Interactions, **settings: Any) -> tuple[Bert4Rec, float]:
    started = time.process_time()
    model = Bert4Rec(**settings).fit_interactions(log)
    return model, time.process_time() - started


def main(
    data: Annotated[Path, typer.Option(help="A log of long histories, such as ml-1m-sasrec.txt.gz.")],
    large: Annotated[float, typer.Option(help="Share of the users whose log is pre-trained on.")] = 0.9,
    small_users: Annotated[int, typer.Option(help="Users of the small log.")] = 300,
    new_items: Annotated[float, typer.Option(help="Share of the items that the large log does not have.")] = 0.1,
    newest: Annotated[int, typer.Option(help="Held-out events of each user of the small log.")] = 5,
    skip_newest: Annotated[int, typer.Option(help="Newest events that are left out of everything.")] = 0,
    seeds: Annotated[int, typer.Option(help="Small logs, each of other users.")] = 3,
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of the constructor.")] = None,
    tune: Annotated[list[str] | None, typer.Option("--tune", help="NAME=VALUE of fit_more.")] = None,
    model_file: Annotated[
        Path | None, typer.Option("--model", help="Where the pre-trained model is kept, and read from if it is there.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    machine, settings, how = describe(), settings_of(set_ or []), settings_of(tune or [])
    log = read_events(data).interactions()
    random = np.random.default_rng(0)
    order = random.permutation(len(log.users))
    many, others = order[: int(large * len(order))], order[int(large * len(order)) :]
    every = np.ones(len(log.items) + 1, bool)
    known = every.copy()
    known[1 + random.permutation(len(log.items))[: int(new_items * len(log.items))]] = False
    if model_file is not None and model_file.exists():
        pretrained, pretrain_s = Bert4Rec.load(model_file), math.nan
    else:
        pretrained, pretrain_s = timed_fit(log_of(log, log.sequences, np.sort(many), known), **settings)
        if model_file is not None:
            pretrained.save(model_file, training_state=True)
    out.print(f"pre-trained on {pretrained.num_events:,} events in {pretrain_s:.0f} s")
    runs = []
    for seed in range(seeds):
        rows = np.sort(np.random.default_rng(seed + 1).permutation(others)[:small_users])
        rows = rows[log.sequences.lengths[rows] > newest + skip_newest + 1]
        rest, asked = questions(log, rows, newest, skip_newest)
        small = log_of(log, rest, rows, every)
        runs.append(_measure(pretrained, small, asked, settings | {"seed": seed}, how))
        out.print(f"small log {seed}: {small.sequences.num_events:,} events, {len(small.items):,} items", runs[-1])
    table = Table(title=f"{data.name}: NDCG@10 of {newest} held-out events of {small_users} users")
    for column in ("small log", *runs[0]["ndcg"], "tuning s", "equal time s", "alone s"):
        table.add_column(column, justify="right")
    for seed, run in enumerate(runs):
        seconds = (f"{run['seconds'][name]:.1f}" for name in ("pre-trained", "equal time", "alone"))
        table.add_row(str(seed), *(f"{value:.4f}" for value in run["ndcg"].values()), *seconds)
    out.print(table)
    if json_out:
        record = {"machine": machine, "data": data.name, "settings": settings, "tuning": how}
        record |= {"pretrain_s": pretrain_s, "runs": runs}
        json_out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _measure(
    pretrained: Bert4Rec, small: Interactions, asked: Holdout, settings: dict[str, Any], how: dict[str, Any]
) -> dict[str, Any]:
    """NDCG@10 of the four models, the paired differences from the pre-trained one, and seconds."""
    tuned = copy.deepcopy(pretrained)
    started = time.process_time()
    tuned.fit_more_interactions(small, catalogue="replace", **how)
    tune_s = time.process_time() - started
    alone, alone_s = timed_fit(small, **settings)
    epochs = len(alone.training_log)
    # The first epoch's share of everything that is not training is fixed, so ask for a little more, and measure.
    equal, equal_s = timed_fit(small, **settings | {"epochs": max(1, math.ceil(epochs * tune_s / alone_s))})
    models = {"pre-trained": tuned, "equal time": equal, "alone": alone, "not tuned": pretrained}
    comparison = compare(list(models.values()), asked, names=["NDCG", "HR"])
    differences = [each for each in comparison.differences if each.metric == "NDCG"]
    return {
        "ndcg": {name: report.value("NDCG") for name, report in zip(models, comparison.reports, strict=True)},
        "hr": {name: report.value("HR") for name, report in zip(models, comparison.reports, strict=True)},
        "differences_from_pre-trained": {
            name: {"mean": each.mean, "error": each.error}
            for name, each in zip(list(models)[1:], differences, strict=True)
        },
        "seconds": {"pre-trained": tune_s, "equal time": equal_s, "alone": alone_s},
        "epochs_equal_time": len(equal.training_log),
    }


if __name__ == "__main__":
    typer.run(main)
