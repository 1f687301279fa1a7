"""Queries and answers: a Query in ids, a QueryBatch in item numbers, and Recommendations.

B queries.
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
"""What becomes of an id that `fit` never saw: an UnknownIdError; skipped silently; or skipped with one warning for all,
the default everywhere. An id of a type that no fitted one has is always an error.
"""
Basis = Literal["history", "popularity"]
WITHOUT_USERS = "this model was saved without histories, so it knows no users; pass history=[item ids] to recommend"
SKIPPED = "they are skipped"
NO_ITEMS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Query:
    """What `Bert4Rec.recommend` takes, as a value: many can be answered together."""

    user_id: Hashable = None
    """A user of the fitted log, or one observed since; or"""
    history: Sequence[ItemId] | None = None
    """item ids, oldest first, of anyone."""
    top_k: int = 10
    """How many items at most."""
    exclude_seen: ExcludeSeen = True
    """Leave out what stands anywhere in the history: True or "item" its items, "group" all items of their groups."""
    exclude: Sequence[ItemId] = ()
    """Item ids to leave out besides."""
    candidates: Sequence[ItemId] | None = None
    """The only item ids that may be named; None means all."""
    min_rating: float | None = None
    """Name only items whose expected rating reaches it."""
    on_unknown: OnUnknown = "warn"
    """Unknown items of the history, of `exclude`, of `candidates` and of `repeatable`."""
    at: Any = None
    """The moment to ask about, for a user: a number of the log's unit, or a date. None: not known."""
    diversity: float = 0.0
    """In [0, 1]: how much of the relevance is given for items unlike one another (`retrieval.reranking`)."""
    max_per_group: int | None = None
    """Name at most so many items of one group."""
    groups: Mapping[ItemId, Hashable] | None = None
    """Item id -> its group, such as a category. Items without one are not limited."""
    repeatable: Collection[Any] = ()
    """Item ids, or groups, that may be named again although they stand in the history."""


@dataclass(frozen=True)
class Recommendations:
    """The answer to one query: items and their scores, best first, and whether history or popularity decided.

    >>> answer = Recommendations(["a", "b"], [0.5, 0.25], "history", user_id="ann")
    >>> list(answer), answer.pairs()
    (['a', 'b'], [('a', 0.5), ('b', 0.25)])
    """

    items: list[ItemId]
    scores: list[float]
    """A probability over the whole catalogue for each item; NaN where none was asked for."""
    basis: Basis
    """Whether the history decided, or, where it holds no known item, popularity."""
    unknown_items: list[ItemId] = field(default_factory=list)
    """Items of the query that `fit` never saw; they were skipped."""
    user_id: Hashable = None
    """None where a history was given."""
    is_new: list[bool] = field(default_factory=list)
    """Of each item, whether no fitted event was about it: it was ranked by its content alone."""

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[ItemId]:
        return iter(self.items)

    def pairs(self) -> list[tuple[ItemId, float]]:
        """(item id, score), best first."""
        return list(zip(self.items, self.scores, strict=True))

    def to_frame(self) -> pd.DataFrame:
        """One row an item: columns user_id, item_id, rank (from 1) and score."""
        return recommendations_frame([self])


def recommendations_frame(answers: Sequence[Recommendations]) -> pd.DataFrame:
    """Many answers as one table: a row for each recommended item, columns user_id, item_id, rank (from 1), score."""
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
    """B queries in numbers, ready to be scored together."""

    users: np.ndarray
    """int64 (B,): the user number, 0 where a history was given."""
    histories: SequenceStore
    """B rows; a row may be empty."""
    excluded: SequenceStore
    """B rows of items not to name."""
    top_k: np.ndarray
    """int64 (B,)."""
    limited: np.ndarray
    """int64 (queries with candidates,): which those are, in rising order."""
    candidates: SequenceStore
    """One row for each of `limited`: the only items to name."""
    shared_candidates: np.ndarray | None = None
    """int64: the only items to name of all queries but `limited`; None means all."""
    rerankings: tuple[Reranking, ...] = ()
    """What the answers are re-ranked by;"""
    reranked: np.ndarray | None = None
    """int64 (B,): the place of each query's in `rerankings`, -1 for none; None means -1 for all."""

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
        """B queries alike in all but their histories and what these exclude."""
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
        """The same queries, none of which may name these item numbers either."""
        excluded, count = self.excluded, len(items)
        offsets = excluded.offsets + count * np.arange(len(self) + 1)
        ends = offsets[1:] - count  # each row's own items, then these
        numbers = np.empty(offsets[-1], np.int32)
        own = np.arange(excluded.num_events) + count * np.repeat(np.arange(len(self)), excluded.lengths)
        numbers[own] = excluded.items
        numbers[(ends[:, None] + np.arange(count)).ravel()] = np.tile(items, len(self))
        return replace(self, excluded=SequenceStore(numbers, offsets))

    def select(self, queries: np.ndarray) -> QueryBatch:
        """The queries at the given places, in rising order."""
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
    """So many rows without events."""
    return SequenceStore(np.zeros(0, np.int32), np.zeros(count + 1, np.int64))


def known_numbers(ids: Sequence[ItemId], known: Vocabulary, on_unknown: OnUnknown) -> tuple[np.ndarray, list[ItemId]]:
    """int64: the numbers of those ids that are known, in their order; and the unknown ones.

    Raises:
        UnknownIdError: an id is of a type that no known one has, or is unknown and `on_unknown` is "raise".
        ConfigError: `on_unknown` is none of the three.
    """
    numbers, strangers = numbers_or_zero(ids, known, on_unknown)
    return numbers[numbers > 0], strangers


def numbers_or_zero(ids: Any, known: Vocabulary, on_unknown: OnUnknown) -> tuple[np.ndarray, list[ItemId]]:
    """As `known_numbers`, with a number for each id of a list or a column: 0 for those left out."""
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
    """A list of plain Python ids, from a list, an array, a column or any iterable.

    Raises:
        DataError: one text, or nothing to iterate over.
    """
    if isinstance(values, list | tuple):
        return values
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise DataError(f"{name} is one {type(values).__name__} ({values!r}); pass a list of item ids")
    return values.tolist() if hasattr(values, "tolist") else list(values)  # pyright: ignore[reportAttributeAccessIssue]


def numbers_with_blanks(
    history: Iterable[ItemId | None], items: Vocabulary, mask_number: int, on_unknown: OnUnknown = "warn"
) -> np.ndarray:
    """int64 (events,): the known items' numbers, `mask_number` where an entry is None."""
    given = as_list(history, "history")
    blank = np.array([item_id is None for item_id in given], dtype=bool)
    numbers = np.full(len(given), mask_number)
    here = [item_id for item_id in given if item_id is not None]
    numbers[~blank], strangers = numbers_or_zero(here, items, on_unknown)
    if strangers and on_unknown == "warn":
        warn_of_unknown(strangers, items, SKIPPED, stacklevel=4)
    return numbers[numbers != 0]


def warn_of_unknown(item_ids: Sequence[ItemId], items: Vocabulary, consequence: str, stacklevel: int = 3) -> None:
    """One warning for all; its `stacklevel` 3 points at whoever called the caller."""
    shown = id_column(list(item_ids[:3]), "item_ids").tolist()
    shown_ids = ", ".join(map(repr, shown)) + (", ..." if len(item_ids) > 3 else "")
    warnings.warn(
        f"not among the {len(items):,} fitted {items.kind}s: {shown_ids} ({len(item_ids):,} in all); {consequence}",
        UnknownIdWarning,
        stacklevel=stacklevel,
    )


def ids_of(numbers: np.ndarray, items: Vocabulary) -> list[list[ItemId]]:
    """Rows of item numbers, 0 where a row has ended, as rows of ids."""
    counts = (numbers > 0).sum(1)
    ids = items.decode(numbers[numbers > 0])
    return [ids[end - count : end] for end, count in zip(np.cumsum(counts).tolist(), counts.tolist(), strict=True)]


def check_top_k(top_k: Any, name: str = "top_k") -> None:
    """Raises:
    DataError: it is not a whole number from 1.
    """
    if isinstance(top_k, bool) or not isinstance(top_k, int | np.integer) or top_k < 1:
        raise DataError(f"{name} must be a whole number from 1, not {top_k!r}")
