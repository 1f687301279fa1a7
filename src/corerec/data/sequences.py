"""SequenceStore: all users' sequences in flat arrays (compressed sparse rows), without padding."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from corerec.data.times import time_unit

EVENTS_AT_ONCE = 2**21  # taken out of a large store: bounds the working memory


@dataclass(frozen=True)
class SequenceStore:
    """All sequences in compressed sparse rows (CSR), without padding. An item number takes 4 bytes. The arrays can be
    memory-mapped.

    Row r (user number r + 1) owns the events offsets[r] .. offsets[r + 1], oldest first:

        sequences [[5, 6], [], [7]]  ->  items [5 6 7], offsets [0 2 2 3]

    Attributes:
        items: int32 (events,), item numbers from 1.
        offsets: int64 (rows + 1,).
        times: int64 or float64 (events,), in the log's own unit (nanoseconds for dates); None without timestamps.
        ratings: float32 (events,), NaN for an event that was observed after `fit` without a rating; None without
            ratings.
        asked_at: float64 (rows,), the time of each row's query, in the unit of `times`, NaN where it is unknown. None
            where no query has a time.
    """

    items: np.ndarray
    offsets: np.ndarray
    times: np.ndarray | None = None
    ratings: np.ndarray | None = None
    asked_at: np.ndarray | None = None

    @classmethod
    def from_lists(cls, sequences: Sequence[Sequence[int] | np.ndarray]) -> SequenceStore:
        """Build a store with one row for each sequence of item numbers."""
        lengths = np.fromiter((len(sequence) for sequence in sequences), np.int64, len(sequences))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        items = np.concatenate([np.asarray(sequence, np.int32) for sequence in sequences]) if len(sequences) else []
        return cls(np.asarray(items, np.int32), offsets)

    @classmethod
    def concatenate(cls, stores: Sequence[SequenceStore]) -> SequenceStore:
        """Return the rows of several stores, one after another.

        If any store has times, ratings or `asked_at`, the result has them too, with NaN for the other stores.
        """
        ends = np.cumsum([store.num_events for store in stores])
        starts = [store.offsets[:-1] + end - store.num_events for store, end in zip(stores, ends, strict=True)]
        num_events, num_rows = [store.num_events for store in stores], [len(store) for store in stores]
        return cls(
            np.concatenate([store.items for store in stores]),
            np.concatenate([*starts, ends[-1:]]),
            _joined([store.times for store in stores], num_events, np.float64),
            _joined([store.ratings for store in stores], num_events, np.float32),
            _joined([store.asked_at for store in stores], num_rows, np.float64),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_events(self) -> int:
        return len(self.items)

    @property
    def time_unit(self) -> str | None:
        """The unit of times that count from 1970: "s", "ms", "us" or "ns" (dates). None if the times are row numbers,
        or if there are no times."""
        return time_unit(self.times)

    @property
    def starts(self) -> np.ndarray:
        """Where each row's events begin, int64 (rows,)."""
        return self.offsets[:-1]

    @property
    def ends(self) -> np.ndarray:
        """Where each row's events end, int64 (rows,)."""
        return self.offsets[1:]

    @property
    def lengths(self) -> np.ndarray:
        """The number of events in each row, int64 (rows,)."""
        return self.ends - self.starts

    def row(self, row: int) -> np.ndarray:
        """Return the items of one row, int32 (length,), oldest first. The array is a view, not a copy."""
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    def select(self, rows: np.ndarray) -> SequenceStore:
        """Return the given rows, in the given order."""
        chosen = self.ranges(self.offsets[rows], self.offsets[np.asarray(rows) + 1])
        return chosen if self.asked_at is None else replace(chosen, asked_at=self.asked_at[rows])

    def last(self, count: int) -> SequenceStore:
        """Return every row cut to its newest `count` events."""
        newest = self.ranges(np.maximum(self.offsets[:-1], self.offsets[1:] - count), self.offsets[1:])
        return newest if self.asked_at is None else replace(newest, asked_at=self.asked_at)

    def asked_at_newest(self) -> SequenceStore:
        """Return the rows with the time of each row's query set to the time of the row's newest event. A log without
        times is unchanged."""
        if self.times is None:
            return self
        asked_at, known = np.full(len(self), np.nan), self.lengths > 0
        asked_at[known] = self.times[self.offsets[1:][known] - 1]
        return replace(self, asked_at=asked_at)

    def asked_at_moments(self, moments: np.ndarray) -> SequenceStore:
        """Return the rows with another time for each row's query. A log without times is unchanged.

        Args:
            moments: float64 (rows,), or (1,) for all rows. NaN leaves a row's time as it is.
        """
        if self.asked_at is None:
            return self
        return replace(self, asked_at=np.where(np.isnan(moments), self.asked_at, moments))

    def ranges(self, starts: np.ndarray, ends: np.ndarray) -> SequenceStore:
        """Return one row for each range starts[i] .. ends[i] of events. This needs little memory besides the result."""
        if int((ends - starts).sum()) <= EVENTS_AT_ONCE:
            at, offsets = flat_ranges(starts, ends)
            taken = {name: column[at] for name, column in self.columns().items()}
        else:
            offsets = np.concatenate([[0], np.cumsum(ends - starts)])
            taken = {name: np.empty(offsets[-1], column.dtype) for name, column in self.columns().items()}
            for first, end in row_blocks(SequenceStore(taken["items"], offsets), EVENTS_AT_ONCE):
                at, _ = flat_ranges(starts[first:end], ends[first:end])
                for name, column in self.columns().items():
                    taken[name][offsets[first] : offsets[end]] = column[at]
        return SequenceStore(offsets=offsets, **taken)

    def columns(self) -> dict[str, np.ndarray]:
        """Return the arrays with a value for each event, by name: items, and times and ratings if there are any."""
        columns = {"items": self.items, "times": self.times, "ratings": self.ratings}
        return {name: column for name, column in columns.items() if column is not None}

    def check(self, num_rows: int, num_items: int) -> None:
        """Check the arrays against each other.

        Raises:
            ValueError: the arrays are not `num_rows` rows of the items 1..num_items.
        """
        kinds = {"items": "i4", "offsets": "i8", "times": "i8 f8", "ratings": "f4"}
        for name, dtypes in kinds.items():
            array: np.ndarray | None = getattr(self, name)
            if array is None:
                continue
            length = num_rows + 1 if name == "offsets" else len(self.items)
            if array.shape != (length,) or array.dtype.str[1:] not in dtypes.split():
                raise ValueError(f"{name} of shape {array.shape} and type {array.dtype} for {num_rows:,} histories")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.items) or (self.lengths < 0).any():
            raise ValueError(f"offsets that do not divide {len(self.items):,} events among {num_rows:,} histories")
        if len(self.items) and not 1 <= self.items.min() <= self.items.max() <= num_items:
            raise ValueError(f"histories of items that are not among {num_items:,}")
        if self.times is not None and not np.isfinite(self.times).all():
            raise ValueError("times that are not finite")
        if self.ratings is not None and np.isinf(self.ratings).any():
            raise ValueError("ratings that are not finite")

    def digest(self) -> str:
        """Return a hash of all events in their order (BLAKE2b, hexadecimal), at 1 GB/s. Equal logs have equal
        hashes."""
        hasher = hashlib.blake2b(digest_size=16)
        for array in (self.offsets, self.items, self.times, self.ratings):
            hasher.update(b"none" if array is None else np.ascontiguousarray(array).data)
        return hasher.hexdigest()

    def item_counts(self, num_items: int) -> np.ndarray:
        """Count the events of each item number, int64 (num_items + 1,); 0 for padding."""
        counts = np.zeros(num_items + 1, np.int64)
        for first in range(0, len(self.items), EVENTS_AT_ONCE):  # bincount copies its input to int64
            counts += np.bincount(self.items[first : first + EVENTS_AT_ONCE], minlength=num_items + 1)
        return counts


def _joined(columns: Sequence[np.ndarray | None], lengths: Sequence[int], dtype: type) -> np.ndarray | None:
    """Join columns end to end, with NaN for the values of a column that is None. Return None if all columns are
    None."""
    if all(column is None for column in columns):
        return None
    filled = [
        np.full(length, np.nan, dtype) if column is None else column
        for column, length in zip(columns, lengths, strict=True)
    ]
    return np.concatenate(filled)


def flat_ranges(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices inside many ranges, one range after another, and the offset of each range in the result.

    >>> flat_ranges(np.array([0, 7]), np.array([2, 10]))
    (array([0, 1, 7, 8, 9]), array([0, 2, 5]))
    """
    lengths = ends - starts
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths), offsets


def row_blocks(store: SequenceStore, events_at_once: int) -> list[tuple[int, int]]:
    """Return ranges of rows with about `events_at_once` events each, and at least one row.

    >>> row_blocks(SequenceStore.from_lists([[1, 2], [3], [4, 5, 6], []]), 3)
    [(0, 2), (2, 4)]
    """
    return blocks_of(store.offsets, events_at_once)


def blocks_of(offsets: np.ndarray, at_once: int) -> list[tuple[int, int]]:
    """Return ranges of the rows offsets[r] .. offsets[r + 1] with about `at_once` values each, and at least one row."""
    block = np.maximum(offsets[1:] - 1, 0) // at_once
    bounds = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(offsets) - 1]
    return [(first, end) for first, end in pairwise(bounds) if first < end]


def last_items(histories: SequenceStore) -> np.ndarray:
    """Return the newest item of each of B histories, int64 (B,); 0 for an empty history."""
    last = np.zeros(len(histories), np.int64)
    known = histories.lengths.nonzero()[0]  # np.flatnonzero takes three times as long for one
    last[known] = histories.items[histories.offsets[1:][known] - 1]
    return last
