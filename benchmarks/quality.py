"""Quality of recommendations: validation NDCG@10 against training seconds, and test figures at the end.

    python benchmarks/quality.py --data ml-1m-sasrec.txt.gz --seeds 3 --json-out results/quality_ml-1m.json
    python benchmarks/quality.py --data ml-1m-sasrec.txt.gz --set hidden_dim=64 --set epochs=20
    python benchmarks/quality.py --data beauty.txt.gz --valid-users 2048
    python benchmarks/quality.py --data ml-100k/u.data --time --seeds 3
    python benchmarks/quality.py --data grocery/train.csv.gz --items grocery/items.csv --time --split time

Leave-one-out, the whole catalogue, the user's history excluded: the protocol of the published figures. Settings are the
constructor's defaults but for what --set changes. Validation is watched, never trained on and never chosen by here:
the last epoch's weights are tested, once, and so are those of the last epoch that ended within --budget seconds, as a
training stopped there would leave them. Seconds are of training alone. Transitions are blended in, as `recommend` does;
"network alone" is without. plot.py draws the curves, and peer_curve.py makes RecTools' to draw beside them.

With --time (timestamps), --items (content) or --split time, a model is fitted as users fit it, without a curve. Its
figures are given apart: of targets with training events (warm) and without (cold), with the query's time known and not.
--split time takes the last tenth of the log as the test and the tenth before it as validation; the next event is asked.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from rich.console import Console
from rich.table import Table

from arguments import items_of, settings_of
from corerec.basic.popularity import Popularity
from corerec.basic.transitions import LastItemMarkov, TransitionModel
from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import AskedAt, Holdout, Split, by_time, hold_out_last, leave_one_out
from corerec.data.tables import read_events
from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec.calibration import calibrate, hold_out_for_calibration
from corerec.engines.bert4rec.encoding import NetworkScorer
from corerec.engines.bert4rec.plan import TrainPlan
from corerec.engines.bert4rec.training import EpochResult, build_network, train_epochs
from corerec.engines.bert4rec.training_state import TrainingState
from corerec.evaluation.evaluate import Scorer, evaluate
from corerec.evaluation.metrics import ndcg
from corerec.evaluation.ranking import rank_answers
from machine import describe


def few_validated(store: SequenceStore, num_users: int) -> Split[SequenceStore]:
    """Leave-one-out as RecTools trains: only so many random users' validation events are not trained on."""
    everyone = leave_one_out(store)
    without_test, _ = hold_out_last(store, np.flatnonzero(store.lengths >= 3))
    rows = np.flatnonzero(store.lengths >= 3)
    chosen = np.sort(np.random.default_rng(0).permutation(rows)[:num_users])
    train, valid = hold_out_last(without_test.compact(), chosen)
    return Split(train.compact, lambda: valid, lambda: everyone.test)


def measure(
    data: Path, seeds: range, settings: dict[str, Any], look_every: int, budget: float, valid_users: int | None = None
) -> dict[str, Any]:
    """Every figure of some seeds, and of the baselines."""
    machine = describe()
    log = read_events(data).interactions()
    split = leave_one_out(log.sequences) if valid_users is None else few_validated(log.sequences, valid_users)
    num_items = len(log.items)
    runs = [train_and_measure(split, num_items, settings | {"seed": seed}, look_every, budget) for seed in seeds]
    baselines = {
        scorer.name: {metric: evaluate(scorer, split.test).value(metric) for metric in ("HR", "NDCG")}
        for scorer in (Popularity(split.train.item_counts(num_items)), LastItemMarkov(split.train, num_items))
    }
    record = {"data": data.name, "model": "corerec BERT4Rec", "machine": machine, "settings": settings}
    return record | {"valid_users": valid_users, "budget_seconds": budget, "runs": runs, "baselines": baselines}


def train_and_measure(
    split: Split, num_items: int, settings: dict[str, Any], look_every: int, budget: float
) -> dict[str, Any]:
    """One seed: the curve of validation figures, and the test figures of the last epoch and of that within budget."""
    model = Bert4Rec(**settings)
    config = model.train_config
    network = build_network(replace(model.model_config, num_items=num_items), config.seed).to(model.device)
    train, questions = hold_out_for_calibration(split.train, num_items, config.seed)
    counted, every = TransitionModel.of(train, num_items), TransitionModel.of(split.train, num_items)

    def calibrated() -> NetworkScorer:
        """As `fit` leaves it after any epoch; its questions are asked at no training seconds."""
        fitted = calibrate(network, counted, questions, config.seed)
        transitions = replace(every, concentration=fitted.concentration, discounts=fitted.discounts)
        return NetworkScorer(network, transitions=transitions)

    curve, seconds, early, weights = [], 0.0, 0.0, {}
    last_epoch = 0
    for result in train_epochs(TrainingState.start(network, train, config), train):
        if isinstance(result, TrainPlan):
            last_epoch = result.epochs
        if not isinstance(result, EpochResult):
            continue
        seconds += result.seconds
        if seconds <= budget:
            early, weights = seconds, {name: tensor.clone() for name, tensor in network.state_dict().items()}
        if result.epoch % look_every == 0 or result.epoch == last_epoch:
            start = time.perf_counter()
            report = evaluate(calibrated(), split.valid)
            point = {"epoch": result.epoch, "seconds": seconds, "loss": result.loss, "ndcg": report.value("NDCG")}
            curve.append(point | {"hr": report.value("HR"), "evaluation_s": time.perf_counter() - start})
            print(json.dumps({"seed": config.seed} | curve[-1]), file=sys.stderr, flush=True)
    run = {"seed": config.seed, "train_seconds": seconds, "curve": curve, "test": tested(calibrated(), split)}
    run["network alone"] = tested(NetworkScorer(network), split)
    if weights:
        network.load_state_dict(weights)
        run["within budget"] = {"seconds": early, "test": tested(calibrated(), split)}
    return run


def fit_and_measure(
    split: Split[Interactions], settings: dict[str, Any], items: pd.DataFrame | None, reads_time: bool
) -> dict[str, Any]:
    """One seed: validation and test figures of a model fitted by `Bert4Rec.fit_interactions`."""
    inputs: dict[str, Any] = {} if reads_time else {"clock": False}
    model = Bert4Rec(**inputs | settings)
    model.fit_interactions(split.train, split.valid, items=items)
    run = {
        "seed": model.train_config.seed,
        "train_seconds": sum(model.training_log["seconds"].tolist()),
        "reads_time": model.fitted.network.gap_scale is not None,
        "valid": apart(model, split.valid),
        "test": apart(model, split.test),
    }
    print(json.dumps({name: run[name] for name in ("seed", "reads_time", "valid")}), file=sys.stderr, flush=True)
    return run


def apart(model: Bert4Rec, asked: Holdout) -> dict[str, dict[str, dict[str, float]]]:
    """{"known": {"warm": {"questions": 900, "HR@10": .2, "NDCG@10": .1}, "cold": ..., "all": ...}, "unknown": ...}"""
    posed = asked.numbered_by(model.items)
    targets = posed.targets.items[posed.targets.offsets[:-1]]
    is_cold = model.fitted.is_new(targets)
    groups = {"all": np.ones(len(targets), bool), "warm": ~is_cold, "cold": is_cold}
    moments: dict[str, AskedAt] = {"unknown": "newest"}
    if posed.history.times is not None:
        moments["known"] = "target"
    found = {}
    for name, moment in moments.items():
        counts = np.ones(len(model.items) + 1, np.int64)
        ranking = rank_answers(model.scorer, posed.asked_at(moment), 10, protocols=["excluded"], item_counts=counts)
        ranks = ranking.ranks["excluded"]
        found[name] = {
            group: {
                "questions": int(some.sum()),
                "HR@10": float((ranks[some] <= 10).mean()),
                "NDCG@10": float(ndcg(ranks, 10)[some].mean()),
            }
            for group, some in groups.items()
            if some.any()
        }
    return found


def parted(log: Interactions, by: str) -> Split[Interactions]:
    """Leave-one-out; or the last two tenths of the log's time, as the module says."""
    if by == "leave-one-out":
        return leave_one_out(log)
    if by != "time":
        raise typer.BadParameter(f"must be leave-one-out or time, not {by}", param_hint="--split")
    times = log.sequences.times
    if times is None:
        raise typer.BadParameter("the log has no times", param_hint="--split")
    first, second = np.quantile(times, [0.8, 0.9])
    return by_time(log, float(first), float(second), targets="next")


def measure_apart(
    data: Path, seeds: range, settings: dict[str, Any], items: Path | None, reads_time: bool, by: str
) -> dict[str, Any]:
    """Every figure of some seeds, warm and cold targets and known and unknown query times apart."""
    log = read_events(data).interactions()
    split = parted(log, by)
    table = None if items is None else items_of(items, log.items)
    runs = [fit_and_measure(split, settings | {"seed": seed}, table, reads_time) for seed in seeds]
    about = {"data": data.name, "model": "corerec BERT4Rec", "machine": describe(), "settings": settings}
    return about | {"split": by, "items": items and items.name, "time": reads_time, "runs": runs}


def table_apart(record: dict[str, Any]) -> Table:
    """Means over the seeds, and the spread of NDCG@10."""
    runs = record["runs"]
    shown = Table(title=f"{record['data']}, {record['split']}, whole catalogue, history excluded; {len(runs)} seeds")
    for column in ("targets", "query time", "questions", "HR@10", "NDCG@10", "spread of NDCG@10"):
        shown.add_column(column, justify="right")
    for part in ("valid", "test"):
        for moment, groups in runs[0][part].items():
            for group, figures in groups.items():
                each = [run[part][moment][group] for run in runs]
                ndcgs = [one["NDCG@10"] for one in each]
                shown.add_row(
                    f"{part}, {group}",
                    moment,
                    f"{figures['questions']:,}",
                    f"{statistics.mean(one['HR@10'] for one in each):.4f}",
                    f"{statistics.mean(ndcgs):.4f}",
                    f"{min(ndcgs):.4f} .. {max(ndcgs):.4f}",
                )
    return shown


def tested(scorer: Scorer, split: Split) -> dict[str, dict[str, float]]:
    """{"NDCG@10": {"mean": .18, "standard_error": .003}, ...} on the test questions."""
    measures = evaluate(scorer, split.test).measures
    return {f"{m.metric}@{m.k}": {"mean": m.mean, "standard_error": m.error} for m in measures}


def summary(tests: list[dict[str, Any]]) -> list[str]:
    """HR@10 and NDCG@10, means over the seeds, and the spread of the latter."""
    ndcg = [test["NDCG@10"]["mean"] for test in tests]
    hit_rate = statistics.mean(test["HR@10"]["mean"] for test in tests)
    return [f"{hit_rate:.4f}", f"{statistics.mean(ndcg):.4f}", f"{min(ndcg):.4f} .. {max(ndcg):.4f}"]


def main(
    data: Annotated[Path, typer.Option(help="Text file of `user item` lines in time order, .gz or not.")],
    seeds: Annotated[int, typer.Option(help="Runs.")] = 1,
    first_seed: Annotated[int, typer.Option(help="The first run's seed; each next one's is one higher.")] = 0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of the constructor.")] = None,
    look_every: Annotated[int, typer.Option(help="Epochs between looks at validation.")] = 5,
    budget: Annotated[float, typer.Option(help="Test also what so many training seconds leave.")] = 300,
    valid_users: Annotated[
        int | None, typer.Option(help="Hold back the validation events of so many users only, as RecTools: 2048.")
    ] = None,
    split: Annotated[str, typer.Option(help="leave-one-out or time.")] = "leave-one-out",
    items: Annotated[Path | None, typer.Option(help="A table of items, or the folder of MovieLens-100K.")] = None,
    reads_time: Annotated[bool, typer.Option("--time", help="Read the log's timestamps.")] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    if items is not None or reads_time or split != "leave-one-out":
        asked = range(first_seed, first_seed + seeds), settings_of(set_ or []), items, reads_time, split
        record = measure_apart(data, *asked)
        Console().print(table_apart(record))
        if json_out:
            json_out.write_text(json.dumps(record, indent=2) + "\n")
        return
    asked = range(first_seed, first_seed + seeds), settings_of(set_ or []), look_every, budget, valid_users
    record = measure(data, *asked)
    runs = record["runs"]
    table = Table(title=f"{data.name}, test, whole catalogue, history excluded; {seeds} seeds")
    for column in ("", "HR@10", "NDCG@10", "spread of NDCG@10", "training s"):
        table.add_column(column, justify="right")
    seconds = [statistics.median(run["train_seconds"] for run in runs)] * 2
    rows = {"BERT4Rec": [run["test"] for run in runs], "network alone": [run["network alone"] for run in runs]}
    if early := [run["within budget"] for run in runs if "within budget" in run]:
        rows[f"BERT4Rec after {budget:.0f} s"] = [run["test"] for run in early]
        seconds.append(statistics.median(run["seconds"] for run in early))
    for (name, tests), taken in zip(rows.items(), seconds, strict=True):
        table.add_row(name, *summary(tests), f"{taken:.0f}")
    for name, figures in record["baselines"].items():
        table.add_row(name, f"{figures['HR']:.4f}", f"{figures['NDCG']:.4f}")
    Console().print(table)
    if json_out:
        json_out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
