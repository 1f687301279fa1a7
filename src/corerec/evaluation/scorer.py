"""The Scorer protocol: what a model needs to be evaluated, and what it may offer to be ranked faster."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from corerec.data.sequences import SequenceStore
from corerec.retrieval.score_edits import Boosts, Shifts


class Scorer(Protocol):
    """Whatever scores the whole catalogue for many histories at once.

    A row's scores depend on its history alone, not on the other rows; the same history has the same scores each time.
    """

    name: str
    num_items: int

    def score(self, histories: SequenceStore) -> Tensor:
        """float (rows, num_items + 1); column i scores item number i, column 0 is ignored. The caller may write it."""
        ...


@runtime_checkable
class VectorScorer(Scorer, Protocol):
    """A scorer whose scores are state @ vector + bias, with some of them shifted and a few boosted.

    Its answers are ranked block of items by block of items, so that memory stays level and no block leaves the cache,
    whatever the size of the catalogue.

    Attributes:
        vectors: float32 (V + 1, D), by item number; row 0 is padding.
        biases: float32 (V + 1,).
    """

    @property
    def vectors(self) -> Tensor: ...

    @property
    def biases(self) -> Tensor: ...

    def states(self, histories: SequenceStore) -> Tensor:
        """float32 (B, D), on the device of the vectors."""
        ...

    def shifts(self, histories: SequenceStore) -> Shifts:
        """What is added to some scores before they are summed; NO_SHIFTS where nothing is."""
        ...

    def boosts(self, histories: SequenceStore) -> Boosts | None:
        """What raises some scores, as shares of the sum of a row's exponentiated scores; None where nothing does."""
        ...


class ProbabilityScorer(Scorer, Protocol):
    """A scorer that says how probable each item is."""

    def probabilities(self, histories: SequenceStore) -> Tensor:
        """float (rows, num_items + 1), each row's sum 1; column 0 is ignored. The caller may write it."""
        ...
