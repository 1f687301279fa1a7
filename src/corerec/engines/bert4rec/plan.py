"""TrainPlan: all settings of a training. The settings that are None in the TrainConfig are chosen from the log."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from corerec.data.cut_store import CutStore
from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec.batches import batch_order, rounded_length, window_counts, windows
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.memory import as_text, training_bytes, weights_beside_items

STEPS_AN_EPOCH = 200  # an epoch has at least so many steps, unless its batches would be below SMALLEST_BATCH windows
SMALLEST_BATCH = 16
EVENTS_A_STEP = 4096
WIDE = 128
MANY_EVENTS = 500_000
LONG_HISTORY = 50  # events a user
FULL_SOFTMAX_ITEMS = 20_000
NEGATIVES = 2048
ROW_UPDATES_ITEMS = 100_000  # items from which, on a CPU, updating a step's rows is faster than updating the table
# The share of a weight that decays in an epoch at the peak learning rate. DECAY_OF_MANY_WEIGHTS is for networks that
# have more weights than the log has events. A time scale in epochs is right for logs of any size (arXiv:2405.13698).
DECAY_AN_EPOCH, DECAY_OF_MANY_WEIGHTS = 0.025, 0.2
LARGEST_WEIGHT_DECAY = 1.0
CPU = torch.device("cpu")


@dataclass(frozen=True)
class TrainPlan:
    """The settings of one training, after all open settings were chosen. `TrainConfig` explains each field."""

    epochs: int
    batch_size: int
    num_steps: int
    learning_rate: float
    warmup_steps: int
    dropout: float
    weight_decay: float
    next_item_until: float
    num_negatives: int | None
    """The number of sampled negatives. None: every item competes."""
    row_updates: bool
    """Whether a step updates only the rows of the item table that it reads."""
    padded_events: int
    """The size of the largest step, windows times padded length. It differs between epochs by some percent."""
    memory_bytes: int
    """An estimate of the most memory that the training takes in addition to the log."""

    @property
    def num_batches(self) -> int:
        """The number of steps of an epoch."""
        return self.num_steps // self.epochs

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        model: ModelConfig,
        store: SequenceStore | CutStore,
        device: torch.device = CPU,
    ) -> TrainPlan:
        """Choose the settings that are None. The other settings stay, with two exceptions.

        A batch size that is too large for the log is reduced. `row_updates` is switched off if every item competes in
        the loss, since a step then reads every row.
        """
        num_windows = int(window_counts(store.lengths, model.max_seq_len, config.whole_history).sum())
        batch_size = batch_size_for(num_windows, store.num_events, config.batch_size)
        long = has_long_histories(store)
        epochs = config.epochs or (30 if long else 20)
        learning_rate = config.learning_rate or (0.0015 if long else 0.001)
        num_batches = -(-num_windows // batch_size)
        num_steps = epochs * num_batches
        dropout, until, warmup, num_negatives = (
            config.dropout,
            config.next_item_until,
            config.warmup_steps,
            config.num_negatives or (None if model.num_items <= FULL_SOFTMAX_ITEMS else NEGATIVES),
        )
        if dropout is None:
            dropout = 0.2 if model.hidden_dim >= WIDE and store.num_events < MANY_EVENTS else 0.1
        decay = config.weight_decay
        if decay is None:
            num_weights = model.num_items * model.hidden_dim + weights_beside_items(model)
            decay = DECAY_OF_MANY_WEIGHTS if num_weights > store.num_events else DECAY_AN_EPOCH
            decay = min(LARGEST_WEIGHT_DECAY, decay / (max(1, num_batches) * learning_rate))
        if until is None:
            until = 0.5 if long else 1.0
        if warmup is None:
            warmup = min(1000, num_steps // 20)
        if num_negatives is not None and num_negatives >= model.num_items:
            num_negatives = None
        padded_events = _largest_step(store, model.max_seq_len, config.whole_history, num_batches)
        competing = model.num_items if num_negatives is None else num_negatives
        rows = config.row_updates
        if rows is None:
            rows = model.num_items >= ROW_UPDATES_ITEMS and device.type == "cpu"
        rows = rows and num_negatives is not None
        memory = training_bytes(model, padded_events, competing, rows)
        return cls(
            epochs,
            batch_size,
            num_steps,
            learning_rate,
            warmup,
            dropout,
            decay,
            until,
            num_negatives,
            rows,
            padded_events,
            memory,
        )

    def __str__(self) -> str:
        compete = (
            "all items compete" if self.num_negatives is None else f"{self.num_negatives:,} items drawn a step compete"
        )
        rows = ""
        if self.row_updates:
            rows = "; a step updates only the rows of the item table that it reads"
            rows += f", which is faster from {ROW_UPDATES_ITEMS:,} items on"
        return (
            f"{self.epochs} epochs, {self.num_steps:,} steps of {self.batch_size} windows on average and up to "
            f"{self.padded_events:,} events, {self.warmup_steps:,} of warm-up; learning rate {self.learning_rate:g}, "
            f"dropout {self.dropout:g}, weight decay {self.weight_decay:.2g}; next-item steps for "
            f"{self.next_item_until:.0%} of them; {compete}{rows}; about {as_text(self.memory_bytes)} of memory beside "
            "the log"
        )


def has_long_histories(store: SequenceStore | CutStore) -> bool:
    """Return whether the users with events have LONG_HISTORY events or more on average."""
    return store.num_events >= LONG_HISTORY * int(np.count_nonzero(store.lengths))


def _largest_step(store: SequenceStore | CutStore, max_seq_len: int, whole_history: bool, num_batches: int) -> int:
    """Return the number of padded events of the largest batch of an epoch."""
    random = np.random.default_rng(0)
    starts, ends = windows(store, max_seq_len, whole_history, random)
    lengths = ends - starts
    batches = batch_order(lengths, num_batches, max_seq_len, random)
    sizes = (len(batch) * rounded_length(int(lengths[batch].max()), max_seq_len) for batch in batches)
    return max(sizes, default=0)


def batch_size_for(num_windows: int, num_events: int, batch_size: int | None) -> int:
    """Return the mean number of windows in a step. In a small log, the result is below `batch_size`, so that an epoch
    has enough steps.

    The cloze loss first stays on a plateau for hundreds of steps, however many windows a step has. If `batch_size` is
    None, it is the power of two that puts about EVENTS_A_STEP events into a step. So batches have few windows if
    histories are long, and many windows if histories are short.

    >>> batch_size_for(num_windows=100_000, num_events=10**7, batch_size=256)
    256
    >>> batch_size_for(num_windows=22_000, num_events=10**6, batch_size=256)
    110
    >>> batch_size_for(8_600, 10**6, None), batch_size_for(400_000, 2_800_000, None)
    (32, 512)
    """
    if batch_size is None:
        mean_length = max(1.0, num_events / max(1, num_windows))
        batch_size = 1 << round(math.log2(max(SMALLEST_BATCH, EVENTS_A_STEP / mean_length)))
    return min(batch_size, max(SMALLEST_BATCH, -(-num_windows // STEPS_AN_EPOCH)))
