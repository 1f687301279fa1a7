"""Two frozen settings: what the network is, and how it is trained. A contradiction fails at construction."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from corerec.errors import ConfigError

MASK = -1  # stands for a hidden item; item numbers run 1..V, and 0 is padding


def _check_types(config: Any) -> None:
    """Make plain numbers of NumPy's, and refuse what a field cannot hold, such as 1.5 epochs.

    Raises:
        ConfigError: a value is of another type than its field.
    """
    for field in fields(config):
        value, kind = getattr(config, field.name), str(field.type)
        if value is None and "None" in kind:
            continue
        if kind.startswith("int") and isinstance(value, numbers.Integral) and not isinstance(value, bool):
            plain: Any = int(value)
        elif kind.startswith("float") and isinstance(value, numbers.Real) and not isinstance(value, bool):
            plain = value if type(value) in (int, float) else float(value)
            _require(math.isfinite(plain), f"{field.name} must be a finite number, not {value!r}")
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
    """Places the network sees at once, the blank to fill included."""
    hidden_dim: int = 128
    """Width D of the hidden states and of the item embeddings."""
    num_layers: int = 2
    """Transformer blocks."""
    num_heads: int = 4
    """Attention heads; must divide hidden_dim."""
    feedforward_dim: int | None = None
    """Width inside the feed-forward parts; None means 4 * hidden_dim, as BERT has it."""
    positions: Literal["learned", "sinusoidal"] = "learned"
    """Position embeddings: trained, or the fixed sines of Vaswani et al. 2017."""
    gap_unit: float | None = None
    """Upper end of the first bucket of time gaps, in the log's unit (`time_encoding.py`); None: time is not read."""
    gap_buckets: int = 0
    """Buckets of time gaps; 0 where time is not read."""
    content_codes: int = 0
    """Codes of the items' categories and numbers (`item_encoder.py`); 0 where no item has any."""
    content_dim: int = 0
    """Values of the items' dense features; 0 where there are none."""

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
    """How the network is trained. What is None is chosen from the log (`plan.py`)."""

    epochs: int | None = None
    """Passes over all events; the learning rate's cosine ends with the last. None: 40 where users have 50 events or
    more on average; 20 with fewer, as more would learn a sparse log by heart."""
    batch_size: int | None = None
    """Mean number of windows in a step: steps of short windows have more of them, steps of long ones fewer, so that all
    hold about as many events. A log too small for 200 steps an epoch takes fewer. None: as many as give about 4,096
    events a step."""
    learning_rate: float = 0.001
    """Peak of AdamW's learning rate."""
    warmup_steps: int | None = None
    """Steps of linear warm-up; None means a twentieth of all steps, at most 1,000."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay, on matrices and embeddings only."""
    dropout: float | None = None
    """Chance in [0, 1) that a value of the embeddings or of a block's two branches is dropped. None: 0.1, but 0.2 where
    a network of width 128 or more meets fewer than half a million events, which it would sooner learn by heart."""
    gradient_clip: float = 1.0
    """Largest norm of all gradients together."""
    ema_steps: int = 500
    """Steps whose weights are averaged, exponentially, into those that an epoch leaves; at most a ninth of the steps
    done. 0 leaves the last step's."""
    mask_prob: float = 0.2
    """Share of a window's items that a cloze step hides; at least one is."""
    bert_replacement: bool = False
    """Of the hidden places show 80% as the mask, 10% as a random item, 10% as they were (BERT), not all as the mask."""
    next_item_share: float = 1.0
    """Share of the first steps that predict every next item from the left (causal attention) instead of a cloze."""
    next_item_until: float | None = None
    """Part of the training after which that share has fallen, linearly, to 0: the rest is pure cloze. None: half where
    users have 50 events or more on average; with fewer, all of it, since a short history asks little in a cloze."""
    whole_history: bool = True
    """Windows over all of a longer history; False trains on its newest max_seq_len events only."""
    num_negatives: int | None = None
    """Sampled softmax: items that compete in the loss besides the targets of the step, drawn anew each step. None: the
    whole catalogue up to 20,000 items, 2,048 above."""
    bfloat16: bool = True
    """Matrix products in bfloat16 where the hardware multiplies in it; False has all of them in float32."""
    clock: bool | None = None
    """Read the time between events, and from the last event to the query. None: read it where the log has timestamps
    and held-out events are ranked as well or better with it. Up to 1,024 users' last events are held out of the
    training to decide that."""
    patience: int | None = None
    """Epochs without a better validation NDCG@10 before stopping, the best weights being kept; None: no validation."""
    seed: int = 0
    """Decides initial weights, order, masks and dropout; the same seed, data and thread count give the same weights."""

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("epochs", "batch_size", "num_negatives"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} must be at least 1, not {value}")
        for name in ("learning_rate", "gradient_clip"):
            _require(getattr(self, name) > 0, f"{name} must be above 0, not {getattr(self, name)}")
        _require(self.weight_decay >= 0, f"weight_decay must not be negative, and is {self.weight_decay}")
        for name in ("warmup_steps", "ema_steps", "patience", "seed"):
            value = getattr(self, name)
            _require(value is None or value >= 0, f"{name} must not be negative, and is {value}")
        _require(self.dropout is None or 0 <= self.dropout < 1, f"dropout must be in [0, 1), not {self.dropout}")
        _require(0 < self.mask_prob <= 1, f"mask_prob must be in (0, 1], not {self.mask_prob}")
        for name in ("next_item_share", "next_item_until"):
            value = getattr(self, name)
            _require(value is None or 0 <= value <= 1, f"{name} must be in [0, 1], not {value}")
