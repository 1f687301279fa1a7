"""Cold items: how well item content ranks items without training events, and how much quality other items lose.

    python benchmarks/cold_items.py --data ml-100k/u.data --items ml-100k --seeds 3
    python benchmarks/cold_items.py --data grocery/train.csv.gz --items grocery/items.csv --on valid

A random tenth of the items is taken wholly out of training: their events are removed from it. Leave-one-out then asks
the usual questions, of which some have a cold target. Each seed trains twice, with the table of items and without.

| row | what is ranked |
|---|---|
| cold among cold | cold targets, the cold items as candidates |
| random | what a random order of these expects |
| content ceiling | what an order expects that knows the target's whole content, and nothing besides |
| popularity ceiling | the cold items in the order of how often they were really met, which no model can know |
| warm, whole catalogue | the other targets among all items, the cold ones too where the model knows them |
| named | the share of the first ten places that cold items take, beside the share of targets that they are |

Settings are the constructor's defaults but for what --set changes. Choose on --on valid, report --on test once.
"""

from __future__ import annotations

import json
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
from corerec.data.interactions import Interactions
from corerec.data.item_features import ITEM_ID, FeatureTable
from corerec.data.item_table import read_items
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout, leave_one_out
from corerec.data.tables import read_events
from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec.encoding import NetworkScorer
from machine import describe

SHARE = 0.1  # of the items, taken out
ROWS = 512
GAIN = 1 / np.log2(np.arange(2, 12))  # of the ranks 1 to 10


def without(store: SequenceStore, is_out: np.ndarray) -> SequenceStore:
    """The sequences without the events of some items, bool (V + 1,)."""
    kept = ~is_out[store.items]
    return SequenceStore(
        store.items[kept],
        np.concatenate([[0], np.cumsum(kept)])[store.offsets],
        None if store.times is None else store.times[kept],
        None if store.ratings is None else store.ratings[kept],
    )


def expected(sizes: np.ndarray) -> np.ndarray:
    """float64 (n,): the NDCG@10 that a random order of so many items, int64 (n,), expects for one of them."""
    sums = np.concatenate([[0], np.cumsum(GAIN)])
    return sums[np.minimum(sizes, 10)] / np.maximum(sizes, 1)


@torch.no_grad()
def measured(
    scorer: NetworkScorer, asked: Holdout, is_cold: np.ndarray, counts: np.ndarray, kind: np.ndarray, knows_cold: bool
) -> dict[str, float]:
    """The rows of the table, as fractions.

    Args:
        is_cold: bool (V + 1,).
        counts: int64 (V + 1,): how often each item is really met.
        kind: int64 (V + 1,): equal where two items' content is.
        knows_cold: whether cold items may be named at all.
    """
    targets = asked.targets.items
    cold = np.flatnonzero(is_cold)
    sums = dict.fromkeys(("warm", "warm hits", "cold", "popular", "random", "ceiling", "cold in whole"), 0.0)
    named = np.zeros(len(is_cold), np.int64)
    generator = np.random.default_rng(0)
    for first in range(0, len(asked), ROWS):
        rows = np.arange(first, min(len(asked), first + ROWS))
        history = asked.history.select(rows)
        if not knows_cold:
            history = without(history, is_cold)
        scores = scorer.score(history).cpu().numpy()
        scores[:, 0] = -np.inf
        if not knows_cold:
            scores[:, cold] = -np.inf
        for at, row in enumerate(rows):
            target, line, seen = targets[row], scores[at], asked.history.row(int(row))
            own = line[target]
            line[seen] = -np.inf
            named[np.argpartition(-line, 10)[:10]] += 1
            rank = int((line >= own).sum()) + int(line[target] < own)
            gain = GAIN[rank - 1] if rank <= 10 and np.isfinite(own) else 0.0
            if not is_cold[target]:
                sums["warm"] += gain
                sums["warm hits"] += gain > 0
                continue
            sums["cold in whole"] += gain
            rivals = np.setdiff1d(cold, seen)
            rivals = rivals if target in rivals else np.append(rivals, target)
            place = int((scores[at, rivals] > own).sum() + (scores[at, rivals] == own).sum() - 1) if knows_cold else 99
            sums["cold"] += GAIN[place] if place < 10 else 0.0
            met = counts[rivals] + generator.random(len(rivals)) * 0.5
            place = int((met > met[rivals == target]).sum())
            sums["popular"] += GAIN[place] if place < 10 else 0.0
            sums["random"] += expected(np.array([len(rivals)]))[0]
            sums["ceiling"] += expected(np.array([(kind[rivals] == kind[target]).sum()]))[0]
    num_cold, num_warm = int(is_cold[targets].sum()), int((~is_cold[targets]).sum())
    figures = {name: total / (num_warm if name.startswith("warm") else num_cold) for name, total in sums.items()}
    named_share = float(named[is_cold].sum() / named.sum())
    return figures | {"named": named_share, "met": num_cold / len(asked), "cold targets": float(num_cold)}


def run(
    log: Interactions, table: pd.DataFrame, settings: dict[str, Any], seed: int, on: str
) -> dict[str, dict[str, float]]:
    """One seed: the figures with content and without, of the same cold items."""
    split, num_items = leave_one_out(log), len(log.items)
    counts = log.sequences.item_counts(num_items)
    drawn = np.random.default_rng(seed).choice(np.flatnonzero(counts), int(SHARE * num_items), replace=False)
    is_cold = np.zeros(num_items + 1, bool)
    is_cold[drawn] = True
    train = replace(split.train, sequences=without(split.train.sequences, is_cold))
    features = FeatureTable.of(table).read(table)
    _, kinds = np.unique(
        np.concatenate([features.codes, features.weights, features.dense], 1), axis=0, return_inverse=True
    )
    kind = np.full(num_items + 1, -1)
    numbers = log.items.encode(table[ITEM_ID].tolist())
    kind[numbers[numbers > 0]] = kinds.ravel()[numbers > 0]
    asked = split.valid if on == "valid" else split.test
    figures = {}
    for name, items in (("with content", table), ("without", None)):
        started = time.perf_counter()
        model = Bert4Rec(**settings, seed=seed)
        in_log = None if items is None else items[log.items.encode(items[ITEM_ID].tolist()) > 0]
        model.fit_interactions(train, split.valid, items=in_log)
        figures[name] = measured(model.scorer, asked, is_cold, counts, kind, knows_cold=items is not None)
        figures[name]["fit seconds"] = time.perf_counter() - started
        print(json.dumps({"seed": seed, "model": name} | figures[name]), file=sys.stderr, flush=True)
    return figures


def main(
    data: Annotated[Path, typer.Option(help="A log that corerec.data.tables reads.")],
    items: Annotated[Path, typer.Option(help="A table of items, or the folder of MovieLens-100K.")],
    vectors: Annotated[
        Path | None, typer.Option(help="Another table of items, joined to the first: examples/text_vectors.py.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs.")] = 1,
    first_seed: Annotated[int, typer.Option(help="Of the runs.")] = 0,
    on: Annotated[str, typer.Option(help="Targets: valid or test.")] = "valid",
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of the constructor.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    log = read_events(data).interactions()
    table = items_of(items, log.items)
    if vectors is not None:
        table = table.merge(read_items(vectors, known=log.items), on=ITEM_ID, how="left")
    settings = settings_of(set_ or [])
    runs = [run(log, table, settings, seed, on) for seed in range(first_seed, first_seed + seeds)]
    shown = Table(title=f"{data.name}, {on} targets, a tenth of the items taken out; mean of {seeds} seeds")
    for column in ("NDCG@10", "with content", "without"):
        shown.add_column(column, justify="right")
    for name in runs[0]["with content"]:
        means = [np.mean([figures[model][name] for figures in runs]) for model in ("with content", "without")]
        shown.add_row(name, *(f"{mean:.4f}" for mean in means))
    Console().print(shown)
    if json_out:
        record = {"data": data.name, "on": on, "settings": settings, "machine": describe(), "runs": runs}
        json_out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
