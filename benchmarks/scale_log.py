"""How time and memory grow with a log: prepare, open, train, evaluate and score logs of 1e6 events and more.

    python benchmarks/scale_log.py --events 1e6 1e7 1e8 --folder /big/disk --json-out results/scale_log.json

A made log: 50,000 items drawn by Zipf's law, histories of 20 events on average (lognormal, sigma 1.2), rows in order of
time, Parquet files of 1e7 rows. Each stage is a process of its own. "Peak" is the most that it held resident (VmHWM),
pages of mapped files included; "anonymous" is without those, which the system drops when it needs room. CPU seconds
are of all threads. The exponent is the slope of the logarithms: 1 is proportional to the events.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ITEMS, MEAN_LENGTH, SIGMA = 50_000, 20, 1.2
ROWS_A_FILE = 10**7
STEPS, EVALUATED, SCORED = 200, 10_000, 100_000
STAGES = ("prepare", "open", "train", "evaluate", "score")
SAMPLED_EVERY_S = 0.02
out = Console(highlight=False)


def make(folder: Path, num_events: int) -> None:
    """Write the log."""
    import duckdb
    import pandas as pd

    folder.mkdir()
    random = np.random.default_rng(0)
    weights = np.cumsum(random.lognormal(0, SIGMA, max(1, num_events // MEAN_LENGTH)))
    shares = np.cumsum(1 / np.arange(1, ITEMS + 1))
    for first in range(0, num_events, ROWS_A_FILE):
        rows = min(ROWS_A_FILE, num_events - first)
        frame = pd.DataFrame(
            {
                "user_id": np.searchsorted(weights, random.random(rows) * weights[-1]),
                "item_id": np.searchsorted(shares, random.random(rows) * shares[-1]),
                "timestamp": 1_600_000_000 + (np.arange(first, first + rows) * (1e8 / num_events)).astype(np.int64),
            }
        )
        with duckdb.connect() as database:
            database.register("frame", frame)
            database.execute(f"COPY frame TO '{folder}/{first // ROWS_A_FILE:04d}.parquet' (FORMAT parquet)")


def prepare(folder: Path, memory: str) -> dict[str, Any]:
    from corerec.data.prepare import prepare

    prepared = prepare(folder / "log", folder / "store", memory=memory)
    size = sum(file.stat().st_size for file in (folder / "store").iterdir())
    return {"users": prepared.num_users, "bytes": size}


def open_(folder: Path) -> dict[str, Any]:
    from corerec.data.interactions import Interactions

    return {"users": len(Interactions.open(folder / "store").users)}


def train(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """A whole `fit` and `save`. The training stops after so many steps; what comes before and behind it is whole."""
    from corerec.data.interactions import Interactions
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.engines.bert4rec.training import StepResult

    started, at = time.perf_counter(), {}

    def watch(event: object) -> bool:
        if isinstance(event, StepResult):
            at[event.step] = time.perf_counter() - started
            if event.step in (1, STEPS):
                at[f"peak {event.step}"] = status()["VmHWM"]
            return event.step == STEPS
        return False

    model = Bert4Rec(**settings, device="cpu")
    model.fit_interactions(Interactions.open(folder / "store"), on_event=watch)
    peak_of_fit = status()["VmHWM"]
    model.save(folder / "model")
    size = (folder / "model").stat().st_size
    model.save(folder / "model", histories=False)  # the log has them, for the stages below
    last = max(step for step in at if isinstance(step, int))
    return {
        "first_step_s": at[1],
        "a_step_s": (at[last] - at[1]) / max(1, last - 1),
        "steps": last,
        "peak_at_last_step": at.get(f"peak {last}"),
        "peak_of_fit": peak_of_fit,
        "model_bytes": size,
    }


def evaluate(folder: Path) -> dict[str, Any]:
    from corerec.data.interactions import Interactions
    from corerec.data.splitting import leave_one_out
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.evaluation.evaluate import evaluate

    model = Bert4Rec.load(folder / "model", device="cpu")
    test = leave_one_out(Interactions.open(folder / "store"), max_users=EVALUATED).test
    return {"users": len(test), "ndcg": evaluate(model, test).value("NDCG", 10)}


def score(folder: Path) -> dict[str, Any]:
    from corerec import batch
    from corerec.data.interactions import Interactions

    log = Interactions.open(folder / "store")
    shards = max(1, len(log.users) // SCORED)
    scored = batch.score(
        str(folder / "model"), folder / "scored.parquet", histories=log, shard=(0, shards), device="cpu"
    )
    return {"users": scored.num_users}


def status() -> dict[str, int]:
    """Bytes that this process holds (VmHWM: at most so far)."""
    text = Path("/proc/self/status").read_text()
    return {key: int(value) * 1024 for key, value in re.findall(r"(VmHWM|RssAnon):\s+(\d+) kB", text)}


def stage(name: str, folder: Path, settings: dict[str, Any], memory: str) -> dict[str, Any]:
    """Run one stage in this process and measure it."""
    anonymous, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLED_EVERY_S):
            anonymous[0] = max(anonymous[0], status()["RssAnon"])

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started, cpu = time.perf_counter(), time.process_time()
    work = {
        "prepare": lambda: prepare(folder, memory),
        "open": lambda: open_(folder),
        "train": lambda: train(folder, settings),
        "evaluate": lambda: evaluate(folder),
        "score": lambda: score(folder),
    }
    found = work[name]()
    seconds = {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}
    ended.set()
    watcher.join()
    return {"stage": name, **seconds, "peak": status()["VmHWM"], "anonymous": anonymous[0], **found}


def exponent(points: list[tuple[int, float]]) -> float:
    """The slope of log(value) over log(events)."""
    if len(points) < 2:
        return math.nan
    x, y = (np.log(column) for column in zip(*points, strict=True))
    return float(np.polyfit(x, y, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", nargs="+", type=float, required=True, help="sizes, such as 1e6 1e7 1e8")
    parser.add_argument("--folder", type=Path, help="where logs and stores lie meanwhile: about 40 bytes an event")
    parser.add_argument("--memory", default="4GB", help="what prepare may take")
    parser.add_argument("--settings", default='{"hidden_dim": 64}', help="settings of Bert4Rec, as JSON")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="which, in this order")
    parser.add_argument("--json-out", type=Path, help="where to write the figures; those there are added to")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(stage(given.step, given.folder, json.loads(given.settings), given.memory)))
        return
    json_out = given.json_out
    from machine import describe

    records = json.loads(json_out.read_text())["runs"] if json_out is not None and json_out.exists() else []
    base = Path(tempfile.mkdtemp(prefix="scale_log.", dir=given.folder))
    try:
        for size in sorted(map(int, given.events)):
            work = base / str(size)
            work.mkdir()
            make(work / "log", size)
            for name in given.stages:
                command = [sys.executable, "-W", "ignore", __file__, "--events", str(size), "--step", name]
                command += ["--folder", str(work), "--settings", given.settings, "--memory", given.memory]
                answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
                record = {"events": size, "load": os.getloadavg()[0], **json.loads(answer.splitlines()[-1])}
                print(json.dumps(record), file=sys.stderr, flush=True)
                kept = [old for old in records if (old["events"], old["stage"]) != (size, name)]
                records = sorted([*kept, record], key=lambda each: (STAGES.index(each["stage"]), each["events"]))
                if json_out is not None:
                    about = {"machine": describe(), "settings": json.loads(given.settings), "memory": given.memory}
                    json_out.write_text(json.dumps(about | {"runs": records}, indent=2) + "\n", encoding="utf-8")
            shutil.rmtree(work)
    finally:
        shutil.rmtree(base)
    table = Table("stage", "events", "CPU s", "wall s", "peak GB", "anonymous GB", "exponent of CPU s", "of anonymous")
    for name in STAGES:
        found = [record for record in records if record["stage"] == name]
        slopes = (
            [exponent([(each["events"], each[key]) for each in found]) for key in ("cpu_s", "anonymous")]
            if found
            else []
        )
        for at, record in enumerate(found):
            figures = [f"{record['cpu_s']:.1f}", f"{record['wall_s']:.1f}"]
            figures += [f"{record[key] / 1e9:.2f}" for key in ("peak", "anonymous")]
            last = [f"{slope:.2f}" for slope in slopes] if at == len(found) - 1 else ["", ""]
            table.add_row(name if at == 0 else "", f"{record['events']:.0e}", *figures, *last)
    out.print(table)


if __name__ == "__main__":
    main()
