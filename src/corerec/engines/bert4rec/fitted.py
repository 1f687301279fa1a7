"""FittedModel: everything that a fit leaves. `fit` makes it, `save` writes it, `load` reads it, workers get a copy."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from corerec.basic.popularity import Popularity
from corerec.basic.rating_model import RatingModel
from corerec.basic.transitions import TransitionModel
from corerec.data.fingerprint import EventFingerprint
from corerec.data.histories import Histories
from corerec.data.vocabulary import Vocabulary
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.engines.bert4rec.encoding import NetworkScorer
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.state_cache import StateCache
from corerec.engines.bert4rec.training import EpochResult
from corerec.errors import NotFittedError
from corerec.retrieval.item_index import ItemIndex

WITHOUT_USERS = "this model was saved without histories, so it knows no users; pass history=[item ids] to recommend"


@dataclass(frozen=True)
class FittedModel:
    """A trained network with all that an answer needs besides it. Its histories grow by what is observed."""

    name: str
    network: Bert4RecNetwork
    train_config: TrainConfig
    items: Vocabulary
    transitions: TransitionModel
    histories: Histories | None
    """None where they were left out of the file."""
    ratings: RatingModel | None
    """None for a log without ratings."""
    training_log: tuple[EpochResult, ...]
    fitted_at: str
    """When the training ended, UTC, ISO 8601."""
    fingerprint: EventFingerprint
    """Which events were learned from, so that `evaluate` can tell whether its answers are among them."""
    retired: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Item numbers that are never named."""
    moments: dict[str, Tensor] | None = None
    """The optimizer's state, by the weights' names, for the next `fit_more`; None where it was left out of the file."""
    # What follows is derived, and left out of copies that travel.
    popularity: Popularity = field(init=False, repr=False)
    index: ItemIndex = field(init=False, repr=False)
    states: StateCache = field(init=False, repr=False)
    user_factors: StateCache = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.network.eval()
        dim = 0 if self.ratings is None else len(self.ratings.user_variances)
        derived = {
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
        """Events that were learned from; what was observed since is not among them."""
        return int(self.transitions.item_counts.sum())

    @property
    def unseen_probability(self) -> float:
        """The add-one probability of an item that no event was about."""
        return 1 / (self.num_events + len(self.items) + 1)

    def scorer(self) -> NetworkScorer:
        """What `recommend` ranks by, behind the Scorer protocol."""
        return NetworkScorer(self.network, self.name, self.transitions)

    def known_histories(self) -> Histories:
        """The users' histories.

        Raises:
            NotFittedError: the model was saved without them.
        """
        if self.histories is None:
            raise NotFittedError(WITHOUT_USERS)
        return self.histories
