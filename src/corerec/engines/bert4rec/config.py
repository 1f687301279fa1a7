"""Two frozen configurations: the network's shape, and its training. A contradiction fails at construction."""

from __future__ import annotations

import numbers
import sys
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from corerec.errors import ConfigError

MASK = -1  # stands for a hidden item; item numbers run 1..V, and 0 is padding


def _check_types(config: Any) -> None:
    """Convert NumPy numbers to plain ones, and refuse a value that its field cannot hold, such as 1.5 epochs.

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
    """Catalogue size V; item numbers run 1..V."""
    max_seq_len: int = 200
    """The number of positions that the network reads at once, with the blank to fill."""
    hidden_dim: int = 128
    """Width D of the hidden states and of the item embeddings."""
    num_layers: int = 2
    """Transformer blocks."""
    num_heads: int = 4
    """Attention heads; must divide hidden_dim."""
    feedforward_dim: int | None = None
    """Width inside the feed-forward parts; None means 4 * hidden_dim, as in BERT."""
    positions: Literal["learned", "sinusoidal"] = "learned"
    """Position embeddings: trained, or the fixed sines of Vaswani et al. 2017."""
    gap_unit: float | None = None
    """The upper end of the first bucket of time gaps, in the log's unit (`time_encoding.py`). None reads no time."""
    gap_buckets: int = 0
    """The number of buckets of time gaps; 0 reads no time."""
    content_codes: int = 0
    """The number of codes of the items' categories and numbers (`item_encoder.py`); 0 without such features."""
    content_dim: int = 0
    """The number of values of the items' dense features; 0 without dense features."""

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
    """How the network is trained. A setting that is None is chosen from the log (`plan.py`)."""

    epochs: int | None = None
    """Passes over all events. The cosine schedule of the learning rate ends with the last pass. None: 30 if users have
    50 events or more on average, else 20, as more would memorise a sparse log."""
    batch_size: int | None = None
    """The mean number of windows in a step. A step has more windows if they are short, so that all steps have about as
    many events. A log too small for 200 steps an epoch takes fewer windows. None: about 4,096 events a step."""
    learning_rate: float | None = None
    """Peak of AdamW's learning rate. None: 0.0015 if users have 50 events or more on average, else 0.001."""
    warmup_steps: int | None = None
    """Steps of linear warm-up. None means a twentieth of all steps, at most 1,000."""
    weight_decay: float | None = None
    """AdamW's decoupled weight decay, on matrices and embeddings only. None: so much that a weight without gradients
    loses 2.5% in an epoch at the peak learning rate. If the network has more weights than the log has events, which it
    would memorise, that share is 20%. None chooses 1 at most."""
    dropout: float | None = None
    """Chance in [0, 1) that a value of the embeddings or of a block's two branches is dropped. None: 0.2 for a network
    of width 128 or more on fewer than half a million events, which it would memorise, else 0.1."""
    gradient_clip: float = 1.0
    """The largest norm of all gradients together."""
    ema_steps: int = 500
    """The number of steps that the exponential moving average of the weights covers, at most a ninth of the steps done.
    An epoch ends with the averaged weights. 0 keeps the last step's weights."""
    mask_prob: float = 0.2
    """Share of a window's items that a cloze step hides. At least one item is hidden."""
    bert_replacement: bool = False
    """Show 80% of the hidden places as the mask, 10% as a random item and 10% unchanged (BERT). False masks all."""
    next_item_share: float = 1.0
    """At the start of the training, the share of steps that predict every next item (causal attention), not a cloze."""
    next_item_until: float | None = None
    """The part of the training after which `next_item_share` has fallen, linearly, to 0. The rest is pure cloze. None:
    half if users have 50 events or more on average, else all, since a cloze can hide only few items of a short
    history."""
    whole_history: bool = True
    """Whether windows cover the whole of a longer history. False trains on its newest max_seq_len events only."""
    num_negatives: int | None = None
    """Sampled softmax: the number of items drawn in each step that compete in the loss, besides the step's targets.
    None: the whole catalogue up to 20,000 items, else 2,048."""
    row_updates: bool | None = None
    """Whether a step updates only the rows of the item table that it reads, and others catch up later (`row_adamw.py`).
    The results are the same. It needs `num_negatives`. None: for large catalogues on a CPU, where it is faster."""
    bfloat16: bool = True
    """Whether matrix products use bfloat16 if the hardware multiplies in it. False computes all of them in float32."""
    clock: bool | None = None
    """Whether the network reads the time between events, and from the last event to the query. None: yes if the log has
    timestamps and held-out events are ranked as well or better with them. For this decision, up to 1,024 users' last
    events are held out of the training."""
    patience: int | None = None
    """Stop after this many epochs without a better validation NDCG@10, with the best weights. None: no validation."""
    seed: int = 0
    """Seed of initial weights, order, masks and dropout. A seed and a thread count always give the same weights."""

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
