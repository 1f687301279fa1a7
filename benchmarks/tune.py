"""A search for settings on a real log: compare the default settings with the best, on validation and on test.

    python benchmarks/tune.py --data ml-100k/u.data --minutes 20 --threads 2 --json-out FILE --plot trials.png

The search sees validation events only. The best and the default settings are then fitted on the training part with
--seeds seeds each, and their test events are evaluated once, at the end. `--study sqlite:///FILE` keeps the trials: the
same command goes on from them.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from corerec import tuning
from corerec.cli.tune import draw, say_trial, trials_table
from corerec.data.splitting import leave_one_out
from corerec.data.tables import read_events
from corerec.engines.bert4rec.recommender import Bert4Rec
from corerec.evaluation.evaluate import compare
from machine import describe


def main(
    data: Annotated[Path, typer.Option(help="A log.")],
    minutes: Annotated[float | None, typer.Option(help="Of the search.")] = 20.0,
    trials: Annotated[int | None, typer.Option(help="At most.")] = None,
    study: Annotated[str | None, typer.Option(help="Such as sqlite:///FILE.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    seeds: Annotated[int, typer.Option(help="Fits of each of the two, at the end.")] = 3,
    epochs: Annotated[int | None, typer.Option(help="Fixed in all trials: for a short look.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A picture of the trials.")] = None,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    torch.set_num_threads(threads)
    log = read_events(data).interactions()
    split = leave_one_out(log)
    fixed: dict[str, Any] = {"device": "cpu"} | ({} if epochs is None else {"epochs": epochs})
    started = time.perf_counter()
    tuned = tuning.tune(
        log, minutes=minutes, trials=trials, study=study, holdout=True, settings=fixed, on_trial=say_trial
    )
    seconds = time.perf_counter() - started
    Console().print(trials_table(tuned))
    if plot is not None:
        draw(tuned, plot)

    chosen = {"default": fixed, "tuned": fixed | tuned.settings}
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    for seed in range(seeds):
        models = []
        for name, settings in chosen.items():
            how: dict[str, Any] = {"patience": tuning.PATIENCE} | settings | {"seed": seed, "name": name}
            models.append(Bert4Rec(**how).fit_interactions(split.train, split.valid))
        validation = compare(models, split.valid)
        test = compare(models, split.test)
        for at, name in enumerate(chosen):
            row = {f"validation {metric}@10": validation.reports[at].value(metric) for metric in ("NDCG", "HR")}
            row |= {f"test {metric}@10": test.reports[at].value(metric) for metric in ("NDCG", "HR")}
            row["train seconds"] = float(models[at].training_log["seconds"].sum())
            figures[name].append(row)
        print(f"seed {seed}: {json.dumps({name: rows[-1] for name, rows in figures.items()})}", flush=True)
    result = {
        "data": data.name,
        "search seconds": seconds,
        "trials": tuned.trials.astype(object).where(tuned.trials.notna(), None).to_dict(orient="records"),
        "default validation NDCG@10 in the search": tuned.default_ndcg,
        "best validation NDCG@10 in the search": tuned.ndcg,
        "settings": tuned.settings,
        "runs": figures,
    } | describe()
    for name, rows in figures.items():
        print(name, *(f"{key} {mean(row[key] for row in rows):.4f}" for key in rows[0]), sep="  ")
    if json_out is not None:
        json_out.write_text(json.dumps(result, indent=2, default=str) + "\n")


if __name__ == "__main__":
    typer.run(main)
