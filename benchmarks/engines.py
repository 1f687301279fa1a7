"""The same jobs through each engine: one process, torchrun, Ray Train, Ray Data and Spark, on one machine.

    python benchmarks/engines.py --data ml-1m-sasrec.txt.gz --users 100000 --json-out engines.json

Training: two epochs of the default constructor, saved. Scoring: the ten best items for so many histories, by the model
that one process has trained. The histories are those of the log, drawn with replacement, 100 events at most. Seconds
are those of the whole command, its start included. Two workers of one thread each stand beside one process of two
threads. It needs the extras `ray` and `spark`, and Java.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from corerec.data.tables import read_events
from machine import describe

EXAMPLES = Path(__file__).parents[1] / "examples"
WORKERS, EPOCHS, TOP_K, LONGEST = 2, 2, 10, 100
COREREC = [sys.executable, "-m", "corerec"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}"]


def timed(command: list[str], threads: int) -> float:
    """Run a command in silence, and return its seconds. Its output is told where it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYSPARK_PYTHON": sys.executable}
    environment |= {"RAY_worker_niceness": "0"}  # Ray's default, 15, waits for all other work of the machine
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return time.perf_counter() - started


def histories_of(data: Path, users: int, folder: Path) -> tuple[Path, Path]:
    """Write histories twice: a row for each event, and a row for each user."""
    log = read_events(data).interactions()
    drawn = log.sequences.select(np.random.default_rng(0).integers(0, len(log.users), users)).last(LONGEST)
    item_ids = log.items.ids[drawn.items - 1]
    at = np.arange(drawn.num_events) - np.repeat(drawn.offsets[:-1], drawn.lengths)
    numbers = np.repeat(np.arange(users), drawn.lengths)
    events, lists = folder / "events.parquet", folder / "lists.parquet"
    pd.DataFrame({"user_id": numbers, "item_id": item_ids, "timestamp": at}).to_parquet(events)
    rows = np.split(item_ids, drawn.offsets[1:-1])
    pd.DataFrame({"user_id": np.arange(users), "history": rows}).to_parquet(lists)
    return events, lists


def main(
    data: Annotated[Path, typer.Option(help="A log.")],
    users: Annotated[int, typer.Option(help="How many to score.")] = 100_000,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="engines.") as name:
        folder = Path(name)
        log, model = str(data.resolve()), str(folder / "model")
        events, lists = map(str, histories_of(data, users, folder))
        ray_train, ray_scoring, spark_scoring = (
            str(EXAMPLES / f"{name}.py") for name in ("ray_train", "ray_scoring", "spark_scoring")
        )
        fit = ["fit", log, "-o", model, "--epochs", str(EPOCHS)]
        recommend = ["recommend", model, "--histories", events, "-k", str(TOP_K), "-o"]
        parts = [str(folder / f"part{at}.parquet") for at in range(WORKERS)]
        sharded = " & ".join(
            " ".join([*COREREC, *recommend, part, "--shard", f"{at}/{WORKERS}"]) for at, part in enumerate(parts)
        )
        workers, epochs = f"workers={WORKERS}", f"epochs={EPOCHS}"
        for job, engine, threads, command in (
            ("train", "torchrun, two processes of one thread", 1, [*TORCHRUN, "-m", "corerec", *fit]),
            (
                "train",
                "Ray Train, two workers",
                1,
                [sys.executable, ray_train, log, model, workers, epochs],
            ),
            ("train", "`corerec fit`, one process of two threads", WORKERS, [*COREREC, *fit]),
            ("score", "`corerec recommend`, one process of two threads", WORKERS, [*COREREC, *recommend, parts[0]]),
            ("score", "`corerec recommend --shard`, two processes", 1, ["sh", "-c", f"{sharded} & wait"]),
            ("score", "Ray Data, two workers", 1, [sys.executable, ray_scoring, model, lists, f"{name}/ray", workers]),
            ("score", "Spark, `local[2]`", 1, [sys.executable, spark_scoring, model, lists, f"{name}/spark"]),
        ):
            seconds = timed(command, threads)
            runs.append({"job": job, "engine": engine, "seconds": seconds})
            print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    table = Table("job", "engine", "seconds")
    for run in runs:
        table.add_row(run["job"], run["engine"], f"{run['seconds']:.0f}")
    Console().print(table)
    if json_out:
        about = {"machine": describe(), "data": data.name, "users": users, "load": os.getloadavg()}
        json_out.write_text(json.dumps(about | {"epochs": EPOCHS, "runs": runs}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
