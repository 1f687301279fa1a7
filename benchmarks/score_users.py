"""A million users scored to Parquet: users per second, peak memory beyond the model, and shards against the whole.

    python benchmarks/score_users.py --data ml-1m-sasrec.txt.gz --users 1000000 --items 20000 --threads 2

The users' histories are those of a real log, resampled; its items are spread over a catalogue of --items. The network
is of --hidden-dim 64 and --max-seq-len 50 unless told otherwise, smaller than the default's 128 and 200. It has hardly
been trained: speed and memory do not depend on what it learned.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import duckdb
import numpy as np
import torch
import typer

from corerec import batch
from corerec.data.histories import Histories
from corerec.data.sequences import SequenceStore
from corerec.data.tables import read_events
from corerec.data.vocabulary import Vocabulary
from corerec.engines.bert4rec.recommender import Bert4Rec
from machine import describe


def main(
    data: Annotated[Path, typer.Option(help="A log: user and item in order of time.")],
    users: Annotated[int, typer.Option(help="How many to score.")] = 1_000_000,
    items: Annotated[int, typer.Option(help="Catalogue size.")] = 20_000,
    top_k: Annotated[int, typer.Option(help="Items for each user.")] = 20,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    max_seq_len: Annotated[int, typer.Option(help="Events that the network looks at, and one.")] = 50,
    hidden_dim: Annotated[int, typer.Option(help="Width of the network.")] = 64,
    shards: Annotated[bool, typer.Option(help="Score again in two shards, and compare.")] = True,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    with tempfile.TemporaryDirectory(prefix="score_users.") as name:
        folder = Path(name)
        model_file = folder / "users.model"
        # Each run is a process of its own: the peak of memory is a process's.
        arguments = [str(data), str(users), str(items), str(max_seq_len), str(hidden_dim), str(model_file)]
        _run("make", *arguments)
        base = _run("load", str(model_file), str(threads))
        whole = _run("score", str(model_file), str(threads), str(folder / "all.parquet"), str(top_k), "0", "1")
        print(json.dumps(whole), flush=True)
        figures = {
            "users": users,
            "items": items,
            "top_k": top_k,
            "rows": whole["rows"],
            "users_per_second": users / whole["seconds"],
            "seconds": whole["seconds"],
            "users_per_cpu_second": users / whole["cpu_seconds"],
            "peak_beyond_model_mb": (whole["peak_kb"] - base["peak_kb"]) / 1024,
            "model_in_memory_mb": base["peak_kb"] / 1024,
            "parquet_bytes": (folder / "all.parquet").stat().st_size,
        }
        if shards:
            parts = [folder / f"{at}.parquet" for at in range(2)]
            for at, part in enumerate(parts):
                _run("score", str(model_file), str(threads), str(part), str(top_k), str(at), "2")
            figures["differing_rows"] = _differing_rows(folder / "all.parquet", parts)
        figures |= describe() | {"threads": threads, "max_seq_len": max_seq_len, "hidden_dim": hidden_dim}
    print(json.dumps(figures, indent=2))
    if json_out is not None:
        json_out.write_text(json.dumps(figures, indent=2) + "\n")


def _run(step: str, *arguments: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--step", step, *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()[-1])


def make(data: str, users: str, items: str, max_seq_len: str, hidden_dim: str, model_file: str) -> dict[str, float]:
    """A model of so many users: real histories, drawn with replacement, their items spread over the catalogue."""
    rng = np.random.default_rng(0)
    log = read_events(data, header=False).interactions()
    num_items = int(items)
    shape: dict[str, Any] = {"max_seq_len": int(max_seq_len), "hidden_dim": int(hidden_dim)}
    model = Bert4Rec(epochs=1, **shape)
    everything = np.arange(1, num_items + 1)
    model.fit(np.ones(num_items, np.int64), everything, timestamps=everything, on_event=lambda _: True)
    drawn = log.sequences.select(rng.integers(0, len(log.users), int(users))).last(int(max_seq_len))
    spread = rng.integers(0, max(1, num_items // len(log.items)), len(drawn)).repeat(drawn.lengths) * len(log.items)
    store = SequenceStore((drawn.items + spread).astype(np.int32), drawn.offsets, np.zeros(drawn.num_events, np.int64))
    known = Vocabulary(np.arange(1, int(users) + 1), "user")
    object.__setattr__(model.fitted, "histories", Histories(store, known))
    model.save(model_file)
    return {}


def load(model_file: str, threads: str) -> dict[str, float]:
    """What a process holds that only loads the model and answers once."""
    torch.set_num_threads(int(threads))
    model = Bert4Rec.load(model_file, device="cpu")
    assert model.users is not None
    model.batch_recommend(model.users.ids[:1], 20)
    return {"peak_kb": _peak_kb()}


def score(model_file: str, threads: str, output: str, top_k: str, shard: str, count: str) -> dict[str, float]:
    torch.set_num_threads(int(threads))
    model = Bert4Rec.load(model_file, device="cpu")
    started, cpu_started = time.perf_counter(), time.process_time()
    written = batch.score(model, output, int(top_k), shard=(int(shard), int(count)), verbose=True)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "rows": written.num_rows,
        "peak_kb": _peak_kb(),
    }


def _peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _differing_rows(whole: Path, parts: list[Path]) -> int:
    """Rows of the whole that are not in the shards, or the other way round."""
    files = ", ".join(f"'{part}'" for part in parts)
    both = f"(SELECT * FROM '{whole}' EXCEPT ALL SELECT * FROM read_parquet([{files}]))"
    other = f"(SELECT * FROM read_parquet([{files}]) EXCEPT ALL SELECT * FROM '{whole}')"
    (count,) = duckdb.execute(f"SELECT count(*) FROM ({both} UNION ALL {other})").fetchone()  # type: ignore[misc]
    return count


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        steps = {"make": make, "load": load, "score": score}
        print(json.dumps(steps[sys.argv[2]](*sys.argv[3:])))
    else:
        typer.run(main)
