"""Answer many histories under the same rules, for `batch_recommend` and `batch.score`.

B histories, V items.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec.answers import Answers, answer
from corerec.engines.bert4rec.fitted import FittedModel
from corerec.engines.bert4rec.predictions import rating_model
from corerec.errors import DataError
from corerec.item_groups import ExcludeSeen, SeenRule
from corerec.queries import (
    NO_ITEMS,
    SKIPPED,
    ItemId,
    OnUnknown,
    QueryBatch,
    as_list,
    check_top_k,
    known_numbers,
    warn_of_unknown,
)
from corerec.resolving import Rules
from corerec.retrieval.reranking import Reranking

FEW_EXCLUDED = 256  # up to so many excluded items are removed from each answer; more are removed from the candidates
RATINGS_AT_ONCE = 2**22  # expected ratings in memory: 32 MB, and at most as many exclusions


class RuleOptions(TypedDict, total=False):
    """The keywords that say which items may be recommended, and in which order."""

    exclude_seen: ExcludeSeen
    exclude: Iterable[ItemId]
    candidates: Iterable[ItemId] | None
    min_rating: float | None
    on_unknown: OnUnknown
    diversity: float
    max_per_group: int | None
    groups: Mapping[ItemId, Hashable] | None
    repeatable: Collection[Any]


@dataclass(frozen=True, eq=False)
class BatchRules:
    """The rules that all queries of a batch share, in numbers."""

    top_k: int
    seen: SeenRule
    excluded: np.ndarray
    """int64: a few items that are never recommended."""
    candidates: np.ndarray | None
    """int64, rising: the only items that may be recommended; None means all."""
    min_rating: float | None
    reranking: Reranking | None

    @classmethod
    def of(
        cls,
        model: FittedModel,
        top_k: int,
        *,
        exclude_seen: ExcludeSeen = True,
        exclude: Iterable[ItemId] = (),
        candidates: Iterable[ItemId] | None = None,
        min_rating: float | None = None,
        on_unknown: OnUnknown = "warn",
        diversity: float = 0.0,
        max_per_group: int | None = None,
        groups: Mapping[ItemId, Hashable] | None = None,
        repeatable: Collection[Any] = (),
    ) -> BatchRules:
        """Convert rules in ids, which `Answering.recommend` describes, to numbers.

        Raises:
            CorerecError: `Answering.recommend` raises this error for the same rules.
        """
        check_top_k(top_k)
        if min_rating is not None:
            rating_model(model, "rating")
            if not isinstance(min_rating, int | float | np.number) or not math.isfinite(min_rating):
                raise DataError(f"min_rating must be a finite number, not {min_rating!r}")
        rules = Rules(model.items)
        excluded, strangers = known_numbers(as_list(exclude, "exclude"), model.items, on_unknown)
        allowed = None
        if candidates is not None:
            allowed, more = known_numbers(as_list(candidates, "candidates"), model.items, on_unknown)
            strangers += more
        elif len(excluded) > FEW_EXCLUDED:
            allowed = np.arange(1, len(model.items) + 1)
        if allowed is not None:
            allowed, excluded = np.setdiff1d(allowed, excluded), NO_ITEMS
        seen, more = rules.seen(exclude_seen, groups, repeatable, on_unknown)
        strangers += more
        if strangers and on_unknown == "warn":
            warn_of_unknown(strangers, model.items, SKIPPED, stacklevel=4)
        reranking = rules.reranking(diversity, max_per_group, groups)
        return cls(min(top_k, len(model.items)), seen, np.unique(excluded), allowed, min_rating, reranking)


def answer_batch(
    model: FittedModel,
    histories: SequenceStore,
    rules: BatchRules,
    users: np.ndarray | None = None,
    *,
    with_scores: bool = True,
) -> Answers:
    """Find the best items after each history.

    Args:
        histories: B rows.
        users: int64 (B,), the users of the histories. Their states are cached for their next query. None caches no
            states.
    """
    if rules.min_rating is None or not len(histories):
        return answer(model, _batch(histories, rules.seen.excluded(histories), rules, users), with_scores=with_scores)
    parts = []
    for rows, badly_rated in _badly_rated(model, histories, rules):
        some = histories.select(rows)
        excluded = _side_by_side(rules.seen.excluded(some), badly_rated)
        parts.append(
            answer(
                model, _batch(some, excluded, rules, None if users is None else users[rows]), with_scores=with_scores
            )
        )
    return Answers(*map(np.concatenate, zip(*parts, strict=True)))


def _batch(
    histories: SequenceStore, excluded: SequenceStore, rules: BatchRules, users: np.ndarray | None
) -> QueryBatch:
    batch = QueryBatch.of(histories, excluded, rules.top_k, users, rules.candidates, rules.reranking)
    return batch.without(rules.excluded) if len(rules.excluded) else batch


def _badly_rated(
    model: FittedModel, histories: SequenceStore, rules: BatchRules
) -> Iterator[tuple[np.ndarray, SequenceStore]]:
    """Yield blocks of rows. For each row, give the items whose expected rating is below `min_rating`."""
    ratings = rating_model(model, "rating")
    assert ratings is not None
    assert rules.min_rating is not None
    items = np.arange(1, len(model.items) + 1) if rules.candidates is None else rules.candidates
    at_once = max(1, RATINGS_AT_ONCE // max(1, len(items)))
    for first in range(0, len(histories), at_once):
        rows = np.arange(first, min(first + at_once, len(histories)))
        vectors = ratings.user_vectors(histories.select(rows))
        bad = ratings.expected_of_all(vectors, items) < rules.min_rating
        offsets = np.concatenate([[0], np.cumsum(bad.sum(1))])
        yield rows, SequenceStore(items[np.nonzero(bad)[1]].astype(np.int32), offsets)


def _side_by_side(some: SequenceStore, more: SequenceStore) -> SequenceStore:
    """Join two stores row by row: each row has the events of both."""
    both = SequenceStore.concatenate([SequenceStore(part.items, part.offsets) for part in (some, more)])
    count = len(some)
    order = np.stack([np.arange(count), np.arange(count) + count], 1).ravel()
    joined = both.select(order)
    return SequenceStore(joined.items, joined.offsets[::2])
