"""The Scorer protocol: the methods that a model needs so that it can be evaluated. VectorScorer has optional methods
for faster ranking."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from corerec.data.sequences import SequenceStore
from corerec.retrieval.score_edits import Boosts, Shifts


class Scorer(Protocol):
    """Scores the whole catalogue for many histories at once.

    A row's scores depend only on its history, not on the other rows. A history gets the same scores each time.
    """

    name: str
    num_items: int

    def score(self, histories: SequenceStore) -> Tensor:
        """Return scores, float (rows, num_items + 1); column 0 is ignored. The caller may overwrite them."""
        ...


@runtime_checkable
class VectorScorer(Scorer, Protocol):
    """A scorer that computes scores as state @ vector + bias, and may then shift or boost some of the scores.

    The items are ranked in blocks. So memory does not grow with the catalogue, and each block fits into the cache.

    Attributes:
        vectors: float32 (V + 1, D), by item number; row 0 is padding.
        biases: float32 (V + 1,).
    """

    @property
    def vectors(self) -> Tensor: ...

    @property
    def biases(self) -> Tensor: ...

    def states(self, histories: SequenceStore) -> Tensor:
        """Return the state of each history, float32 (B, D), on the device of the vectors."""
        ...

    def shifts(self, histories: SequenceStore) -> Shifts:
        """Return the amounts to add to some scores before they are summed, or NO_SHIFTS."""
        ...

    def boosts(self, histories: SequenceStore) -> Boosts | None:
        """Return the boosts of some scores, as shares of the sum of a row's exponentiated scores, or None."""
        ...


class ProbabilityScorer(Scorer, Protocol):
    """A scorer that gives each item's probability."""

    def probabilities(self, histories: SequenceStore) -> Tensor:
        """Return probabilities, float (rows, num_items + 1), which sum to 1 in each row; column 0 is ignored.

        The caller may overwrite them.
        """
        ...
