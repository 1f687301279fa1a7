"""A cache of the hidden states of recently queried users.

B users, D values of a state.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import DTypeLike


class StateCache:
    """At most `capacity` states, one a user; the longest unused goes first. Thread-safe.

    A state is what one history leads the model to expect: enough to score any item in a microsecond. Its log total is
    the logarithm of the sum over the catalogue of the exponentiated scores, those of the history's items shifted by the
    repeat bias, NaN as long as nobody asked for a probability. A caller says how many events the user's history has
    now. Histories only grow, so a state of fewer events is stale and is not returned. A slow thread cannot replace a
    newer state by a stale one. A state that depends on the moment asked about is kept with that moment, a number; only
    one moment of a user is kept.

    They are rows of arrays: Python's garbage collector looks through small objects again and again.
    """

    def __init__(self, dim: int, dtype: DTypeLike = np.float32, capacity: int = 100_000) -> None:
        """Args:
        dim: D.
        dtype: of the states.
        """
        self.capacity = capacity
        self._rows: OrderedDict[int, int] = OrderedDict()  # by user, the longest unused first
        self._states = np.empty((0, dim), dtype)
        self._log_totals = np.empty(0, np.float32)
        self._num_events = np.empty(0, np.int64)  # of the history, -1 in a row not yet filled
        self._moments = np.empty(0, np.int64)
        self._lock = threading.Lock()

    def __getstate__(self) -> tuple[int, DTypeLike, int]:
        """A copy starts empty."""
        return self._states.shape[1], self._states.dtype, self.capacity

    def __setstate__(self, state: tuple[int, DTypeLike, int]) -> None:
        self.__init__(*state)

    def get(self, user: int, num_events: int, moment: int = 0) -> tuple[np.ndarray, float] | None:
        """The state (D,) of the user's history of so many events at a moment, and its log total, if kept."""
        with self._lock:
            row = self._rows.get(user)
            if row is None or self._num_events[row] != num_events or self._moments[row] != moment:
                return None
            self._rows.move_to_end(user)
            return self._states[row].copy(), float(self._log_totals[row])

    def get_many(
        self, users: np.ndarray, num_events: np.ndarray, moments: np.ndarray | int = 0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Those kept of the states of many users' histories.

        Args:
            users, num_events, moments: int64 (B,).
        Returns:
            whose, int64 (F,), places 0..B - 1; states (F, D); log totals, float32 (F,).
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
        """Keep states, unless one of a longer history is kept, or one of the same and the new one lacks its total.

        One of the same history at another moment gives way.

        Args:
            users, num_events, moments: int64 (B,); nobody's states (user 0) are not kept.
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
        """The user's row, a new one or the longest unused if need be; the user is the last used now."""
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
