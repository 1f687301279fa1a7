"""CutStore: a view of a SequenceStore that omits the last events of some rows, such as events held out of a
training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from corerec.data.sequences import EVENTS_AT_ONCE, SequenceStore, row_blocks


@dataclass(frozen=True)
class CutStore:
    """The rows of a store, each cut to its first events. The events stay where they are, for example in a mapped file.

        sequences [[5, 6], [7, 8, 9]], ends [2, 3]  ->  [[5, 6], [7]]

    Counts, digests and trainings are the same as for a separate store of the cut rows (`compact`).

    Attributes:
        whole: the store.
        ends: int64 (rows,): row r owns the events whole.offsets[r] .. ends[r] of `whole`.
    """

    whole: SequenceStore
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def starts(self) -> np.ndarray:
        """Where each row's events begin, int64 (rows,)."""
        return self.whole.starts

    @property
    def items(self) -> np.ndarray:
        """The items of `whole`, int32. They include the items of events that no row owns."""
        return self.whole.items

    @property
    def times(self) -> np.ndarray | None:
        """The times of `whole`. They include the times of events that no row owns."""
        return self.whole.times

    @property
    def lengths(self) -> np.ndarray:
        """The number of events in each row, int64 (rows,)."""
        return self.ends - self.starts

    @property
    def num_events(self) -> int:
        return int(self.lengths.sum())

    def select(self, rows: np.ndarray) -> SequenceStore:
        """Return a copy of the given rows, in the given order."""
        return self.whole.ranges(self.starts[rows], self.ends[rows])

    def compact(self) -> SequenceStore:
        """Return a copy of all rows."""
        return self.whole.ranges(self.starts, self.ends)

    def item_counts(self, num_items: int) -> np.ndarray:
        """Count the events of each item number, int64 (num_items + 1,); 0 for padding."""
        return self.whole.item_counts(num_items) - self._left_out().item_counts(num_items)

    def digest(self) -> str:
        """Return the digest that a separate store of the cut rows would have (`SequenceStore.digest`)."""
        hasher = blake2b(digest_size=16)
        hasher.update(np.concatenate([[0], np.cumsum(self.lengths)]).data)
        for name in ("items", "times", "ratings"):
            if getattr(self.whole, name) is None:
                hasher.update(b"none")
                continue
            for block in self._blocks(name):
                hasher.update(np.ascontiguousarray(getattr(block, name)).data)
        return hasher.hexdigest()

    def _left_out(self) -> SequenceStore:
        """Return the events that no row owns."""
        return self.whole.ranges(self.ends, self.whole.ends)

    def _blocks(self, name: str) -> Iterator[SequenceStore]:
        """Yield copies of the rows in blocks, in order. A block has the items and the column `name`."""
        column = {} if name == "items" else {name: getattr(self.whole, name)}
        whole = replace(SequenceStore(self.whole.items, self.whole.offsets), **column)
        for first, end in row_blocks(self.whole, EVENTS_AT_ONCE):
            yield whole.ranges(self.starts[first:end], self.ends[first:end])
