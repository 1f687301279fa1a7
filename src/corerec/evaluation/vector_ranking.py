"""Rank targets one block of items at a time, so that memory does not depend on the size of the catalogue.

B histories, V items, D the width of a state, T targets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from corerec.data.sequences import SequenceStore
from corerec.evaluation.report import Seen
from corerec.evaluation.scorer import VectorScorer
from corerec.retrieval.blocks import block_width
from corerec.retrieval.item_index import log_sum
from corerec.retrieval.score_edits import Boosts, Shifts, look_up
from corerec.retrieval.topk import EXCLUDED, top_k

STATES_AT_ONCE = 2**9  # ranked together, so that an item's vector is read for many
ANSWERS_AT_ONCE = 2**9  # of rows with several answers: each is compared with a copy of its row's block


def rank_histories(
    scorer: VectorScorer,
    histories: SequenceStore,
    targets: SequenceStore,
    k: int,
    ranks: dict[Seen, np.ndarray],
    named_counts: np.ndarray,
) -> None:
    """Write the ranks of some questions' targets, and count the items that are recommended.

    Args:
        histories, targets: B rows each.
        k: the number of places whose items are counted as recommended. If the protocol "excluded" is among `ranks`,
            they are counted after exclusion.
        ranks: an int64 (T,) array for each protocol, to which the ranks are written. A target of number 0 gets an
            arbitrary rank.
        named_counts: int64 (V + 1,). The counts are added to it.
    """
    protocols: list[Seen] = sorted(ranks, reverse=True)  # "included" before "excluded"
    states, shifts, boosts = scorer.states(histories), scorer.shifts(histories), scorer.boosts(histories)
    for first in range(0, len(histories), STATES_AT_ONCE):
        rows = np.arange(first, min(first + STATES_AT_ONCE, len(histories)))
        asked = targets.select(rows)
        block = _Blocks(
            scorer, states[first : first + STATES_AT_ONCE], shifts.between_rows(first, first + STATES_AT_ONCE)
        )
        some = None if boosts is None else boosts.between_rows(first, first + STATES_AT_ONCE)
        lower, numbers = _count_lower(block, some, histories.select(rows), asked, k, protocols)
        for protocol, counts in lower.items():
            here = slice(targets.offsets[first], targets.offsets[rows[-1] + 1])
            ranks[protocol][here] = scorer.num_items + 1 - counts.cpu().numpy()
        named_counts += np.bincount(numbers.cpu().numpy().ravel(), minlength=len(named_counts))


class _Blocks:
    """The scores of all items, shifted but not boosted, in blocks of items. The score of padding is -inf."""

    def __init__(self, scorer: VectorScorer, states: Tensor, shifts: Shifts) -> None:
        self.vectors, self.biases, self.states = scorer.vectors, scorer.biases, states
        self.shifts = shifts.by_column()
        self.columns = scorer.num_items + 1
        self.width = block_width(len(states), self.columns, states.device)
        self.starts = range(0, self.columns, self.width)
        self._buffer = states.new_empty(len(states) * self.width)

    def score(self, first: int) -> Tensor:
        """Score the items from `first` on, float32 (B, block). The result overwrites the previous block."""
        end = min(first + self.width, self.columns)
        block = self._buffer[: len(self.states) * (end - first)].view(len(self.states), end - first)
        torch.addmm(self.biases[first:end], self.states, self.vectors[first:end].T, out=block)
        if first == 0:
            block[:, 0] = EXCLUDED
        self.shifts.between_columns(first, end).add_(block)
        return block


class _Cells(NamedTuple):
    """Pairs of a row and an item, int64 (cells,) each, in rising order of items, so that the cells of a block are found
    fast.

    `order` is each cell's place in the order in which the cells were given.
    """

    rows: np.ndarray
    columns: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, columns: np.ndarray) -> _Cells:
        order = np.argsort(columns, kind="stable")
        return cls(rows[order], columns[order].astype(np.int64), order)

    def within(self, first: int, block: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Return the cells of a block of items from `first` on: their index in the block, and their places in the given
        order."""
        start, end = np.searchsorted(self.columns, (first, first + block.shape[1]))
        rows, columns = torch.from_numpy(self.rows[start:end]), torch.from_numpy(self.columns[start:end] - first)
        at = rows.to(block.device), columns.to(block.device)
        return at, torch.from_numpy(self.order[start:end]).to(block.device)


def _count_lower(
    blocks: _Blocks,
    boosts: Boosts | None,
    histories: SequenceStore,
    targets: SequenceStore,
    k: int,
    protocols: list[Seen],
) -> tuple[dict[Seen, Tensor], Tensor]:
    """Count the items that score lower than each target, int64 (T,), where padding counts, too. Also find the k best
    items, int64 (B, k).

    There are two passes over the items. The first pass computes the scores of the targets. It uses the same matrix
    products as the second pass, so that equal scores stay equal. The first pass also computes the sums of exponentiated
    scores, because boosts are given as shares of them.
    """
    target_rows = np.repeat(np.arange(len(targets)), targets.lengths)
    answers = _Cells.of(target_rows, targets.items)
    seen = _Cells.of(np.repeat(np.arange(len(histories)), histories.lengths), histories.items)
    device = blocks.states.device
    own = blocks.states.new_empty(targets.num_events)
    sums = blocks.states.new_empty(len(histories), 0 if boosts is None else len(blocks.starts))
    block = own
    for at, first in enumerate(blocks.starts):
        block = blocks.score(first)
        cells, which = answers.within(first, block)
        own[which] = block[cells]
        if boosts is not None:
            sums[:, at] = log_sum(block)
    raised, amounts = None, own
    if boosts is not None:
        raised = _Cells.of(boosts.rows, boosts.columns)
        amounts = torch.from_numpy(boosts.amounts).to(device)
        amounts = amounts + sums.logsumexp(1)[torch.from_numpy(boosts.rows).to(device)]
        found, which = _common(boosts, target_rows, targets.items, blocks.columns)
        found, which = torch.from_numpy(found).to(device), torch.from_numpy(which).to(device)
        own[found] = torch.logaddexp(own[found], amounts[which])

    rows_of = torch.from_numpy(target_rows).to(device)
    lower: dict[Seen, Tensor] = {name: torch.zeros(len(own), dtype=torch.int64, device=device) for name in protocols}
    best = _Best(blocks.states, k)
    for first in blocks.starts:
        if len(blocks.starts) > 1:  # else the only block still holds the scores of the first pass
            block = blocks.score(first)
        if raised is not None:
            cells, which = raised.within(first, block)
            block[cells] = torch.logaddexp(block[cells], amounts[which])
        own_cells, own_which = answers.within(first, block)
        for protocol in protocols:
            if protocol == "excluded":
                block[seen.within(first, block)[0]] = EXCLUDED
            if protocol == protocols[-1]:
                best.add(first, block)
            block[own_cells] = own[own_which]  # all answers of a row compete, also those of its history
            lower[protocol] += _row_counts(block, own, rows_of)
    return lower, best.numbers


def _row_counts(block: Tensor, own: Tensor, rows: Tensor) -> Tensor:
    """Count, for each target, the scores of its row that are below its own score, int64 (T,)."""
    if len(own) == len(block):  # one answer a row
        return (block < own[:, None]).sum(1)
    parts = zip(rows.split(ANSWERS_AT_ONCE), own.split(ANSWERS_AT_ONCE), strict=True)
    return torch.cat([(block[here] < bar[:, None]).sum(1) for here, bar in parts])


def _common(boosts: Boosts, rows: np.ndarray, items: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which (row, item) cells are boosted, and the index of each such cell's boost; int64 each."""
    keys = boosts.rows * columns + boosts.columns
    order = np.argsort(keys)
    at, met = look_up(keys[order], rows * columns + items)
    return np.flatnonzero(met), order[at[met]]


class _Best:
    """Collects the best k items, int64 (B, k), from one block after another, in rising order of item numbers. 0 means
    no item."""

    def __init__(self, states: Tensor, k: int) -> None:
        self.k = k
        self.numbers = torch.zeros(len(states), k, dtype=torch.int64, device=states.device)
        self._scores = states.new_full((len(states), k), EXCLUDED)

    def add(self, first: int, block: Tensor) -> None:
        """Add the scores of a block of items from `first` on."""
        columns, scores = top_k(block, self.k)
        scores = torch.cat([self._scores, scores], 1)  # of equal scores the lower number comes first
        numbers = torch.cat([self.numbers, columns + first], 1)
        at, self._scores = top_k(scores, self.k)
        self.numbers = numbers.gather(1, at).masked_fill_(self._scores == EXCLUDED, 0)
