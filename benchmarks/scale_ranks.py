"""Data-parallel training on CPU processes (gloo): steps per second, and whether the weights equal those of one process.

    python benchmarks/scale_ranks.py --data ml-100k/u.data --steps 200
    python benchmarks/scale_ranks.py --data ml-1m-sasrec.txt.gz --epochs 20 --json-out results/scale_ranks_ml-1m.json

Each arrangement is a number of processes and the threads of each, such as 1x2 and 2x1. With --steps, the training is
cut off there: loss curves and weights in float32. With --epochs, a whole training, and NDCG@10 on the test events.
Seconds exclude reading and the first ten steps. The first arrangement is the reference of all differences.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from machine import describe

out = Console(highlight=False)
WARM_UP = 10  # steps that are not timed


def train(data: Path, steps: int | None, settings: dict[str, Any], folder: Path) -> None:
    """One process of an arrangement; rank 0 leaves its curve and weights in the folder."""
    from corerec.data.splitting import leave_one_out
    from corerec.data.tables import read_events
    from corerec.engines.bert4rec import Bert4Rec
    from corerec.engines.bert4rec.training import StepResult
    from corerec.evaluation.evaluate import evaluate

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    losses, times = [], []

    def watch(event: object) -> bool:
        if isinstance(event, StepResult):
            losses.append(float(event.loss))
            times.append(time.perf_counter())
            return event.step == steps
        return False

    split = leave_one_out(read_events(data).interactions())
    model = Bert4Rec(**settings, device="cpu", bfloat16=settings.get("bfloat16", steps is None))
    model.fit_interactions(split.train, split.valid, on_event=watch)
    if os.environ.get("RANK", "0") != "0":
        return
    ndcg = None if steps else evaluate(model, split.test).value("NDCG", 10)
    weights = torch.cat([tensor.flatten() for tensor in model.fitted.network.state_dict().values()])
    rate = (len(times) - 1 - WARM_UP) / (times[-1] - times[WARM_UP])
    torch.save({"losses": losses, "rate": rate, "weights": weights, "ndcg": ndcg}, folder / "answer")


def run(processes: int, threads: int, arguments: list[str], folder: Path) -> dict[str, Any]:
    """Start the processes of one arrangement and wait for them."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    environment = os.environ | shared | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-W", "ignore", __file__, *arguments, "--folder", str(folder)]
    started = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in range(processes)]
    failed = [process.wait() for process in started]
    if any(failed):
        raise SystemExit(f"{processes}x{threads} failed")
    return torch.load(folder / "answer")


def main(
    data: Annotated[Path, typer.Option(help="A log, such as MovieLens-100K's u.data.")],
    steps: Annotated[int | None, typer.Option(min=WARM_UP + 2, help="Stop there.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="A whole training of so many.")] = None,
    arrangements: Annotated[str, typer.Option(help="Processes x threads of each.")] = "1x1,2x1,1x2",
    settings: Annotated[str, typer.Option(help="Settings of Bert4Rec, as JSON.")] = "{}",
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    if (steps is None) == (epochs is None):
        raise typer.BadParameter("give --steps or --epochs")
    given = json.loads(settings) | ({} if epochs is None else {"epochs": epochs})
    if folder is not None:
        train(data, steps, given, folder)
        return
    limit = ["--steps", str(steps)] if steps else ["--epochs", str(epochs)]
    arguments = ["--data", str(data), *limit, "--settings", settings]
    table = Table("processes x threads", "steps/s", "largest difference of a loss", "weights apart", "test NDCG@10")
    records, reference = [], None
    with tempfile.TemporaryDirectory() as name:
        for arrangement in arrangements.split(","):
            processes, threads = map(int, arrangement.split("x"))
            answer = run(processes, threads, arguments, Path(name, arrangement))
            reference = reference or answer
            record = {
                "processes": processes,
                "threads": threads,
                "steps": len(answer["losses"]),
                "steps_per_s": answer["rate"],
                "largest_loss_difference": float(np.abs(np.subtract(answer["losses"], reference["losses"])).max()),
                "weights_apart": float((answer["weights"] - reference["weights"]).norm() / reference["weights"].norm()),
                "ndcg": answer["ndcg"],
                "losses": [round(loss, 5) for loss in answer["losses"]],
            }
            records.append(record)
            ndcg = "" if record["ndcg"] is None else f"{record['ndcg']:.4f}"
            figures = (f"{record[key]:.1e}" for key in ("largest_loss_difference", "weights_apart"))
            table.add_row(arrangement, f"{record['steps_per_s']:.1f}", *figures, ndcg)
    out.print(table)
    if json_out:
        record = {"machine": describe(), "data": data.name, "settings": given, "load": os.getloadavg(), "runs": records}
        json_out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
