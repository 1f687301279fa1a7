"""Merge a fitted model's histories and a log of new events to one log that has each event once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout, hold_out_last
from corerec.data.vocabulary import Vocabulary
from corerec.engines.bert4rec.batches import windows
from corerec.engines.bert4rec.fitted import FittedModel
from corerec.engines.bert4rec.training_state import seed_for
from corerec.errors import DataError

ASKED_SHARE, MOST_ASKED = 0.1, 1000  # of the users with new events, those whose newest one measures an update


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
        """Take the newest event, if it is new, out of the rows of some users, as queries to measure by.

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
        """Return the events that an update trains on: the new ones with their context, and a part of the old ones.

        There is one row for each user with new events, which begins max_seq_len - 1 events before the first new one.
        Random windows of the rest of the log follow, until they hold the share `replay` of the old events.
        """
        store = self.sequences
        starts, ends = store.offsets[:-1], store.offsets[1:]
        news = np.flatnonzero(self.is_new)
        rows, first = np.unique(np.searchsorted(store.offsets, news, side="right") - 1, return_index=True)
        old_ends = ends.copy()
        old_ends[rows] = np.maximum(starts[rows], news[first] - (max_seq_len - 1))
        old = store.ranges(starts, old_ends)
        window_starts, window_ends = windows(old, max_seq_len, True, random)
        order = random.permutation(len(window_starts))
        sizes = np.cumsum((window_ends - window_starts)[order])
        chosen = order[: int(np.searchsorted(sizes, replay * (~self.is_new).sum(), side="right"))]
        return SequenceStore.concatenate(
            [store.ranges(old_ends[rows], ends[rows]), old.ranges(window_starts[chosen], window_ends[chosen])]
        )


def merge(model: FittedModel, log: Interactions) -> MergedLog:
    """Merge the model's histories and a log's events, so that each event occurs once.

    Raises:
        DataError: only one of the two has times, or their units differ.
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
    items, users = model.items.copy(), users.copy()
    item_numbers = np.array([0] + [items.add(item_id) for item_id in log.items.ids.tolist()])
    user_numbers = np.array([users.add(user_id) for user_id in log.users.ids.tolist()])
    rows = np.concatenate([np.repeat(np.arange(len(old)), old.lengths), np.repeat(user_numbers - 1, new.lengths)])
    numbers = np.concatenate([old.items, item_numbers[new.items].astype(np.int32)])
    is_new = np.arange(len(rows)) >= old.num_events
    times = None if old.times is None or new.times is None else np.concatenate([old.times, new.times])
    ratings = SequenceStore.concatenate([old, new]).ratings
    order = np.argsort(rows, kind="stable") if times is None else np.lexsort((times, rows))  # old before new
    if times is not None:
        order = order[~_known_again(rows[order], numbers[order], times[order], is_new[order])]
    offsets = np.searchsorted(rows[order], np.arange(len(users) + 1))
    store = SequenceStore(
        numbers[order],
        offsets,
        None if times is None else times[order],
        None if ratings is None else ratings[order],
    )
    # Vocabularies that grew become plain ones.
    return MergedLog(Interactions(store, Vocabulary(users.ids, "user"), Vocabulary(items.ids, "item")), is_new[order])


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
