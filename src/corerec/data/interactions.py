"""Check raw columns and sort them stably by (user, time) into a SequenceStore: all users' sequences in flat arrays."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from corerec.data.columns import column_length, rating_column
from corerec.data.sequences import SequenceStore, row_blocks
from corerec.data.store import open_store
from corerec.data.times import time_column
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError, DataWarning
from corerec.files import AnyPath

EVENTS_AT_ONCE = 2**22  # events that are searched for repeats at once
PLAUSIBLE_EVENTS, PLAUSIBLE_MEDIANS = 1_000, 100  # a user with more, and more than so many median users, is named


@dataclass(frozen=True)
class Interactions:
    """A log of user and item numbers, with the vocabularies that map these numbers to ids."""

    sequences: SequenceStore
    users: Vocabulary
    items: Vocabulary

    @classmethod
    def open(cls, path: AnyPath, *, verify: bool = True) -> Interactions:
        """Open a log that `corerec prepare` wrote. Its events stay on disk and are mapped into memory.

        The arrays are read-only. They stay readable while the store is replaced or removed.

        Args:
            path: the folder of the store.
            verify: compare every array with its digest, at about 1 GB/s, in constant memory.
        Raises:
            FileNotFoundError: there is no such folder.
            DataError: the folder holds no store, or one that is damaged or of another version.
        """
        return cls(*open_store(path, verify=verify))

    @classmethod
    def from_columns(
        cls,
        user_ids: Any,
        item_ids: Any,
        ratings: Any = None,
        timestamps: Any = None,
        *,
        day_first: bool | None = None,
    ) -> Interactions:
        """Check a log's columns, number its ids, and sort its events stably by (user, time).

        Rows of equal time keep their order. Without timestamps, the order of the rows is the order of time. Several
        events of a user with one item are all kept. Rows that repeat a user, item and time are kept too, with one
        warning. Another warning names a user with implausibly many events.

        Args:
            user_ids, item_ids: ids, text or numbers: lists, NumPy, pandas, polars or Arrow columns of one length.
            ratings: finite numbers, or None.
            timestamps: numbers in any unit, dates, or text that parses as either; or None.
            day_first: whether 05/03/2023 is the fifth of March. None decides by the whole column, and warns if the
                column leaves it open.
        Raises:
            DataError: there are no rows, or lengths differ. Or an id is missing or cannot be saved. Or a rating or time
                is missing or not finite, or the times have several formats or units.
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
        times = None if timestamps is None else time_column(timestamps, day_first)
        values = None if ratings is None else rating_column(ratings)
        order = _order(rows, times)
        counts = np.bincount(rows, minlength=len(users) + 1)[1:]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        del rows
        items_in_order = numbers[order]
        del numbers
        store = SequenceStore(
            items_in_order,
            offsets,
            None if times is None else times[order],
            None if values is None else values[order],
        )
        del order
        log = cls(store, users, items)
        log.warn_of_oddities(stacklevel=3)
        return log

    def warn_of_oddities(self, stacklevel: int = 2) -> None:
        """Warn once of rows that repeat another row, and once of users with implausibly many events."""
        _warn_of_repeats(self.sequences, stacklevel + 2)
        _warn_of_crowds(self.sequences.lengths, self.users, stacklevel + 2)


def _order(rows: np.ndarray, times: np.ndarray | None) -> np.ndarray:
    """Return the stable order by (row, time). ML-1M has many equal timestamps, which stay in the order of the file.

    Sorting whole numbers that hold (key, place) takes a fifth of a stable argsort's time, and half of its memory.
    """
    order = None
    if times is not None and (times[1:] < times[:-1]).any():
        order = _stable_argsort(times)
        rows = rows[order]
    by_row = _stable_argsort(rows)
    return by_row if order is None else order[by_row]


def _stable_argsort(keys: np.ndarray) -> np.ndarray:
    places = max(1, (len(keys) - 1).bit_length())
    if keys.dtype.kind != "i" or int(keys.max() - keys.min()).bit_length() + places > 62:
        return np.argsort(keys, kind="stable")
    packed = keys.astype(np.int64)
    packed -= keys.min()
    packed <<= places
    packed |= np.arange(len(keys))
    packed.sort()
    packed &= (1 << places) - 1
    return packed


def _warn_of_repeats(store: SequenceStore, stacklevel: int) -> None:
    repeats = 0
    if store.times is not None:
        for first, end in row_blocks(store, EVENTS_AT_ONCE):
            start, stop = store.offsets[first], store.offsets[end]
            starts = store.offsets[first + 1 : end] - start
            repeats += _count_repeats(store.items[start:stop], store.times[start:stop], starts)
    if repeats:
        warnings.warn(
            f"{repeats:,} of {store.num_events:,} rows repeat another row's user, item and time; they are kept as "
            "events: drop them before fit if they are an accident of logging",
            DataWarning,
            stacklevel=stacklevel,
        )


def _count_repeats(items: np.ndarray, times: np.ndarray, starts: np.ndarray) -> int:
    """Count the events that repeat the item and the time of another event of their row. Rows begin at 0 and at
    `starts`."""
    follows = times[1:] == times[:-1]  # the event has the time of the one before it
    follows[starts[(starts > 0) & (starts < len(items))] - 1] = False
    tied = np.zeros(len(items), bool)
    tied[1:] = follows
    tied[:-1] |= follows
    at = np.flatnonzero(tied)
    groups = np.cumsum(~np.concatenate([[False], follows])[at])
    packed = (groups << 31) | items[at]
    packed.sort()
    return int((packed[1:] == packed[:-1]).sum())


def _warn_of_crowds(counts: np.ndarray, users: Vocabulary, stacklevel: int) -> None:
    """Warn once of users with so many events that they are probably bots, or ids that many people share."""
    bound = max(PLAUSIBLE_EVENTS, PLAUSIBLE_MEDIANS * float(np.median(counts)))
    crowds = np.flatnonzero(counts > bound)
    if len(crowds):
        (most,) = users.decode([int(np.argmax(counts)) + 1])
        warnings.warn(
            f"{len(crowds):,} users have implausibly many events: user {most!r} has {counts.max():,}, the median user "
            f"{np.median(counts):,.0f}; if they are bots or an id that many share, leave them out (max_events, "
            "--max-events)",
            DataWarning,
            stacklevel=stacklevel,
        )
