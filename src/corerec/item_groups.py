"""Groups of items, such as categories, and the rule for which items of a history may be recommended again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from corerec.data.sequences import SequenceStore, flat_ranges
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError

ExcludeSeen = bool | Literal["item", "group"]
"""Which items a history excludes from its recommendations: no items (False), the history's items (True or "item"), or
also all other items of their groups ("group").
"""


@dataclass(frozen=True, eq=False)
class ItemGroups:
    """The group of each item.

    Attributes:
        numbers: int64 (V + 1,), the number of each item's group, from 1; 0 for an item without a group.
        names: group -> its number.
    """

    numbers: np.ndarray
    names: Mapping[Any, int]

    @classmethod
    def of(cls, groups: Mapping[Any, Any], items: Vocabulary) -> ItemGroups:
        """Number the groups of items.

        Args:
            groups: item id -> group. Items that the model never saw are left out. None or NaN means no group.
        Raises:
            DataError: `groups` is not a mapping, or the model knows none of its items.
        """
        if not isinstance(groups, Mapping):
            raise DataError(f"groups must map item ids to groups, such as a dict; it is a {type(groups).__name__}")
        ids = list(groups)
        at = items.encode(ids) if ids else np.zeros(0, np.int64)
        if not at.any():
            shown = f", such as {ids[0]!r}" if ids else ""
            raise DataError(f"groups names no item that the model knows{shown}; its keys must be item ids")
        codes, distinct = pd.factorize(np.array([*groups.values(), None], object)[:-1])
        numbers = np.zeros(len(items) + 1, np.int64)
        numbers[at] = codes + 1
        numbers[0] = 0
        return cls(numbers, {name: number for number, name in enumerate(distinct.tolist(), 1)})

    def expanded(self, rows: SequenceStore) -> SequenceStore:
        """Return each row's items together with all items of their groups."""
        owners = np.repeat(np.arange(len(rows)), rows.lengths)
        groups = self.numbers[rows.items]
        size = len(self.names) + 1
        pairs = np.unique(owners[groups > 0] * size + groups[groups > 0])
        by_group = np.argsort(self.numbers, kind="stable")
        bounds = np.searchsorted(self.numbers[by_group], np.arange(size + 1))
        inside, offsets = flat_ranges(bounds[pairs % size], bounds[pairs % size + 1])
        owner_of = np.concatenate([owners[groups == 0], np.repeat(pairs // size, np.diff(offsets))])
        numbers = np.concatenate([rows.items[groups == 0], by_group[inside].astype(np.int32)])
        return _as_rows(numbers, owner_of, len(rows))


@dataclass(frozen=True, eq=False)
class SeenRule:
    """The rule for which items a history excludes from its own recommendations."""

    exclude_seen: ExcludeSeen
    groups: ItemGroups | None = None
    repeatable: np.ndarray | None = None
    """bool (V + 1,): whether each item may be recommended again although it is in the history. None means that no item
    may."""

    def __post_init__(self) -> None:
        if not isinstance(self.exclude_seen, bool | np.bool_) and self.exclude_seen not in ("item", "group"):
            raise DataError(f'exclude_seen must be True, False, "item" or "group", not {self.exclude_seen!r}')
        if self.exclude_seen == "group" and self.groups is None:
            raise DataError('exclude_seen="group" needs groups: which group each item belongs to')

    @property
    def is_plain(self) -> bool:
        """Whether the rule excludes the items of the history, and nothing else."""
        return self.exclude_seen in (True, "item") and self.repeatable is None

    def excluded(self, histories: SequenceStore) -> SequenceStore:
        """Return the items that each history excludes, one row each."""
        if not self.exclude_seen:
            return SequenceStore(np.zeros(0, np.int32), np.zeros(len(histories) + 1, np.int64))
        rows = self._without_repeatable(histories)
        if self.exclude_seen == "group":
            assert self.groups is not None
            rows = self._without_repeatable(self.groups.expanded(rows))
        return rows

    def _without_repeatable(self, rows: SequenceStore) -> SequenceStore:
        if self.repeatable is None:
            return rows
        kept = ~self.repeatable[rows.items]
        offsets = np.concatenate([[0], np.cumsum(kept)])[rows.offsets]
        return SequenceStore(rows.items[kept], offsets)


def split_repeatable(repeatable: Iterable[Any], groups: ItemGroups | None) -> tuple[list[Any], list[int]]:
    """Split the names of `repeatable` into item ids and numbers of groups."""
    names = {} if groups is None else groups.names
    given = list(repeatable)
    return [name for name in given if name not in names], [names[name] for name in given if name in names]


def repeatable_mask(
    item_numbers: np.ndarray, group_numbers: list[int], groups: ItemGroups | None, num_items: int
) -> np.ndarray | None:
    """Return bool (V + 1,): true for the given items and the items of the given groups; None if there are none."""
    if not len(item_numbers) and not group_numbers:
        return None
    mask = np.zeros(num_items + 1, bool)
    mask[item_numbers] = True
    if groups is not None:
        mask |= np.isin(groups.numbers, group_numbers)
    return mask


def _as_rows(numbers: np.ndarray, owners: np.ndarray, count: int) -> SequenceStore:
    order = np.argsort(owners, kind="stable")
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(owners, minlength=count), out=offsets[1:])
    return SequenceStore(numbers[order].astype(np.int32), offsets)
