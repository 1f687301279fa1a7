"""Convert queries with ids to queries with user and item numbers, ready to be scored together."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from corerec.data.histories import Histories
from corerec.data.sequences import SequenceStore
from corerec.data.vocabulary import Vocabulary
from corerec.errors import CorerecError, DataError, NotFittedError
from corerec.item_groups import ExcludeSeen, ItemGroups, SeenRule, repeatable_mask, split_repeatable
from corerec.queries import (
    NO_ITEMS,
    SKIPPED,
    WITHOUT_USERS,
    ItemId,
    OnUnknown,
    Query,
    QueryBatch,
    as_list,
    check_top_k,
    empty_rows,
    known_numbers,
    warn_of_unknown,
)
from corerec.retrieval.reranking import Reranking


def resolve(
    queries: Sequence[Query],
    items: Vocabulary,
    histories: Histories | None,
    well_rated: Callable[[int, float, np.ndarray | None], np.ndarray],
    return_errors: bool,
) -> tuple[QueryBatch, dict[int, CorerecError], list[list[ItemId]]]:
    """Convert queries in ids to queries in numbers.

    Args:
        well_rated: a function of (user number or 0, min_rating, item numbers or None) that returns the item numbers
            whose expected rating is at least min_rating.
    Returns:
        batch: the good queries, in order.
        errors: the error of each bad query, by its place in `queries`. Empty without `return_errors`.
        unknown: for each good query, its unknown items, which were skipped.
    Raises:
        CorerecError: the error of the first bad query, without `return_errors`.
    """
    good: list[Query] = []
    moments: list[float] = []
    users: list[int] = []
    given: list[np.ndarray] = []
    excluded: list[np.ndarray] = []
    candidates: dict[int, np.ndarray] = {}
    errors: dict[int, CorerecError] = {}
    unknown: list[list[ItemId]] = []
    rules = Rules(items)
    rerankings: dict[Any, Reranking] = {}
    reranked: list[int] = []
    seen_rules: list[SeenRule] = []
    for place, query in enumerate(queries):
        try:
            check_top_k(query.top_k)
            user, numbers, strangers = resolve_subject(query, items, histories)
            moment = resolve_moment(query, histories)
            out, more = known_numbers(as_list(query.exclude, "exclude"), items, query.on_unknown)
            strangers += more
            only = None
            if query.candidates is not None:
                only, more = known_numbers(as_list(query.candidates, "candidates"), items, query.on_unknown)
                strangers += more
            if query.min_rating is not None:
                only = well_rated(user, query.min_rating, only)
            reranking = rules.reranking(query.diversity, query.max_per_group, query.groups)
            rule, more = rules.seen(query.exclude_seen, query.groups, query.repeatable, query.on_unknown)
            strangers += more
        except CorerecError as error:
            if not return_errors:
                raise
            errors[place] = error
            continue
        if only is not None:
            candidates[len(good)] = only
        if reranking is None:
            reranked.append(-1)
        else:
            rerankings.setdefault(id(reranking), reranking)
            reranked.append(list(rerankings).index(id(reranking)))
        seen_rules.append(rule)
        good.append(query)
        users.append(user)
        moments.append(moment)
        given.append(numbers)
        excluded.append(out)
        unknown.append(strangers)
    named = [
        item_id for query, items_ in zip(good, unknown, strict=True) if query.on_unknown == "warn" for item_id in items_
    ]
    if named:
        warn_of_unknown(named, items, SKIPPED, stacklevel=5)
    rows = _rows(np.array(users, np.int64), given, histories).asked_at_moments(np.array(moments))
    if not all(rule.is_plain for rule in seen_rules) or any(map(len, excluded)):
        seen = (
            rows.row(at) if rule.is_plain else rule.excluded(rows.select(np.array([at]))).items
            for at, rule in enumerate(seen_rules)
        )
        exclusions = SequenceStore.from_lists([np.concatenate(both) for both in zip(excluded, seen, strict=True)])
    else:
        exclusions = rows
    batch = QueryBatch(
        np.array(users, np.int64),
        rows,
        exclusions,
        np.array([min(query.top_k, len(items)) for query in good], np.int64),
        np.array(list(candidates), np.int64),
        SequenceStore.from_lists(list(candidates.values())) if candidates else empty_rows(0),
        rerankings=tuple(rerankings.values()),
        reranked=np.array(reranked, np.int64) if rerankings else None,
    )
    return batch, errors, unknown


class Rules:
    """Converts the rules of queries (groups, repeatable items) to numbers. Queries with equal settings share a result,
    so groups are encoded only once."""

    def __init__(self, items: Vocabulary) -> None:
        self.items = items
        self._groups: dict[int, ItemGroups] = {}
        self._rerankings: dict[Any, Reranking] = {}

    def groups(self, groups: Mapping[ItemId, Hashable] | None) -> ItemGroups | None:
        if groups is None:
            return None
        if id(groups) not in self._groups:
            self._groups[id(groups)] = ItemGroups.of(groups, self.items)
        return self._groups[id(groups)]

    def reranking(
        self, diversity: float, max_per_group: int | None, groups: Mapping[ItemId, Hashable] | None
    ) -> Reranking | None:
        """Return the rule of re-ranking of a query, or None if the query needs no re-ranking.

        Raises:
            DataError: a value is out of its range, or groups are missing.
        """
        if max_per_group is None and isinstance(diversity, int | float) and diversity == 0:
            return None
        known = self.groups(groups)
        numbers = None if known is None else known.numbers
        fresh = Reranking(diversity, max_per_group, numbers)
        return self._rerankings.setdefault((diversity, max_per_group, id(numbers)), fresh)

    def seen(
        self,
        exclude_seen: ExcludeSeen,
        groups: Mapping[ItemId, Hashable] | None,
        repeatable: Collection[Any],
        on_unknown: OnUnknown,
    ) -> tuple[SeenRule, list[ItemId]]:
        """Return the rule for the items that histories exclude, and the unknown items of `repeatable`.

        Raises:
            DataError: exclude_seen has no valid value, or groups are missing.
            UnknownIdError: `known_numbers` refuses an item of `repeatable`.
        """
        if exclude_seen is True and not repeatable:
            return PLAIN_RULE, []
        known = self.groups(groups) if exclude_seen == "group" or repeatable else None
        ids, numbers = split_repeatable(as_list(repeatable, "repeatable"), known)
        at, strangers = known_numbers(ids, self.items, on_unknown)
        return SeenRule(exclude_seen, known, repeatable_mask(at, numbers, known, len(self.items))), strangers


PLAIN_RULE = SeenRule(True)


def resolve_subject(
    query: Query, items: Vocabulary, histories: Histories | None
) -> tuple[int, np.ndarray, list[ItemId]]:
    """Return the user number of a query, the item numbers of its history, and the history's unknown items.

    For a query with a user, there are no item numbers. For a query with a history, the user number is 0.

    Raises:
        DataError: both `user_id` and `history` are given, or neither, or the history is not a list of items.
        UnknownIdError: the user was never seen, or `known_numbers` refuses an item of the history.
        NotFittedError: the model knows no users.
    """
    if (query.user_id is None) == (query.history is None):
        raise DataError("recommend needs either user_id= of a known user or history=[item ids], one of the two")
    if query.history is None:
        if histories is None:
            raise NotFittedError(WITHOUT_USERS)
        return histories.users.number(query.user_id), NO_ITEMS, []
    given = as_list(query.history, "history")
    if any(item_id is None for item_id in given):
        raise DataError("history has a blank (None); recommend asks what comes next, use fill_in for blanks")
    return 0, *known_numbers(given, items, query.on_unknown)


def resolve_moment(query: Query, histories: Histories | None) -> float:
    """Return the time of a query, its `at`, in the log's unit; NaN if the query has no `at`, or the log has no times.

    Raises:
        DataError: the value is not a time in the log's unit. Or the query gives a history, whose times are not known.
    """
    if query.at is None:
        return math.nan
    if query.history is not None or histories is None:
        raise DataError("at= goes with user_id=: when the events of a bare history happened is not known")
    return histories.moment(query.at)


def _rows(users: np.ndarray, given: list[np.ndarray], histories: Histories | None) -> SequenceStore:
    """Return the history of each query: the history of its known user, or the history that the query gives."""
    known, raw = np.flatnonzero(users), np.flatnonzero(users == 0)
    if not len(known):
        return SequenceStore.from_lists(given)
    assert histories is not None
    if not len(raw):
        return histories.select(users)
    both = SequenceStore.concatenate(
        [histories.select(users[known]), SequenceStore.from_lists([given[at] for at in raw])]
    )
    return both.select(np.argsort(np.concatenate([known, raw])))
