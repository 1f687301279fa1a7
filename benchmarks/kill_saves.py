"""kill -9 during saves: is the model's file always whole, and does the next save remove the killed save's files?

    python benchmarks/kill_saves.py --kills 500

A process saves two models in turn to one file; it is killed at a random moment, and the file is read. The next save, by
another process, must leave nothing beside the file.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from corerec.engines.bert4rec import checkpoint
from corerec.engines.bert4rec.recommender import Bert4Rec
from corerec.errors import CheckpointError
from machine import describe

LONGEST_LIFE_S = 0.3  # some saves of a file of 1.2 MB on a busy machine


def main(
    kills: Annotated[int, typer.Option(help="Processes to kill.")] = 500,
    seed: Annotated[int, typer.Option(help="Decides the moments.")] = 0,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    torch.set_num_threads(1)  # the processes are forked, which threads of a library do not survive
    rng = random.Random(seed)
    models = []
    for hidden_dim in (64, 128):
        model = Bert4Rec(epochs=1, hidden_dim=hidden_dim, max_seq_len=8)
        users, items = [n % 500 for n in range(8_000)], [n * 7 % 2_000 for n in range(8_000)]
        models.append(model.fit(users, items, None, list(range(8_000))).fitted)
    started, said = time.perf_counter(), time.perf_counter()
    broken, left_by_killed, left_by_next, hidden_dims = 0, 0, 0, {64: 0, 128: 0}
    with tempfile.TemporaryDirectory(prefix="kill_saves.") as name:
        path = Path(name, "model")
        checkpoint.save(models[0], path, name="first")
        size = path.stat().st_size
        for kill in range(kills):
            child = os.fork()
            if child == 0:
                for number in range(10**9):
                    checkpoint.save(models[number % 2], path, name=f"save {number}")
            time.sleep(rng.uniform(0, LONGEST_LIFE_S))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            try:
                hidden_dims[checkpoint.load(path).config.hidden_dim] += 1
            except (CheckpointError, OSError) as error:
                print(f"kill {kill}: {error}", flush=True)
                broken += 1
            left_by_killed += len(list(path.parent.iterdir())) > 1
            checkpoint.save(models[0], path, name="next")
            left_by_next += len(list(path.parent.iterdir())) - 1
            if time.perf_counter() - said > 15:
                said = time.perf_counter()
                print(f"{kill + 1:,} of {kills:,} kills, {broken} broken, {said - started:.0f} s", flush=True)
    figures = {
        "kills": kills,
        "broken": broken,
        "hit_during_a_save": left_by_killed,
        "left_after_the_next_save": left_by_next,
        "found_first_model": hidden_dims[64],
        "found_second_model": hidden_dims[128],
        "file_bytes": size,
        "seconds": time.perf_counter() - started,
    }
    print(json.dumps(figures, indent=2))
    if json_out is not None:
        json_out.write_text(json.dumps({"machine": describe()} | figures, indent=2) + "\n")
    if broken or left_by_next:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
