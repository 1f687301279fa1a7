"""How fast is training? Seconds an epoch, real events a second, and the share of the machine's GEMM peak put to use.

    python benchmarks/train_speed.py --data ml-1m-sasrec.txt.gz
    ... --peer INTERPRETER_WITH_RECTOOLS --peer-script rectools_bert4rec.py

Useful work counts real events and hidden (or asked) places only, multiply and add as two operations, backward twice
forward. With D hidden_dim, F feedforward_dim, V items, n events in a window, m places asked, layers N:

    event       2 (3 D^2 + D^2 + 2 D F)  for each of the N - 1 full blocks, and 2 * 2 D^2 (keys, values) in the last
    place       2 (D^2 + D^2 + 2 D F + D^2 + D V)  in the last block, the head and the logits
    attention   4 n D an event in a full block, 4 n D a place in the last; half of it where attention is causal

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
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.training import EpochResult, build_network, train_epochs
from corerec.interactions import SequenceStore
from corerec.splitting import leave_one_out
from corerec.tables import read_events
from machine import describe


def useful_operations(lengths: np.ndarray, config: ModelConfig, asked: np.ndarray, causal: bool) -> float:
    """Operations of one training epoch over windows of these lengths, by the formula above."""
    dim, wide, items = config.hidden_dim, config.feedforward_dim or 4 * config.hidden_dim, config.num_items
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


def epoch_seconds(store: SequenceStore, config: ModelConfig, next_item: bool, batch_size: int) -> tuple[float, int]:
    """Seconds and events of the second epoch: the first one prepares the kernels."""
    settings = {"next_item_share": 1.0, "next_item_until": 1.0} if next_item else {"next_item_until": 0.0}
    # Next-item steps fade within the epochs of a run: a run of many epochs keeps the second all but free of fading.
    train = TrainConfig(epochs=1000, batch_size=batch_size, whole_history=False, **settings)
    for result in train_epochs(build_network(config, seed=0), store, train):
        if isinstance(result, EpochResult) and result.epoch == 2:
            return result.seconds, result.num_events
    raise AssertionError("the second epoch never came")


def peer_seconds(python: str, script: str, data: Path, max_seq_len: int, dim: int) -> float:
    command = [python, script, str(data), "--epochs", "1", "--max-len", str(max_seq_len), "--dim", str(dim)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"fit ([\d.]+) s", output)
    assert match, output
    return float(match.group(1))


def main(
    data: Annotated[Path, typer.Option(help="Text file of `user item` lines in time order, .gz or not.")],
    peer: Annotated[str | None, typer.Option(help="Interpreter that has RecTools, to run beside.")] = None,
    peer_script: Annotated[str | None, typer.Option(help="The peer's script; prints `fit SECONDS s`.")] = None,
    rounds: Annotated[int, typer.Option(help="Alternating rounds; medians are reported.")] = 3,
    max_seq_len: int = 200,
    hidden_dim: int = 64,
    batch_size: int = 32,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    log = read_events(data).interactions()
    split = leave_one_out(log.sequences)
    config = ModelConfig(num_items=len(log.items), max_seq_len=max_seq_len, hidden_dim=hidden_dim)
    lengths = np.minimum(split.train.lengths, max_seq_len)
    lengths = lengths[lengths > 0]
    hidden = np.maximum(1, np.rint(lengths * TrainConfig().mask_prob))
    work = {
        "cloze": useful_operations(lengths, config, hidden, causal=False),
        "next item": useful_operations(lengths - 1, config, lengths - 1, causal=True),
    }
    seconds: dict[str, list[float]] = {"cloze": [], "next item": [], "peer": []}
    peaks: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    events = 0
    for _ in range(rounds):
        for dtype in (torch.float32, torch.bfloat16):
            peaks[str(dtype).removeprefix("torch.")].append(gemm_peak(dtype))
        for kind in ("cloze", "next item"):
            taken, events = epoch_seconds(split.train, config, kind == "next item", batch_size)
            seconds[kind].append(taken)
        if peer and peer_script:
            seconds["peer"].append(peer_seconds(peer, peer_script, data, max_seq_len, hidden_dim))
    peak = {dtype: max(values) for dtype, values in peaks.items()}
    figures = {
        "data": data.name,
        "machine": describe(),
        "hidden_dim": hidden_dim,
        "max_seq_len": max_seq_len,
        "batch_size": batch_size,
        "events_an_epoch": events,
        "peak_gflops": peak,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "seconds_an_epoch": {kind: values for kind, values in seconds.items() if values},
    }
    table = Table(title=f"One epoch of {data.name}, d={hidden_dim}, length {max_seq_len}; medians of {rounds}")
    for column in ("", "seconds", "events/s", "useful GFLOP/s", "of fp32 peak", "of bf16 peak", "peer / ours"):
        table.add_column(column, justify="right")
    peer_median = statistics.median(seconds["peer"]) if seconds["peer"] else None
    for kind in ("cloze", "next item"):
        median = statistics.median(seconds[kind])
        rate = work[kind] / median / 1e9
        ratio = f"{peer_median / median:.1f}" if peer_median else ""
        shares = [f"{rate / peak[dtype]:.0%}" for dtype in ("float32", "bfloat16")]
        table.add_row(kind, f"{median:.1f}", f"{events / median:,.0f}", f"{rate:.0f}", *shares, ratio)
        figures[f"useful_gflops {kind}"] = rate
    if peer_median:
        table.add_row("peer", f"{peer_median:.1f}", f"{events / peer_median:,.0f}")
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
