"""The short form of the training benchmarks, one table in under 15 minutes: `make bench`.

    python benchmarks/short.py --ml-1m ml-1m-sasrec.txt.gz --beauty beauty.txt.gz
    ... --peer INTERPRETER_WITH_RECTOOLS --peer-script rectools_bert4rec.py

One seed and few epochs: it shows that the figures can be had, and which way they point. README.md beside this holds
those of whole trainings.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Column, Table

import paper
import quality
import train_speed
from machine import describe
from ratings import TUTORIAL

PAPER_EPOCHS = 5


def main(
    ml_1m: Annotated[Path, typer.Option(help="MovieLens-1M as `user item` lines in time order.")],
    beauty: Annotated[Path | None, typer.Option(help="Amazon Beauty, the same.")] = None,
    peer: Annotated[str | None, typer.Option(help="Interpreter that has RecTools, to run beside.")] = None,
    peer_script: Annotated[str | None, typer.Option(help="The peer's script; prints `fit SECONDS s`.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    table = Table("", Column("measured", justify="right"), "beside it", title="The short form")
    console = Console()
    beside = [peer, peer_script] if peer and peer_script else []

    for data, length in ((ml_1m, 200), (beauty, 50)):
        if data is None:
            continue
        with console.status(f"training speed, {data.name}"):
            speed = train_speed.measure(data, length, 64, None, 1, beside)
        for kind in ("cloze", "next item"):
            median = speed["median_seconds"][kind]
            share = speed["useful_gflops"][kind] / speed["peak_gflops"]["float32"]
            shown = f"{share:.0%} of the fp32 GEMM peak"
            if beside:
                shown += f"; RecTools {speed['median_seconds']['peer'] / median:.1f} times as long"
            table.add_row(f"{data.name}: an epoch of {kind} steps, d=64, length {length}", f"{median:.1f} s", shown)

    for data, name, settings, reference in (
        (ml_1m, "Bert4Rec(epochs=8)", {"epochs": 8}, "published BERT4Rec .1537"),
        (ml_1m, "the tutorial's constructor", TUTORIAL, "to reach .13"),
        (beauty, "Bert4Rec(epochs=4)", {"epochs": 4}, "published BERT4Rec .0187"),
    ):
        if data is None:
            continue
        with console.status(f"{name}, {data.name}"):
            record = quality.measure(data, range(1), settings, settings["epochs"], budget=0)
        (run,) = record["runs"]
        markov = record["baselines"]["Last-item Markov"]["NDCG"]
        ndcg = f"{run['test']['NDCG@10']['mean']:.4f}"
        shown = f"{run['train_seconds']:.0f} s of training; {reference}, last-item Markov {markov:.4f}"
        table.add_row(f"{data.name}: {name}, test NDCG@10", ndcg, shown)

    with console.status("the paper's settings"):
        figures = paper.train_and_measure(ml_1m, PAPER_EPOCHS, 1e-4)["figures"]
    sampled, popular, published = (values["ndcg_sampled"] for values in figures.values())
    shown = f"popularity {popular:.4f}; the paper, trained to its end, {published:.4f}"
    name = f"{ml_1m.name}: the paper's settings, {PAPER_EPOCHS} epochs, NDCG@10 among 100 sampled"
    table.add_row(name, f"{sampled:.4f}", shown)
    console.print(table)
    console.print(describe())


if __name__ == "__main__":
    typer.run(main)
