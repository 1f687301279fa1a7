"""Threads that share a machine: seconds a training step, alone and beside a busy process, by how OpenMP threads wait.

    python benchmarks/threads.py --data ml-1m-sasrec.txt.gz --json-out benchmarks/results/threads_ml-1m.json

OpenMP splits each operation over the threads, and the threads meet at a barrier at its end. A thread that waits there
either spins, which keeps its core, or sleeps. Each row is a process of its own, as the variables are read once. It
trains with default settings and times blocks of steps, in turn alone and beside a Python loop that never pauses. The
loop is a process that any core may run. Rows take turns, and the order of the blocks changes with each round.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from machine import describe

out = Console(highlight=False)
WARM_UP = 20  # steps that are not timed
BLOCKS = 4  # of each kind in a round
LONGEST_BLOCK_S = 5.0
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
WAITS = {  # how threads wait: variables of libgomp, the OpenMP library of PyTorch's wheels for Linux
    "as the library does": {},
    "active": {"OMP_WAIT_POLICY": "active"},
    "spin 30,000 times": {"GOMP_SPINCOUNT": "30000"},
    "spin 1,000 times": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}


class Measured(Exception):  # noqa: N818
    """Ends a training whose steps have been timed."""


@contextmanager
def neighbour() -> Iterator[subprocess.Popen[bytes]]:
    """A process that keeps a core busy while it is not stopped. It begins stopped."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    process.send_signal(signal.SIGSTOP)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def measure(data: Path, threads: int, steps: int, busy_first: bool) -> dict[str, list[float]]:
    """Train in this process. Return the seconds a step of each block, alone and beside the neighbour."""
    from corerec import Bert4Rec, StepResult, read_events

    torch.set_num_threads(threads)
    blocks: dict[str, list[float]] = {"alone": [], "beside": []}
    done, started, is_busy = 0, 0.0, busy_first

    with neighbour() as process:

        def begin_block() -> None:
            nonlocal done, started
            process.send_signal(signal.SIGCONT if is_busy else signal.SIGSTOP)
            time.sleep(0.1)
            done, started = 0, time.perf_counter()

        def watch(event: object) -> None:
            nonlocal done, is_busy
            if not isinstance(event, StepResult) or event.step < WARM_UP:
                return
            if event.step == WARM_UP:
                begin_block()
                return
            done += 1
            seconds = time.perf_counter() - started
            if done < steps and seconds < LONGEST_BLOCK_S:
                return
            blocks["beside" if is_busy else "alone"].append(seconds / done)
            if all(len(each) == BLOCKS for each in blocks.values()):
                raise Measured
            is_busy = not is_busy
            begin_block()

        try:
            Bert4Rec(device="cpu").fit_interactions(read_events(data).interactions(), on_event=watch)
        except Measured:
            return blocks
    raise SystemExit("the training ended before all blocks were timed; take a larger log or fewer --steps")


def main(
    data: Annotated[Path, typer.Option(help="A log, such as ml-1m-sasrec.txt.gz.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of a block.")] = 15,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each row is measured.")] = 3,
    threads: Annotated[int, typer.Option(min=2, help="Threads, beside one thread.")] = 2,
    seconds: Annotated[float, typer.Option(help="Start no row after so many.")] = float("inf"),
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
    cell: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    if cell is not None:
        print(json.dumps(measure(data, steps=steps, **json.loads(cell))))
        return
    began, load = time.perf_counter(), os.getloadavg()
    rows = [("1 thread", 1, {}), *((f"{threads} threads, {name}", threads, wait) for name, wait in WAITS.items())]
    blocks: dict[str, dict[str, list[float]]] = {name: {"alone": [], "beside": []} for name, _, _ in rows}
    unset = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    for number in range(rounds):
        for name, count, wait in rows:
            if time.perf_counter() - began > seconds:
                continue
            asked = json.dumps({"threads": count, "busy_first": number % 2 == 1})
            command = [sys.executable, "-W", "ignore", __file__, "--data", str(data), "--steps", str(steps)]
            answer = subprocess.run([*command, "--cell", asked], env=unset | wait, capture_output=True, text=True)
            if answer.returncode:
                raise SystemExit(f"{name} failed: {answer.stderr}")
            measured: dict[str, list[float]] = json.loads(answer.stdout.splitlines()[-1])
            for kind, values in measured.items():
                blocks[name][kind] += values
            out.print(f"{name}, round {number + 1}: {time.perf_counter() - began:.0f} s in all", style="dim")
    one = statistics.median(blocks["1 thread"]["alone"])
    table = Table("threads", "alone, ms a step", "beside, ms a step", "alone / 1 thread", "beside / 1 thread alone")
    records: list[dict[str, Any]] = []
    for name, count, wait in rows:
        if not blocks[name]["alone"]:
            continue
        alone, beside = (statistics.median(blocks[name][kind]) for kind in ("alone", "beside"))
        table.add_row(name, f"{1000 * alone:.0f}", f"{1000 * beside:.0f}", f"{alone / one:.2f}", f"{beside / one:.2f}")
        rounded = {kind: [round(value, 5) for value in values] for kind, values in blocks[name].items()}
        records.append({"name": name, "threads": count, "variables": wait, "seconds_a_step": rounded})
    out.print(table)
    if json_out:
        result = {
            "machine": describe(),
            "data": data.name,
            "steps_a_block": steps,
            "load_before": load,
            "rows": records,
        }
        json_out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
