"""How good do recommendations get, and how soon? Validation NDCG@10 against training seconds; test figures at the end.

    python benchmarks/quality.py --data ml-1m-sasrec.txt.gz --seeds 3 --json-out results/quality_ml-1m.json
    python benchmarks/quality.py --data ml-1m-sasrec.txt.gz --set hidden_dim=128 --set epochs=40

Leave-one-out, the whole catalogue, the user's history excluded: the protocol of the published figures. Settings are the
constructor's defaults but for what --set changes. Validation is watched, never trained on and never chosen by here:
the last epoch's weights are tested, once.
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

import torch
import typer
from rich.console import Console
from rich.table import Table

from corerec.baselines import LastItemMarkov, Popularity
from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec.inference import NetworkScorer
from corerec.engines.bert4rec.training import EpochResult, build_network, train_epochs
from corerec.evaluation import evaluate
from corerec.splitting import Split, leave_one_out
from corerec.tables import read_events
from machine import describe


def settings_of(pairs: list[str]) -> dict[str, Any]:
    """["epochs=3", "positions=sinusoidal"] -> {"epochs": 3, "positions": "sinusoidal"}"""
    settings = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            settings[name] = json.loads(value.lower())
        except json.JSONDecodeError:
            settings[name] = value
    return settings


def train_and_measure(split: Split, num_items: int, settings: dict[str, Any], look_every: int) -> dict[str, Any]:
    """One seed: the curve of validation figures, and the test figures of the last epoch."""
    model = Bert4Rec(**settings)
    config = model.train_config
    network = build_network(replace(model.model_config, num_items=num_items), config.seed).to(model.device)
    curve, seconds = [], 0.0
    for result in train_epochs(network, split.train, config):
        if not isinstance(result, EpochResult):
            continue
        seconds += result.seconds
        if result.epoch % look_every == 0 or result.epoch == config.epochs:
            start = time.perf_counter()
            report = evaluate(NetworkScorer(network), split.valid)
            point = {"epoch": result.epoch, "seconds": seconds, "loss": result.loss, "ndcg": report.value("NDCG")}
            curve.append(point | {"hr": report.value("HR"), "evaluation_s": time.perf_counter() - start})
            print(json.dumps({"seed": config.seed} | curve[-1]), file=sys.stderr, flush=True)
    report = evaluate(NetworkScorer(network), split.test)
    return {
        "seed": config.seed,
        "train_seconds": seconds,
        "curve": curve,
        "test": {f"{m.metric}@{m.k}": {"mean": m.mean, "standard_error": m.error} for m in report.measures},
    }


def main(
    data: Annotated[Path, typer.Option(help="Text file of `user item` lines in time order, .gz or not.")],
    seeds: Annotated[int, typer.Option(help="Runs, with seeds 0, 1, ...")] = 1,
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of the constructor.")] = None,
    look_every: Annotated[int, typer.Option(help="Epochs between looks at validation.")] = 5,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    machine = describe()
    log = read_events(data).interactions()
    split, num_items = leave_one_out(log.sequences), len(log.items)
    settings = settings_of(set_ or [])
    runs = [train_and_measure(split, num_items, settings | {"seed": seed}, look_every) for seed in range(seeds)]
    baselines = {
        scorer.name: {metric: evaluate(scorer, split.test).value(metric) for metric in ("HR", "NDCG")}
        for scorer in (Popularity(split.train, num_items), LastItemMarkov(split.train, num_items))
    }
    table = Table(title=f"{data.name}, test, whole catalogue, history excluded; {seeds} seeds")
    for column in ("", "HR@10", "NDCG@10", "spread of NDCG@10", "training s"):
        table.add_column(column, justify="right")
    ndcg = [run["test"]["NDCG@10"]["mean"] for run in runs]
    hit_rate = statistics.mean(run["test"]["HR@10"]["mean"] for run in runs)
    seconds = statistics.median(run["train_seconds"] for run in runs)
    spread = f"{min(ndcg):.4f} .. {max(ndcg):.4f}"
    table.add_row("BERT4Rec", f"{hit_rate:.4f}", f"{statistics.mean(ndcg):.4f}", spread, f"{seconds:.0f}")
    for name, figures in baselines.items():
        table.add_row(name, f"{figures['HR']:.4f}", f"{figures['NDCG']:.4f}")
    Console().print(table)
    if json_out:
        record = {"data": data.name, "machine": machine, "settings": settings, "runs": runs, "baselines": baselines}
        json_out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
