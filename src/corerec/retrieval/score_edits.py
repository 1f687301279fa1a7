"""Score edits: the exclusions and boosts that change single scores before the top-k. B states, V items, P cells.

A cell is one score of a (B, V + 1) matrix: a state and an item number. In a block of scores the same cell has another
row and column, counted from the block's first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from corerec.data.sequences import SequenceStore
from corerec.retrieval.topk import EXCLUDED


@dataclass(frozen=True)
class Cells:
    """Some cells of B rows of scores: a row and a column for each, int64 (P,), by rising row."""

    rows: np.ndarray
    columns: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def between_rows(self, first: int, end: int) -> Self:
        """The cells of the rows `first` to `end`, counted from `first`."""
        here = slice(*np.searchsorted(self.rows, (first, end)))
        return self._take(here, rows=self.rows[here] - first)

    def index(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rows and columns as tensors, to index a block of scores with."""
        return torch.from_numpy(self.rows).to(device), torch.from_numpy(self.columns).to(device)

    def _take(self, at: Any, **moved: np.ndarray) -> Self:
        """The cells at some places, with other rows or columns where given."""
        return type(self)(**({name: values[at] for name, values in vars(self).items()} | moved))


@dataclass(frozen=True)
class Exclusions(Cells):
    """Items that may not be ranked. A cell may occur twice."""

    @classmethod
    def of(cls, items: SequenceStore) -> Exclusions:
        """B rows of item numbers, such as each user's history."""
        return cls(np.repeat(np.arange(len(items)), items.lengths), items.items.astype(np.int64))

    def apply_(self, block: Tensor, value: float = EXCLUDED) -> None:
        """Write `value` into the cells of a block of scores, in place."""
        if len(self):
            block[self.index(block.device)] = value

    def select(self, rows: np.ndarray) -> Exclusions:
        """The cells of some rows, given by rising number and counted from 0 in the result."""
        at, found = look_up(rows, self.rows)
        return self._take(found, rows=at[found])

    def within(self, numbers: np.ndarray) -> Exclusions:
        """The cells of some item numbers, given in rising order; a column becomes the number's place among these."""
        at, found = look_up(numbers, self.columns)
        return self._take(found, columns=at[found])

    def within_groups(self, groups: np.ndarray, size: int) -> Exclusions:
        """The cells in some groups of `size` neighbouring columns, as cells of these groups' scores, (B, c size).

        Args:
            groups: int64 (B, c), rising in each row; group g has the columns from g size on.
        """
        keys = (np.arange(len(groups))[:, None] << 32 | groups).ravel()
        at, found = look_up(keys, self.rows << 32 | self.columns // size)
        columns = at[found] % groups.shape[1] * size + self.columns[found] % size
        return self._take(found, columns=columns)

    def by_column(self) -> Exclusions:
        """The same cells by rising column, as `between_columns` needs them."""
        return self._take(np.argsort(self.columns, kind="stable"))

    def between_columns(self, first: int, end: int) -> Exclusions:
        """The cells of the columns `first` to `end`, counted from `first`; only of cells by rising column."""
        here = slice(*np.searchsorted(self.columns, (first, end)))
        return self._take(here, columns=self.columns[here] - first)


@dataclass(frozen=True)
class Boosts(Cells):
    """What is added to the probabilities of some items. No cell occurs twice.

    Attributes:
        amounts: float32 (P,): the logarithm of what is added to the exponentiated score. At first it is a share of the
            sum of all exponentiated scores; `beside` turns it into the amount itself.
    """

    amounts: np.ndarray

    def beside(self, log_normalizers: Tensor) -> Boosts:
        """Shares -> amounts, given the logarithm of each state's sum, float32 (B,)."""
        return Boosts(self.rows, self.columns, self.amounts + log_normalizers.cpu().numpy()[self.rows])

    def raise_(self, block: Tensor) -> None:
        """Add the amounts to a block of scores, float32 (B, block), in place."""
        at = self.index(block.device)
        block[at] = torch.logaddexp(block[at], torch.from_numpy(self.amounts).to(block.device))

    def without(self, exclusions: Exclusions) -> Boosts:
        """The boosts of items that are not excluded."""
        keys, excluded = (cells.rows << 32 | cells.columns for cells in (self, exclusions))
        return self._take(~look_up(np.sort(excluded), keys)[1])

    def among(self, numbers: np.ndarray) -> Boosts:
        """The boosts of some item numbers, given in rising order."""
        return self._take(look_up(numbers, self.columns)[1])


NO_BOOSTS = Boosts(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


@dataclass(frozen=True)
class ScoreEdits:
    """What changes the scores of B states before their items are ranked. An excluded item stays out, boosted or not."""

    exclusions: Exclusions
    boosts: Boosts

    @classmethod
    def of(cls, excluded: SequenceStore, boosts: Boosts = NO_BOOSTS) -> ScoreEdits:
        """Args:
        excluded: B rows of item numbers.
        boosts: as shares of each state's sum.
        """
        return cls(Exclusions.of(excluded), boosts)

    def rows(self, first: int, end: int) -> ScoreEdits:
        """The edits of the states `first` to `end`."""
        return ScoreEdits(self.exclusions.between_rows(first, end), self.boosts.between_rows(first, end))

    def apply_(self, block: Tensor, log_normalizers: Tensor | None) -> None:
        """Edit the scores of all items, float32 (B, V + 1), in place.

        Args:
            log_normalizers: float32 (B,); only boosts need them.
        """
        if len(self.boosts):
            assert log_normalizers is not None
            self.boosts.beside(log_normalizers).raise_(block)
        self.exclusions.apply_(block)

    def all_cells(self) -> Exclusions:
        """The cells of exclusions and boosts together: what is left ranks by its plain score."""
        if not len(self.boosts):
            return self.exclusions
        rows = np.concatenate([self.exclusions.rows, self.boosts.rows])
        columns = np.concatenate([self.exclusions.columns, self.boosts.columns])
        order = np.argsort(rows, kind="stable")
        return Exclusions(rows[order], columns[order])


def look_up(rising: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each wanted number stands among rising ones, and whether it does, bool.

    >>> look_up(np.array([2, 5]), np.array([5, 4, 2]))
    (array([1, 1, 0]), array([ True, False,  True]))
    """
    at = np.searchsorted(rising, wanted)
    if not len(rising):
        return at, np.zeros(len(at), bool)
    return at, rising[np.minimum(at, len(rising) - 1)] == wanted
