"""How time and memory grow with a catalogue: steps, save, load and first answers with 1e5 items and more.

    python benchmarks/scale_items.py --items 1e5 1e6 1e7 --json-out results/scale_items.json

A made log of 300,000 events: 15,000 users of 20 events, items drawn by Zipf's law, so most of the catalogue is never
seen. The network is the default one of width 64. Each stage is a process of its own with one thread. A step's time is
the median of CPU seconds, so that other work on the machine does not count. "Load and answer" is in wall seconds, from
the end of the imports to the first list of ten items; the file is in the system's cache, as right after a copy.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

USERS, LENGTH, DIM = 15_000, 20, 64
UPDATES = {"planned": None, "rows": True, "table": False}
FIRST_STEPS = 5  # are not counted: memory is touched for the first time
out = Console(highlight=False)


def train(path: Path, num_items: int, num_steps: int, row_updates: bool | None) -> dict[str, Any]:
    """Some steps of a training, the end of its epoch, and the model's file."""
    import torch

    from corerec.basic.transitions import TransitionModel
    from corerec.data.fingerprint import EventFingerprint
    from corerec.data.histories import Histories
    from corerec.data.interactions import Interactions
    from corerec.data.sequences import SequenceStore
    from corerec.data.vocabulary import Vocabulary
    from corerec.engines.bert4rec.checkpoint import save
    from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
    from corerec.engines.bert4rec.fitted import FittedModel
    from corerec.engines.bert4rec.training import StepResult, build_network, train_epochs
    from corerec.engines.bert4rec.training_state import TrainingState

    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    shares = np.cumsum(1 / np.arange(1, num_items + 1))
    items = (np.searchsorted(shares, random.random(USERS * LENGTH) * shares[-1]) + 1).astype(np.int32)
    store = SequenceStore(items, np.arange(0, USERS * LENGTH + 1, LENGTH, dtype=np.int64))
    log = Interactions(store, Vocabulary(np.arange(USERS), "user"), Vocabulary(np.arange(num_items) + 10**9, "item"))
    config = TrainConfig(row_updates=row_updates)
    started = time.process_time()
    network = build_network(ModelConfig(num_items, hidden_dim=DIM), 0)
    found: dict[str, Any] = {"build_s": time.process_time() - started}
    state, at = TrainingState.start(network, store, config), []
    for result in train_epochs(state, store):
        if isinstance(result, StepResult):
            at.append(time.process_time())
            if result.step == num_steps:
                break
    found |= {"step_s": float(np.median(np.diff(at)[FIRST_STEPS:])), "row_updates": state.plan.row_updates}
    found |= {"training_peak": peak(), "planned": state.plan.memory_bytes}
    started = time.process_time()
    state.ema.use_average()
    found["average_s"] = time.process_time() - started
    del state
    transitions = TransitionModel.of(store, num_items)
    histories, fingerprint = Histories(store, log.users), EventFingerprint.of(log)
    model = FittedModel("scale", network, config, log.items, transitions, histories, None, (), "", fingerprint)
    started = time.perf_counter()
    save(model, path, name="scale")
    return found | {"save_s": time.perf_counter() - started, "peak": peak(), "bytes": path.stat().st_size}


def answer(path: Path) -> dict[str, Any]:
    """Load the file and answer, in a fresh process."""
    import torch

    from corerec.engines.bert4rec import Bert4Rec

    torch.set_num_threads(1)
    at = [time.perf_counter()]
    model = Bert4Rec.load(path, device="cpu")
    at.append(time.perf_counter())
    for user in range(24):
        assert len(model.recommend(user, 10)) == 10
        at.append(time.perf_counter())
    seconds = np.diff(at)
    return {
        "load_s": seconds[0],
        "first_s": seconds[1],
        "second_s": seconds[2],
        "then_s": float(np.median(seconds[12:])),
        "peak": peak(),
    }


def peak() -> int:
    """The most bytes that this process held resident so far (VmHWM)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", nargs="+", type=float, required=True, help="sizes, such as 1e5 1e6 1e7")
    parser.add_argument("--steps", type=int, default=40, help="of each training")
    parser.add_argument(
        "--updates", choices=["planned", "rows", "table"], default="planned", help="what a step updates"
    )
    parser.add_argument("--folder", type=Path, help="where the files lie meanwhile: about 280 bytes an item")
    parser.add_argument("--json-out", type=Path, help="where to write the figures; those there are added to")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes = sorted(map(int, given.items))
    if given.stage:
        path, row_updates = given.folder / "scale.model", UPDATES[given.updates]
        trains = given.stage == "train"
        print(json.dumps(train(path, sizes[0], given.steps, row_updates) if trains else answer(path)))
        return
    from machine import describe

    json_out = given.json_out
    runs = json.loads(json_out.read_text())["runs"] if json_out is not None and json_out.exists() else []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="scale_items.", dir=given.folder) as folder:
            found: dict[str, Any] = {"items": size, "updates": given.updates, "load": os.getloadavg()[0]}
            for stage in ("train", "answer"):
                command = [sys.executable, "-W", "ignore", __file__, "--items", str(size), "--stage", stage]
                command += ["--steps", str(given.steps), "--updates", given.updates, "--folder", folder]
                text = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
                found[stage] = json.loads(text.splitlines()[-1])
            runs = [run for run in runs if (run["items"], run["updates"]) != (size, given.updates)] + [found]
            runs.sort(key=lambda run: (run["updates"], run["items"]))
            print(json.dumps(found), file=sys.stderr, flush=True)
            if json_out is not None:
                about = {"machine": describe(), "runs": runs}
                json_out.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    columns = (
        "items",
        "updates",
        "ms a step",
        "peak GB",
        "file MB",
        "save s",
        "load s",
        "first s",
        "second s",
        "then s",
    )
    table = Table(*columns)
    for run in runs:
        trained, answered = run["train"], run["answer"]
        seconds = [f"{answered[name]:.2f}" for name in ("load_s", "first_s", "second_s", "then_s")]
        row = [f"{1e3 * trained['step_s']:.0f}", f"{trained['training_peak'] / 1e9:.1f}"]
        row += [f"{trained['bytes'] / 1e6:,.0f}", f"{trained['save_s']:.1f}"]
        updated = "rows" if trained["row_updates"] else "table"
        table.add_row(f"{run['items']:,}", updated, *row, *seconds)
    out.print(table)


if __name__ == "__main__":
    main()
