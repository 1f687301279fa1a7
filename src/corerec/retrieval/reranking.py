"""Re-ranking: maximal marginal relevance (MMR) over item vectors, and a limit on the items of one group.

B queries, C items of each query's pool, D width of the item vectors, k items wanted.

MMR (Carbonell & Goldstein 1998) picks items one after another. The next pick has the highest

    (1 - diversity) * relevance - diversity * likeness

Relevance is the log-probability, scaled to 0..1 within the pool. Likeness is the highest cosine with an item that was
picked already; it is 0 before the first pick.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corerec.errors import DataError

SMALLEST_POOL, POOL_PER_ITEM = 100, 5
FLOATS_AT_ONCE = 2**22  # of the pools' item vectors: 16 MB
LEAST = 1e-30  # stands for a probability of 0, whose logarithm is not finite


@dataclass(frozen=True, eq=False)
class Reranking:
    """A rule of re-ranking: it picks the items of an answer from a longer ranked list, the query's pool."""

    diversity: float = 0.0
    """A number in 0..1. 0 keeps the order. 1 always picks, after the first item, the item that is least similar to the
    items picked so far."""
    max_per_group: int | None = None
    """The most items of one group that an answer may have."""
    groups: np.ndarray | None = None
    """int64 (V + 1,): the number of each item's group, from 1. 0 means no group. Items without a group are not
    limited."""

    def __post_init__(self) -> None:
        check_diversity(self.diversity)
        limit = self.max_per_group
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | np.integer) or limit < 1):
            raise DataError(f"max_per_group must be a whole number from 1, not {limit!r}")
        if limit is not None and self.groups is None:
            raise DataError("max_per_group needs groups: which group each item belongs to")

    def pool_size(self, k: int) -> int:
        """Return how many items to rank in order to pick k of them."""
        return max(SMALLEST_POOL, POOL_PER_ITEM * k)

    def pick(self, numbers: np.ndarray, probabilities: np.ndarray, vectors: Tensor, k: int) -> np.ndarray:
        """Return the picked items as places in the pool, int64 (B, k), best first. Where no item is left, the place is
        -1.

        Args:
            numbers: int64 (B, C), best first, 0 from the place on where a row has ended.
            probabilities: float (B, C).
            vectors: float32 (V + 1, D).
        """
        if self.diversity == 0:
            return self._walk(numbers, k)
        picks = np.full((len(numbers), k), -1)
        rows_at_once = max(1, FLOATS_AT_ONCE // max(1, numbers.shape[1] * vectors.shape[1]))
        for first in range(0, len(numbers), rows_at_once):
            rows = slice(first, first + rows_at_once)
            picks[rows] = self._most_marginal(numbers[rows], probabilities[rows], vectors, k)
        return picks

    def _walk(self, numbers: np.ndarray, k: int) -> np.ndarray:
        """Pick the k best items from the top of the list, but skip an item if its group is full."""
        allowed = numbers > 0
        if self.max_per_group is not None:
            allowed &= self._rank_within_group(numbers) < self.max_per_group
        order = np.argsort(~allowed, axis=1, kind="stable")[:, :k]
        picks = np.where(np.take_along_axis(allowed, order, 1), order, -1)
        return np.pad(picks, ((0, 0), (0, k - picks.shape[1])), constant_values=-1)

    def _rank_within_group(self, numbers: np.ndarray) -> np.ndarray:
        """Count the earlier items of the same group, int64 (B, C); 0 for items without a group."""
        assert self.groups is not None
        groups = self.groups[numbers]
        order = np.argsort(groups, axis=1, kind="stable")
        ordered, at = np.take_along_axis(groups, order, 1), np.arange(groups.shape[1])
        is_first = np.ones(groups.shape, bool)
        is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        ranks = np.empty_like(groups)
        np.put_along_axis(ranks, order, at - np.maximum.accumulate(np.where(is_first, at, 0), axis=1), 1)
        return np.where(groups > 0, ranks, 0)

    def _most_marginal(self, numbers: np.ndarray, probabilities: np.ndarray, vectors: Tensor, k: int) -> np.ndarray:
        rows, real = np.arange(len(numbers)), numbers > 0
        relevance = (1 - self.diversity) * _scaled(np.log(np.maximum(probabilities, LEAST)), real)
        pool = torch.nn.functional.normalize(vectors[torch.from_numpy(numbers).to(vectors.device)], dim=2)  # (B, C, D)
        likeness = np.full(numbers.shape, -math.inf)
        group_of = None if self.max_per_group is None or self.groups is None else self.groups[numbers]
        room = np.full(numbers.shape, self.max_per_group or 0)
        value, free = relevance.copy(), real.copy()
        picks = np.full((len(numbers), k), -1)
        for place in range(min(k, numbers.shape[1])):
            best = np.where(free, value, -math.inf).argmax(1)
            some = free[rows, best]
            if not some.any():
                break
            picks[some, place] = best[some]
            free[rows, best] = False
            picked = pool[torch.from_numpy(rows).to(pool.device), torch.from_numpy(best).to(pool.device)]
            likeness = np.maximum(likeness, torch.einsum("bcd,bd->bc", pool, picked).cpu().numpy())
            value = relevance - self.diversity * likeness
            if group_of is not None:
                group = group_of[rows, best]
                room -= (group_of == group[:, None]) & (group[:, None] > 0)
                free &= (room > 0) | (group_of == 0)
        return picks


def check_diversity(diversity: float) -> None:
    """Check a value for `diversity`.

    Raises:
        DataError: it is not a number in [0, 1].
    """
    if isinstance(diversity, bool) or not isinstance(diversity, int | float | np.number) or not 0 <= diversity <= 1:
        raise DataError(f"diversity must be a number from 0 to 1, not {diversity!r}")


def _scaled(scores: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Scale each row's real scores linearly, so that the lowest becomes 0 and the highest 1, float64 (B, C). If all are
    equal, they become 1."""
    low = np.where(real, scores, math.inf).min(1, initial=math.inf, keepdims=True)
    high = np.where(real, scores, -math.inf).max(1, initial=-math.inf, keepdims=True)
    span = high - low
    return np.where(real & (span > 0), (scores - np.where(real, low, 0)) / np.where(span > 0, span, 1), 1.0)
