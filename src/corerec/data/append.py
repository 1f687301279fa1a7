"""Append the events of a new log to a store.

The old log is neither read nor sorted again. Its arrays are copied once, a block of users at a time, and the new events
of these users are merged in.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore, flat_ranges, row_blocks
from corerec.data.store import Manifest, StoreWriter
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError

EVENTS_AT_ONCE = 2**21
IDS_AT_ONCE = 2**18


def append_store(
    old: Interactions, new: Interactions, writer: StoreWriter, source: str, advance: Callable[[float], None]
) -> Manifest:
    """Write both logs as one store. The result is the same as if the two logs had been read together, the old one
    first.

    Args:
        advance: is called with the share of the work that is done, from 0 to 1.
    Raises:
        DataError: only one log has times, or only one has ratings, or the times of the two logs have different units.
        UnknownIdError: the new log has an id whose type (text or number) no id of the old log has.
    """
    before, after = old.sequences, new.sequences
    _check_alike(before, after)
    user_numbers, new_users = _numbers_in(old.users, new.users)
    item_numbers, new_items = _numbers_in(old.items, new.items)
    item_of = np.concatenate([[0], item_numbers]).astype(np.int32)
    num_users, num_items = len(old.users) + len(new_users), len(old.items) + len(new_items)
    lengths = np.zeros(num_users, np.int64)
    lengths[: len(before)] = before.lengths
    lengths[user_numbers - 1] += after.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    order = np.argsort(user_numbers)
    rows_in_order = user_numbers[order] - 1
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(writer.array(name, array.dtype.name)) for name, array in _columns(before).items()
        }
        for first, end in row_blocks(SequenceStore(np.empty(0, np.int32), offsets), EVENTS_AT_ONCE):
            own = order[slice(*np.searchsorted(rows_in_order, (first, end)))]
            block = _merged(before, after, first, end, own, user_numbers[own] - 1, item_of)
            for name, file in files.items():
                file.write(block[name])
            advance(offsets[end] / offsets[-1])
    with writer.array("offsets", "int64") as file:
        file.write(offsets)
    for vocabulary, more in ((old.users, new_users), (old.items, new_items)):
        _write_ids(writer, vocabulary, more)
    return writer.finish(num_users, num_items, int(offsets[-1]), source)


def _merged(
    before: SequenceStore,
    after: SequenceStore,
    first: int,
    end: int,
    own: np.ndarray,
    rows: np.ndarray,
    item_of: np.ndarray,
) -> dict[str, np.ndarray]:
    """Merge the old and the new events of the users first .. end, and return their columns.

    Args:
        own: the rows of the new log that belong to these users.
        rows: the user's row in the merged store, for each of `own`.
    """
    stop = min(end, len(before))
    old = slice(before.offsets[min(first, stop)], before.offsets[stop])
    columns = {
        name: array[old] for name in ("items", "times", "ratings") if (array := getattr(before, name)) is not None
    }
    if not len(own):
        return columns
    at, offsets = flat_ranges(after.offsets[own], after.offsets[own + 1])
    added = {name: getattr(after, name)[at] for name in columns}
    added["items"] = item_of[added["items"]]
    columns = {name: np.concatenate([column, added[name]]) for name, column in columns.items()}
    keys = np.concatenate(
        [np.repeat(np.arange(min(first, stop), stop), before.lengths[first:stop]), np.repeat(rows, np.diff(offsets))]
    )
    # Both sorts are stable: old events stand before new ones of the same time.
    order = np.lexsort((columns["times"], keys)) if "times" in columns else np.argsort(keys, kind="stable")
    return {name: column[order] for name, column in columns.items()}


def _columns(store: SequenceStore) -> dict[str, np.ndarray]:
    columns = {"items": store.items, "times": store.times, "ratings": store.ratings}
    return {name: column for name, column in columns.items() if column is not None}


def _numbers_in(known: Vocabulary, new: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each id of `new` (int64), and the ids that `known` lacks. These ids get the next numbers."""
    numbers = known.encode(new.ids)
    unknown = np.flatnonzero(numbers == 0)
    more = new.ids[unknown]
    for an_id in {type(an_id): an_id for an_id in more.tolist()}.values():
        known.check_alike(an_id)
    numbers[unknown] = len(known) + 1 + np.arange(len(unknown))
    return numbers, more


def _write_ids(writer: StoreWriter, old: Vocabulary, more: np.ndarray) -> None:
    is_whole = old.ids.dtype == np.int64 and (not len(more) or more.dtype == np.int64)
    with writer.array(f"{old.kind}_ids", "int64" if is_whole else "json") as file:
        for ids in (old.ids, more):
            for first in range(0, len(ids), IDS_AT_ONCE):
                some = ids[first : first + IDS_AT_ONCE]
                file.write(some if is_whole else some.tolist())


def _check_alike(old: SequenceStore, new: SequenceStore) -> None:
    for name in ("times", "ratings"):
        has_old, has_new = (getattr(store, name) is not None for store in (old, new))
        if has_old != has_new:
            which = ("has no", "has") if has_old else ("has", "has none")
            raise DataError(f"the new log {which[0]} {name} and the store {which[1]}; give both in the same form")
    if old.times is None or new.times is None:
        return
    kinds = [f"{store.time_unit or 'steps'} ({getattr(store.times, 'dtype', '')})" for store in (new, old)]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"the new log counts time in {kinds[0]} and the store in {kinds[1]}; convert the new log's times first"
        )
