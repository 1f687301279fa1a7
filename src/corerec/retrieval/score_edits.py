"""Single scores picked out of many: of items left out, and of items that gain. B states.

Each pair of a row and a column is a state and an item number, or the place of these in a block of scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corerec.data.sequences import SequenceStore


@dataclass(frozen=True)
class Exclusions:
    """Items that may not be named, by rising column, so that a block of columns finds its own: int64 (events,) each."""

    rows: np.ndarray
    columns: np.ndarray

    @classmethod
    def of(cls, items: SequenceStore) -> Exclusions:
        order = np.argsort(items.items, kind="stable")
        rows = np.repeat(np.arange(len(items)), items.lengths)
        return cls(rows[order], items.items[order].astype(np.int64))

    def within(self, rising: np.ndarray) -> Exclusions:
        """Those among some item numbers, as places among these."""
        at, met = look_up(rising, self.columns)
        return Exclusions(self.rows[met], at[met])

    def exclude_(self, block: Tensor, first: int, value: float) -> None:
        """Write `value` where an item may not be named, into the scores of the columns from `first` on."""
        start, end = np.searchsorted(self.columns, (first, first + block.shape[1]))
        if start < end:
            rows, columns = torch.from_numpy(self.rows[start:end]), torch.from_numpy(self.columns[start:end] - first)
            block[rows.to(block.device), columns.to(block.device)] = value


@dataclass(frozen=True)
class Boosts:
    """What the probabilities of some items gain, of B states: by rising row, no pair of row and column twice.

    Attributes:
        rows, columns: int64 (P,): the state; and the item number, or its place in a block.
        amounts: float32 (P,): the logarithm of what an exponentiated score boosts; of its share in the sum of all
            exponentiated scores at first, itself once that sum is known (`beside`).
    """

    rows: np.ndarray
    columns: np.ndarray
    amounts: np.ndarray

    def beside(self, log_normalizers: Tensor) -> Boosts:
        """Shares -> amounts, given the logarithms of the sums, float32 (B,)."""
        return Boosts(self.rows, self.columns, self.amounts + log_normalizers.cpu().numpy()[self.rows])

    def raise_(self, block: Tensor) -> None:
        """Raise a block of scores, float32 (B, block), in place."""
        at = torch.from_numpy(self.rows).to(block.device), torch.from_numpy(self.columns).to(block.device)
        block[at] = torch.logaddexp(block[at], torch.from_numpy(self.amounts).to(block.device))

    def raise_groups_(self, bounds: Tensor, size: int) -> None:
        """Raise what bounds the scores of groups of `size` columns, float32 (B, G), to bound the raised ones."""
        at = torch.from_numpy(self.rows * bounds.shape[1] + self.columns // size).to(bounds.device)
        raised = torch.logaddexp(bounds.view(-1)[at], torch.from_numpy(self.amounts).to(bounds.device))
        bounds.view(-1).scatter_reduce_(0, at, raised, "amax")

    @property
    def most(self) -> int:
        """Pairs of the row that has the most."""
        return int(np.bincount(self.rows, minlength=1).max())

    def of_rows(self, first: int, end: int) -> Boosts:
        """Those of the states `first` to `end`, counted from 0 now."""
        here = slice(*np.searchsorted(self.rows, (first, end)))
        return Boosts(self.rows[here] - first, self.columns[here], self.amounts[here])

    def select(self, rows: np.ndarray) -> Boosts:
        """Those of some states, by rising number, counted from 0 now."""
        at, met = look_up(rows, self.rows)
        return Boosts(at[met], self.columns[met], self.amounts[met])

    def within(self, rising: np.ndarray) -> Boosts:
        """Those of some item numbers, as places among these."""
        at, met = look_up(rising, self.columns)
        return Boosts(self.rows[met], at[met], self.amounts[met])

    def by_column(self) -> Boosts:
        """The same by rising column, as `of_columns` wants them."""
        order = np.argsort(self.columns, kind="stable")
        return Boosts(self.rows[order], self.columns[order], self.amounts[order])

    def of_columns(self, first: int, end: int) -> Boosts:
        """Those in the columns `first` to `end`, counted from 0 now."""
        here = slice(*np.searchsorted(self.columns, (first, end)))
        return Boosts(self.rows[here], self.columns[here] - first, self.amounts[here])


def look_up(rising: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each wanted number stands among rising ones, and whether it does."""
    at = np.searchsorted(rising, wanted)
    if not len(rising):
        return at, np.zeros(len(at), bool)
    return at, rising[np.minimum(at, len(rising) - 1)] == wanted
