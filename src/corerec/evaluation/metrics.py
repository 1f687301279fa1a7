"""Ranking metrics: pure functions of the 1-based ranks of the relevant items, one value per query.

Every function takes `ranks`, int (relevant items,): the ranks of all questions, one question after another. `offsets`
is int (questions + 1,): the ranks of question q are ranks[offsets[q]:offsets[q + 1]]. Without offsets, each question
has one relevant item. The result is float64 (questions,).

Definitions: Järvelin & Kekäläinen 2002 (NDCG, binary relevance), Voorhees 1999 (MRR), trec_eval (average precision).
Tests compare all of them with ranx.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Metric = Callable[[np.ndarray, int, np.ndarray | None], np.ndarray]


def hit_rate(ranks: np.ndarray, k: int, offsets: np.ndarray | None = None) -> np.ndarray:
    """Return 1 for a question if any relevant item is among the first k, else 0."""
    return (_sums(ranks <= k, offsets) > 0).astype(np.float64)


def recall(ranks: np.ndarray, k: int, offsets: np.ndarray | None = None) -> np.ndarray:
    """Return the share of the relevant items that are among the first k."""
    return _sums(ranks <= k, offsets) / _counts(ranks, offsets)


def precision(ranks: np.ndarray, k: int, offsets: np.ndarray | None = None) -> np.ndarray:
    """Return the share of the first k places that relevant items take."""
    return _sums(ranks <= k, offsets) / k


def mrr(ranks: np.ndarray, k: int, offsets: np.ndarray | None = None) -> np.ndarray:
    """Return 1 / rank of the best relevant item, or 0 if no relevant item is among the first k."""
    inverse = np.where(ranks <= k, 1 / ranks, 0.0)
    return inverse if offsets is None else np.maximum.reduceat(inverse, offsets[:-1])


def ndcg(ranks: np.ndarray, k: int, offsets: np.ndarray | None = None) -> np.ndarray:
    """Return the sum of 1 / log2(1 + rank) over the relevant items in the first k, divided by the best possible sum."""
    boosts = _sums(np.where(ranks <= k, 1 / np.log2(1.0 + ranks), 0.0), offsets)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(2.0 + np.arange(k)))])
    return boosts / ideal[np.minimum(_counts(ranks, offsets), k)]


def average_precision(ranks: np.ndarray, k: int, offsets: np.ndarray | None = None) -> np.ndarray:
    """Return the mean, over the relevant items, of the precision at their ranks (0 beyond k). The mean of this value
    over the questions is called MAP."""
    if offsets is None:
        return mrr(ranks, k)
    questions = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    by_rank = ranks[np.lexsort((ranks, questions))]
    place = np.arange(len(ranks)) - np.repeat(offsets[:-1], np.diff(offsets)) + 1  # the relevant items so far
    return _sums(np.where(by_rank <= k, place / by_rank, 0.0), offsets) / _counts(ranks, offsets)


def catalogue_coverage(named_counts: np.ndarray) -> float:
    """Return the share of the catalogue's items that are recommended to at least one user.

    Args:
        named_counts: int (V + 1,), how often each item number was recommended; 0, padding, is ignored.
    """
    return float(np.count_nonzero(named_counts[1:]) / (len(named_counts) - 1))


def novelty(named_counts: np.ndarray, item_counts: np.ndarray) -> float:
    """Return the mean self-information of the recommended items, in bits (Zhou et al. 2010).

    An item's self-information is -log2 of its share of the events.

    Args:
        named_counts: int (V + 1,), how often each item number was recommended; 0, padding, is ignored.
        item_counts: (V + 1,), training events of each item. An item without events counts as having one.
    """
    named = named_counts[1:]
    information = -np.log2(np.maximum(item_counts[1:], 1) / max(item_counts.sum(), 1))
    return float((named * information).sum() / max(named.sum(), 1))


def _sums(values: np.ndarray, offsets: np.ndarray | None) -> np.ndarray:
    values = values.astype(np.float64)
    return values if offsets is None else np.add.reduceat(values, offsets[:-1])


def _counts(ranks: np.ndarray, offsets: np.ndarray | None) -> np.ndarray:
    return np.ones(len(ranks), np.int64) if offsets is None else np.diff(offsets)
