"""Raw columns, checked and stably sorted by (user, time) -> SequenceStore: every user's sequence in flat arrays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from corerec.errors import DataError, DataWarning
from corerec.vocabulary import Vocabulary


@dataclass(frozen=True)
class SequenceStore:
    """All sequences in compressed sparse rows (CSR): 4 bytes an event, no padding, memory-mappable.

    Row r (user number r + 1) owns the events offsets[r] .. offsets[r + 1], oldest first:

        sequences [[5, 6], [], [7]]  ->  items [5 6 7], offsets [0 2 2 3]

    Attributes:
        items: int32 (events,), item numbers from 1.
        offsets: int64 (rows + 1,).
        times: int64 or float64 (events,), in the log's own unit (nanoseconds for dates); None without timestamps.
        ratings: float32 (events,), NaN where an event observed after fit came without one; or None.
    """

    items: np.ndarray
    offsets: np.ndarray
    times: np.ndarray | None = None
    ratings: np.ndarray | None = None

    @classmethod
    def from_lists(cls, sequences: Sequence[Sequence[int] | np.ndarray]) -> SequenceStore:
        """Sequences of item numbers -> one row each."""
        lengths = np.fromiter((len(sequence) for sequence in sequences), np.int64, len(sequences))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        items = np.concatenate([np.asarray(sequence, np.int32) for sequence in sequences]) if len(sequences) else []
        return cls(np.asarray(items, np.int32), offsets)

    @classmethod
    def joined(cls, stores: Sequence[SequenceStore]) -> SequenceStore:
        """The rows of several stores, one after another.

        Times stay where all have them. Ratings stay where any has them; the events of the others get NaN.
        """
        ends = np.cumsum([store.num_events for store in stores])
        starts = [store.offsets[:-1] + end - store.num_events for store, end in zip(stores, ends, strict=True)]
        times = [store.times for store in stores if store.times is not None]
        ratings = None
        if any(store.ratings is not None for store in stores):
            ratings = np.concatenate(
                [np.full(s.num_events, np.nan, np.float32) if s.ratings is None else s.ratings for s in stores]
            )
        return cls(
            np.concatenate([store.items for store in stores]),
            np.concatenate([*starts, ends[-1:]]),
            np.concatenate(times) if len(times) == len(stores) else None,
            ratings,
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_events(self) -> int:
        return len(self.items)

    @property
    def lengths(self) -> np.ndarray:
        """int64 (rows,): events in each row."""
        return self.offsets[1:] - self.offsets[:-1]

    def row(self, row: int) -> np.ndarray:
        """int32 (length,): the items of one row, oldest first. A view, not a copy."""
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    def select(self, rows: np.ndarray) -> SequenceStore:
        """The rows asked for, in the order asked."""
        return self.ranges(self.offsets[rows], self.offsets[np.asarray(rows) + 1])

    def last(self, count: int) -> SequenceStore:
        """Every row cut to its newest `count` events."""
        return self.ranges(np.maximum(self.offsets[:-1], self.offsets[1:] - count), self.offsets[1:])

    def ranges(self, starts: np.ndarray, ends: np.ndarray) -> SequenceStore:
        """One row for each range starts[i] .. ends[i] of events."""
        at, offsets = flat_ranges(starts, ends)
        return SequenceStore(
            self.items[at],
            offsets,
            None if self.times is None else self.times[at],
            None if self.ratings is None else self.ratings[at],
        )

    def item_counts(self, num_items: int) -> np.ndarray:
        """int64 (num_items + 1,): events of each item number; 0 for padding."""
        return np.bincount(self.items, minlength=num_items + 1)


def flat_ranges(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The indices inside many ranges, one after another, without a loop.

    >>> flat_ranges(np.array([0, 7]), np.array([2, 10]))
    (array([0, 1, 7, 8, 9]), array([0, 2, 5]))
    """
    lengths = ends - starts
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths), offsets


@dataclass(frozen=True)
class Interactions:
    """A log in numbers, with the vocabularies that lead back to its ids."""

    sequences: SequenceStore
    users: Vocabulary
    items: Vocabulary

    @classmethod
    def from_columns(
        cls,
        user_ids: Any,
        item_ids: Any,
        ratings: Any = None,
        timestamps: Any = None,
    ) -> Interactions:
        """Check a log's columns, number its ids, and sort its events stably by (user, time).

        Rows of equal time keep the order they came in. Without timestamps the order of rows is the order of time.
        An item that a user meets again is a new event; rows that repeat another in user, item and time are kept too,
        with one warning.

        Args:
            user_ids, item_ids: hashable ids: lists, NumPy, pandas, polars or Arrow columns of one length.
            ratings: finite numbers, or None.
            timestamps: whole or broken numbers in any unit, dates, or text that parses as either; or None.
        Raises:
            DataError: no rows; lengths differ; a missing id; a rating or time that is missing or not finite.
        """
        columns = {"user_ids": user_ids, "item_ids": item_ids, "ratings": ratings, "timestamps": timestamps}
        lengths = {name: column_length(column, name) for name, column in columns.items() if column is not None}
        if len(lengths) < len(columns) and (user_ids is None or item_ids is None):
            raise DataError("fit needs user_ids and item_ids, one of each for every event")
        if len(set(lengths.values())) > 1:
            raise DataError(
                "columns differ in length: "
                + ", ".join(f"{name} has {length:,}" for name, length in lengths.items())
                + "; each row needs one value of each"
            )
        if lengths["user_ids"] == 0:
            raise DataError("the log is empty: it needs at least one (user, item) row")
        users, rows = Vocabulary.fit(user_ids, "user")
        items, numbers = Vocabulary.fit(item_ids, "item")
        times = None if timestamps is None else time_column(timestamps)
        values = None if ratings is None else rating_column(ratings)
        # lexsort is stable: ML-1M has many equal timestamps, and file order must decide between them.
        order = np.argsort(rows, kind="stable") if times is None else np.lexsort((times, rows))
        sorted_rows, sorted_items = rows[order], numbers[order].astype(np.int32)
        offsets = np.searchsorted(sorted_rows, np.arange(1, len(users) + 2))
        if times is not None:
            times = times[order]
            _warn_of_repeats(sorted_rows, sorted_items, times)
        store = SequenceStore(sorted_items, offsets, times, None if values is None else values[order])
        return cls(store, users, items)


def column_length(column: Any, name: str) -> int:
    """The number of a column's values.

    Raises:
        DataError: it is no column but a single value.
    """
    try:
        return len(column)
    except TypeError:
        raise DataError(f"{name} is a {type(column).__name__}; pass a list, an array or a table's column") from None


def _warn_of_repeats(rows: np.ndarray, items: np.ndarray, times: np.ndarray) -> None:
    repeats = int(pd.DataFrame({"row": rows, "item": items, "time": times}).duplicated().sum())
    if repeats:
        warnings.warn(
            f"{repeats:,} of {len(rows):,} rows repeat another row's user, item and time; they are kept as events: "
            "drop them before fit if they are an accident of logging",
            DataWarning,
            stacklevel=4,
        )


def rating_column(values: Any) -> np.ndarray:
    """float32 (rows,) finite ratings.

    Raises:
        DataError: a value is not a number, missing, or infinite as a float32; the first such row is named.
    """
    column: Any = _plain_series(values, "ratings")
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind.startswith(("date", "time")):
        raise DataError(f"ratings are of type {kind}, not numbers; if they are times, pass timestamps=")
    column = pd.to_numeric(column, errors="coerce")
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and told so below
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise DataError(
            f"ratings has {len(bad):,} values that are not finite numbers, the first ({_shown(values, bad[0])}) "
            f"at row {bad[0]}; drop those rows, or fit without ratings"
        )
    return numbers


def time_column(values: Any) -> np.ndarray:
    """int64 or float64 (rows,): numbers as they are, dates (and text that parses as dates) as nanoseconds UTC.

    Raises:
        DataError: a time is missing, infinite, does not parse, or is a date that nanoseconds in 64 bits do not reach;
            the first such row is named.
    """
    column = _plain_series(values, "timestamps")
    kind = pd.api.types.infer_dtype(column, skipna=True)
    numbers: Any = None if kind.startswith("date") else pd.to_numeric(column, errors="coerce")
    if numbers is not None and numbers.isna().sum() == column.isna().sum():
        times = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
        bad = np.flatnonzero(~np.isfinite(times))
        if not len(bad) and pd.api.types.is_integer_dtype(numbers.dtype) and times.max() < 2**63:
            times = numbers.to_numpy(dtype=np.int64)  # float64 holds whole numbers only up to 2**53
    else:
        dates: Any = pd.to_datetime(column, errors="coerce", utc=True, format="mixed" if kind == "string" else None)
        dates = dates.dt.tz_localize(None)
        # The conversion to nanoseconds would wrap a year 9999 round to 1815 without a word.
        bad = np.flatnonzero(~dates.between(pd.Timestamp.min, pd.Timestamp.max))
        times = dates.to_numpy(dtype="datetime64[ns]").astype(np.int64)
        if numbers is not None and numbers.isna().sum() < len(bad):
            bad = np.flatnonzero(numbers.isna())  # most rows are numeric text: name the row that is not
    if len(bad):
        raise DataError(
            f"timestamps has {len(bad):,} values that are missing or do not read as a time (dates: 1678 to 2261), the "
            f"first ({_shown(values, bad[0])}) at row {bad[0]}; drop those rows, or fit without timestamps"
        )
    return times


def _plain_series(values: Any, name: str) -> pd.Series:
    if hasattr(values, "to_pandas"):  # polars, Arrow
        values = values.to_pandas()
    if getattr(values, "ndim", 1) != 1:
        raise DataError(f"{name} has {values.ndim} dimensions; pass one flat column")
    if isinstance(values, pd.Series | pd.Index):
        return pd.Series(values).reset_index(drop=True)
    return pd.Series(np.asarray(values) if hasattr(values, "__array__") else list(values))  # torch has __array__


def _shown(values: Any, row: int) -> str:
    return repr(values.iloc[row] if isinstance(values, pd.Series) else values[int(row)])
