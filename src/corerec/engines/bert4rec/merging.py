"""Merge a fitted model's histories and a log of new events to one log that has each event once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from corerec.data.cut_store import CutStore
from corerec.data.interactions import Interactions
from corerec.data.sequences import EVENTS_AT_ONCE, SequenceStore, blocks_of
from corerec.data.splitting import Holdout, hold_out_last
from corerec.engines.bert4rec.batches import windows
from corerec.engines.bert4rec.fitted import FittedModel
from corerec.engines.bert4rec.training_state import seed_for
from corerec.errors import DataError

# An update is measured on the last events of this share of the users with new events, at most this number of users.
ASKED_SHARE, MOST_ASKED = 0.1, 1000


@dataclass(frozen=True)
class MergedLog:
    """Old and new events in the numbers of the grown vocabularies.

    Attributes:
        log: one row a user.
        is_new: bool (events,), the events that the model was not trained on.
    """

    log: Interactions
    is_new: np.ndarray

    @property
    def sequences(self) -> SequenceStore:
        return self.log.sequences

    def without_newest(self, seed: int) -> tuple[MergedLog, Holdout]:
        """Hold out the last event of some users whose last event came with the new log, to measure the update by.

        Returns:
            the log without those events, and the queries: a tenth of the users with a new event, at random, 1,000 at
            most.
        """
        store = self.sequences
        last = store.offsets[1:] - 1
        rows = np.flatnonzero((store.lengths >= 2) & self.is_new[np.maximum(last, 0)])
        count = min(MOST_ASKED, int(np.ceil(ASKED_SHARE * len(rows)))) if len(rows) > 1 else 0
        rows = np.sort(np.random.default_rng(seed_for(seed, "measure")).choice(rows, count, replace=False))
        rest, queries = hold_out_last(self.log, rows)
        return MergedLog(rest, np.delete(self.is_new, last[rows])), queries

    def training_part(self, max_seq_len: int, replay: float, random: np.random.Generator) -> SequenceStore:
        """Return the events that an update trains on: the new events with their context, and a part of the old events.

        There is one row for each user with new events, which begins max_seq_len - 1 events before the first new one.
        Random windows of the rest of the log follow, until the share `replay` of the old events is reached. The old
        events in the rows before them count toward this share.
        """
        store = self.sequences
        starts, ends = store.offsets[:-1], store.offsets[1:]
        news = np.flatnonzero(self.is_new)
        rows, first = np.unique(np.searchsorted(store.offsets, news, side="right") - 1, return_index=True)
        old_ends = ends.copy()
        old_ends[rows] = np.maximum(starts[rows], news[first] - (max_seq_len - 1))
        window_starts, window_ends = windows(CutStore(store, old_ends), max_seq_len, True, random)
        order = random.permutation(len(window_starts))
        sizes = np.cumsum((window_ends - window_starts)[order])
        num_old, context = (~self.is_new).sum(), (ends - old_ends).sum() - self.is_new.sum()
        chosen = order[: int(np.searchsorted(sizes, replay * num_old - context, side="right"))]
        return SequenceStore.concatenate(
            [store.ranges(old_ends[rows], ends[rows]), store.ranges(window_starts[chosen], window_ends[chosen])]
        )


def merge(model: FittedModel, log: Interactions) -> MergedLog:
    """Merge the model's histories and a log's events, so that each event occurs once.

    Users are merged block by block. So the memory in addition to the merged log does not depend on the sizes of the
    logs, and a log of a store stays on disk.

    Raises:
        DataError: only the model or only the log has times, or the units of their times differ.
        UnknownIdError: an id has a type that no known id has.
    """
    users, old = model.known_histories().snapshot()
    new = log.sequences
    if (old.times is None) != (new.times is None):
        which = ("has no", "has") if new.times is None else ("has", "has none")
        raise DataError(f"the new log {which[0]} timestamps and the model's {which[1]}; give both in the same form")
    if new.times is not None and old.time_unit != new.time_unit:
        raise DataError(
            f"the new log counts time in {new.time_unit or 'steps'} and the model's in {old.time_unit or 'steps'}; "
            "convert the new log's timestamps first"
        )
    users, user_numbers = users.with_ids(log.users)
    items, item_numbers = model.items.with_ids(log.items)
    renumbered = np.concatenate([[0], item_numbers]).astype(np.int32)
    by_number = np.argsort(user_numbers)
    lengths = np.zeros(len(users), np.int64)
    lengths[: len(old)] = old.lengths
    lengths[user_numbers - 1] += new.lengths
    whole, is_new, filled = _empty_store(old, new, int(lengths.sum())), np.empty(lengths.sum(), bool), 0
    for first, end in blocks_of(np.concatenate([[0], np.cumsum(lengths)]), EVENTS_AT_ONCE):
        known = slice(min(first, len(old)), min(end, len(old)))
        chosen = by_number[slice(*np.searchsorted(user_numbers, [first + 1, end + 1], sorter=by_number))]
        added = new.select(chosen)
        part, rows, part_is_new = _merged_rows(
            old.ranges(old.starts[known], old.ends[known]),
            replace(added, items=renumbered[added.items]),
            user_numbers[chosen] - 1 - first,
        )
        lengths[first:end] = np.bincount(rows, minlength=end - first)
        here = slice(filled, filled + len(rows))
        for name, column in whole.columns().items():
            column[here] = getattr(part, name)
        is_new[here] = part_is_new
        filled = here.stop
    columns = {name: column[:filled] for name, column in whole.columns().items()}
    store = SequenceStore(offsets=np.concatenate([[0], np.cumsum(lengths)]), **columns)
    return MergedLog(Interactions(store, users, items), is_new[:filled])


def _empty_store(old: SequenceStore, new: SequenceStore, num_events: int) -> SequenceStore:
    """Return columns for at most so many events of both logs. Memory that is not written to is never taken."""
    times, ratings = None, None
    if old.times is not None and new.times is not None:
        times = np.empty(num_events, np.result_type(old.times, new.times))
    if old.ratings is not None or new.ratings is not None:
        ratings = np.empty(num_events, np.float32)
    return SequenceStore(np.empty(num_events, np.int32), np.zeros(1, np.int64), times, ratings)


def _merged_rows(
    old: SequenceStore, new: SequenceStore, new_rows: np.ndarray
) -> tuple[SequenceStore, np.ndarray, np.ndarray]:
    """Merge events of the same users, and leave out new events that repeat an old one.

    Args:
        old: the users of the rows 0, 1, ...
        new_rows: int64 (rows of `new`,), the row of each row of `new` in the result.
    Returns:
        the events by row and time, all in one row; each event's row, int64 (events,); and bool (events,): is it new?
    """
    rows = np.concatenate([np.repeat(np.arange(len(old)), old.lengths), np.repeat(new_rows, new.lengths)])
    both = SequenceStore.concatenate([old, new])
    is_new = np.arange(len(rows)) >= old.num_events
    order = np.argsort(rows, kind="stable") if both.times is None else np.lexsort((both.times, rows))  # old before new
    if both.times is not None:
        order = order[~_known_again(rows[order], both.items[order], both.times[order], is_new[order])]
    taken = {name: column[order] for name, column in both.columns().items()}
    return SequenceStore(offsets=np.array([0, len(order)]), **taken), rows[order], is_new[order]


def _known_again(rows: np.ndarray, items: np.ndarray, times: np.ndarray, is_new: np.ndarray) -> np.ndarray:
    """Return bool (events,): true for a new event that repeats an old one. An old event is repeated at most once."""
    order = np.lexsort((is_new, times, items, rows))
    keys = np.stack([rows[order], items[order], times[order]])
    starts = np.flatnonzero(np.r_[True, (keys[:, 1:] != keys[:, :-1]).any(0)])
    group = np.cumsum(np.isin(np.arange(len(order)), starts)) - 1
    number_old = np.bincount(group, ~is_new[order], minlength=len(starts))
    place = np.arange(len(order)) - starts[group]  # old ones first
    again = is_new[order] & (place - number_old[group] < number_old[group])
    known = np.zeros(len(rows), bool)
    known[order] = again
    return known


def alone(log: Interactions) -> MergedLog:
    """Return a log as a MergedLog in which all events are new, without the model's events."""
    return MergedLog(log, np.ones(log.sequences.num_events, bool))
