"""Map external ids (text or numbers) to the numbers 1..V, where V is the number of ids. No id has the number 0, which
is padding, or V + 1, which is the mask."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from corerec.data.ids import (
    LARGEST_EXACT,
    PLAIN,
    canonical_id,
    check_savable,
    distinct_types,
    id_column,
    number_ids,
    whole_number,
)
from corerec.errors import DataError, UnknownIdError

LARGE = 2**20  # from here on, whole-number ids are sorted and searched: a dictionary needs 100 bytes an id, and seconds


class SortedIds:
    """Whole-number ids, int64 (V,), that are found by bisection."""

    def __init__(self, ids: np.ndarray) -> None:
        """Sort the ids, unless they are in order already."""
        is_rising = bool((ids[1:] > ids[:-1]).all())
        self._order = None if is_rising else np.argsort(ids, kind="stable")
        self._rising = ids if self._order is None else ids[self._order]

    @property
    def is_unique(self) -> bool:
        return self._order is None or not (self._rising[1:] == self._rising[:-1]).any()

    def duplicated(self) -> np.ndarray:
        """Return bool (V,): whether each id also occurs earlier."""
        repeats = np.zeros(len(self._rising), bool)
        if self._order is not None:
            repeats[self._order[1:]] = self._rising[1:] == self._rising[:-1]
        return repeats

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Return the numbers 1..V of ids, int64 (n,); 0 for an unknown one."""
        places = np.searchsorted(self._rising, ids).clip(max=len(self._rising) - 1)
        numbers = places if self._order is None else self._order[places]
        return np.where(self._rising[places] == ids, numbers + 1, 0)


class LargeDictionary:
    """A dictionary from ids to numbers, with the methods that a vocabulary needs. It holds sorted ids, and ids that
    were added later."""

    def __init__(self, fitted: SortedIds, added: dict[Any, int]) -> None:
        self._fitted, self._added = fitted, added
        self.update = added.update

    def get(self, an_id: Any, default: Any = None) -> Any:
        """Return the number of an id.

        Raises:
            TypeError: the id is not hashable.
        """
        number = self._added.get(an_id)
        if number is None and isinstance(an_id, int) and -(2**63) <= an_id < 2**63:
            number = int(self._fitted.find(np.array([an_id], np.int64))[0]) or None
        return default if number is None else number

    def __setitem__(self, an_id: Any, number: int) -> None:
        self._added[an_id] = number


class Vocabulary:
    """The ids of one kind (users, or items) in the order of their numbers 1..V.

    `decode` returns an id as int if it is a whole number (also from a column of floats), as float if it has a fraction,
    and as str if it is text. Ids of equal value (10, 10.0, Decimal("10.00") and a tensor's 10) are the same id; "10" is
    another id. JSON answers write a whole number as text if JavaScript would round it. So if all ids are whole numbers,
    such an id is also found by its text.

    >>> items = Vocabulary(["b", "a"])
    >>> items.encode(["a", "b", "?"])
    array([2, 1, 0])
    >>> items.decode([2, 1])
    ['a', 'b']
    """

    def __init__(self, ids: Any, kind: str = "item") -> None:
        """Number distinct ids from 1.

        Args:
            ids: distinct ids. The first gets number 1.
            kind: "item" or "user", the word for the ids in error messages.
        Raises:
            DataError: an id occurs twice.
        """
        self.kind = kind
        self._fitted = id_column(ids, f"{kind}_ids")
        self._index: pd.Index | SortedIds
        if self._fitted.dtype == np.int64 and len(self._fitted) >= LARGE:
            self._index = SortedIds(self._fitted)
        else:
            self._index = pd.Index(self._fitted)
        self._added: list[Any] = []  # ids that came after, in the order of their numbers
        self._all = self._fitted  # as `ids` was asked for last
        if not self._index.is_unique:
            twice = self._fitted[self._index.duplicated()].tolist()[0]
            raise DataError(f"{kind} id {twice!r} stands twice in the vocabulary")

    @classmethod
    def fit(cls, column: Any, kind: str = "item") -> tuple[Vocabulary, np.ndarray]:
        """Number the distinct ids of a column in order of appearance.

        Returns:
            the vocabulary, and the column's numbers, int32 (rows,).
        Raises:
            DataError: `number_ids` refuses an id.
        """
        numbers, distinct = number_ids(column, f"{kind}_ids")
        numbers += 1
        return cls(distinct, kind), numbers

    @property
    def ids(self) -> np.ndarray:
        """All ids in the order of their numbers: int64 when all are whole numbers that fit, else objects."""
        known, added = self._all, self._added
        if len(known) < len(self._fitted) + len(added):
            more = id_column(added[len(known) - len(self._fitted) :], f"{self.kind}_ids")
            if more.dtype != known.dtype:
                known, more = known.astype(object), more.astype(object)
            known = self._all = np.concatenate([known, more])
        return known

    def __len__(self) -> int:
        return len(self._fitted) + len(self._added)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the ids in the order of their numbers."""
        return iter(self.ids.tolist())

    def __repr__(self) -> str:
        first = ", ".join(repr(an_id) for an_id in self.ids[:3].tolist())
        return f"Vocabulary({len(self):,} {self.kind}s: {first}{', ...' if len(self) > 3 else ''})"

    def __contains__(self, an_id: Hashable) -> bool:
        try:
            return self._number_of.get(self._canonical(an_id)) is not None
        except TypeError:  # not hashable
            return False

    def _canonical(self, an_id: Any) -> Any:
        """Return the id by its value. Text of a whole number that JavaScript would round becomes that number."""
        an_id = canonical_id(an_id)
        if type(an_id) is str and len(an_id) > 15 and self._types <= {"int"}:
            number = whole_number(an_id)
            if number is not None and abs(number) > LARGEST_EXACT:
                return number
        return an_id

    @property
    def _number_of(self) -> dict[Any, int] | LargeDictionary:
        numbers = self.__dict__.get("_numbers")
        if numbers is None and isinstance(self._index, SortedIds):
            first = len(self._fitted) + 1
            added = dict(zip(self._added, range(first, first + len(self._added)), strict=True))
            numbers = self.__dict__.setdefault("_numbers", LargeDictionary(self._index, added))
        if numbers is None:
            # setdefault is atomic: threads that build this side by side end up with one dictionary, which `add` grows.
            ids = self.ids.tolist()
            numbers = self.__dict__.setdefault("_numbers", dict(zip(ids, range(1, len(ids) + 1), strict=True)))
        return numbers

    def add(self, an_id: Hashable) -> int:
        """Return the number of an id. A new id gets the next number.

        Only one thread may add ids; other threads may read meanwhile.

        Raises:
            DataError: the id is missing (None, NaN, NaT), is not hashable, or could not be written to a file.
            UnknownIdError: no known id has the type of this id, such as "7" among whole numbers. Such an id is a
                mistake, not a new id.
        """
        numbers = self._number_of
        number = self.number_or_zero(an_id)
        if number == 0:
            an_id = self._canonical(an_id)
            self._added.append(an_id)
            number = numbers[an_id] = len(self)
        return number

    def add_all(self, ids: list[Any]) -> None:
        """Add many distinct new ids of known types at once. Only one thread may add ids; other threads may read
        meanwhile.

        Raises:
            DataError: an id is missing, or could not be written to a file.
        """
        numbers, first = self._number_of, len(self) + 1
        check_savable(ids, f"{self.kind}_ids")
        added = [self._canonical(an_id) for an_id in ids]
        self._added += added
        numbers.update(zip(added, range(first, first + len(added)), strict=True))

    def copy(self) -> Vocabulary:
        """Return a vocabulary that can grow without changing this one. Both vocabularies share the ids so far."""
        twin = copy.copy(self)
        twin._added = list(self._added)
        twin.__dict__.pop("_numbers", None)
        return twin

    def with_ids(self, others: Vocabulary) -> tuple[Vocabulary, np.ndarray]:
        """Return a vocabulary of these ids, followed by the ids of `others`, and the numbers of `others`' ids in it.

        Returns:
            the vocabulary, and int64 (len(others),).
        Raises:
            UnknownIdError: no known id has the type of an id of `others`, such as "7" among whole numbers.
            DataError: an id could not be written to a file.
        """
        ids, numbers = self.ids, self.encode(others.ids)
        unknown = np.flatnonzero(numbers == 0)
        if not len(unknown):
            return Vocabulary(ids, self.kind), numbers
        new = others.ids[unknown].tolist()
        self.check_new(new)
        added = id_column([self._canonical(an_id) for an_id in new], f"{self.kind}_ids")
        numbers[unknown] = np.arange(len(self) + 1, len(self) + len(added) + 1)
        if added.dtype != ids.dtype:
            ids, added = ids.astype(object), added.astype(object)
        return Vocabulary(np.concatenate([ids, added]), self.kind), numbers

    def encode(self, column: Any) -> np.ndarray:
        """Return the numbers of many ids, int64 (rows,); 0 for an unknown id."""
        number_of = self._number_of
        if isinstance(column, list | tuple) and PLAIN.issuperset(map(type, column)):
            numbers = np.array([number_of.get(an_id, 0) for an_id in column], dtype=np.int64)
            if not numbers.all() and self._types <= {"int"}:  # perhaps whole numbers that were passed as text
                for at in np.flatnonzero(numbers == 0).tolist():
                    numbers[at] = number_of.get(self._canonical(column[at]), 0)
            return numbers
        ids = id_column(column, f"{self.kind}_ids")
        if ids.dtype == object:
            return np.array([number_of.get(self._canonical(an_id), 0) for an_id in ids], dtype=np.int64)
        if len(ids) == 0:
            return np.zeros(0, dtype=np.int64)
        if isinstance(self._index, SortedIds):
            numbers = self._index.find(ids)
        else:
            numbers = self._index.get_indexer(pd.Index(ids)).astype(np.int64) + 1
        if self._added:
            unknown = np.flatnonzero(numbers == 0)
            numbers[unknown] = [number_of.get(an_id, 0) for an_id in ids[unknown].tolist()]
        return numbers

    def number(self, an_id: Hashable) -> int:
        """Return the number of one id.

        Raises:
            UnknownIdError: the id was never seen.
        """
        try:
            number = self._number_of.get(self._canonical(an_id))
        except TypeError:
            raise DataError(f"{self.kind} id {an_id!r} is not hashable; pass one id") from None
        if number is None:
            raise UnknownIdError(self._unknown(an_id))
        return number

    def number_or_zero(self, an_id: Hashable) -> int:
        """Return the number of an id, or 0 for an unknown id. An unknown id must have the type of a known id, so that
        it may be a new id.

        Raises:
            UnknownIdError: no known id has the type of this id, such as "7" among whole numbers. Such an id is a
                mistake, not a new id.
            DataError: the id is missing, or could not be written to a file.
        """
        if an_id in self or not self.is_alike(an_id):
            return self.number(an_id)
        self.check_new([an_id])
        return 0

    def check_new(self, ids: list[Any]) -> None:
        """Check that unknown ids may become new ids.

        Raises:
            UnknownIdError: an id has a type that no known id has.
            DataError: an id is missing, or could not be written to a file.
        """
        for an_id in ids:
            self.check_alike(an_id)
        check_savable(ids, f"{self.kind}_ids")

    def require(self, column: Any) -> np.ndarray:
        """Return the numbers of many ids, all of which must be known.

        Raises:
            UnknownIdError: an id was never seen. The message names the first such id.
        """
        numbers = self.encode(column)
        unknown = np.flatnonzero(numbers == 0)
        if len(unknown):
            raise UnknownIdError(self._unknown(id_column(column, f"{self.kind}_ids")[unknown[0]]))
        return numbers

    @cached_property
    def _types(self) -> set[str]:
        return {"int"} if self._fitted.dtype == np.int64 and len(self._fitted) else distinct_types(self._fitted)

    def is_alike(self, an_id: Any) -> bool:
        """Return whether a known id has the type of `an_id`. If none has, as for "7" among whole numbers, `an_id` is a
        mistake, not a new id."""
        return type(self._canonical(an_id)).__name__ in self._types

    def check_alike(self, an_id: Any) -> None:
        """Check that some known id has the type of `an_id`.

        Raises:
            UnknownIdError: no known id has this type, such as "7" among whole numbers.
        """
        if not self.is_alike(an_id):
            raise UnknownIdError(self._unknown(an_id))

    def _unknown(self, an_id: Any) -> str:
        shown = canonical_id(an_id)
        message = f"{self.kind} {shown!r} is not among the {len(self):,} fitted {self.kind}s"
        if not self.is_alike(an_id):
            message += f" (fitted ids are of type {'/'.join(sorted(self._types))}, this one is {type(shown).__name__})"
        if self.kind == "user":
            return message + "; pass history=[item ids] to recommend for a new user"
        return message + "; fit again with events of it, or leave it out"

    def decode(self, numbers: Any) -> list[Any]:
        """Return the ids of numbers in 1..V, as Python objects."""
        return self.ids[np.asarray(numbers, dtype=np.int64) - 1].tolist()
