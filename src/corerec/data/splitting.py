"""Splits of a sequence store into what trains, what validates and what tests: leave-one-out, or by time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corerec.data.sequences import SequenceStore
from corerec.errors import DataError


@dataclass(frozen=True)
class Holdout:
    """Questions with known answers: given each row's history, which items came next?

    Attributes:
        history: one row a question; what the model may see, oldest first.
        targets: one row a question; the items that did follow, at least one.
        users: int64 (questions,), the user number behind each question.
    """

    history: SequenceStore
    targets: SequenceStore
    users: np.ndarray

    def __len__(self) -> int:
        return len(self.history)

    def select(self, rows: np.ndarray) -> Holdout:
        """The questions asked for, in the order asked."""
        return Holdout(self.history.select(rows), self.targets.select(rows), self.users[rows])


@dataclass(frozen=True)
class Split:
    """`train` keeps every user's row; `valid` and `test` hold the users that have something to ask."""

    train: SequenceStore
    valid: Holdout
    test: Holdout


def leave_one_out(store: SequenceStore) -> Split:
    """The last event of each user is the test target, the one before it the validation target; the rest trains.

    When testing, the validation item is part of the history. A user with two events has no training event before the
    validation target, so only users of three or more events are asked; the others train with all they have.

        [a b c d]  ->  train [a b]   valid [a b] -> c   test [a b c] -> d

    Raises:
        DataError: no user has three events.
    """
    asked = np.flatnonzero(store.lengths >= 3)
    if not len(asked):
        raise DataError("leave-one-out needs users with at least three events, and this log has none")
    rest, test = hold_out_last(store, asked)
    train, valid = hold_out_last(rest, asked)
    return Split(train, valid, test)


def hold_out_last(store: SequenceStore, rows: np.ndarray) -> tuple[SequenceStore, Holdout]:
    """Take the last event of the given rows (each of two events or more) out of the store, as questions.

    Returns:
        the store without those events, and the questions: one for each of `rows`, int64 (questions,), in that order.
    """
    starts, ends = store.offsets[:-1], store.offsets[1:]
    kept = ends.copy()
    kept[rows] -= 1
    question = Holdout(store.ranges(starts[rows], kept[rows]), store.ranges(kept[rows], ends[rows]), rows + 1)
    return store.ranges(starts, kept), question


def by_time(store: SequenceStore, valid_from: float, test_from: float) -> Split:
    """Events before `valid_from` train; those from there to `test_from` validate; those from `test_from` on test.

    A question's history is all that its user did before the boundary, its targets all that the user did in the
    period. Users without a history or without a target in a period are not asked about it.

    Args:
        valid_from, test_from: in the unit of the store's times (nanoseconds for dates).
    Raises:
        DataError: the log has no times, the boundaries are out of order, or a part is empty.
    """
    if store.times is None:
        raise DataError("a split by time needs timestamps; fit or read the log with them, or use leave_one_out")
    if not valid_from < test_from:
        raise DataError(f"valid_from ({valid_from}) must come before test_from ({test_from})")
    starts, ends, times = store.offsets[:-1], store.offsets[1:], store.times

    def boundary(time: float) -> np.ndarray:
        before = np.concatenate([[0], np.cumsum(times < time)])
        return starts + before[ends] - before[starts]

    valid_at, test_at = boundary(valid_from), boundary(test_from)

    def period(name: str, first: np.ndarray, end: np.ndarray) -> Holdout:
        asked = np.flatnonzero((first > starts) & (end > first))
        if not len(asked):
            raise DataError(f"no user has events both before and inside the {name} period; move its boundary")
        return Holdout(store.ranges(starts[asked], first[asked]), store.ranges(first[asked], end[asked]), asked + 1)

    return Split(store.ranges(starts, valid_at), period("validation", valid_at, test_at), period("test", test_at, ends))
