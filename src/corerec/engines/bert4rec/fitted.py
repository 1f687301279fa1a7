"""FittedModel: the result of a fit. `fit` makes it, `save` writes it, `load` reads it, and workers get a copy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from corerec.basic.popularity import Popularity
from corerec.basic.rating_model import RatingModel
from corerec.basic.transitions import TransitionModel
from corerec.data.fingerprint import EventFingerprint
from corerec.data.histories import Histories
from corerec.data.item_features import ITEM_ID
from corerec.data.vocabulary import Vocabulary
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.encoding import NetworkScorer
from corerec.engines.bert4rec.item_encoder import ItemContent
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.state_cache import StateCache
from corerec.engines.bert4rec.training import EpochResult
from corerec.errors import DataError, NotFittedError
from corerec.retrieval.item_index import ItemIndex

WITHOUT_USERS = "this model was saved without histories, so it knows no users; pass history=[item ids] to recommend"
PER_ITEM = "item_embedding", "item_bias"  # the weights with a row for each item


@dataclass(frozen=True)
class FittedModel:
    """A trained network with all other data that queries need. Its histories grow as events are observed."""

    name: str
    network: Bert4RecNetwork
    train_config: TrainConfig
    items: Vocabulary
    transitions: TransitionModel
    histories: Histories | None
    """The users' histories. None if they were left out of the file."""
    ratings: RatingModel | None
    """The rating model. None for a log without ratings."""
    training_log: tuple[EpochResult, ...]
    fitted_at: str
    """The time when the training ended, UTC, ISO 8601."""
    fingerprint: EventFingerprint
    """The events that were trained on, so that `evaluate` can tell whether its answers are among them."""
    retired: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Item numbers that are never recommended."""
    moments: dict[str, Tensor] | None = None
    """The optimizer's state, by the weights' names, for the next `fit_more`. None if it was left out of the file."""
    content: ItemContent | None = None
    """The learned content of items. None if `fit` got no features."""
    # The fields below are computed from the fields above, and are not saved.
    repeat_bias: float = field(init=False, repr=False)
    popularity: Popularity = field(init=False, repr=False)
    index: ItemIndex = field(init=False, repr=False)
    states: StateCache = field(init=False, repr=False)
    user_factors: StateCache = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.network.eval()
        dim = 0 if self.ratings is None else len(self.ratings.user_variances)
        derived = {
            "repeat_bias": float(self.network.repeat_bias),
            "popularity": Popularity(self.transitions.item_counts),
            "index": ItemIndex(self.network.item_vectors(), self.network.item_bias),
            "states": StateCache(self.config.hidden_dim),
            "user_factors": StateCache(dim, np.float64),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def config(self) -> ModelConfig:
        return self.network.config

    @property
    def num_events(self) -> int:
        """The number of events that were trained on, without the events observed since."""
        return int(self.transitions.item_counts.sum())

    @property
    def unseen_probability(self) -> float:
        """The add-one probability of an item without events."""
        return 1 / (self.num_events + len(self.items) + 1)

    def with_items(self, frame: pd.DataFrame) -> FittedModel:
        """Return a model with more items from a table, which have no events and are ranked by their content alone.

        Args:
            frame: a table as `items_frame` returns it.
        Raises:
            DataError: the model was fitted without item features, or the table lacks a column of these.
            UnknownIdError: an id has a type that no item's id has.
        """
        if self.content is None:
            raise DataError("this model knows no item features: fit with items= to add items by their content")
        numbers = self.items.encode(frame[ITEM_ID])
        frame, numbers = frame.iloc[self.is_new(numbers)], numbers[self.is_new(numbers)]
        if not len(frame):
            return self
        items, ids = self.items.copy(), frame[ITEM_ID].tolist()
        for item_id, number in zip(ids, numbers.tolist(), strict=True):
            if not number:
                items.number_or_zero(item_id)  # raises at one of a foreign type
                items.add(item_id)
        vectors, biases = self.content.rows(ids, self.content.table.read(frame))
        new, known = np.flatnonzero(numbers == 0), np.flatnonzero(numbers)
        network = self.network.with_more_items(vectors[new], biases[new])
        with torch.no_grad():  # tables of its own, so that the model in service stays as it is
            network.item_embedding[numbers[known]] = vectors[known].to(network.device)
            network.item_bias[numbers[known]] = biases[known].to(network.device)
        ratings = None if self.ratings is None else self.ratings.with_new_items(len(new))
        transitions = self.transitions.with_new_items(len(new))
        moments = self.moments and {
            name: F.pad(moment, (0, 0) * (moment.ndim - 1) + (0, len(new)))
            if moment.ndim and name.rpartition("/")[0] in PER_ITEM
            else moment
            for name, moment in self.moments.items()
        }
        return replace(
            self, network=network, items=items, transitions=transitions, ratings=ratings, moments=moments or None
        )

    def is_new(self, numbers: np.ndarray) -> np.ndarray:
        """Return whether the items of these numbers have no fitted event, bool (...)."""
        return self.transitions.item_counts[numbers] == 0

    def scorer(self) -> NetworkScorer:
        """Return the scorer that `recommend` ranks by."""
        return NetworkScorer(self.network, self.name, self.transitions)

    def known_histories(self) -> Histories:
        """Return the users' histories.

        Raises:
            NotFittedError: the model was saved without them.
        """
        if self.histories is None:
            raise NotFittedError(WITHOUT_USERS)
        return self.histories
