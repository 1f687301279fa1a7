"""BERT4Rec as its paper trains and measures it (Sun et al. 2019, arXiv:1904.06690), beside the paper's own table.

    python benchmarks/paper.py --data ml-1m-sasrec.txt.gz --epochs 100

The paper's settings: cloze from the first step with BERT's replacement, width 64, 2 layers, 2 heads, batches of 256,
Adam at 1e-4 with decoupled decay .01, warm-up, learned positions; length 200 and a fifth hidden on ML-1M, length 50
and three fifths hidden on Beauty. The paper's protocol: each user's last item against 100 others drawn by popularity
from those the user never met. What differs: the norm stands before each branch, batches are cut to 200 steps an epoch,
and the paper trains for 400,000 steps. Sampled metrics can order models wrongly (Krichene & Rendle 2020): the whole
catalogue's stand beside them.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from corerec.basic.popularity import Popularity
from corerec.data.interactions import Interactions
from corerec.data.splitting import leave_one_out
from corerec.data.tables import read_events
from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec.encoding import NetworkScorer
from corerec.evaluation.evaluate import evaluate
from machine import describe

NEGATIVES = 100


@dataclass(frozen=True)
class Published:
    """Settings that the paper chose by data set, and its table's HR@10 and NDCG@10."""

    max_seq_len: int
    mask_prob: float
    hr: float
    ndcg: float


PAPER = {"ml-1m": Published(200, 0.2, 0.6970, 0.4818), "beauty": Published(50, 0.6, 0.3025, 0.1862)}


def train_and_measure(data: Path, epochs: int, learning_rate: float) -> dict[str, Any]:
    """The figures of our network and of popularity by both protocols, and the paper's own."""
    published = next((figures for name, figures in PAPER.items() if data.name.startswith(name)), None)
    if published is None:
        raise typer.BadParameter(f"the paper's settings are known for {list(PAPER)}, not for {data.name}")
    log = read_events(data).interactions()
    split = leave_one_out(log.sequences)
    model = Bert4Rec(
        hidden_dim=64,
        num_heads=2,
        max_seq_len=published.max_seq_len,
        mask_prob=published.mask_prob,
        bert_replacement=True,
        next_item_until=0.0,
        ema_steps=0,
        batch_size=256,
        learning_rate=learning_rate,
        epochs=epochs,
        verbose=sys.stderr.isatty(),
    )
    started = time.perf_counter()
    model.fit_interactions(Interactions(split.train, log.users, log.items))
    seconds = time.perf_counter() - started
    counts = split.train.item_counts(len(log.items))
    measured = {}
    network_alone = NetworkScorer(model.scorer.network)  # the paper has no transitions beside it
    for scorer in (network_alone, Popularity(split.train.item_counts(len(log.items)))):
        sampled, full = (evaluate(scorer, split.test, negatives=n, item_counts=counts) for n in (NEGATIVES, None))
        figures = [report.value(metric) for report in (sampled, full) for metric in ("HR", "NDCG")]
        measured[scorer.name] = dict(zip(("hr_sampled", "ndcg_sampled", "hr", "ndcg"), figures, strict=True))
    measured["the paper's BERT4Rec"] = {"hr_sampled": published.hr, "ndcg_sampled": published.ndcg}
    settings = {"epochs": epochs, "learning_rate": learning_rate}
    return {"data": data.name, "machine": describe(), **settings, "seconds": seconds, "figures": measured}


def main(
    data: Annotated[Path, typer.Option(help="ml-1m-sasrec.txt.gz or beauty.txt.gz: `user item` lines in time order.")],
    epochs: Annotated[int, typer.Option(help="Passes over the events.")] = 100,
    learning_rate: Annotated[float, typer.Option(help="The paper's is 1e-4, for 400,000 steps.")] = 1e-4,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    record = train_and_measure(data, epochs, learning_rate)
    title = f"{data.name}, the paper's settings and protocol: {epochs} epochs, {record['seconds']:.0f} s"
    table = Table(title=title)
    for column in ("", f"HR@10, {NEGATIVES} negatives", "NDCG@10", "HR@10, whole catalogue", "NDCG@10"):
        table.add_column(column, justify="right")
    for name, figures in record["figures"].items():
        table.add_row(name, *(f"{figure:.4f}" for figure in figures.values()))
    Console().print(table)
    if json_out:
        json_out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
