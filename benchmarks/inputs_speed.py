"""Time of training steps and queries with times and item content as inputs, relative to the time without them.

    python benchmarks/inputs_speed.py --data ml-1m-sasrec.txt.gz

The log has no timestamps, so each user gets random ones: gaps from seconds to weeks. Content is made up, too: three of
20 categories, a number and a vector of 64 values for each item. Steps of all three networks take turns, and CPU seconds
are counted, so that the figures hold on a busy machine. Medians are reported.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from rich.console import Console
from rich.table import Table

from corerec.data.item_features import FeatureTable
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import leave_one_out
from corerec.data.tables import read_events
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.encoding import next_states, score_states
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.time_encoding import GapScale
from corerec.engines.bert4rec.training import StepResult, build_network, train_epochs
from corerec.engines.bert4rec.training_state import TrainingState
from machine import describe

NAMES = ("without", "clock", "clock and content")
LIMIT = 1.3  # times, that an epoch and an answer may cost


def timed(store: SequenceStore, random: np.random.Generator) -> SequenceStore:
    """The sequences with gaps from a second to weeks."""
    gaps = np.exp(random.uniform(0, np.log(2e6), store.num_events)).astype(np.int64)
    return replace(store, times=10**9 + np.cumsum(gaps))


def made_up(num_items: int, random: np.random.Generator) -> pd.DataFrame:
    """A table of items."""
    kinds = [[f"kind {kind}" for kind in row] for row in random.integers(0, 20, (num_items, 3))]
    vectors = random.normal(size=(num_items, 64)).astype(np.float32)
    return pd.DataFrame(
        {"item_id": range(num_items), "kinds": kinds, "price": random.random(num_items), "vector": list(vectors)}
    )


def networks(
    store: SequenceStore, num_items: int, config: ModelConfig, random: np.random.Generator
) -> dict[str, Bert4RecNetwork]:
    """One of each kind, untrained."""
    scale = GapScale.of(store)
    assert scale is not None
    table = made_up(num_items, random)
    features = FeatureTable.of(table)
    clock = replace(config, gap_unit=scale.unit, gap_buckets=scale.num_buckets)
    content = replace(clock, content_codes=features.num_codes, content_dim=features.dense_dim)
    made: dict[str, Bert4RecNetwork] = dict(
        zip(NAMES, (build_network(each, 0) for each in (config, clock, content)), strict=True)
    )
    encoder = made["clock and content"].item_encoder
    assert encoder is not None
    encoder.attach(features.read(table), store.item_counts(num_items))
    return made


def steps(network: Bert4RecNetwork, store: SequenceStore, next_item: bool) -> Iterator[None]:
    """A training; each step is done when it is asked for."""
    config = TrainConfig(epochs=1000, next_item_until=float(next_item), next_item_share=1.0)
    for result in train_epochs(TrainingState.start(network, store, config), store):
        if isinstance(result, StepResult):
            yield


def in_turns(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median CPU seconds of each piece of work; the first round prepares the kernels."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, piece in work.items():
            started = time.process_time()
            piece()
            if number:
                taken[name].append(time.process_time() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def main(
    data: Annotated[Path, typer.Option(help="A log.")],
    rounds: Annotated[int, typer.Option(help="Steps, and answers, of each network.")] = 10,
    hidden_dim: int = 128,
    max_seq_len: int = 200,
    threads: int = 1,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    torch.set_num_threads(threads)
    random = np.random.default_rng(0)
    log = read_events(data).interactions()
    num_items = len(log.items)
    split = leave_one_out(timed(log.sequences, random))
    config = ModelConfig(num_items, max_seq_len, hidden_dim)
    figures: dict[str, dict[str, float]] = {}
    for kind in ("cloze", "next item"):
        made = networks(split.train, num_items, config, random)
        trainings = {name: steps(network, split.train, kind == "next item") for name, network in made.items()}
        work: dict[str, Callable[[], Any]] = {
            name: lambda training=training: next(training) for name, training in trainings.items()
        }
        figures[f"a {kind} step"] = in_turns(work, rounds)
    made = networks(split.train, num_items, config, random)
    made["clock and content"].absorb_content()  # as `fit` leaves it
    asked = split.test.asked_at("target").history
    for count in (1, 256):
        part = asked.select(np.arange(count))
        work = {
            name: lambda network=network, part=part: score_states(network, next_states(network, part)).topk(10)
            for name, network in made.items()
        }
        figures[f"an answer to {count}"] = in_turns(work, rounds * (20 if count == 1 else 1))
    table = Table(title=f"{data.name}, d={hidden_dim}, length {max_seq_len}: CPU ms, and times the one without")
    for column in ("", *NAMES):
        table.add_column(column, justify="right")
    for name, seconds in figures.items():
        ratios = [f"{1000 * seconds[each]:.1f} ({seconds[each] / seconds['without']:.2f})" for each in NAMES]
        table.add_row(name, *ratios)
    console = Console()
    console.print(table)
    most = max(seconds["clock and content"] / seconds["without"] for seconds in figures.values())
    console.print(f"at most {most:.2f} times; the bound is {LIMIT}")
    if json_out:
        json_out.write_text(
            json.dumps({"data": data.name, "machine": describe(), "cpu_seconds": figures}, indent=2) + "\n"
        )


if __name__ == "__main__":
    typer.run(main)
