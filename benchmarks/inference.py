"""How fast are recommendations from a model of MovieLens-1M's size, and from a catalogue of a million items?

    python benchmarks/inference.py --data ml-1m-sasrec.txt.gz
    ... --peer INTERPRETER_WITH_RECTOOLS --peer-script rectools_bert4rec.py

The model learns for one epoch, as an answer takes no longer after more; each user's last event is left out, as the peer
leaves it. Each round starts from a freshly loaded model, which keeps no user's state yet. The peer's script trains for
one epoch, too, the least it can: that takes most of its time, and is no part of its figures.

The million items have random weights, no transitions are blended in, and each state's history is left out. "Plain" is
torch.topk(states @ table.T + bias, 10) in the same run, with nothing left out, of one state or of 16 at once. Extra
memory is what the process needs at its peak, beyond the network.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import leave_one_out
from corerec.data.tables import read_events
from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec.config import ModelConfig
from corerec.engines.bert4rec.encoding import next_states
from corerec.engines.bert4rec.training import build_network
from corerec.retrieval.item_index import ItemIndex
from corerec.retrieval.score_edits import ScoreEdits
from machine import describe

LENGTH = 200
SIZE: dict[str, Any] = {"max_seq_len": LENGTH, "hidden_dim": 64, "num_heads": 2}
FRESH_MODELS = 5  # of a round: a second's work, timed once, is the machine's mood
PLAIN_AT_ONCE = 16  # states: the scores of 256 would take a gigabyte


class Clock:
    """Seconds of the calls made through it, by what they are called."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def time(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        answer = call(*args, **kwargs)
        self.seconds.setdefault(name, []).append(time.perf_counter() - start)
        return answer

    def p(self, name: str, percent: float = 50) -> float:
        """A percentile of the seconds; NaN where nothing was timed."""
        return float(np.percentile(self.seconds.get(name, [np.nan]), percent))


def memory_mb(line: str) -> float:
    """A line of this process's status: VmRSS, its memory now, or VmHWM, the most it had (Linux)."""
    match = re.search(rf"{line}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match.group(1)) / 1024


def large_catalogue(clock: Clock, num_items: int, batch: int, rounds: int) -> dict[str, Any]:
    """Times the ten best of a large catalogue; the megabytes they need, and the share that "plain" names as well."""
    network = build_network(ModelConfig(num_items=num_items, **SIZE), seed=0).eval()
    random = np.random.default_rng(0)
    histories = SequenceStore.from_lists([random.integers(1, num_items + 1, LENGTH) for _ in range(batch)])
    states = next_states(network, histories)
    weights, biases = network.item_vectors().detach(), network.item_bias.detach()

    def plain(some: torch.Tensor) -> torch.Tensor:
        return torch.topk(torch.addmm(biases[1:], some, weights[1:].T), 10, dim=1).indices + 1

    def from_history(history: SequenceStore) -> None:
        table.search(next_states(network, history), 10, ScoreEdits.of(history))

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory_mb("VmRSS")
    table, edits = ItemIndex(weights, biases), ScoreEdits.of(histories)
    clock.time("large: first answer", table.search, states[:1], 10, edits.rows(0, 1))
    table.search(states, 10, edits)
    table.search(states, 10, edits, with_normalizers=True)
    extra = {"peak": memory_mb("VmHWM") - before, "kept": memory_mb("VmRSS") - before}

    some, nothing = states[:PLAIN_AT_ONCE], ScoreEdits.of(SequenceStore.from_lists([[]] * PLAIN_AT_ONCE))
    both = zip(table.search(some, 10, nothing).numbers.numpy(), plain(some).numpy(), strict=True)
    same = float(np.mean([len(np.intersect1d(ours, theirs)) / 10 for ours, theirs in both]))
    for _ in range(rounds):
        for row in range(20):
            state, history = states[row : row + 1], histories.select(np.array([row]))
            clock.time("large: a history", from_history, history)
            clock.time("large: a state", table.search, state, 10, ScoreEdits.of(history))
            clock.time(
                "large: a state, probabilities", table.search, state, 10, ScoreEdits.of(history), with_normalizers=True
            )
            clock.time("large: a state, plain", plain, state)
        clock.time("large: batch", table.search, states, 10, edits)
        clock.time("large: batch, probabilities", table.search, states, 10, edits, with_normalizers=True)
        for _ in range(3):
            clock.time("large: plain batch", plain, some)
    return {"num_items": num_items, "batch": batch, "extra_memory_mb": extra, "same_as_plain": same}


def movielens(clock: Clock, data: Path, rounds: int, predictions: int, peer: list[str]) -> dict[str, Any]:
    """Times a model of the log's size, and the peer beside it."""
    log = read_events(data).interactions()
    train = Interactions(leave_one_out(log.sequences).train, log.users, log.items)
    trained = Bert4Rec(**SIZE, epochs=1, whole_history=False).fit_interactions(train)
    users = log.users.decode(np.arange(1, len(log.users) + 1))
    long = np.flatnonzero(train.sequences.lengths >= LENGTH)[:300]
    histories = [log.items.decode(train.sequences.row(row)[-LENGTH:]) for row in long]
    random = np.random.default_rng(0)
    item_numbers = random.integers(1, len(log.items) + 1, predictions)
    pairs = list(zip(random.choice(users, predictions).tolist(), log.items.decode(item_numbers), strict=True))

    def predict_each(model: Bert4Rec) -> None:
        for user, item in pairs:
            model.predict(user, item)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        trained.save(path)
        for history in histories[:20]:
            trained.recommend(history=history)  # prepares the kernels
        for _ in range(rounds):
            model = Bert4Rec.load(path)
            for history in histories:
                clock.time("history", model.recommend, history=history)
            for user in users[:500]:
                model.recommend(user)
                clock.time("kept user", model.recommend, user)
            for _ in range(FRESH_MODELS):
                clock.time("all users", Bert4Rec.load(path).batch_recommend, users)
                clock.time("batch_predict", Bert4Rec.load(path).batch_predict, pairs)
            clock.time("predict", predict_each, Bert4Rec.load(path))
            if peer:
                output = subprocess.run(peer, capture_output=True, text=True, check=True).stdout
                match = re.search(r"score \d+ users ([\d.]+) s +one user (\d+) ms", output)
                assert match, output
                clock.seconds.setdefault("peer: all users", []).append(float(match.group(1)))
                clock.seconds.setdefault("peer: one user", []).append(float(match.group(2)) / 1e3)
    return {"data": data.name, "num_users": len(users), "num_items": len(log.items), "predictions": predictions}


def main(
    data: Annotated[Path, typer.Option(help="Text file of `user item` lines in time order, .gz or not.")],
    peer: Annotated[str | None, typer.Option(help="Interpreter that has RecTools, to run beside.")] = None,
    peer_script: Annotated[
        str | None, typer.Option(help="Its script; prints `score N users S s  one user M ms`.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Alternating rounds; medians are reported.")] = 3,
    predictions: Annotated[int, typer.Option(help="Pairs to predict, one by one and at once.")] = 200_000,
    large_items: Annotated[int, typer.Option(help="Items of the large catalogue.")] = 1_000_000,
    batch: Annotated[int, typer.Option(help="States of one batch over the large catalogue.")] = 256,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    clock = Clock()
    large = large_catalogue(clock, large_items, batch, rounds)  # first, while memory is still clean
    peer_command = [peer, peer_script, str(data), "--epochs", "1"] if peer and peer_script else []
    small = movielens(clock, data, rounds, predictions, peer_command)

    console = Console()
    table = Table(title=f"{data.name}: {small['num_items']:,} items, d={SIZE['hidden_dim']}, length {LENGTH}")
    for column in ("", "p50", "p99", "target", "peer", "peer / ours"):
        table.add_column(column, justify="right")
    for name, row, unit, target, beside in (
        (f"a raw history of {LENGTH} items, cold", "history", "ms", "3 ms", "peer: one user"),
        ("a kept user", "kept user", "ms", "0.3 ms", "peer: one user"),
        (f"all {small['num_users']:,} users, cold", "all users", "s", "a tenth of the peer's", "peer: all users"),
        (f"{predictions:,} calls of predict", "predict", "s", "10 s", ""),
        (f"{predictions:,} pairs by batch_predict", "batch_predict", "s", "", ""),
    ):
        scale, form = (1e3, "{:.2f} ms") if unit == "ms" else (1, "{:.2f} s")
        peer_s = clock.p(beside)
        shown = [form.format(scale * value) for value in (clock.p(row), clock.p(row, 99))]
        shown += [target, *([form.format(scale * peer_s), f"{peer_s / clock.p(row):.0f}"] if peer_s == peer_s else [])]
        table.add_row(name, *shown)
    console.print(table)
    table = Table(title=f"Ten best of {large_items:,} items, history left out")
    for column in ("", "p50", "p99", "plain", "target"):
        table.add_column(column, justify="right")
    for name, row, beside, count, target in (
        (f"a history of {LENGTH} items", "large: a history", "", 1, 20),
        ("a state", "large: a state", "large: a state, plain", 1, 20),
        ("a state, with probabilities", "large: a state, probabilities", "large: a state, plain", 1, 20),
        (f"a state of {batch}", "large: batch", "large: plain batch", batch, 3),
        (f"a state of {batch}, with probabilities", "large: batch, probabilities", "large: plain batch", batch, 3),
    ):
        per_state = 1e3 / count
        plain = clock.p(beside) * 1e3 / (1 if count == 1 else PLAIN_AT_ONCE)
        shown = [f"{clock.p(row) * per_state:.2f} ms", f"{clock.p(row, 99) * per_state:.2f} ms"]
        table.add_row(name, *shown, f"{plain:.2f} ms" if plain == plain else "", f"{target} ms")
    console.print(table)
    figures = {"machine": describe(), "large": large, "small": small}
    figures["seconds"] = {
        name: {"p50": clock.p(name), "p99": clock.p(name, 99), "calls": len(taken)}
        for name, taken in clock.seconds.items()
    }
    extra = large["extra_memory_mb"]
    console.print(
        f"extra memory {extra['peak']:.0f} MB at the peak, {extra['kept']:.0f} MB kept (target 300); first answer "
        f"{clock.p('large: first answer'):.2f} s; {large['same_as_plain']:.2%} of the items are plain's"
    )
    console.print(figures["machine"])
    if json_out:
        json_out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
