"""Recognise the logged events that a model's file already holds, so that they are not observed twice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from corerec.data.histories import Histories
from corerec.data.vocabulary import Vocabulary
from corerec.serving.events import EventColumns

NEVER = -(2**63)  # the time of an event that has none, in a log that has times


class KnownEvents:
    """Recognises the logged events that a model already holds in its histories.

    Two events are the same if their user, item and time are equal. If the model holds an event three times, the first
    three such events of the log are known. Events are compared by 64-bit hashes. If two hashes are equal, all fields
    are compared.
    """

    def __init__(self, histories: Histories | None, items: Vocabulary, user_ids: Sequence[Any]) -> None:
        """Index the events in a model's histories, to look up which events of a log the model already has.

        Args:
            histories: the model's histories, before it observes the log.
            user_ids: the distinct user ids of the log. Histories of other users are not read.
        """
        self._items = items
        self._users: dict[Any, int] = {}
        rows, users, store = [], None, None
        if histories is not None:
            users = histories.users
            numbers = users.encode(list(user_ids))
            rows = np.unique(numbers[numbers > 0])
            store = histories.select(rows)
        self._vocabulary, self._rows = users, np.asarray(rows, np.int64)
        if store is None:
            return
        self._is_timed = store.times is not None
        self._is_whole = self._is_timed and np.asarray(store.times).dtype.kind == "i"
        owners = np.repeat(self._rows, store.lengths)
        times = np.zeros(len(owners), np.int64) if store.times is None else _bits(np.asarray(store.times))
        fields = np.stack([owners, store.items.astype(np.int64), times])
        order = np.argsort(_hashes(fields), kind="stable")
        self._fields = fields[:, order]
        self._hashes = _hashes(self._fields)
        self._met = np.zeros(len(order), np.int64)
        """For each distinct hash, at the index of its first place: how many events of the log had this hash so far."""

    def find(self, columns: EventColumns) -> np.ndarray:
        """Return bool (events,): whether the model already holds each of the log's next events."""
        found = np.zeros(len(columns), bool)
        if self._vocabulary is None or not len(self._hashes):
            return found
        owners = self._vocabulary.encode(list(columns.user_ids))
        numbers = self._items.encode(list(columns.item_ids))
        mine = np.flatnonzero((owners > 0) & (numbers > 0))
        fields = np.stack([owners[mine], numbers[mine], self._times([columns.timestamps[at] for at in mine.tolist()])])
        hashes = _hashes(fields)
        first = np.searchsorted(self._hashes, hashes, side="left")
        count = np.searchsorted(self._hashes, hashes, side="right") - first
        at = np.minimum(first, len(self._hashes) - 1)
        alike = np.flatnonzero((count > 0) & (self._fields[:, at] == fields).all(0))
        found[mine[alike]] = self._met[first[alike]] + _occurrences(first[alike]) < count[alike]
        np.add.at(self._met, first[alike], 1)
        return found

    def _times(self, times: Sequence[Any]) -> np.ndarray:
        """Return the bits of the times as the model holds them, int64 (events,). Whole times stay whole."""
        if not self._is_timed:
            return np.zeros(len(times), np.int64)
        if self._is_whole:
            return np.array([NEVER if t is None else math.floor(t) if _is_near(t) else NEVER for t in times], np.int64)
        return _bits(np.array([math.nan if time is None else time for time in times], np.float64))


def _is_near(time: float) -> bool:
    return -(2.0**62) < time < 2.0**62


def _bits(times: np.ndarray) -> np.ndarray:
    return times.astype(np.int64) if times.dtype.kind == "i" else (times.astype(np.float64) + 0.0).view(np.int64)


def _hashes(fields: np.ndarray) -> np.ndarray:
    """Hash int64 (3, events) to uint64 (events,) by the finaliser of splitmix64 (Steele et al. 2014)."""
    hashes = np.zeros(fields.shape[1], np.uint64)
    for field in fields.view(np.uint64):
        hashes += field + np.uint64(0x9E3779B97F4A7C15)
        hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        hashes ^= hashes >> np.uint64(31)
    return hashes


def _occurrences(values: np.ndarray) -> np.ndarray:
    """Return how often each value occurred before, int64: [5, 7, 5, 5] -> [0, 0, 1, 2]."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    counts = np.empty(len(values), np.int64)
    counts[order] = np.arange(len(values)) - np.repeat(starts, np.diff(np.append(starts, len(values))))
    return counts
