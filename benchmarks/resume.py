"""Exact resume: a training is killed (-9) at random moments and run again until it ends; are its weights the same?

    python benchmarks/resume.py --data ml-100k/u.data --kills 50
    python benchmarks/resume.py --data ml-100k/u.data --kills-in-write 20

Each training is `corerec fit LOG -o M --checkpoint PATH` in a process of its own. --kills-in-write kills it while the
checkpoint is being written. The undisturbed run is the same command without a kill.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from machine import describe

out = Console(highlight=False)


def weights_hash(model: Path) -> str:
    """SHA-256 of all weights, in the order of their names."""
    from corerec.engines.bert4rec import Bert4Rec

    hasher = hashlib.sha256()
    for name, tensor in sorted(Bert4Rec.load(model, device="cpu").fitted.network.state_dict().items()):
        hasher.update(name.encode() + tensor.numpy().tobytes())
    return hasher.hexdigest()


def command(data: Path, folder: Path, epochs: int, every_s: float) -> list[str]:
    """`corerec fit` with a checkpoint in the folder."""
    options = ["--epochs", str(epochs), "--threads", "1", "--quiet", "--checkpoint-every", str(every_s)]
    files = [str(data), "-o", str(folder / "model"), "--checkpoint", str(folder / "training")]
    return [sys.executable, "-W", "ignore", "-m", "corerec", "fit", *files, *options]


def being_written(folder: Path) -> bool:
    """Whether a checkpoint is half written: the atomic writer's work folder holds data."""
    try:
        return any(any(work.iterdir()) for work in folder.glob(".corerec-*.partial"))
    except OSError:  # it went away meanwhile
        return False


def main(
    data: Annotated[Path, typer.Option(help="A log, such as MovieLens-100K's u.data.")],
    kills: Annotated[int, typer.Option(help="At random moments of the training.")] = 0,
    kills_in_write: Annotated[int, typer.Option(help="While the checkpoint is written.")] = 0,
    epochs: Annotated[int, typer.Option(help="Of the training.")] = 6,
    every_s: Annotated[float, typer.Option(help="Seconds between checkpoints.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    machine, dice = describe(), random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name, "whole")
        whole.mkdir()
        started = time.perf_counter()
        subprocess.run(command(data, whole, epochs, every_s), check=True)
        seconds = time.perf_counter() - started
        expected = weights_hash(whole / "model")
        out.print(f"undisturbed: {seconds:.0f} s, weights {expected[:16]}")
        done = equal = runs = 0
        while done < kills + kills_in_write:
            folder = Path(name, f"run{runs}")
            folder.mkdir()
            runs += 1
            while not (folder / "model").exists():
                process = subprocess.Popen(command(data, folder, epochs, every_s), start_new_session=True)
                in_write = done >= kills
                # Starting takes seconds; a kill soon after it would never let the training get on.
                wait_until = time.monotonic() + dice.uniform(0.25, 0.7) * seconds
                while process.poll() is None and done < kills + kills_in_write:
                    if time.monotonic() > wait_until and (not in_write or being_written(folder)):
                        os.killpg(process.pid, signal.SIGKILL)
                        done += 1
                        break
                    time.sleep(0.0005 if in_write else 0.005)
                if process.wait() not in (0, -signal.SIGKILL):
                    raise SystemExit(f"the training failed with status {process.returncode}")
            same = weights_hash(folder / "model") == expected
            equal += same
            left = [path.name for path in folder.iterdir() if path.name != "model"]
            out.print(f"run {runs}: {done} kills so far, weights {'equal' if same else 'DIFFER'}, left over: {left}")
    record = {
        "machine": machine,
        "data": data.name,
        "kills": kills,
        "kills_in_write": kills_in_write,
        "trainings": runs,
        "equal": equal,
        "undisturbed_s": seconds,
    }
    out.print(f"{equal} of {runs} trainings with {done} kills ended with the undisturbed run's weights")
    if json_out:
        json_out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if equal < runs:
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
