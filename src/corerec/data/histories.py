"""Users' histories: the fitted log, and the events observed since the fit. Readers take no lock, and never see a
half-written history.

`fit` produces one immutable SequenceStore. A user with observed events gets a separate row, which replaces the user's
row in the store. When there are many such rows, all histories are written into a new store.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np

from corerec.data.columns import column_length, rating_column
from corerec.data.ids import id_column
from corerec.data.sequences import SequenceStore, flat_ranges
from corerec.data.times import CLOCK_FROM, time_column, time_in, unit_of
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError

FEWEST_ROWS_TO_FOLD = 1024
MUCH_LATER = 10  # times the newest time on a clock: seconds of 2023 times ten are in the year 2500


class _Row(NamedTuple):
    """One user's events: the first `length` values of arrays that may have room for more. These values are never
    changed."""

    length: int
    items: np.ndarray
    times: Any  # arrays too, or None as in the store
    ratings: Any


class _View(NamedTuple):
    """The data that a reader uses. The history of user r + 1 is `rows[r]` if `changed[r]` is true, else row r of
    `store`."""

    store: SequenceStore
    changed: np.ndarray  # bool, at least as many as there are users
    rows: dict[int, _Row]

    def whole(self, num_users: int) -> SequenceStore:
        """Return the rows of all users. If no row has changed, the result is `store` itself, not a copy."""
        if not self.rows and num_users == len(self.store):
            return self.store
        return self.select(np.arange(num_users))

    def select(self, at: np.ndarray) -> SequenceStore:
        """Return the given rows, int64 (rows,), in their order. The rows of the store need no Python loop."""
        store, changed, rows = self
        own = np.flatnonzero(changed[at])
        if not len(own):
            return store.select(at)
        mine = [rows[row] for row in at[own].tolist()]
        stored = at.copy()
        stored[own] = 0  # any row: no event of it is read
        starts, ends = store.offsets[stored], store.offsets[stored + 1]
        ends[own] = starts[own]
        lengths = ends - starts
        source, _ = flat_ranges(starts, ends)
        lengths[own] = [row.length for row in mine]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        target, _ = flat_ranges(offsets[:-1], offsets[:-1] + ends - starts)

        def column(whole: np.ndarray | None, parts: list[Any]) -> Any:
            if whole is None:
                return None
            selected = np.empty(offsets[-1], whole.dtype)
            selected[target] = whole[source]
            for part, row, start in zip(parts, mine, offsets[own].tolist(), strict=True):
                selected[start : start + row.length] = part[: row.length]
            return selected

        return SequenceStore(
            column(store.items, [row.items for row in mine]),
            offsets,
            column(store.times, [row.times for row in mine]),
            column(store.ratings, [row.ratings for row in mine]),
        )


class Histories:
    """All users' histories, by user number. Writers share one lock; readers take no lock.

    >>> histories = Histories(SequenceStore.from_lists([[1, 2], [3]]), Vocabulary(["ann", "bob"], "user"))
    >>> histories.append(["bob", "eve"], np.array([1, 2]))
    2
    >>> [histories.items(histories.users.number(user)).tolist() for user in ("ann", "bob", "eve")]
    [[1, 2], [3, 1], [2]]
    """

    def __init__(self, store: SequenceStore, users: Vocabulary) -> None:
        """Start from the fitted log.

        Args:
            store: one row for each user. It is never changed.
            users: as many ids as the store has rows. They are never changed: `self.users` is a copy that grows.
        """
        assert len(store) == len(users)
        self.users = users.copy()
        self._newest: Any = 0
        self._oldest: Any = 0
        if store.times is not None and len(store.times):
            self._newest, self._oldest = store.times.max(), store.times.min()
        self._view = _View(store, np.zeros(len(store), bool), {})
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the lock. The state contains all events of an `append` that runs meanwhile, or none
        of them."""
        users, store = self.snapshot()
        return {"users": users, "_newest": self._newest, "store": store}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["store"], state["users"])
        self._newest = state["_newest"]

    @property
    def now(self) -> int | float | None:
        """Return the newest time so far, which events without a time get. Return None for a log without times."""
        return None if self._view.store.times is None else np.asarray(self._newest).item()

    @property
    def time_unit(self) -> str | None:
        """The unit of times that count from 1970, as in `times.time_unit`. None if the times are row numbers, or if
        there are no times."""
        return None if self._view.store.times is None else unit_of(self._newest)

    def items(self, user: int) -> np.ndarray:
        """Return the items of one user, int32 (events,), oldest first. The array is a view, not a copy."""
        store, _, rows = self._view
        row = rows.get(user - 1)
        return store.row(user - 1) if row is None else row.items[: row.length]

    def select(self, users: np.ndarray) -> SequenceStore:
        """Return the histories of the given user numbers, in their order. The time of each query is that of the user's
        newest event."""
        return self._view.select(np.asarray(users, np.int64) - 1).asked_at_newest()

    def snapshot(self) -> tuple[Vocabulary, SequenceStore]:
        """Return the users so far and their histories, one row each. The result contains all events of an `append` that
        runs meanwhile, or none of them.

        A fitted log without observed events is not copied.
        """
        with self._lock:
            users, (store, changed, rows) = self.users.copy(), self._view
            view = _View(store, changed.copy(), dict(rows))
        return users, view.whole(len(users))

    def append(self, user_ids: Any, items: np.ndarray, timestamps: Any = None, ratings: Any = None) -> int:
        """Add events, all or none. Each event is placed after its user's events of the same or an earlier time.

        Args:
            user_ids: (events,) ids, known or new.
            items: int (events,) item numbers.
            timestamps: (events,) times in the log's own unit, of the types that `fit` accepts. None, or None in a list,
                means the newest time so far. A log without times ignores timestamps, and keeps the order of the calls.
            ratings: (events,) finite numbers. None, or None in a list, is a missing rating (NaN in the store). A log
                without ratings ignores them.
        Returns:
            the number of events.
        Raises:
            DataError: lengths differ, an id is missing, a time or rating is not finite, or a time is not in the log's
                unit.
            UnknownIdError: a new user's id has a type (text or number) that no known user's id has.
        """
        user_list = user_ids if isinstance(user_ids, list) else id_column(user_ids, "user_ids").tolist()
        for name, column in {"item_ids": items, "timestamps": timestamps, "ratings": ratings}.items():
            if column is not None and column_length(column, name) != len(user_list):
                raise DataError(
                    f"user_ids has {len(user_list):,} values and {name} {len(column):,}; each event needs one of each"
                )
        if not user_list:
            return 0
        asked_times, values = _times(timestamps), _ratings(ratings, len(user_list))
        with self._lock:
            numbers = self.users.encode(user_list)
            unknown = np.flatnonzero(numbers == 0).tolist()
            new = {
                user_id: len(self.users) + at
                for at, user_id in enumerate(dict.fromkeys(user_list[u] for u in unknown), 1)
            }
            self.users.check_new(list(new))
            numbers[unknown] = [new[user_list[at]] for at in unknown]
            store = self._view.store
            times = None if store.times is None else self._on_the_clock(asked_times, len(user_list), store.times.dtype)
            self._take(numbers - 1, np.asarray(items, np.int32), times, None if store.ratings is None else values)
            if new:  # last, so that a reader who finds the user also finds the history
                self.users.add_all(list(new))
            self._fold()
        return len(user_list)

    def _on_the_clock(self, asked: tuple[np.ndarray, np.ndarray] | None, count: int, dtype: np.dtype) -> np.ndarray:
        """Return the times of the events, (count,), in the log's type. A missing time is the newest so far."""
        if asked is None:
            return np.full(count, self._newest, dtype)
        times, given = asked
        newest = self._newest
        bad = np.flatnonzero(given & self._off_the_clock(times))
        if len(bad):
            raise DataError(
                f"timestamps has {times[bad[0]]:,} at row {bad[0]}, and the log's times are from {self._oldest:,} to "
                f"{newest:,}{self._counted()}: {_compared(times[bad[0]], newest)}; give times in the log's own unit"
            )
        if times.dtype != dtype:  # a broken second in a log of whole ones is rounded down
            times = np.floor(times).astype(dtype)
        reached = np.maximum.accumulate(np.where(given, times, newest).clip(newest))
        self._newest = reached[-1]
        return np.where(given, times, reached)

    def moment(self, value: Any) -> float:
        """Convert the time of a query, a number or a date, to the unit of the log's times.

        Return NaN for None, and for a log without times.

        Raises:
            DataError: the value cannot be read as a time, or cannot be a time in the log's unit.
        """
        if value is None or self._view.store.times is None:
            return np.nan
        moment = time_in(unit_of(self._newest), value)
        if self._off_the_clock(np.array([moment]))[0]:
            raise DataError(
                f"at= is {moment:,}, and the log's times are from {self._oldest:,} to {self._newest:,}"
                f"{self._counted()}: {_compared(moment, self._newest)}; give it in the log's own unit"
            )
        return float(moment)

    def _off_the_clock(self, times: np.ndarray) -> np.ndarray:
        """Return bool (events,): true for a time that has another unit than this log's times."""
        times, newest = times.astype(np.float64), float(self._newest)
        if unit_of(newest) is None:  # steps, or dates before 1973
            return (times >= CLOCK_FROM) & (times > 100 * abs(newest))
        return (times > MUCH_LATER * newest) | (
            (times > 0) & (times < newest / 100) & (times < float(self._oldest) / MUCH_LATER)
        )

    def _counted(self) -> str:
        unit = unit_of(self._newest)
        return "" if unit is None else f" ({unit} since 1970)"

    def _take(self, rows: np.ndarray, items: np.ndarray, times: np.ndarray | None, ratings: np.ndarray | None) -> None:
        """Add checked events to their users' rows: one user at a time, or, if there are many users, all at once."""
        store, changed, own = self._view
        order = np.argsort(rows, kind="stable") if times is None else np.lexsort((times, rows))
        bounds = np.flatnonzero(np.diff(rows[order], prepend=-1, append=-1))
        if len(bounds) > self._rows_to_fold():
            self._merge(rows, items, times, ratings)
            return
        if rows.max() >= len(changed):
            changed = np.concatenate([changed, np.zeros(rows.max() + 1, bool)])  # twice as many: seldom
            self._view = _View(store, changed, own)
        for first, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            at, row = order[first:end], int(rows[order[first]])
            old = own.get(row) or self._stored_row(row)
            own[row] = _extended(
                old, items[at], None if times is None else times[at], None if ratings is None else ratings[at]
            )
            changed[row] = True

    def _merge(self, rows: np.ndarray, items: np.ndarray, times: np.ndarray | None, ratings: np.ndarray | None) -> None:
        """Write checked events and all histories into a new store, without a loop over users."""
        stored = self._view.whole(len(self.users))
        every_row = np.concatenate([np.repeat(np.arange(len(stored)), stored.lengths), rows])
        every_time = None if times is None else np.concatenate([np.asarray(stored.times), times])
        # The old events stand first, and the sort is stable: a new one goes behind those of the same time.
        order = np.argsort(every_row, kind="stable") if every_time is None else np.lexsort((every_time, every_row))
        counts = np.bincount(every_row, minlength=max(len(self.users), rows.max() + 1))
        whole = SequenceStore(
            np.concatenate([stored.items, items])[order],
            np.concatenate([[0], np.cumsum(counts)]),
            None if every_time is None else every_time[order],
            None if ratings is None else np.concatenate([np.asarray(stored.ratings), ratings])[order],
        )
        self._view = _View(whole, np.zeros(len(whole), bool), {})

    def _rows_to_fold(self) -> int:
        return max(FEWEST_ROWS_TO_FOLD, len(self.users) // 4)

    def _stored_row(self, row: int) -> _Row:
        """Return a copy of a row of the store, with no events for a new user."""
        store = self._view.store
        here = slice(store.offsets[row], store.offsets[row + 1]) if row < len(store) else slice(0)
        times = None if store.times is None else store.times[here]
        ratings = None if store.ratings is None else store.ratings[here]
        return _Row(len(store.items[here]), store.items[here], times, ratings)

    def _fold(self) -> None:
        """Write all histories into a new store once a quarter of the users have separate rows.

        This happens seldom. So on average, an observed event costs a few copies of its user's history, not of the
        store.
        """
        if len(self._view.rows) >= self._rows_to_fold():
            whole = self.select(np.arange(1, len(self.users) + 1))
            self._view = _View(whole, np.zeros(len(whole), bool), {})


def _extended(row: _Row, items: np.ndarray, times: np.ndarray | None, ratings: np.ndarray | None) -> _Row:
    """Return the row with the new events added, sorted by time. A new event comes after old events of equal time."""
    length = row.length
    late = None
    if times is not None and length and times[0] < row.times[length - 1]:
        late = np.searchsorted(row.times[:length], times, side="right")

    def column(old: Any, new: np.ndarray | None) -> Any:
        if new is None:
            return None
        if late is not None:
            return np.insert(old[:length], late, new)
        end = length + len(new)
        if len(old) < end:  # always so for a view of the store, which is never written to
            old = np.concatenate([old[:length], np.empty(end - length + end // 2, old.dtype)])
        old[length:end] = new  # readers of shorter rows do not look there
        return old

    return _Row(length + len(items), column(row.items, items), column(row.times, times), column(row.ratings, ratings))


def _compared(a_time: Any, newest: Any) -> str:
    if newest <= 0:
        return "it is on another clock"
    ratio = float(a_time) / float(newest)
    return f"it is some {ratio:,.0f} times the newest" if ratio > 1 else f"the newest is some {1 / ratio:,.0f} times it"


def _times(values: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the times, int64 or float64 (events,), and bool (events,): whether each time was given. Return None if no
    time was given."""
    if values is None:
        return None
    given = np.array([value is not None for value in values])
    if not given.any():
        return None
    values = _filled(values, given)
    times = _plain_numbers(values)
    return time_column(values) if times is None else times, given


def _ratings(values: Any, count: int) -> np.ndarray:
    """Return the ratings, float32 (count,), NaN for a missing one."""
    ratings = np.full(count, np.nan, np.float32)
    if values is not None:
        given = np.array([value is not None for value in values])
        if given.any():
            filled = _filled(values, given)
            numbers = _plain_numbers(filled, np.float32)
            ratings[given] = (rating_column(filled) if numbers is None else numbers)[given]
    return ratings


def _filled(values: Any, given: np.ndarray) -> Any:
    """Fill each gap with a given value, so that the row numbers in error messages stay right."""
    if given.all():
        return values
    user_list = list(values)
    filler = user_list[int(np.argmax(given))]
    return [filler if value is None else value for value in user_list]


def _plain_numbers(values: Any, dtype: Any = None) -> np.ndarray | None:
    """Return a list of finite Python numbers as an array, three times as fast as pandas. None for anything else."""
    if not isinstance(values, list) or not {int, float}.issuperset(map(type, values)):
        return None
    try:
        numbers = np.array(values, dtype)
    except OverflowError:
        return None
    return numbers if numbers.dtype.kind in "if" and np.isfinite(numbers).all() else None
