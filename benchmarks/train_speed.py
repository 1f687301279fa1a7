"""How fast is training? Seconds an epoch, real events a second, and the share of the machine's GEMM peak put to use.

    python benchmarks/train_speed.py --data ml-1m-sasrec.txt.gz
    ... --peer INTERPRETER_WITH_RECTOOLS --peer-script rectools_bert4rec.py

Useful work counts real events and hidden (or asked) places only, multiply and add as two operations, backward twice
forward. With D hidden_dim, F feedforward_dim, V items, n events in a window, m places asked, layers N:

    event       2 (3 D^2 + D^2 + 2 D F)  for each of the N - 1 full blocks, and 2 * 2 D^2 (keys, values) in the last
    place       2 (D^2 + D^2 + 2 D F + D^2 + D V)  in the last block, the head and the logits
    attention   4 n D an event in a full block, 4 n D a place in the last; half of it where attention is causal

Where the loss draws negatives, V is their number: the answers of the same step, which compete as well, are not counted.
The newest `max_seq_len` events of each user make an epoch, as in RecTools, so that epochs are the same work.
"""

from __future__ import annotations

import json
import re
import resource
import statistics
import subprocess
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from corerec.data.sequences import SequenceStore
from corerec.data.splitting import leave_one_out
from corerec.data.tables import read_events
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.plan import TrainPlan
from corerec.engines.bert4rec.training import EpochResult, build_network, train_epochs
from corerec.engines.bert4rec.training_state import TrainingState
from machine import describe


def useful_operations(
    lengths: np.ndarray, config: ModelConfig, asked: np.ndarray, negatives: int | None, causal: bool
) -> float:
    """Operations of one training epoch over windows of these lengths, by the formula above."""
    dim, wide, items = config.hidden_dim, config.feedforward_dim or 4 * config.hidden_dim, negatives or config.num_items
    seen = (lengths + 1) / 2 if causal else lengths  # keys a query meets, on average
    full_block = lengths * 2 * (4 * dim**2 + 2 * dim * wide) + lengths * 4 * seen * dim
    last_block = lengths * 4 * dim**2 + asked * (2 * (2 * dim**2 + 2 * dim * wide) + 4 * seen * dim)
    head = asked * 2 * (dim**2 + dim * items)
    return 3 * float(((config.num_layers - 1) * full_block + last_block + head).sum())


def gemm_peak(dtype: torch.dtype, size: int = 2048, repeats: int = 5) -> float:
    """The best GFLOP/s of a square matrix product in this precision."""
    a = torch.randn(size, size).to(dtype)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        torch.mm(a, a)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


def epoch_seconds(
    store: SequenceStore, config: ModelConfig, next_item: bool, batch_size: int | None
) -> tuple[float, int]:
    """Seconds and events of the second epoch: the first one prepares the kernels."""
    settings: dict[str, Any] = {"next_item_share": 1.0, "next_item_until": float(next_item)}
    # Next-item steps fade within the epochs of a run: a run of many epochs keeps the second all but free of fading.
    train = TrainConfig(epochs=1000, batch_size=batch_size, whole_history=False, **settings)
    for result in train_epochs(TrainingState.start(build_network(config, seed=0), store, train), store):
        if isinstance(result, EpochResult) and result.epoch == 2:
            return result.seconds, result.num_events
    raise AssertionError("the second epoch never came")


def peer_seconds(peer: list[str], data: Path, max_seq_len: int, dim: int) -> float:
    command = [*peer, str(data), "--epochs", "1", "--max-len", str(max_seq_len), "--dim", str(dim)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"fit ([\d.]+) s", output)
    assert match, output
    return float(match.group(1))


def measure(
    data: Path, max_seq_len: int, hidden_dim: int, batch_size: int | None, rounds: int, peer: list[str]
) -> dict[str, Any]:
    """Every figure of some alternating rounds.

    Args:
        batch_size: windows in a step; None as `Bert4Rec()` chooses.
        peer: interpreter and script to run beside; empty for none.
    """
    log = read_events(data).interactions()
    split = leave_one_out(log.sequences)
    config = ModelConfig(len(log.items), max_seq_len, hidden_dim, num_heads=2)  # as the peer's script
    lengths = np.minimum(split.train.lengths, max_seq_len)
    lengths = lengths[lengths > 0]
    hidden = np.maximum(1, np.rint(lengths * TrainConfig().mask_prob))
    negatives = TrainPlan.of(TrainConfig(), config, split.train).num_negatives
    work = {
        "cloze": useful_operations(lengths, config, hidden, negatives, causal=False),
        "next item": useful_operations(lengths - 1, config, lengths - 1, negatives, causal=True),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in (*work, *(["peer"] if peer else []))}
    peaks: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    events = 0
    for _ in range(rounds):
        for dtype in (torch.float32, torch.bfloat16):
            peaks[str(dtype).removeprefix("torch.")].append(gemm_peak(dtype))
        for kind in work:
            taken, events = epoch_seconds(split.train, config, kind == "next item", batch_size)
            seconds[kind].append(taken)
        if peer:
            seconds["peer"].append(peer_seconds(peer, data, max_seq_len, hidden_dim))
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    return {
        "data": data.name,
        "machine": describe(),
        "hidden_dim": hidden_dim,
        "max_seq_len": max_seq_len,
        "batch_size": batch_size,
        "negatives": negatives,
        "events_an_epoch": events,
        "peak_gflops": {dtype: max(values) for dtype, values in peaks.items()},
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "seconds_an_epoch": seconds,
        "median_seconds": medians,
        "useful_gflops": {kind: work[kind] / medians[kind] / 1e9 for kind in work},
    }


def main(
    data: Annotated[Path, typer.Option(help="Text file of `user item` lines in time order, .gz or not.")],
    peer: Annotated[str | None, typer.Option(help="Interpreter that has RecTools, to run beside.")] = None,
    peer_script: Annotated[str | None, typer.Option(help="The peer's script; prints `fit SECONDS s`.")] = None,
    rounds: Annotated[int, typer.Option(help="Alternating rounds; medians are reported.")] = 3,
    max_seq_len: int = 200,
    hidden_dim: int = 64,
    batch_size: Annotated[int | None, typer.Option(help="Windows in a step; by default as Bert4Rec() chooses.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    beside = [peer, peer_script] if peer and peer_script else []
    figures = measure(data, max_seq_len, hidden_dim, batch_size, rounds, beside)
    peak, events, medians = figures["peak_gflops"], figures["events_an_epoch"], figures["median_seconds"]
    table = Table(title=f"One epoch of {data.name}, d={hidden_dim}, length {max_seq_len}; medians of {rounds}")
    for column in ("", "seconds", "events/s", "useful GFLOP/s", "of fp32 peak", "of bf16 peak", "peer / ours"):
        table.add_column(column, justify="right")
    for kind, median in medians.items():
        shown = [kind, f"{median:.1f}", f"{events / median:,.0f}"]
        if kind in figures["useful_gflops"]:
            rate = figures["useful_gflops"][kind]
            shown += [f"{rate:.0f}", *(f"{rate / peak[dtype]:.0%}" for dtype in ("float32", "bfloat16"))]
            shown += [f"{medians['peer'] / median:.1f}"] if "peer" in medians else []
        table.add_row(*shown)
    console = Console()
    console.print(table)
    console.print(
        f"GEMM peak fp32 {peak['float32']:.0f}, bf16 {peak['bfloat16']:.0f} GFLOP/s; "
        f"peak memory {figures['peak_memory_mb']} MB; {figures['machine']}"
    )
    if json_out:
        json_out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
