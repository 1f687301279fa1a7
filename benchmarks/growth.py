"""Growth: compare a model that is updated each period with one that never is, and with one that is refitted each time.

    python benchmarks/growth.py --data ml-100k/u.data
    python benchmarks/growth.py --data grocery/train.csv.gz

The log is split by time: the first 70% of the events are fitted, the rest is cut into ten periods of equally many
events. Before each period the model is updated with the events of the period before. Each event of the period is asked
for, from all that its user did before it (a user's very first event is not), the whole catalogue of a model ranked,
seen items excluded. An item that a model does not know is a miss. Seconds are of the processor, so that other work on
the machine does not count.
"""

from __future__ import annotations

import copy
import itertools
import json
import time
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from arguments import settings_of
from corerec.data.interactions import Interactions
from corerec.data.layout import Columns
from corerec.data.splitting import Holdout
from corerec.data.tables import read_events
from corerec.engines.bert4rec import Bert4Rec
from corerec.evaluation.evaluate import evaluate
from machine import describe

out = Console(highlight=False, soft_wrap=True)


def columns_between(log: Interactions, start: float, end: float) -> list[np.ndarray]:
    """user ids, item ids and times of the events of a period, in the order of time."""
    store = log.sequences
    assert store.times is not None
    at = np.flatnonzero((store.times >= start) & (store.times < end))
    at = at[np.argsort(store.times[at], kind="stable")]
    rows = np.searchsorted(store.offsets, at, side="right") - 1
    return [log.users.ids[rows], log.items.ids[store.items[at] - 1], store.times[at]]


def ndcg(model: Bert4Rec, log: Interactions, start: float, end: float) -> tuple[float, float]:
    """NDCG@10 and HR@10 of the events of the period, each given all that its user did before it."""
    store = log.sequences
    assert store.times is not None
    at = np.flatnonzero((store.times >= start) & (store.times < end))
    rows = np.searchsorted(store.offsets, at, side="right") - 1
    at, rows = at[at > store.offsets[rows]], rows[at > store.offsets[rows]]
    history = store.ranges(store.offsets[rows], at)
    targets = store.ranges(at, at + 1)
    asked = Holdout(history, targets, rows + 1, log.users, log.items).numbered_by(model.items)
    report = evaluate(model.scorer, asked)
    return report.value("NDCG", 10), report.value("HR", 10)


def fit(columns: list[np.ndarray], settings: dict, verbose: bool) -> tuple[Bert4Rec, float]:
    started = time.process_time()
    model = Bert4Rec(**settings, verbose=verbose).fit(columns[0], columns[1], timestamps=columns[2])
    return model, time.process_time() - started


def main(
    data: Annotated[Path, typer.Option(help="A log with times.")],
    periods: Annotated[int, typer.Option(help="Updates.")] = 10,
    first_part: Annotated[float, typer.Option(help="Share of the events that is fitted first.")] = 0.7,
    refit_every: Annotated[int, typer.Option(help="Refit from nothing before every so many periods only.")] = 1,
    user_column: Annotated[str | None, typer.Option()] = None,
    item_column: Annotated[str | None, typer.Option()] = None,
    time_column: Annotated[str | None, typer.Option()] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of the constructor.")] = None,
    update: Annotated[list[str] | None, typer.Option("--update", help="NAME=VALUE of fit_more.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    machine = describe()
    log = read_events(data, Columns(user_column, item_column, None, time_column)).interactions()
    assert log.sequences.times is not None
    times = np.sort(log.sequences.times)
    cuts = [int(len(times) * (first_part + (1 - first_part) * step / periods)) for step in range(periods)]
    bounds = [*(times[cut] for cut in cuts), times[-1] + 1]
    settings, how = settings_of(set_ or []), settings_of(update or [])
    grown, seconds = fit(columns_between(log, times[0], bounds[0]), settings, False)
    never = copy.deepcopy(grown)
    out.print(f"first fit: {seconds:.0f} s, {grown.num_events:,} events")
    rows = []
    for step, (start, end) in enumerate(itertools.pairwise(bounds)):
        update_s = 0.0
        if step:
            started = time.process_time()
            columns = columns_between(log, bounds[step - 1], start)
            report = grown.fit_more(columns[0], columns[1], timestamps=columns[2], **how)
            update_s = time.process_time() - started
            out.print(f"period {step + 1}: {report}")
        figures = {"updated": ndcg(grown, log, start, end), "never": ndcg(never, log, start, end)}
        refit_s = float("nan")
        if step % refit_every == 0:
            refitted, refit_s = fit(columns_between(log, times[0], start), settings, False)
            figures["refitted"] = ndcg(refitted, log, start, end)
        rows.append({"period": step + 1, "update_s": update_s, "refit_s": refit_s} | figures)
        out.print("  " + ", ".join(f"{name} {value[0]:.4f} / {value[1]:.4f}" for name, value in figures.items()))
    table = Table(title=f"{data.name}: NDCG@10 of the next period")
    for name in ("period", "never updated", "updated", "refitted", "update s", "refit s"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [row["never"][0], row["updated"][0], row.get("refitted", (float("nan"),))[0]]
        table.add_row(
            str(row["period"]), *(f"{x:.4f}" for x in cells), f"{row['update_s']:.1f}", f"{row['refit_s']:.1f}"
        )
    out.print(table)
    both = [row for row in rows[1:] if "refitted" in row]
    share = np.mean([row["updated"][0] for row in both]) / np.mean([row["refitted"][0] for row in both])
    cost = np.mean([row["update_s"] for row in both]) / np.mean([row["refit_s"] for row in both])
    above = sum(row["updated"][0] > row["never"][0] for row in rows[1:])
    out.print(
        f"updated: {share:.1%} of the refitted model's mean NDCG@10 at {cost:.1%} of its seconds; above the model that "
        f"was never updated in {above} of {len(rows) - 1} periods"
    )
    if json_out:
        record = {"machine": machine, "data": data.name, "periods": rows, "share": share, "cost": cost, "above": above}
        json_out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
