"""Draw validation NDCG@10 against training seconds, from the results of quality.py and peer_curve.py.

    python benchmarks/plot.py results/quality_ml-1m.json results/peer_*_ml-1m.json --out results/quality_ml-1m.png
    ... --line "published BERT4Rec, test=.1537"

A line is a level to compare with, drawn across.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import typer


def main(
    results: Annotated[list[Path], typer.Argument(help="JSON files with runs, each a curve.")],
    out: Annotated[Path, typer.Option(help="The picture: .png, .svg, .pdf.")],
    line: Annotated[list[str] | None, typer.Option(help="NAME=NDCG: a level to compare with.")] = None,
) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    titles = set()
    for path, colour in zip(results, plt.rcParams["axes.prop_cycle"].by_key()["color"], strict=False):
        record = json.loads(path.read_text())
        titles.add(record["data"])
        for run in record["runs"]:
            seconds, ndcg = zip(*((point["seconds"], point["ndcg"]) for point in run["curve"]), strict=True)
            label = record["model"] if run is record["runs"][0] else None
            axes.plot(seconds, ndcg, marker=".", color=colour, label=label)
    for pair in line or []:
        name, _, level = pair.rpartition("=")
        axes.axhline(float(level), color="grey", linestyle=":", linewidth=1)
        axes.annotate(name, (0.01, float(level)), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
    axes.set(xlabel="training seconds (wall clock, 2 CPU cores)", ylabel="validation NDCG@10")
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.set_title(f"{', '.join(sorted(titles))}: whole catalogue, history excluded")
    axes.legend(loc="center right")
    axes.grid(alpha=0.3)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    typer.run(main)
