"""Any hashable external id <-> number 1..V. Number 0 is padding and V+1 is the mask, so neither is ever an id's."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from corerec.data.columns import PLAIN, id_column
from corerec.errors import DataError, UnknownIdError


def _as_python(an_id: Any) -> Any:
    return an_id.item() if isinstance(an_id, np.generic) else an_id


class Vocabulary:
    """The ids of one kind (users, or items) in the order of their numbers 1..V.

    Ids come back as the Python type they came in: int for any integer column, str for text, whatever object
    otherwise. Ids that Python calls equal (1, 1.0 and True) are one id.

    >>> items = Vocabulary(["b", "a"])
    >>> items.encode(["a", "b", "?"])
    array([2, 1, 0])
    >>> items.decode([2, 1])
    ['a', 'b']
    """

    def __init__(self, ids: Any, kind: str = "item") -> None:
        """Args:
            ids: distinct ids; the first gets number 1.
            kind: "item" or "user": the word for them in error messages.
        Raises:
            DataError: an id stands twice.
        """
        self.kind = kind
        self._fitted = id_column(ids, f"{kind}_ids")
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
            the vocabulary, and the column's numbers, int64 (rows,).
        Raises:
            DataError: see `id_column`.
        """
        ids = id_column(column, f"{kind}_ids")
        codes, distinct = pd.factorize(ids)
        return cls(distinct, kind), codes.astype(np.int64) + 1

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

    def __contains__(self, an_id: Hashable) -> bool:
        try:
            return an_id in self._number_of
        except TypeError:  # not hashable
            return False

    @property
    def _number_of(self) -> dict[Any, int]:
        numbers = self.__dict__.get("_numbers")
        if numbers is None:
            # setdefault is atomic: threads that build this side by side end up with one dictionary, which `add` grows.
            ids = self.ids.tolist()
            numbers = self.__dict__.setdefault("_numbers", dict(zip(ids, range(1, len(ids) + 1), strict=True)))
        return numbers

    def add(self, an_id: Hashable) -> int:
        """The number of an id, which gets the next one if it is new. One thread at a time; others may read meanwhile.

        Raises:
            DataError: the id is missing (None, NaN, NaT) or not hashable.
            UnknownIdError: no id is of its type, such as "7" among whole numbers: a mistake rather than a new id.
        """
        numbers = self._number_of
        number = self.number_or_zero(an_id)
        if number == 0:
            (an_id,) = id_column([an_id], f"{self.kind}_ids").tolist()
            self._added.append(an_id)
            number = numbers[an_id] = len(self)
        return number

    def copy(self) -> Vocabulary:
        """A vocabulary to `add` to, which leaves this one as it is; the ids so far are shared."""
        twin = copy.copy(self)
        twin._added = list(self._added)
        twin.__dict__.pop("_numbers", None)
        return twin

    def encode(self, column: Any) -> np.ndarray:
        """Numbers of many ids at once, int64 (rows,); 0 where an id is unknown."""
        if isinstance(column, list | tuple) and PLAIN.issuperset(map(type, column)):
            number_of = self._number_of
            return np.array([number_of.get(an_id, 0) for an_id in column], dtype=np.int64)
        ids = id_column(column, f"{self.kind}_ids")
        if len(ids) == 0:
            return np.zeros(0, dtype=np.int64)
        numbers = self._index.get_indexer(pd.Index(ids)).astype(np.int64) + 1
        if self._added:
            number_of = self._number_of
            unknown = np.flatnonzero(numbers == 0)
            numbers[unknown] = [number_of.get(an_id, 0) for an_id in ids[unknown].tolist()]
        return numbers

    def number(self, an_id: Hashable) -> int:
        """The number of one id.

        Raises:
            UnknownIdError: the id was never seen.
        """
        try:
            number = self._number_of.get(an_id)
        except TypeError:
            raise DataError(f"{self.kind} id {an_id!r} is not hashable; pass one id") from None
        if number is None:
            raise UnknownIdError(self._unknown(an_id))
        return number

    def number_or_zero(self, an_id: Hashable) -> int:
        """As `number`, but 0 for an unknown id that may be a new one: one of a type that some known id has.

        Raises:
            UnknownIdError: no id is of this type, such as "7" among whole numbers: a mistake rather than a new id.
        """
        return 0 if an_id not in self and self.is_alike(an_id) else self.number(an_id)

    def require(self, column: Any) -> np.ndarray:
        """As `encode`, but every id has to be known.

        Raises:
            UnknownIdError: an id was never seen; the first is named.
        """
        numbers = self.encode(column)
        unknown = np.flatnonzero(numbers == 0)
        if len(unknown):
            raise UnknownIdError(self._unknown(id_column(column, f"{self.kind}_ids")[unknown[0]]))
        return numbers

    @cached_property
    def _types(self) -> set[str]:
        return {type(_as_python(an_id)).__name__ for an_id in self._fitted.tolist()}

    def is_alike(self, an_id: Any) -> bool:
        """Whether some id is of this one's type: "7" among whole numbers is a mistake rather than a new item."""
        return type(_as_python(an_id)).__name__ in self._types

    def _unknown(self, an_id: Any) -> str:
        shown = _as_python(an_id)
        message = f"{self.kind} {shown!r} is not among the {len(self):,} fitted {self.kind}s"
        if not self.is_alike(an_id):
            message += f" (fitted ids are of type {'/'.join(sorted(self._types))}, this one is {type(shown).__name__})"
        if self.kind == "user":
            return message + "; pass history=[item ids] to recommend for a new user"
        return message + "; fit again with events of it, or leave it out"

    def decode(self, numbers: Any) -> list[Any]:
        """The ids behind numbers in 1..V, as Python objects."""
        return self.ids[np.asarray(numbers, dtype=np.int64) - 1].tolist()
