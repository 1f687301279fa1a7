"""Two frozen dataclasses: ModelConfig describes the shape of the network, and TrainConfig describes its training.

Their constructors refuse values that contradict each other (`ConfigError`).
"""

from __future__ import annotations

import numbers
import sys
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from corerec.errors import ConfigError

MASK = -1  # stands for a hidden item; item numbers run 1..V, and 0 is padding


def _check_types(config: Any) -> None:
    """Convert NumPy numbers to Python numbers, and refuse a value that its field cannot hold, such as 1.5 epochs.

    Raises:
        ConfigError: a value has another type than its field.
    """
    for field in fields(config):
        value, kind = getattr(config, field.name), str(field.type)
        if value is None and "None" in kind:
            continue
        if kind.startswith("int") and isinstance(value, numbers.Integral) and not isinstance(value, bool):
            plain: Any = int(value)
        elif kind.startswith("float") and isinstance(value, numbers.Real) and not isinstance(value, bool):
            plain = value if type(value) in (int, float) else float(value)
            told = value if isinstance(plain, float) else "one so large"
            _require(abs(plain) <= sys.float_info.max, f"{field.name} must be a finite number, not {told}")
        elif kind.startswith("bool") and isinstance(value, bool | np.bool_):
            plain = bool(value)
        elif kind.startswith("Literal") and isinstance(value, str):
            plain = value
        else:
            wanted = {"i": "a whole number", "f": "a number", "b": "True or False", "L": "text"}[kind[0]]
            raise ConfigError(f"{field.name} must be {wanted}, not {value!r}")
        object.__setattr__(config, field.name, plain)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the network."""

    num_items: int
    """The number of items in the catalogue, V. Items are numbered from 1 to V."""
    max_seq_len: int = 200
    """The largest number of positions that the network reads at once. A recommendation uses one position for the blank
    that the network fills, and the other positions for the newest events."""
    hidden_dim: int = 128
    """The number of values, D, in each hidden state and in each item embedding."""
    num_layers: int = 2
    """The number of transformer blocks."""
    num_heads: int = 4
    """The number of attention heads in each block. It must divide hidden_dim."""
    feedforward_dim: int | None = None
    """The width of the hidden layer of each block's feed-forward network. None means 4 * hidden_dim, as in BERT."""
    positions: Literal["learned", "sinusoidal"] = "learned"
    """How positions are embedded. "learned" trains a vector for each position. "sinusoidal" uses the fixed sines and
    cosines of Vaswani et al. 2017."""
    gap_unit: float | None = None
    """The network reads the time between two events as a bucket (`time_encoding.py`). `gap_unit` is the upper end of
    the first bucket of times above 0, in the log's unit of time. None: the network does not read times."""
    gap_buckets: int = 0
    """The number of buckets for the times between events. 0: the network does not read times."""
    content_codes: int = 0
    """The number of codes for the items' categories and numeric features (`item_encoder.py`). 0: the items have no such
    features."""
    content_dim: int = 0
    """The number of values in each item's dense features. 0: the items have no dense features."""

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("num_items", "hidden_dim", "num_layers", "num_heads"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        _require(self.max_seq_len >= 2, f"max_seq_len must be at least 2 (an event, a blank), not {self.max_seq_len}")
        _require(
            self.hidden_dim % self.num_heads == 0,
            f"hidden_dim ({self.hidden_dim}) must be a multiple of num_heads ({self.num_heads})",
        )
        _require(
            self.feedforward_dim is None or self.feedforward_dim >= 1,
            f"feedforward_dim must be at least 1, not {self.feedforward_dim}",
        )
        _require(
            self.positions in ("learned", "sinusoidal"),
            f'positions must be "learned" or "sinusoidal", not {self.positions!r}',
        )
        _require(
            self.positions == "learned" or self.hidden_dim % 2 == 0,
            f"sinusoidal positions need an even hidden_dim, not {self.hidden_dim}",
        )
        _require(self.gap_unit is None or self.gap_unit > 0, f"gap_unit must be above 0, not {self.gap_unit}")
        _require(0 <= self.gap_buckets <= 64, f"gap_buckets must be in 0..64, not {self.gap_buckets}")
        for name in ("content_codes", "content_dim"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative, and is {getattr(self, name)}")
        _require(
            (self.gap_unit is None) == (self.gap_buckets == 0),
            f"gap_unit ({self.gap_unit}) and gap_buckets ({self.gap_buckets}) need each other",
        )


@dataclass(frozen=True)
class TrainConfig:
    """How the network is trained. If a setting is None, its value is chosen from the log (`plan.py`)."""

    epochs: int | None = None
    """The number of passes over all events. The learning rate falls along a cosine until the last pass. None: 30 if
    users have 50 events or more on average, else 20, as the network would memorise a sparse log in more passes."""
    batch_size: int | None = None
    """The mean number of windows in a training step. A window is a part of a history with at most max_seq_len events.
    A step has more windows if they are short, so that all steps have about the same number of events. If a log is too
    small for 200 steps per epoch, each step has fewer windows. None: about 4,096 events per step."""
    learning_rate: float | None = None
    """The peak of AdamW's learning rate. None: 0.0015 if users have 50 events or more on average, else 0.001."""
    warmup_steps: int | None = None
    """The number of steps in which the learning rate rises linearly to its peak. None: a twentieth of all steps, at
    most 1,000."""
    weight_decay: float | None = None
    """AdamW's decoupled weight decay, which applies to matrices and embeddings only. None: the value at which a weight
    without gradients shrinks by 2.5% in an epoch at the peak learning rate. A network with more weights than the log
    has events would memorise the log, so its weights shrink by 20% instead. None never chooses a value above 1."""
    dropout: float | None = None
    """The probability, in [0, 1), with which training sets a value to 0. Dropout applies to the embeddings and to the
    outputs of each block's attention and feed-forward network. None: 0.2 if hidden_dim is 128 or more and the log has
    fewer than 500,000 events, which such a network would memorise. Otherwise None chooses 0.1."""
    gradient_clip: float = 1.0
    """The largest norm of all gradients together. Larger gradients are scaled down to this norm."""
    ema_steps: int = 500
    """The number of steps that the exponential moving average of the weights covers. The average covers at most a ninth
    of the steps done so far. At the end of an epoch, the network has the averaged weights. 0: the network has the
    weights of the last step."""
    mask_prob: float = 0.2
    """The share of the items of a window that a cloze step hides. In a cloze step, the network predicts hidden items
    from the items before and after them. At least one item of each window is hidden."""
    bert_replacement: bool = False
    """Whether 80% of the hidden positions show the mask, 10% show a random item and 10% show their own item, as in
    BERT. False: all hidden positions show the mask."""
    next_item_share: float = 1.0
    """The share of next-item steps at the start of the training. A next-item step predicts the next item at every
    position, with causal attention. The other steps are cloze steps (`mask_prob`)."""
    next_item_until: float | None = None
    """The part of the training, from 0 to 1, in which the share of next-item steps falls linearly from
    `next_item_share` to 0. All later steps are cloze steps. None: 0.5 if users have 50 events or more on average. For
    shorter histories, None chooses 1, since a cloze step can hide only few items of a short history."""
    whole_history: bool = True
    """Whether the training uses all events of a history of more than max_seq_len events, in several windows. False: it
    uses only the newest max_seq_len events."""
    num_negatives: int | None = None
    """The number of random items per step that compete with the step's targets in the loss (sampled softmax). None: in
    a catalogue of up to 20,000 items, all items compete; in a larger catalogue, 2,048 random items compete."""
    row_updates: bool | None = None
    """Whether a step updates only those rows of the item table that it reads. The other rows get their missed updates
    later (`row_adamw.py`), so the results are the same. Row updates need sampled softmax (`num_negatives`). None: row
    updates are used for catalogues of 100,000 items or more on a CPU, where they are faster."""
    bfloat16: bool = True
    """Whether matrix products use bfloat16, if the hardware can multiply bfloat16 numbers. False: all matrix products
    use float32."""
    clock: bool | None = None
    """Whether the network reads the times between events, and the time from the last event to the query. None: it does
    if the log has timestamps, and if held-out events are ranked at least as well with times as without times. For this
    decision, the last events of up to 1,024 users are held out of the training."""
    patience: int | None = None
    """The training stops after this many epochs without a better validation NDCG@10. The network then has the weights
    of the best epoch. None: there is no validation."""
    seed: int = 0
    """The seed of the initial weights, the order of the windows, the masks and the dropout. The same seed and the same
    number of threads always give the same weights."""

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("epochs", "batch_size", "num_negatives"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} must be at least 1, not {value}")
        for name in ("learning_rate", "gradient_clip"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"{name} must be above 0, not {value}")
        _require(
            self.weight_decay is None or self.weight_decay >= 0,
            f"weight_decay must not be negative, and is {self.weight_decay}",
        )
        for name in ("warmup_steps", "ema_steps", "patience", "seed"):
            value = getattr(self, name)
            _require(value is None or value >= 0, f"{name} must not be negative, and is {value}")
        _require(self.dropout is None or 0 <= self.dropout < 1, f"dropout must be in [0, 1), not {self.dropout}")
        _require(0 < self.mask_prob <= 1, f"mask_prob must be in (0, 1], not {self.mask_prob}")
        for name in ("next_item_share", "next_item_until"):
            value = getattr(self, name)
            _require(value is None or 0 <= value <= 1, f"{name} must be in [0, 1], not {value}")
