"""Calibration: the predicted probability of the first recommendation, and how often it was the next event.

    python benchmarks/calibration.py --data ml-100k/u.data
    python benchmarks/calibration.py --data beauty.txt.gz --users .1     # a log of two events an item
    python benchmarks/calibration.py --data ratings.csv --model movies.model

The model is fitted, with its calibration, on all events but the last one of each user, and asked for that one: no
validation events are left out, as nothing is chosen. The whole catalogue is ranked, the user's history excluded.

There are two tables: ten bins of equally many questions, and ten bins of equal width. A bin of 200 questions or more
misses where said and happened differ by more than .02 and by more than twice the error. A model that is loaded has to
come from this script, with the same log.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console

from arguments import settings_of
from corerec.basic.popularity import Popularity
from corerec.basic.transitions import LastItemMarkov
from corerec.data.interactions import Interactions
from corerec.data.splitting import hold_out_last
from corerec.data.tables import read_events
from corerec.engines.bert4rec import Bert4Rec
from corerec.evaluation.calibration import Bin, Binning, reliability, reliability_plot, reliability_table
from corerec.evaluation.evaluate import evaluate
from machine import describe

MANY, ALLOWED = 200, 0.02
BINNINGS: tuple[Binning, ...] = ("count", "width")


def misses(bins: tuple[Bin, ...]) -> int:
    """Bins of many questions in which said and happened differ too much."""
    return sum(
        each.num_questions >= MANY and abs(each.said - each.happened) > max(ALLOWED, 2 * each.error) for each in bins
    )


def some_users(log: Interactions, share: float) -> Interactions:
    """A random share of a log's users, with the items that they met."""
    chosen = np.random.default_rng(0).permutation(len(log.users))[: int(len(log.users) * share)]
    sequences = log.sequences.select(np.sort(chosen))
    users = np.repeat(np.arange(len(sequences)), sequences.lengths)
    return Interactions.from_columns(users, log.items.ids[sequences.items - 1], timestamps=np.arange(len(users)))


def main(
    data: Annotated[Path, typer.Option(help="A log that corerec.data.tables reads: u.data, `user item` lines, CSV.")],
    users: Annotated[float, typer.Option(help="Share of the users, at random.")] = 1.0,
    model: Annotated[Path | None, typer.Option(help="Load this instead of training.")] = None,
    model_out: Annotated[Path | None, typer.Option(help="Where to save the trained model.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of the constructor.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where to draw the reliability diagram.")] = None,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    log = read_events(data).interactions()
    if users < 1:
        log = some_users(log, users)
    num_items = len(log.items)
    train, test = hold_out_last(log, np.flatnonzero(log.sequences.lengths >= 3))
    settings = settings_of(set_ or [])
    if model:
        bert4rec = Bert4Rec.load(model)
        if not np.array_equal(bert4rec.items.ids, log.items.ids):
            raise typer.BadParameter(f"{model} was fitted on other items than {data} has", param_hint="--model")
    else:
        started = time.perf_counter()
        bert4rec = Bert4Rec(**settings).fit_interactions(train)
        print(f"trained in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        if model_out:
            bert4rec.save(model_out)
    scorer, markov = bert4rec.scorer, LastItemMarkov(train.sequences, num_items)
    assert scorer.transitions is not None
    record: dict[str, Any] = {
        "data": data.name,
        "users": len(log.users),
        "items": num_items,
        "events_an_item": log.sequences.num_events / num_items,
        "machine": describe(),
        "settings": settings,
        "inverse_temperature": float(scorer.network.inverse_temperature),
        "half_length": float(scorer.network.half_length),
        "concentration": scorer.transitions.concentration.tolist(),
        "discounts": scorer.transitions.discounts.tolist(),
        "ndcg": evaluate(scorer, test).value("NDCG"),
    }
    print(json.dumps(record, indent=2), file=sys.stderr)
    for by in BINNINGS:
        measured = [
            reliability(each, test, by=by)
            for each in (scorer, markov, Popularity(train.sequences.item_counts(num_items)))
        ]
        Console().print(reliability_table(measured, title=f"{data.name}, test, ten bins of equal {by}"))
        record[by] = {each.scorer: each.to_dict() | {"misses": misses(each.bins)} for each in measured}
        print(f"{misses(measured[0].bins)} bins of {MANY} questions or more miss by more than {ALLOWED} and two errors")
        if plot and by == "count":
            reliability_plot(measured[:1], plot)
    if json_out:
        json_out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
