"""A cache of the hidden states of recently queried users.

B users, D values of a state.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import DTypeLike


class StateCache:
    """A cache of at most `capacity` states, one per user. A full cache drops the least recently used state.
    Thread-safe.

    A state is the hidden state after one history, from which any item is scored in a microsecond. The state's log total
    is the logarithm of the sum of the exponentiated scores over the catalogue, with the repeat bias. The log total is
    NaN until a probability is asked for.

    The caller gives the number of events in the user's history. Histories only grow, so a state of fewer events is
    stale and is not returned. A slow thread cannot replace a newer state by a stale state. If a state depends on the
    time of the query, this time is cached with it, as a number. The cache has the state of only one such time for each
    user.

    States are rows of arrays, as Python's garbage collector would visit many small objects again and again.
    """

    def __init__(self, dim: int, dtype: DTypeLike = np.float32, capacity: int = 100_000) -> None:
        """Start with an empty cache.

        Args:
            dim: D.
            dtype: the type of the states.
        """
        self.capacity = capacity
        self._rows: OrderedDict[int, int] = OrderedDict()  # by user, the longest unused first
        self._states = np.empty((0, dim), dtype)
        self._log_totals = np.empty(0, np.float32)
        self._num_events = np.empty(0, np.int64)  # of the history, -1 in a row not yet filled
        self._moments = np.empty(0, np.int64)
        self._lock = threading.Lock()

    def __getstate__(self) -> tuple[int, DTypeLike, int]:
        """Pickle the settings of the cache only: a copy starts without states."""
        return self._states.shape[1], self._states.dtype, self.capacity

    def __setstate__(self, state: tuple[int, DTypeLike, int]) -> None:
        self.__init__(*state)

    def get(self, user: int, num_events: int, moment: int = 0) -> tuple[np.ndarray, float] | None:
        """Return the cached state (D,) of the user's history of so many events at a moment, and its log total."""
        with self._lock:
            row = self._rows.get(user)
            if row is None or self._num_events[row] != num_events or self._moments[row] != moment:
                return None
            self._rows.move_to_end(user)
            return self._states[row].copy(), float(self._log_totals[row])

    def get_many(
        self, users: np.ndarray, num_events: np.ndarray, moments: np.ndarray | int = 0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the cached states of many users' histories.

        Args:
            users, num_events, moments: int64 (B,).
        Returns:
            the places found, int64 (F,), in 0..B - 1; their states (F, D); and their log totals, float32 (F,).
        """
        with self._lock:
            rows = np.array([self._rows.get(user, -1) for user in users.tolist()], np.int64)
            found = np.flatnonzero(rows >= 0)
            moments = np.broadcast_to(moments, users.shape) if isinstance(moments, int) else moments
            kept = rows[found]
            found = found[(self._num_events[kept] == num_events[found]) & (self._moments[kept] == moments[found])]
            for user in users[found].tolist():
                self._rows.move_to_end(user)
            return found, self._states[rows[found]], self._log_totals[rows[found]]

    def keep(
        self,
        users: np.ndarray,
        num_events: np.ndarray,
        states: np.ndarray,
        log_normalizers: np.ndarray,
        moments: np.ndarray | int = 0,
    ) -> None:
        """Cache states. A state of a longer history stays, and so does one with a log total if the new one lacks it.

        A state of the same history at another moment is replaced.

        Args:
            users, num_events, moments: int64 (B,). States of user 0 (no user) are not cached.
            states: (B, D).
            log_normalizers: float32 (B,).
        """
        taken = np.flatnonzero(users)[-self.capacity :]
        if not len(taken):
            return
        num_events, log_normalizers = num_events[taken], log_normalizers[taken]
        moments = np.broadcast_to(moments, users.shape)[taken]
        with self._lock:
            self._make_room(len(self._rows) + len(taken))
            rows = np.array([self._row_of(user) for user in users[taken].tolist()])
            is_other = ~np.isnan(log_normalizers) | (self._moments[rows] != moments)
            better = self._num_events[rows] < num_events + is_other
            rows = rows[better]
            self._states[rows] = states[taken[better]]
            self._log_totals[rows] = log_normalizers[better]
            self._num_events[rows] = num_events[better]
            self._moments[rows] = moments[better]

    def _row_of(self, user: int) -> int:
        """Return the user's row, or a free one, or that of the least recently used user. Mark the user as used."""
        row = self._rows.get(user)
        if row is None:
            row = len(self._rows) if len(self._rows) < self.capacity else self._rows.popitem(last=False)[1]
            self._num_events[row] = -1
            self._rows[user] = row
        self._rows.move_to_end(user)
        return row

    def _make_room(self, count: int) -> None:
        have, dim = self._states.shape
        more = min(max(count, 2 * have), self.capacity) - have
        if count > have and more:
            self._states = np.concatenate([self._states, np.empty((more, dim), self._states.dtype)])
            self._log_totals = np.concatenate([self._log_totals, np.empty(more, np.float32)])
            self._num_events = np.concatenate([self._num_events, np.full(more, -1)])
            self._moments = np.concatenate([self._moments, np.zeros(more, np.int64)])
