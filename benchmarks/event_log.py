"""How long does the server take to start with many logged events, and how much memory do these events take?

    python benchmarks/event_log.py --events 1000000 --json-out benchmarks/results/event_log.json

The model has MovieLens-1M's size and random weights. The events are of --users users, a tenth of them known to the
model, in random order. The server starts once with an empty log and once with the full one.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from corerec.serving.events import EventLog, LoggedEvent
from machine import describe
from serve_load import ITEMS, Served, random_model

AT_ONCE = 10_000  # events of one transaction


def fill(path: Path, events: int, users: int) -> None:
    """Write the events by the server's own writer."""
    draw = np.random.default_rng(0)
    log = EventLog(path)
    for first in range(0, events, AT_ONCE):
        count = min(AT_ONCE, events - first)
        columns = draw.integers(1, users + 1, count).tolist(), draw.integers(1, ITEMS + 1, count).tolist()
        times = range(1000 + first, 1000 + first + count)
        log.append([[LoggedEvent(*row) for row in zip(*columns, times, strict=True)]])
    log.close()


def start(model: Path, log: Path) -> dict[str, Any]:
    """Seconds until the server is ready, and its resident set then."""
    started = time.perf_counter()
    server = Served(model, ["--events", str(log)])
    figures = {"ready_s": time.perf_counter() - started, "resident_mb": server.resident_mb()}
    server.end()
    return figures


def main(
    events: Annotated[int, typer.Option(help="In the log.")] = 1_000_000,
    users: Annotated[int, typer.Option(help="Whose they are.")] = 60_000,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    with tempfile.TemporaryDirectory(prefix="event_log.") as folder:
        model, log = Path(folder, "random.model"), Path(folder, "events.sqlite")
        random_model(model)
        empty = start(model, Path(folder, "empty.sqlite"))
        fill(log, events, users)
        full = start(model, log)
        figures = {"machine": describe(), "events": events, "users": users, "empty": empty, "full": full}
        figures["log_mb"] = log.stat().st_size / 1e6
    Console().print(
        f"{events:,} events of {users:,} users, {figures['log_mb']:.0f} MB: ready after {full['ready_s']:.1f} s "
        f"({empty['ready_s']:.1f} s without), {full['resident_mb'] - empty['resident_mb']:.0f} MB more"
    )
    if json_out:
        json_out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
