"""Queries and answers: a Query with ids, a QueryBatch with item numbers, and Recommendations.

B is the number of queries.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from corerec.data.ids import id_column
from corerec.data.sequences import SequenceStore
from corerec.data.vocabulary import Vocabulary
from corerec.errors import ConfigError, DataError, UnknownIdWarning
from corerec.item_groups import ExcludeSeen
from corerec.retrieval.reranking import Reranking

ItemId = Any
OnUnknown = Literal["raise", "skip", "warn"]
"""How to treat an id that `fit` never saw: raise UnknownIdError, skip it, or (the default) skip it with one warning.

An id always raises an error if no id that `fit` saw has its type.
"""
Basis = Literal["history", "popularity"]
WITHOUT_USERS = "this model was saved without histories, so it knows no users; pass history=[item ids] to recommend"
SKIPPED = "they are skipped"
NO_ITEMS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Query:
    """The arguments of `Bert4Rec.recommend` as a value, so that many queries can be answered together."""

    user_id: Hashable = None
    """The id of a user of the fitted log, or of a user observed since. Give either `user_id` or `history`."""
    history: Sequence[ItemId] | None = None
    """The history of any user: item ids, oldest first. Give either `history` or `user_id`."""
    top_k: int = 10
    """The most items to recommend."""
    exclude_seen: ExcludeSeen = True
    """Which items are excluded: items of the history (True or "item"), all items of their groups ("group") or none
    (False)."""
    exclude: Sequence[ItemId] = ()
    """Further item ids to exclude."""
    candidates: Sequence[ItemId] | None = None
    """The only item ids that may be recommended; None means all."""
    min_rating: float | None = None
    """The lowest expected rating of an item to recommend."""
    on_unknown: OnUnknown = "warn"
    """How unknown items of the history, of `exclude`, of `candidates` and of `repeatable` are treated."""
    at: Any = None
    """The time of a query with `user_id`: a number in the log's unit, or a date. None means the time of the user's last
    event."""
    diversity: float = 0.0
    """The weight, in [0, 1], of variety against relevance (`retrieval.reranking`)."""
    max_per_group: int | None = None
    """The most items of one group that the answer may have."""
    groups: Mapping[ItemId, Hashable] | None = None
    """Item id -> its group, such as a category. Items without a group are not limited."""
    repeatable: Collection[Any] = ()
    """Item ids, or groups, that may be recommended again although they are in the history."""


@dataclass(frozen=True)
class Recommendations:
    """The answer to one query: items and scores, best first, and whether they come from the history or from popularity.

    >>> answer = Recommendations(["a", "b"], [0.5, 0.25], "history", user_id="ann")
    >>> list(answer), answer.pairs()
    (['a', 'b'], [('a', 0.5), ('b', 0.25)])
    """

    items: list[ItemId]
    scores: list[float]
    """Each item's probability over the whole catalogue; NaN if probabilities were not asked for."""
    basis: Basis
    """"history", or "popularity" if the model knows no item of the history."""
    unknown_items: list[ItemId] = field(default_factory=list)
    """Items of the query that `fit` never saw. They were skipped."""
    user_id: Hashable = None
    """The user of the query; None if the query gave a history."""
    is_new: list[bool] = field(default_factory=list)
    """For each item, whether the model was fitted without events of it. Such an item was ranked only by its
    features."""

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[ItemId]:
        return iter(self.items)

    def pairs(self) -> list[tuple[ItemId, float]]:
        """Return (item id, score) pairs, best first."""
        return list(zip(self.items, self.scores, strict=True))

    def to_frame(self) -> pd.DataFrame:
        """Return a frame with one row for each item, and the columns user_id, item_id, rank (from 1) and score."""
        return recommendations_frame([self])


def recommendations_frame(answers: Sequence[Recommendations]) -> pd.DataFrame:
    """Return many answers as one table, with a row for each item, and the columns user_id, item_id, rank (from 1) and
    score."""
    lengths = [len(answer) for answer in answers]
    return pd.DataFrame(
        {
            "user_id": [answer.user_id for answer, length in zip(answers, lengths, strict=True) for _ in range(length)],
            "item_id": [item_id for answer in answers for item_id in answer.items],
            "rank": np.concatenate([np.arange(1, length + 1) for length in lengths] or [NO_ITEMS]),
            "score": np.array([score for answer in answers for score in answer.scores], np.float64),
        }
    )


@dataclass(frozen=True)
class QueryBatch:
    """B queries with user and item numbers instead of ids, ready to be scored together."""

    users: np.ndarray
    """int64 (B,): the user number of each query; 0 if the query gave a history."""
    histories: SequenceStore
    """B histories, any of which may be empty."""
    excluded: SequenceStore
    """B rows of items that are not recommended."""
    top_k: np.ndarray
    """int64 (B,): the most items to recommend."""
    limited: np.ndarray
    """int64: the indices, in rising order, of the queries that have their own candidates."""
    candidates: SequenceStore
    """One row for each of `limited`: the only items that may be recommended."""
    shared_candidates: np.ndarray | None = None
    """int64: the only items that may be recommended to the queries outside `limited`; None means all items."""
    rerankings: tuple[Reranking, ...] = ()
    """The distinct rules of re-ranking in this batch."""
    reranked: np.ndarray | None = None
    """int64 (B,): the index of each query's rule in `rerankings`, -1 for no rule. None means that no query has a
    rule."""

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def of(
        cls,
        histories: SequenceStore,
        excluded: SequenceStore,
        top_k: int,
        users: np.ndarray | None = None,
        candidates: np.ndarray | None = None,
        reranking: Reranking | None = None,
    ) -> QueryBatch:
        """Build B queries that differ only in their histories and exclusions."""
        count = len(histories)
        return cls(
            np.zeros(count, np.int64) if users is None else users,
            histories,
            excluded,
            np.full(count, min(top_k, 2**31)),
            NO_ITEMS,
            empty_rows(0),
            candidates,
            () if reranking is None else (reranking,),
            None if reranking is None else np.zeros(count, np.int64),
        )

    def without(self, items: np.ndarray) -> QueryBatch:
        """Return the same queries, with the given item numbers excluded, too."""
        excluded, count = self.excluded, len(items)
        offsets = excluded.offsets + count * np.arange(len(self) + 1)
        ends = offsets[1:] - count  # each row's own items, then these
        numbers = np.empty(offsets[-1], np.int32)
        own = np.arange(excluded.num_events) + count * np.repeat(np.arange(len(self)), excluded.lengths)
        numbers[own] = excluded.items
        numbers[(ends[:, None] + np.arange(count)).ravel()] = np.tile(items, len(self))
        return replace(self, excluded=SequenceStore(numbers, offsets))

    def select(self, queries: np.ndarray) -> QueryBatch:
        """Return the queries at the given places, in rising order."""
        at = np.flatnonzero(np.isin(self.limited, queries))
        return QueryBatch(
            self.users[queries],
            self.histories.select(queries),
            self.excluded.select(queries),
            self.top_k[queries],
            np.searchsorted(queries, self.limited[at]),
            self.candidates.select(at),
            self.shared_candidates,
            self.rerankings,
            None if self.reranked is None else self.reranked[queries],
        )


def empty_rows(count: int) -> SequenceStore:
    """Return `count` rows without events."""
    return SequenceStore(np.zeros(0, np.int32), np.zeros(count + 1, np.int64))


def known_numbers(ids: Sequence[ItemId], known: Vocabulary, on_unknown: OnUnknown) -> tuple[np.ndarray, list[ItemId]]:
    """Return the numbers of the known ids in their order, int64, and the unknown ids.

    Raises:
        UnknownIdError: an id has a type that no known id has, or is unknown and `on_unknown` is "raise".
        ConfigError: `on_unknown` is not one of its three values.
    """
    numbers, strangers = numbers_or_zero(ids, known, on_unknown)
    return numbers[numbers > 0], strangers


def numbers_or_zero(ids: Any, known: Vocabulary, on_unknown: OnUnknown) -> tuple[np.ndarray, list[ItemId]]:
    """Return the numbers of ids, int64, with 0 for an unknown id, and the unknown ids. The errors are those of
    `known_numbers`."""
    if on_unknown not in ("raise", "skip", "warn"):
        raise ConfigError(f'on_unknown must be "raise", "skip" or "warn", not {on_unknown!r}')
    numbers = known.encode(ids) if len(ids) else np.zeros(0, np.int64)
    if numbers.all():
        return numbers, []
    unknown = np.flatnonzero(numbers == 0)
    column = ids if isinstance(ids, list | tuple) else id_column(ids, f"{known.kind}_ids")
    strangers = [column[at] for at in unknown.tolist()]
    for stranger in strangers:
        known.check_alike(stranger)
    if on_unknown == "raise":
        known.number(strangers[0])
    return numbers, strangers


def as_list(values: Any, name: str) -> list[Any] | tuple[Any, ...]:
    """Convert a list, an array, a column or any iterable to a list of plain Python ids.

    Raises:
        DataError: the value is a single text, or cannot be iterated over.
    """
    if isinstance(values, list | tuple):
        return values
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise DataError(f"{name} is one {type(values).__name__} ({values!r}); pass a list of item ids")
    return values.tolist() if hasattr(values, "tolist") else list(values)  # pyright: ignore[reportAttributeAccessIssue]


def numbers_with_blanks(
    history: Iterable[ItemId | None], items: Vocabulary, mask_number: int, on_unknown: OnUnknown = "warn"
) -> np.ndarray:
    """Return the numbers of the known items, int64 (events,), with `mask_number` where an entry is None."""
    given = as_list(history, "history")
    blank = np.array([item_id is None for item_id in given], dtype=bool)
    numbers = np.full(len(given), mask_number)
    here = [item_id for item_id in given if item_id is not None]
    numbers[~blank], strangers = numbers_or_zero(here, items, on_unknown)
    if strangers and on_unknown == "warn":
        warn_of_unknown(strangers, items, SKIPPED, stacklevel=4)
    return numbers[numbers != 0]


def warn_of_unknown(item_ids: Sequence[ItemId], items: Vocabulary, consequence: str, stacklevel: int = 3) -> None:
    """Warn once of all unknown items. `stacklevel` 3 points at the caller of the caller."""
    shown = id_column(list(item_ids[:3]), "item_ids").tolist()
    shown_ids = ", ".join(map(repr, shown)) + (", ..." if len(item_ids) > 3 else "")
    warnings.warn(
        f"not among the {len(items):,} fitted {items.kind}s: {shown_ids} ({len(item_ids):,} in all); {consequence}",
        UnknownIdWarning,
        stacklevel=stacklevel,
    )


def ids_of(numbers: np.ndarray, items: Vocabulary) -> list[list[ItemId]]:
    """Return rows of item ids for rows of item numbers. A row ends at the first 0."""
    counts = (numbers > 0).sum(1)
    ids = items.decode(numbers[numbers > 0])
    return [ids[end - count : end] for end, count in zip(np.cumsum(counts).tolist(), counts.tolist(), strict=True)]


def check_top_k(top_k: Any, name: str = "top_k") -> None:
    """Check a value for `top_k`.

    Raises:
        DataError: the value is not a whole number of 1 or more.
    """
    if isinstance(top_k, bool) or not isinstance(top_k, int | np.integer) or top_k < 1:
        raise DataError(f"{name} must be a whole number from 1, not {top_k!r}")
