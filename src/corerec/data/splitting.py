"""Splits of a log into training, validation and test: leave-one-out, or at moments in time."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, Literal, TypeVar, overload

import numpy as np
import pandas as pd

from corerec.data.cut_store import CutStore
from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.times import UNITS, time_in
from corerec.data.vocabulary import Vocabulary
from corerec.errors import ConfigError, DataError

Log = TypeVar("Log", SequenceStore, Interactions)
Targets = Literal["next", "last", "all"]
Moment = float | str | datetime.date | np.datetime64
"""A time: a number in the log's own unit, or a date (a datetime, a Timestamp, or text such as "2024-05-01 12:30")."""

AskedAt = Literal["newest", "target"]


def sampled(size: int, count: int, seed: int = 0) -> np.ndarray:
    """Draw at most `count` of the numbers 0 .. size - 1 at random without replacement; int64, in rising order."""
    if count >= size:
        return np.arange(size)
    return np.sort(np.random.default_rng(seed).choice(size, count, replace=False))


@dataclass(frozen=True)
class Holdout:
    """Questions with known answers: given a row's history, which items came next?

    Attributes:
        history: one row for each question: the events that the model may see, oldest first.
        targets: one row for each question: the items that followed, at least one. Number 0 stands for an item that has
            no number.
        users: int64 (questions,), the user number of each question.
        user_vocabulary, item_vocabulary: the ids of the numbers; None if a store without ids was split.
        num_newcomers: the number of users who have events in the period, but none before it. They have no question.
    """

    history: SequenceStore
    targets: SequenceStore
    users: np.ndarray
    user_vocabulary: Vocabulary | None = None
    item_vocabulary: Vocabulary | None = None
    num_newcomers: int = 0

    def __len__(self) -> int:
        return len(self.history)

    def select(self, rows: np.ndarray) -> Holdout:
        """Return the given questions, in the given order."""
        return replace(
            self, history=self.history.select(rows), targets=self.targets.select(rows), users=self.users[rows]
        )

    def sample(self, count: int, seed: int = 0) -> Holdout:
        """Draw at most `count` questions at random without replacement, and keep their order."""
        return self if count >= len(self) else self.select(sampled(len(self), count, seed))

    def numbered_by(self, items: Vocabulary) -> Holdout:
        """Return the same questions in another vocabulary's item numbers.

        Items that the vocabulary lacks are left out of histories. Targets that the vocabulary lacks become number 0,
        which no scorer can rank. Ids of different types match if their texts are equal, such as 12 and "12".

        Raises:
            DataError: this holdout has no vocabularies.
        """
        numbers = self.numbers_in(items)
        if self.item_vocabulary is items:
            return self
        history, known = self.history, numbers[self.history.items] > 0
        history = SequenceStore(
            numbers[history.items][known],
            np.concatenate([[0], np.cumsum(known)])[history.offsets],
            None if history.times is None else history.times[known],
            None if history.ratings is None else history.ratings[known],
            history.asked_at,
        )
        targets = replace(self.targets, items=numbers[self.targets.items])
        return replace(self, history=history, targets=targets, item_vocabulary=items)

    def numbers_in(self, items: Vocabulary) -> np.ndarray:
        """Return another vocabulary's number of each of the log's V items, int32 (V + 1,); 0 for items that it lacks.

        Raises:
            DataError: this holdout has no vocabularies.
        """
        if self.item_vocabulary is None:
            raise DataError("this holdout does not know the ids behind its numbers: split the Interactions of the log")
        if self.item_vocabulary is items:
            return np.arange(len(items) + 1, dtype=np.int32)
        from corerec.data.tables import ids_like  # DuckDB is loaded only where it is needed

        ids = self.item_vocabulary.ids
        same_kind = ids.dtype == items.ids.dtype == np.int64
        numbers = items.encode(ids if same_kind else ids_like(ids.tolist(), items))
        return np.concatenate([[0], numbers]).astype(np.int32)

    def asked_at(self, moment: AskedAt) -> Holdout:
        """Return the same questions with a time for each query, which the scorer may use.

        Args:
            moment: "target" is the time of the first target, which a live server would know. "newest", the default of a
                Holdout, is the time of the history's newest event. `recommend` uses the same time if `at` is not given.
        Raises:
            DataError: the log has no times, and "target" needs them.
        """
        if moment == "newest":
            return replace(self, history=self.history.asked_at_newest())
        if self.history.times is None or self.targets.times is None:
            raise DataError("questions can be asked at a moment only where the log has timestamps")
        firsts = self.targets.times[self.targets.offsets[:-1]].astype(np.float64)
        return replace(self, history=replace(self.history, asked_at=firsts))


class Split(Generic[Log]):
    """A split log: `train` has a row for every user; `valid` and `test` have a row for each user with a question.

    `train` has the type of the log that was split: a store, or an `Interactions` with the same numbers. Each part is
    computed when it is first used, so parts of a large log that are not used need no memory.
    """

    def __init__(self, train: Callable[[], Log], valid: Callable[[], Holdout], test: Callable[[], Holdout]) -> None:
        self._train, self._valid, self._test = train, valid, test

    @cached_property
    def train(self) -> Log:
        return self._train()

    @cached_property
    def valid(self) -> Holdout:
        return self._valid()

    @cached_property
    def test(self) -> Holdout:
        return self._test()


def leave_one_out(log: Log, *, max_users: int | None = None) -> Split[Log]:
    """Split a log by leave-one-out: each user's last event is for the test, the event before it for validation.

    When testing, the validation item is part of the history. A user with two events has no training event before the
    validation target. Only users of three or more events have targets. All events of the other users are training
    events.

        [a b c d]  ->  train [a b]   valid [a b] -> c   test [a b c] -> d

    Args:
        max_users: the most users with a question. The users are drawn as in `Holdout.sample`.
    Raises:
        DataError: no user has three events.
    """
    store = _sequences(log)
    starts, ends = store.offsets[:-1], store.offsets[1:]
    has_three = store.lengths >= 3
    rows = np.flatnonzero(has_three)
    if not len(rows):
        raise DataError("leave-one-out needs users with at least three events, and this log has none")
    if max_users is not None:
        rows = rows[sampled(len(rows), max_users)]
    return Split(
        lambda: _with_rows(log, starts, ends - 2 * has_three),
        lambda: _questions(log, rows, starts[rows], ends[rows] - 2, ends[rows] - 1),
        lambda: _questions(log, rows, starts[rows], ends[rows] - 1, ends[rows]),
    )


@overload
def hold_out_last(
    log: SequenceStore, rows: np.ndarray, asked: np.ndarray | None = None
) -> tuple[CutStore, Holdout]: ...
@overload
def hold_out_last(
    log: Interactions, rows: np.ndarray, asked: np.ndarray | None = None
) -> tuple[Interactions, Holdout]: ...
def hold_out_last(
    log: SequenceStore | Interactions, rows: np.ndarray, asked: np.ndarray | None = None
) -> tuple[CutStore | Interactions, Holdout]:
    """Take the last event of the given rows out of a log, and make questions of these events. Each row must have two
    events or more.

    Args:
        asked: the rows among `rows` that become questions, int64 (questions,). None means all rows.
    Returns:
        the log without those events, which is not copied if it is a store; and the questions, in the order of `asked`.
    """
    store = _sequences(log)
    kept, asked = store.ends.copy(), rows if asked is None else asked
    kept[rows] -= 1
    cut = CutStore(store, kept)
    rest = replace(log, sequences=cut.compact()) if isinstance(log, Interactions) else cut
    return rest, _questions(log, asked, store.starts[asked], kept[asked], store.ends[asked])


def by_time(
    log: Log, valid_from: Moment, test_from: Moment, test_until: Moment | None = None, *, targets: Targets = "all"
) -> Split[Log]:
    """Split a log at two times: training events before `valid_from`, validation events up to `test_from`, then test
    events.

    No event of the two periods is in the training part, for any user. Leave-one-out, in contrast, trains on events of
    other users that are later than a target.

    Args:
        valid_from, test_from: the first moments of the two periods, in the unit of the log's times or as dates.
        test_until: the first moment after the test period. With None, the test period lasts to the end of the log.
        targets: the targets of a user, as in `hold_out_period`.
    Raises:
        DataError: the log has no times, a moment cannot be read as a time, the moments are out of order, or a part is
            empty.
    """
    store = _sequences(log)
    first, middle = as_time(valid_from, store), as_time(test_from, store)
    if not first < middle:
        raise DataError(f"valid_from ({valid_from}) must come before test_from ({test_from})")
    train, valid = hold_out_period(log, first, middle, targets=targets, name="validation")
    _, test = hold_out_period(log, middle, test_until, targets=targets, name="test")
    return Split(lambda: train, lambda: valid, lambda: test)


def hold_out_period(
    log: Log,
    start: Moment,
    end: Moment | None = None,
    *,
    targets: Targets = "all",
    name: str = "evaluation",
) -> tuple[Log, Holdout]:
    """Hold out a period of the log. Each question asks what a user did in the period, given the user's history before
    it.

    Args:
        start, end: the first moment of the period and the first after it, as in `by_time`. With None as the end, the
            period lasts to the end of the log.
        targets: "all" events of the period; the "next" event, which is the first of the period; or the "last" event of
            the period. With "last", the history includes the other events of the period.
        name: what the period is called in error messages.
    Returns:
        the log before the period, and a question for each user with a target and a history. `num_newcomers` counts
        the users without a history.
    Raises:
        DataError: the log has no times, a moment cannot be read as a time, or no user has a question.
        ConfigError: `targets` is none of the three.
    """
    if targets not in ("next", "last", "all"):
        raise ConfigError(f'targets must be "next", "last" or "all", not {targets!r}')
    store = _sequences(log)
    first = _first_from(store, as_time(start, store))
    stop = store.offsets[1:] if end is None else _first_from(store, as_time(end, store))
    if end is not None and not as_time(start, store) < as_time(end, store):
        raise DataError(f"the {name} period must start ({start}) before it ends ({end})")
    train = _with_rows(log, store.offsets[:-1], first)
    active = stop > first
    first, stop = {"all": (first, stop), "next": (first, first + 1), "last": (stop - 1, stop)}[targets]
    asked = np.flatnonzero(active & (first > store.offsets[:-1]))
    if not len(asked):
        raise DataError(
            f"no user has events both before and inside the {name} period; move its boundary: the log goes from "
            f"{_time_range(store)}"
        )
    questions = _questions(log, asked, store.offsets[:-1][asked], first[asked], stop[asked])
    return train, replace(questions, num_newcomers=int(active.sum()) - len(asked))


def before(log: Interactions, moment: Moment) -> Interactions:
    """Return the log as it was just before a moment: without later events, and without users and items that appeared
    later.

    Raises:
        DataError: the log has no times, the moment cannot be read as a time, or no event happened before it.
    """
    store = log.sequences
    ends = _first_from(store, as_time(moment, store))
    users = np.flatnonzero(ends > store.offsets[:-1])
    if not len(users):
        raise DataError(f"no event is before {moment}: the log goes from {_time_range(store)}")
    store = store.ranges(store.offsets[:-1][users], ends[users])
    items = np.flatnonzero(store.item_counts(len(log.items)))
    new_numbers = np.zeros(len(log.items) + 1, np.int32)
    new_numbers[items] = np.arange(1, len(items) + 1)
    return Interactions(
        replace(store, items=new_numbers[store.items]),
        Vocabulary(log.users.ids[users], "user"),
        Vocabulary(log.items.ids[items - 1], "item"),
    )


def as_time(moment: Moment, store: SequenceStore) -> float:
    """Convert a moment to the unit of a store's times. A number stays as it is; a date without a zone is UTC.

    A text of four digits is a year, unless the store's times are themselves such numbers.

    Raises:
        DataError: the store has no times, the moment cannot be read as a time, or the moment is a date and the times
            are not.
    """
    if store.times is None:
        raise DataError("a split by time needs timestamps; fit or read the log with them, or use leave_one_out")
    unit = store.time_unit
    if isinstance(moment, str):
        moment = moment.strip()
        if unit is not None and re.fullmatch(r"\d{4}", moment):
            moment = f"{moment}-01-01"
    try:
        return time_in(unit, moment)
    except DataError as error:
        raise DataError(
            f"{moment!r} is no moment of this log, which goes from {_time_range(store)}: write a number, or a date "
            f"such as 2024-05-31 or 2024-05-31 12:30 ({error})"
        ) from None


def _time_range(store: SequenceStore) -> str:
    """Return the oldest and the newest time, as text for people."""
    assert store.times is not None
    if not len(store.times):
        return "nothing to nothing"
    first, last, unit = store.times.min(), store.times.max(), store.time_unit
    if unit is None:
        return f"{first} to {last}"
    dates = [pd.Timestamp(int(time) * (UNITS["ns"] // UNITS[unit])) for time in (first, last)]
    plain = "" if unit == "ns" else f" ({first} to {last} {unit})"
    return " to ".join(date.isoformat(" ", "seconds") for date in dates) + plain


def _first_from(store: SequenceStore, time: float) -> np.ndarray:
    """Return the index of each row's first event at `time` or later, int64 (rows,). If a row has no such event, its
    value is the row's end.

    All rows are bisected at once, so the memory grows with the rows, not with the events.
    """
    assert store.times is not None
    low, high = store.offsets[:-1].copy(), store.offsets[1:].copy()
    open_rows = np.flatnonzero(low < high)
    while len(open_rows):
        middle = (low[open_rows] + high[open_rows]) // 2
        earlier = store.times[middle] < time
        low[open_rows[earlier]] = middle[earlier] + 1
        high[open_rows[~earlier]] = middle[~earlier]
        open_rows = open_rows[low[open_rows] < high[open_rows]]
    return low


def _sequences(log: SequenceStore | Interactions) -> SequenceStore:
    return log.sequences if isinstance(log, Interactions) else log


def _with_rows(log: Log, starts: np.ndarray, ends: np.ndarray) -> Log:
    """Return the log with each row cut to starts[i] .. ends[i]."""
    if isinstance(log, Interactions):
        return replace(log, sequences=log.sequences.ranges(starts, ends))
    return log.ranges(starts, ends)


def _questions(
    log: SequenceStore | Interactions, rows: np.ndarray, starts: np.ndarray, firsts: np.ndarray, ends: np.ndarray
) -> Holdout:
    """Return a holdout with one question for each entry of `rows`, int64 (questions,).

    The events [starts[i], firsts[i]) are the history of question i, and [firsts[i], ends[i]) are its targets.
    """
    store = _sequences(log)
    users, items = (log.users, log.items) if isinstance(log, Interactions) else (None, None)
    return Holdout(store.ranges(starts, firsts).asked_at_newest(), store.ranges(firsts, ends), rows + 1, users, items)
