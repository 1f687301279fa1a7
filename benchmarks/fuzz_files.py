"""Fuzzing of model files: does every damaged file end as a CheckpointError, or as the model that was saved?

    python benchmarks/fuzz_files.py --mutants 100000 --json-out benchmarks/results/fuzz_files.json

A mutant is one of six model files with one kind of damage, drawn by its number, so that it can be made again
(`--only NUMBER`). Two kinds of damage:

    accidents   bits, bytes, cuts, zeroed and swapped stretches, edited headers: the digest no longer matches
    lies        values that no training leaves, written by `write_tensors` with a digest that matches

Outcomes of a load:

    refused     CheckpointError
    equal       a model with all the tensors that were saved; of a lie, with those that the lie says, and its answers
                are finite, probabilities in 0..1 and ratings on the scale, or an error of the library
    other       anything else: another error, a crash, more than 20 s, other tensors, an answer that is no answer

Memory is the highest resident set during a load less that before it, by the bytes of the undamaged file. Only the large
file tells: of the others Python's own steps are larger.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from corerec.engines.bert4rec import Bert4Rec, checkpoint
from corerec.errors import CheckpointError, CorerecError
from corerec.tensor_file import read_tensors, write_tensors
from machine import describe

CHUNK = 100  # mutants of one task
LONGEST_S = 20
LARGE = "large"
LARGE_SHARE = 0.02
MOST_MEMORY = 3.0  # times the file's honest size
ADDRESS_SPACE = 8 * 2**30  # beyond it a claim of the file becomes a MemoryError


class Hang(BaseException):
    """A load that took too long; no `except Exception` may swallow it."""


# ------------------------------------------------------------------------------------------------------ honest files


def make_models(folder: Path) -> None:
    """Six honest files: ids as numbers and as text, with and without ratings, times and histories; one with all that a
    file can hold (clock, item features, optimizer moments, retired items), and one large.
    """
    rng = np.random.default_rng(0)
    small: dict[str, Any] = {"epochs": 1, "hidden_dim": 8, "max_seq_len": 8, "num_layers": 1, "num_heads": 2}
    users, items, times = rng.integers(0, 40, 300), rng.integers(0, 30, 300), rng.permutation(300)
    ratings = rng.integers(1, 6, 300)
    text_users, text_items = [f"u{user}" for user in users], [f"i{item}" for item in items]
    plain = Bert4Rec("numbers", **small).fit(users, items, ratings, times)
    plain.save(folder / "numbers")
    plain.save(folder / "no histories", histories=False)
    Bert4Rec("texts", **small).fit(text_users, text_items, None, times + 0.5).save(folder / "texts")
    sinusoidal = Bert4Rec("sinusoidal", **{**small, "positions": "sinusoidal", "num_layers": 2})
    sinusoidal.fit(text_users, items, ratings, times).save(folder / "sinusoidal")
    features = pd.DataFrame({"item_id": np.arange(35), "kind": ["a", "b", "c", "d", None] * 7, "size": np.arange(35.0)})
    everything = Bert4Rec("everything", **small, clock=True).fit(users, items, ratings, times, items=features)
    everything.fit_more(users[:40], items[:40], ratings[:40], times[:40] + 300, epochs=1, retire=[3])
    everything.save(folder / "everything", training_state=True)
    many = 12_000
    wide: dict[str, Any] = {**small, "hidden_dim": 256, "epochs": 1, "num_negatives": 16, "batch_size": 2_000}
    large = Bert4Rec(LARGE, **wide)
    large.fit(rng.integers(0, 2_000, many), rng.permutation(many), None, rng.permutation(many))
    large.save(folder / LARGE)


# ---------------------------------------------------------------------------------------------------------- accidents


def flip_bits(raw: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)


def flip_header_bits(raw: bytearray, rng: random.Random) -> None:
    end = _header_end(raw)
    for _ in range(rng.choice([1, 1, 2])):
        raw[rng.randrange(end)] ^= 1 << rng.randrange(8)


def set_bytes(raw: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 4])):
        raw[rng.randrange(len(raw))] = rng.choice([0, 0xFF, 0x7F, 0x80, ord("9"), ord('"'), ord("{")])


def cut(raw: bytearray, rng: random.Random) -> None:
    del raw[rng.choice([rng.randrange(len(raw)), rng.randrange(min(200, len(raw))), len(raw) - 1]) :]


def add_bytes(raw: bytearray, rng: random.Random) -> None:
    at = rng.choice([len(raw), rng.randrange(len(raw)), _header_end(raw)])
    raw[at:at] = rng.randbytes(rng.choice([1, 8, 4096]))


def zero_stretch(raw: bytearray, rng: random.Random) -> None:
    start, length = rng.randrange(len(raw)), rng.choice([8, 512, 4096])
    raw[start : start + length] = bytes(len(raw[start : start + length]))


def swap_stretches(raw: bytearray, rng: random.Random) -> None:
    length = rng.choice([4, 8, 64, 512])
    one, other = sorted(rng.randrange(len(raw) - length) for _ in range(2))
    if other - one >= length:
        raw[one : one + length], raw[other : other + length] = (
            raw[other : other + length],
            raw[one : one + length],
        )


def another_number(number: int, rng: random.Random) -> int:
    others = [0, 1, -1, number + 1, number - 1, 2 * number, -number, 8 * number, 10**9, 2**31, 2**62, 2**64, 10**30]
    return rng.choice(others)


def edit_header(raw: bytearray, rng: random.Random) -> None:
    """Change what the header says of one tensor, and leave the data."""
    header, data = _taken_apart(raw)
    names = [name for name in header if name != "__metadata__"]
    name, other = rng.choice(names), rng.choice(names)
    entry = header[name]
    match rng.randrange(8):
        case 0:
            entry["dtype"] = rng.choice(["F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "C64", "F4", "", 7])
        case 1 if entry["shape"]:
            at = rng.randrange(len(entry["shape"]))
            entry["shape"][at] = another_number(entry["shape"][at], rng)
        case 2:
            entry["shape"] = rng.choice([entry["shape"][::-1], [*entry["shape"], 1], [], None, "3", [[3]], [2.0]])
        case 3:
            at = rng.randrange(2)
            entry["data_offsets"][at] = another_number(entry["data_offsets"][at], rng)
        case 4:
            header[name], header[other] = header[other], header[name]
        case 5:
            del header[name]
        case 6:
            header[rng.choice(["more", name + "2", "network." + name])] = dict(entry)
        case _:
            header[rng.choice(["renamed", name.upper(), ""])] = header.pop(name)
    raw[:] = _put_together(header, data)


def edit_texts(raw: bytearray, rng: random.Random) -> None:
    """Change a setting in the header, and leave the digest."""
    header, data = _taken_apart(raw)
    lie_about_texts(header["__metadata__"], rng)
    raw[:] = _put_together(header, data)


def _header_end(raw: bytearray) -> int:
    return 8 + struct.unpack("<Q", raw[:8])[0]


def _taken_apart(raw: bytearray) -> tuple[dict[str, Any], bytes]:
    end = _header_end(raw)
    return json.loads(raw[8:end]), bytes(raw[end:])


def _put_together(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


ACCIDENTS: list[Callable[[bytearray, random.Random], None]] = [
    flip_bits,
    flip_header_bits,
    set_bytes,
    cut,
    add_bytes,
    zero_stretch,
    swap_stretches,
    edit_header,
    edit_texts,
]

# --------------------------------------------------------------------------------------------------------------- lies


def lie_about_texts(texts: dict[str, str], rng: random.Random) -> None:
    """Change one setting to another value or type, or take a text out."""
    key = rng.choice(sorted(texts))
    try:
        value = json.loads(texts[key])
    except ValueError:
        value = None
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        texts[key] = rng.choice(
            ["", "{}", "[]", "null", "NaN", '{"a": 1}', "[" * 100_000, texts[key][:-1], "9" * 5_000]
        )
        return
    entry = value if isinstance(value, dict) else rng.choice(value)
    setting = rng.choice(sorted(entry))
    now = entry[setting]
    number = now if isinstance(now, int) else 2
    entry[setting] = rng.choice(
        [another_number(number, rng), another_number(number, rng), 1.5, -0.5, "x", None, [], True, 1e308, float("nan")]
    )
    if rng.random() < 0.1:
        entry.pop(setting)
    if rng.random() < 0.05:
        entry["another"] = 1
    texts[key] = json.dumps(value)


def lie_about_values(tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Change some values of one tensor to such as no training leaves, or to others of its own."""
    name = rng.choice(sorted(tensors))
    tensor = tensors[name].clone()
    flat = tensor.reshape(-1)
    if not len(flat):
        return
    for _ in range(rng.choice([1, 1, 5])):
        at = rng.choice([0, len(flat) - 1, rng.randrange(len(flat)), rng.randrange(len(flat))])
        if tensor.dtype.is_floating_point:
            wild = [float("nan"), float("inf"), -float("inf"), 1e38, -1e38, 1e10, 1e5, -5.0, 0.0, 2.0, 1e-40]
            flat[at] = rng.choice([*wild, float(flat[rng.randrange(len(flat))])])
        elif tensor.dtype == torch.uint8:
            flat[at] = rng.randrange(256)
        else:
            wild = [-1, 0, 1, 10**6, 2**31 - 1, int(flat[at]) + 1, int(flat[at]) - 1]
            limits = torch.iinfo(tensor.dtype)
            value = rng.choice([*wild, 2**62 if tensor.dtype == torch.int64 else 5])
            flat[at] = min(max(value, limits.min), limits.max)
    if rng.random() < 0.1:
        flat[:] = flat[torch.tensor(rng.sample(range(len(flat)), len(flat)))] if len(flat) < 1000 else flat.flip(0)
    tensors[name] = tensor


def lie_about_shapes(tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Give one tensor another length, shape, type or name, or take it out."""
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    match rng.randrange(7):
        case 0:
            tensors[name] = tensor[: len(tensor) // 2].clone() if tensor.ndim else tensor[None]
        case 1:
            tensors[name] = torch.cat([tensor, tensor]) if tensor.ndim else tensor[None, None]
        case 2:
            kinds = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8]
            tensors[name] = tensor.to(rng.choice(kinds))
        case 3:
            tensors[name] = tensor[None] if rng.random() < 0.5 else tensor.reshape(-1).clone()
        case 4:
            del tensors[name]
        case 5:
            tensors[rng.choice(["more", "network.more", "histories.more", "ratings.more", name + "x"])] = tensor
        case _:
            other = rng.choice(sorted(tensors))
            tensors[name], tensors[other] = tensors[other], tensors[name]


# --------------------------------------------------------------------------------------------------------------- loads


@dataclass
class Tally:
    """What came out of some mutants."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)  # by damage and outcome
    others: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    slowest: int = -1
    memory: float = 0.0
    memory_of: int = -1

    def add(self, one: Tally) -> None:
        self.outcomes += one.outcomes
        self.others += one.others
        if one.slowest_s > self.slowest_s:
            self.slowest_s, self.slowest = one.slowest_s, one.slowest
        if one.memory > self.memory:
            self.memory, self.memory_of = one.memory, one.memory_of


def load_mutants(folder: Path, numbers: list[int]) -> Tally:
    """Make each mutant, load it, and judge what comes out. Runs in a worker process."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    signal.signal(signal.SIGALRM, _raise_hang)
    tally = Tally()
    path = folder / f"mutant.{os.getpid()}"
    for number in numbers:
        rng = random.Random(number)
        small = sorted(file.name for file in folder.iterdir() if "." not in file.name and file.name != LARGE)
        source = folder / (LARGE if rng.random() < LARGE_SHARE else rng.choice(small))
        try:
            damage, truth = make_mutant(source, path, rng)
        except Exception as error:
            raise RuntimeError(f"mutant {number} could not be made: {error!r}") from error
        signal.alarm(LONGEST_S)
        try:
            before = _reset_peak_kb()
            started = time.perf_counter()
            outcome, why, model = load_one(path)
            seconds = time.perf_counter() - started
            memory = (_status_kb("VmHWM") - before) * 1024 / source.stat().st_size
            if model is not None:
                why = judge(model, *truth)
                outcome = "other" if why else "equal"
        except Hang:
            seconds, memory, outcome, why = LONGEST_S, 0.0, "other", "took too long"
        except Exception as error:
            seconds, memory, outcome, why = 0.0, 0.0, "other", f"could not be judged: {error!r}"[:300]
        finally:
            signal.alarm(0)
        if source.name == LARGE and memory > tally.memory:
            tally.memory, tally.memory_of = memory, number
        if seconds > tally.slowest_s:
            tally.slowest_s, tally.slowest = seconds, number
        tally.outcomes[damage, outcome] += 1
        if outcome == "other":
            tally.others.append(f"{number} ({damage} of {source.name}): {why}")
    path.unlink(missing_ok=True)
    return tally


def make_mutant(source: Path, path: Path, rng: random.Random) -> tuple[str, tuple[dict[str, Tensor], bool]]:
    """Write one; returns its damage, and what a model of it has to hold: tensors, and whether they are a lie."""
    whole, honest_texts, honest = _honest(source)
    if rng.random() < 0.6:
        damage = rng.choice(ACCIDENTS)
        raw = bytearray(whole)
        damage(raw, rng)
        path.write_bytes(raw)
        return damage.__name__, (honest, False)
    texts, tensors = dict(honest_texts), dict(honest)
    lie = rng.choice(["texts", "values", "values", "shapes"])
    if lie == "texts":
        lie_about_texts(texts, rng)
    elif lie == "values":
        lie_about_values(tensors, rng)
    else:
        lie_about_shapes(tensors, rng)
    try:
        write_tensors(path, {name: tensor.clone() for name, tensor in tensors.items()}, texts)
    except CorerecError:  # too long to be written
        path.write_bytes(b"")
    return f"lie about {lie}", (tensors, True)


@cache
def _honest(source: Path) -> tuple[bytes, dict[str, str], dict[str, Tensor]]:
    return source.read_bytes(), *read_tensors(source, _anything)


def load_one(path: Path) -> tuple[str, str, Bert4Rec | None]:
    try:
        return "loaded", "", Bert4Rec.load(path)
    except CheckpointError as error:
        return ("refused", "", None) if str(path) in str(error) else ("other", f"names no file: {error}", None)
    except Exception as error:
        return "other", repr(error)[:300], None


def judge(model: Bert4Rec, tensors: dict[str, Tensor], is_lie: bool) -> str:
    """Why a loaded model is not what it has to be; nothing where it is."""
    held, _ = checkpoint.contents(model.fitted, name=model.name, training_state=True)
    if held.keys() != tensors.keys():
        return f"holds other tensors: {sorted(held.keys() ^ tensors.keys())}"
    for name, tensor in tensors.items():
        if held[name].dtype != tensor.dtype or not torch.equal(_bits(held[name]), _bits(tensor)):
            if name.endswith(".json") and json.loads(held[name].numpy().tobytes()) == json.loads(
                bytes(tensor.tolist())
            ):
                continue
            return f"{name} differs"
    return _bad_answer(model) if is_lie else ""


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _bad_answer(model: Bert4Rec) -> str:
    items = model.items.ids[:3].tolist()
    users = [] if model.users is None else model.users.ids[:3].tolist()

    def probabilities() -> list[float]:
        found = [pair[1] for history in ([], items) for pair in model.recommend(history=history, with_scores=True)]
        return found + [pair[1] for user in users for pair in model.recommend(user, with_scores=True)]

    def predictions() -> list[float]:
        return [model.predict(user, item) for user in users for item in items]

    for ask, highest in ((probabilities, 1 + 1e-6), (predictions, 1e31)):
        try:
            wrong = [answer for answer in ask() if not -highest <= answer <= highest]
        except CorerecError:
            continue
        except Exception as error:
            return f"{ask.__name__}: {error!r}"[:300]
        if wrong:
            return f"{ask.__name__}: {wrong[0]}"
    return ""


def _anything(texts: dict[str, str]) -> None:
    pass


def _raise_hang(*_: Any) -> None:
    raise Hang


def _status_kb(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise RuntimeError(f"this system does not tell {field}")


def _reset_peak_kb() -> int:
    """Set the peak of the resident set back to what it is now; returns that."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_kb("VmRSS")


def main(
    mutants: Annotated[int, typer.Option(help="Damaged files to load.")] = 100_000,
    first: Annotated[int, typer.Option(help="Number of the first.")] = 0,
    only: Annotated[int | None, typer.Option(help="Make and judge one mutant again, and leave its file.")] = None,
    workers: Annotated[int, typer.Option(help="Processes.")] = os.cpu_count() or 1,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    console = Console(width=120)
    started = time.perf_counter()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # where a flush to the disk costs nothing
    with tempfile.TemporaryDirectory(dir=memory, prefix="fuzz_files.") as name:
        folder = Path(name)
        torch.set_num_threads(1)
        make_models(folder)
        print(f"six honest files after {time.perf_counter() - started:.0f} s", flush=True)
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        if only is not None:
            console.print(load_mutants(folder, [only]))
            return
        total = Tally()
        chunks = [list(range(at, min(at + CHUNK, first + mutants))) for at in range(first, first + mutants, CHUNK)]
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            tasks = {pool.submit(load_mutants, folder, chunk): chunk for chunk in chunks}
            done, said = 0, time.perf_counter()
            for task in as_completed(tasks):
                try:
                    part = task.result()
                    for other in part.others:
                        print(f"other: {other}", flush=True)
                    total.add(part)
                except BrokenProcessPool:
                    total.others.append(f"{tasks[task][0]}...: a process died, or was waiting when one did")
                    total.outcomes["any", "other"] += 1
                except RuntimeError as error:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise SystemExit(str(error)) from error
                done += len(tasks[task])
                if time.perf_counter() - said > 15:
                    said = time.perf_counter()
                    print(
                        f"{done:,} of {mutants:,} mutants, {len(total.others)} others, {said - started:.0f} s",
                        flush=True,
                    )
    table = Table(title=f"{mutants:,} damaged model files")
    for column in ("damage", "refused", "equal", "other"):
        table.add_column(column, justify="right" if column != "damage" else "left")
    for damage in sorted({damage for damage, _ in total.outcomes}):
        table.add_row(damage, *(f"{total.outcomes[damage, outcome]:,}" for outcome in ("refused", "equal", "other")))
    sums = {
        outcome: sum(n for (_, what), n in total.outcomes.items() if what == outcome)
        for outcome in ("refused", "equal", "other")
    }
    table.add_row("all", *(f"{count:,}" for count in sums.values()), style="bold")
    console.print(table)
    console.print(
        f"slowest load {total.slowest_s:.2f} s (mutant {total.slowest}); highest memory {total.memory:.2f} times the "
        f"file of {sizes[LARGE] / 1e6:.1f} MB (mutant {total.memory_of}); {time.perf_counter() - started:.0f} s in all"
    )
    for other in total.others[:20]:
        console.print(f"other: {other}", markup=False)
    if json_out is not None:
        figures = {
            "machine": describe(),
            "mutants": mutants,
            "first": first,
            "outcomes": sums,
            "by_damage": {f"{damage}: {outcome}": n for (damage, outcome), n in sorted(total.outcomes.items())},
            "slowest_s": total.slowest_s,
            "memory_times_file": total.memory,
            "file_bytes": sizes,
            "seconds": time.perf_counter() - started,
        }
        json_out.write_text(json.dumps(figures, indent=2) + "\n")
    if total.others or total.memory > MOST_MEMORY:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
