"""Score edits: exclusions, shifts and boosts that change single scores before the top-k.

In shapes, B is the number of states, V the number of items, and P the number of cells that an edit changes. A state is
the network's output vector for one history. A cell is one score of a (B, V + 1) matrix: a state and an item number. In
a block of scores, rows and columns are counted from the first row and column of the block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from corerec.data.sequences import SequenceStore
from corerec.retrieval.topk import EXCLUDED


@dataclass(frozen=True)
class Cells:
    """Some cells of B rows of scores: the row and the column of each, int64 (P,), in rising order of rows."""

    rows: np.ndarray
    columns: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def between_rows(self, first: int, end: int) -> Self:
        """Return the cells of the rows `first` to `end`, with rows counted from `first`."""
        here = slice(*np.searchsorted(self.rows, (first, end)))
        return self._take(here, rows=self.rows[here] - first)

    def by_column(self) -> Self:
        """Return the same cells in rising order of columns, as `between_columns` needs them."""
        return self._take(np.argsort(self.columns, kind="stable"))

    def between_columns(self, first: int, end: int) -> Self:
        """Return the cells of the columns `first` to `end`, counted from `first`. The cells must be `by_column`."""
        here = slice(*np.searchsorted(self.columns, (first, end)))
        return self._take(here, columns=self.columns[here] - first)

    def without(self, others: Cells) -> Self:
        """Return the cells that are not among `others`."""
        return self._take(~look_up(np.sort(others.keys), self.keys)[1])

    def among(self, numbers: np.ndarray) -> Self:
        """Return the cells of the given item numbers, which must be rising."""
        return self._take(look_up(numbers, self.columns)[1])

    @property
    def keys(self) -> np.ndarray:
        """Return one key for each cell, int64 (P,). Sorting the cells by their keys sorts them by row, then by
        column."""
        return self.rows << 32 | self.columns

    def index(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return rows and columns as tensors, to index a block of scores with."""
        return torch.from_numpy(self.rows).to(device), torch.from_numpy(self.columns).to(device)

    def _take(self, at: Any, **moved: np.ndarray) -> Self:
        """Return the cells at the places `at`, with the rows or columns that `moved` replaces."""
        return type(self)(**({name: values[at] for name, values in vars(self).items()} | moved))


@dataclass(frozen=True)
class Exclusions(Cells):
    """Cells of items that may not be ranked. A cell may occur twice."""

    @classmethod
    def of(cls, items: SequenceStore) -> Exclusions:
        """Build the exclusions from B rows of item numbers, such as each user's history."""
        return cls(np.repeat(np.arange(len(items)), items.lengths), items.items.astype(np.int64))

    def apply_(self, block: Tensor, value: float = EXCLUDED) -> None:
        """Write `value` into the cells of a block of scores, in place."""
        if len(self):
            block[self.index(block.device)] = value

    def select(self, rows: np.ndarray) -> Exclusions:
        """Return the cells of the given rows, which must be rising. The result counts rows from 0."""
        at, found = look_up(rows, self.rows)
        return self._take(found, rows=at[found])

    def within(self, numbers: np.ndarray) -> Exclusions:
        """Return the cells of the given item numbers, which must be rising. Columns then count places in `numbers`."""
        at, found = look_up(numbers, self.columns)
        return self._take(found, columns=at[found])

    def within_groups(self, groups: np.ndarray, size: int) -> Exclusions:
        """Return the cells that lie in some groups of `size` neighbouring columns. Columns of the result count within
        the scores of these groups.

        Args:
            groups: int64 (B, c), rising in each row. Group g has the columns from g * size on. The result's scores are
                (B, c * size).
        """
        keys = (np.arange(len(groups))[:, None] << 32 | groups).ravel()
        at, found = look_up(keys, self.rows << 32 | self.columns // size)
        columns = at[found] % groups.shape[1] * size + self.columns[found] % size
        return self._take(found, columns=columns)


@dataclass(frozen=True)
class Shifts(Cells):
    """Amounts to add to the scores of some cells before the scores are summed.

    A cell is one item in one history. A cell that is listed twice gets its amount once.

    Attributes:
        amounts: float32 (P,), equal for equal cells.
    """

    amounts: np.ndarray

    @classmethod
    def of(cls, items: SequenceStore, amount: float) -> Shifts:
        """Shift all items of each row, such as a user's history, by one amount. Number 0 is not an item."""
        if amount == 0:
            return NO_SHIFTS
        cells = Exclusions.of(items)
        if len(cells) and cells.columns.min() < 1:
            cells = cells._take(cells.columns > 0)
        return cls(cells.rows, cells.columns, np.full(len(cells), amount, np.float32))

    def add_(self, block: Tensor) -> None:
        """Add the amounts to a block of scores, float32 (B, block), in place."""
        if len(self):
            at = self.index(block.device)
            block[at] = block[at] + torch.from_numpy(self.amounts).to(block.device)


NO_SHIFTS = Shifts(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


@dataclass(frozen=True)
class Boosts(Cells):
    """Amounts to add to the probabilities of some items. Each cell occurs at most once.

    Attributes:
        amounts: float32 (P,), the logarithm of the amount to add to an exponentiated score. At first, the amount is a
            share of the sum of all exponentiated scores. `beside` converts the share to the amount itself.
    """

    amounts: np.ndarray

    def beside(self, log_normalizers: Tensor) -> Boosts:
        """Convert shares to amounts, given the logarithm of each state's sum of exponentiated scores, float32 (B,)."""
        return Boosts(self.rows, self.columns, self.amounts + log_normalizers.cpu().numpy()[self.rows])

    def raise_(self, block: Tensor) -> None:
        """Add the amounts to a block of scores, float32 (B, block), in place."""
        at = self.index(block.device)
        block[at] = torch.logaddexp(block[at], torch.from_numpy(self.amounts).to(block.device))


NO_BOOSTS = Boosts(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


@dataclass(frozen=True)
class ScoreEdits:
    """The changes to the scores of B states before their items are ranked.

    Shifts are applied first, so the sums for probabilities and boosts are sums over shifted scores. Exclusions are
    applied last: an excluded item is never ranked, even if it is boosted, but its score is part of the sums.
    """

    exclusions: Exclusions
    boosts: Boosts = NO_BOOSTS
    shifts: Shifts = NO_SHIFTS

    @classmethod
    def of(cls, excluded: SequenceStore, boosts: Boosts = NO_BOOSTS, shifts: Shifts = NO_SHIFTS) -> ScoreEdits:
        """Build the edits of B states.

        Args:
            excluded: B rows of item numbers.
            boosts: the boosts, as shares of each state's sum of exponentiated scores.
        """
        return cls(Exclusions.of(excluded), boosts, shifts)

    def rows(self, first: int, end: int) -> ScoreEdits:
        """Return the edits of the states `first` to `end`."""
        return ScoreEdits(
            self.exclusions.between_rows(first, end),
            self.boosts.between_rows(first, end),
            self.shifts.between_rows(first, end),
        )

    def apply_(self, block: Tensor, log_normalizers: Tensor | None) -> None:
        """Boost and exclude items in place, in the scores of all items, float32 (B, V + 1), which are already shifted.

        Args:
            log_normalizers: float32 (B,). Only boosts need them.
        """
        if len(self.boosts):
            assert log_normalizers is not None
            self.boosts.beside(log_normalizers).raise_(block)
        self.exclusions.apply_(block)

    def all_cells(self) -> Exclusions:
        """Return the cells of all edits together. Items outside these cells are ranked by their unedited scores."""
        if not len(self.boosts) and not len(self.shifts):
            return self.exclusions
        edits = self.exclusions, self.boosts, self.shifts
        rows, columns = (np.concatenate(parts) for parts in zip(*((e.rows, e.columns) for e in edits), strict=True))
        order = np.argsort(rows, kind="stable")
        return Exclusions(rows[order], columns[order])

    def competing(
        self,
        plain: Callable[[np.ndarray, np.ndarray], np.ndarray],
        log_normalizers: Tensor | None,
        allowed: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the shifted and boosted items that may be ranked, and their edited scores.

        Args:
            plain: a function from int64 (P,) rows and item numbers to their scores, float32 (P,).
            log_normalizers: float32 (B,). Only boosts need them.
            allowed: the only item numbers that may be ranked, rising; None means all.
        Returns:
            rows and item numbers, int64 (P,), by rising row, then number; and scores, float32 (P,).
        """
        boosts, shifts = self.boosts.without(self.exclusions), self.shifts.without(self.exclusions)
        if allowed is not None:
            boosts, shifts = boosts.among(allowed), shifts.among(allowed)
        keys = np.unique(np.concatenate([boosts.keys, shifts.keys]))
        rows, columns = keys >> 32, keys & (1 << 32) - 1
        scores, shifted = plain(rows, columns), np.zeros(len(keys), np.float32)
        shifted[np.searchsorted(keys, shifts.keys)] = shifts.amounts
        scores += shifted
        if len(boosts):
            assert log_normalizers is not None
            at = np.searchsorted(keys, boosts.keys)
            scores[at] = np.logaddexp(scores[at], boosts.beside(log_normalizers).amounts)
        return rows, columns, scores


def look_up(rising: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the position of each wanted number among rising ones, and whether it occurs there, bool.

    >>> look_up(np.array([2, 5]), np.array([5, 4, 2]))
    (array([1, 1, 0]), array([ True, False,  True]))
    """
    at = np.searchsorted(rising, wanted)
    if not len(rising):
        return at, np.zeros(len(at), bool)
    return at, rising[np.minimum(at, len(rising) - 1)] == wanted
