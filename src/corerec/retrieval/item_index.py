"""Exact top-k over item vectors, for many states at once, with one block of scores in memory at a time.

B states, D their width, V items, k items wanted; G groups of GROUP neighbouring item numbers.

A score is state @ vector + bias. There are three exact ways to find the items with the highest scores:

    one block         a small catalogue: every item is scored and ranked at once
    block by block    every item is scored, a block of items at a time, and the blocks' best are ranked
    by bounds         a large catalogue, where the processor is fast at int8: a fifth of the time

The bounds come from an int8 copy of the table (the quantized table). Each bound limits the scores of a group of items.
The groups with the highest bounds are scored in float32. If every other group's bound is below the k-th best of these
scores, no item of those groups can be among the k best. Otherwise, all items are scored for this state, block by block.
This happens if many groups have nearly equal bounds.

Normalizers (the log of the sum of exponentiated scores) need every score. If they are asked for, a few states are
searched block by block. For many states, one pass computes the normalizers and another finds the items by bounds.

Items with edited scores (`score_edits.Boosts`, `Shifts`) are scored separately, and merged with the best of the others,
unless all scores fit in one block.

Answers are exact up to the rounding of float32: where the scores of two items differ by less than about
D 2**-23 |state| |vector|, either may come first.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from corerec.kernels import int8_is_fast
from corerec.retrieval import blocks
from corerec.retrieval.blocks import BlockTopK, block_width
from corerec.retrieval.int8_bounds import QuantizedTable
from corerec.retrieval.score_edits import NO_SHIFTS, Exclusions, ScoreEdits, Shifts
from corerec.retrieval.topk import EXCLUDED, top_k

LARGE_CATALOGUE = 2**17  # items from which bounds pay
STATES_BEFORE_BOUNDS = 8  # searched block by block first: the quantized table takes as long to compute as ten of them
FEWEST_STATES = 32  # searched together, so that an item's vector is read once for many
STATES_BY_BLOCKS = 128  # searched together block by block: a fifth faster than 32 of them
SMALL_K = 32  # up to which so many may be searched: the best of each block are kept
STATES_AT_ONCE = 256  # of a large catalogue: each holds a bound of every group
SPARE_GROUPS = 64  # scored beyond k: enough for most states to be exact
FLOATS_AT_ONCE = 2**20  # values of item vectors that are picked out of the table: 4 MB
LOG2_E = math.log2(math.e)


class TopItems(NamedTuple):
    """The best items of B states, best first.

    `numbers` is int64 (B, at most k), with 0 from the place on where a row has no item left. `scores` is float32 of the
    same shape. Scores minus `log_normalizers`, float32 (B,), are log-probabilities. `log_normalizers` is None if it was
    not computed.
    """

    numbers: Tensor
    scores: Tensor
    log_normalizers: Tensor | None


class ItemIndex:
    """Finds the items with the highest scores, where each item has a vector and a bias. The class is thread-safe.

    The vectors must not change while the index is in use, because the quantized table is computed from them only once.

    Attributes:
        vectors: float32 (V + 1, D); row i is item number i, row 0 is padding.
        biases: float32 (V + 1,).
    """

    def __init__(self, vectors: Tensor, biases: Tensor) -> None:
        """Build the index from the vectors and the biases that the class docstring describes."""
        self.num_items = len(vectors) - 1
        self.vectors, self.biases = vectors.detach(), biases.detach()
        self._quantized: QuantizedTable | None = None
        self._states_searched = 0
        self._deriving = threading.Lock()

    def __reduce__(self) -> tuple[type[ItemIndex], tuple[Tensor, Tensor]]:
        """Pickle only the vectors and the biases. The process that unpickles them computes its own quantized table."""
        return ItemIndex, (self.vectors, self.biases)

    def search(
        self,
        states: Tensor,
        k: int,
        edits: ScoreEdits,
        allowed: np.ndarray | None = None,
        *,
        with_normalizers: bool = False,
        log_normalizers: Tensor | None = None,
    ) -> TopItems:
        """Find the k best items of each state. Of equal scores, the lower number comes first.

        Args:
            states: float32 (B, D), finite, on the vectors' device.
            edits: the edits of the B states' scores.
            allowed: the only item numbers that may be ranked, int (candidates,); None means all.
            with_normalizers: whether to compute `log_normalizers`, too. Normalizers need the score of every item, which
                takes five times as long as the best items alone in a large catalogue.
            log_normalizers: float32 (B,), the normalizers of the shifted scores, if known. Boosts need the normalizers,
                so they are then computed if not given.
        """
        unknown = log_normalizers is None and (with_normalizers or len(edits.boosts) > 0)
        if allowed is not None:
            allowed = np.unique(allowed).astype(np.int64)  # rising: of equal scores the lower number comes first
        self._states_searched += len(states)
        bounds_pay = allowed is None and len(states) > 0 and self._bounds_pay(k)
        # The normalizers are of the whole catalogue, whatever is allowed. For many states a pass for them and one for
        # bounds take less time than to rank every item.
        if unknown and (allowed is not None or (bounds_pay and len(states) >= FEWEST_STATES)):
            log_normalizers, unknown = self.log_normalizers(states, edits.shifts), False
        by_bounds = bounds_pay and not unknown
        columns = self.num_items + 1 if allowed is None else len(allowed)
        at_once = STATES_AT_ONCE if by_bounds else states_at_once(k, columns, states.device)

        if len(states) <= at_once:
            return self._search_some(states, k, edits, allowed, unknown, log_normalizers, by_bounds)
        # Results go into tensors made once: small pieces kept between the large blocks would fragment the heap.
        numbers = torch.empty(len(states), min(k, columns), dtype=torch.int64, device=states.device)
        scores = states.new_empty(numbers.shape)
        sums = states.new_empty(len(states)) if log_normalizers is None else log_normalizers
        for first in range(0, len(states), at_once):
            rows, some = slice(first, first + at_once), edits.rows(first, first + at_once)
            known = None if log_normalizers is None else log_normalizers[rows]
            numbers[rows], scores[rows], found = self._search_some(
                states[rows], k, some, allowed, unknown, known, by_bounds
            )
            if unknown:
                assert found is not None
                sums[rows] = found
        return TopItems(numbers, scores, sums if unknown else log_normalizers)

    def log_normalizers(self, states: Tensor, shifts: Shifts = NO_SHIFTS) -> Tensor:
        """Return log(sum(exp(scores))) over the catalogue, float32 (B,), for states (B, D).

        A score minus its row's normalizer is a log-probability.

        Args:
            shifts: amounts to add to some of the scores first.
        """
        log_normalizers = states.new_empty(len(states))
        for first in range(0, len(states), STATES_AT_ONCE):
            part = states[first : first + STATES_AT_ONCE]
            sums = part.new_empty(len(part), self._num_blocks(len(part)))
            some = shifts.between_rows(first, first + len(part)).by_column()
            for at, (start, block) in enumerate(self._score_blocks(part)):
                some.between_columns(start, start + block.shape[1]).add_(block)
                sums[:, at] = log_sum(block)
            log_normalizers[first : first + len(part)] = sums.logsumexp(1)
        return log_normalizers

    def score_of(self, state: np.ndarray, number: int) -> np.float32:
        """Return the score of one item for one state, float32 (D,). It uses NumPy, which takes a microsecond, while
        torch takes several."""
        return self._host_vectors[number] @ state + self._host_biases[number]

    def scores_of(self, states: np.ndarray, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return the scores of single items, float32 (pairs,), for int64 (pairs,) rows of `states` and item numbers.

        It uses NumPy, which takes a third of torch's time for a few pairs.
        """
        scores = self._host_biases[numbers]
        pairs_at_once = max(1, FLOATS_AT_ONCE // states.shape[1])
        for first in range(0, len(rows), pairs_at_once):
            pairs = slice(first, first + pairs_at_once)
            scores[pairs] += np.einsum("pd,pd->p", self._host_vectors[numbers[pairs]], states[rows[pairs]])
        return scores

    def nearest(self, number: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k items whose vectors have the highest cosine with one item's vector, best first, without the item.

        The cosine with a vector of zeros is 0, and biases do not count. The first call computes the lengths of all
        vectors and keeps them, which takes 4 bytes for each item.

        Returns:
            item numbers, int64 (k,), and cosines, float32 (k,); fewer if the catalogue has fewer items.
        """
        direction = self.vectors[number] / self._lengths[number]
        cosines = torch.mv(self.vectors, direction).div_(self._lengths)[None]
        cosines[:, [0, number]] = EXCLUDED
        numbers, best = top_k(cosines, min(k, self.num_items - 1))
        return numbers[0].cpu().numpy(), best[0].cpu().numpy()

    @cached_property
    def _lengths(self) -> Tensor:
        return torch.linalg.vector_norm(self.vectors, dim=1).clamp_(min=1e-12)

    @cached_property
    def _host_vectors(self) -> np.ndarray:
        return self.vectors.cpu().numpy()

    @cached_property
    def _host_biases(self) -> np.ndarray:
        return self.biases.cpu().numpy()

    def _search_some(
        self,
        states: Tensor,
        k: int,
        edits: ScoreEdits,
        allowed: np.ndarray | None,
        with_normalizers: bool,
        log_normalizers: Tensor | None,
        by_bounds: bool,
    ) -> TopItems:
        """Search one block of states. If there are boosts, the normalizers are either given or computed."""
        if allowed is None and not by_bounds and self._num_blocks(len(states)) == 1:
            return self._in_one_block(states, k, edits, with_normalizers, log_normalizers)
        if by_bounds:
            numbers, scores = self._by_bounds(states, k, edits.all_cells())
        else:
            shifts = edits.shifts if with_normalizers else None
            numbers, scores, sums = self._block_by_block(states, k, edits.all_cells(), allowed, shifts)
            log_normalizers = sums if with_normalizers else log_normalizers
        if len(edits.boosts) or len(edits.shifts):
            numbers, scores = self._merge_edited(states, numbers, scores, edits, allowed, log_normalizers)
        return TopItems(numbers, scores, log_normalizers)

    # ----------------------------------------------------------------------------------------- every item scored

    def _in_one_block(
        self, states: Tensor, k: int, edits: ScoreEdits, with_normalizers: bool, log_normalizers: Tensor | None
    ) -> TopItems:
        """Find the best items of a small catalogue, whose scores fit in one block."""
        block = self._score_block(states)
        edits.shifts.add_(block)
        if with_normalizers:
            log_normalizers = log_sum(block)
        edits.apply_(block, log_normalizers)
        return TopItems(*top_k(block, k), log_normalizers)

    def _block_by_block(
        self,
        states: Tensor,
        k: int,
        excluded: Exclusions,
        allowed: np.ndarray | None = None,
        summed_with: Shifts | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Find the best items block by block. Return their numbers and scores, and the normalizers (empty if not asked
        for).

        Args:
            allowed: int64, rising item numbers. With it, the normalizers are sums over these items only.
            summed_with: the shifts to add to the scores that are summed for the normalizers. Shifted items are excluded
                from the ranking. With None, no normalizers are computed.
        """
        with_normalizers = summed_with is not None
        shifts = NO_SHIFTS if summed_with is None else summed_with.by_column()
        num_blocks = self._num_blocks(len(states), allowed)
        sums = states.new_empty(len(states), num_blocks if with_normalizers else 0)
        excluded = (excluded if allowed is None else excluded.within(allowed)).by_column()
        found = BlockTopK(states, min(k * num_blocks, self.num_items + 1 if allowed is None else len(allowed)))
        for at, (first, block) in enumerate(self._score_blocks(states, allowed)):
            if with_normalizers:
                shifts.between_columns(first, first + block.shape[1]).add_(block)
                sums[:, at] = log_sum(block)
            excluded.between_columns(first, first + block.shape[1]).apply_(block)
            columns, scores = top_k(block, k)
            found.add(columns.add_(first), scores)
        numbers, scores = found.best(k)
        if allowed is not None:
            numbers = torch.from_numpy(allowed).to(numbers.device)[numbers].masked_fill_(scores == EXCLUDED, 0)
        return numbers, scores, sums.logsumexp(1)

    def _score_block(self, states: Tensor, first: int = 0, end: int | None = None, out: Tensor | None = None) -> Tensor:
        """Score the items first .. end - 1: float32 (B, end - first). The score of padding is -inf."""
        block = torch.addmm(self.biases[first:end], states, self.vectors[first:end].T, out=out)
        if first == 0:
            block[:, 0] = EXCLUDED
        return block

    def _score_blocks(self, states: Tensor, allowed: np.ndarray | None = None) -> Iterator[tuple[int, Tensor]]:
        """Score all items, or the allowed ones, a block at a time.

        Each result is a block's first column and its scores, float32 (B, block). Each block overwrites the previous
        block.
        """
        columns, width = self._columns_and_width(len(states), allowed)
        buffer = states.new_empty(len(states) * width)
        for first in range(0, columns, width):
            end = min(first + width, columns)
            out = buffer[: len(states) * (end - first)].view(len(states), end - first)
            if allowed is None:
                yield first, self._score_block(states, first, end, out)
            else:
                only = torch.from_numpy(allowed[first:end]).to(states.device)
                biases, vectors = self.biases.index_select(0, only), self.vectors.index_select(0, only)
                yield first, torch.addmm(biases, states, vectors.T, out=out)

    def _num_blocks(self, num_states: int, allowed: np.ndarray | None = None) -> int:
        columns, width = self._columns_and_width(num_states, allowed)
        return -(-columns // width)

    def _columns_and_width(self, num_states: int, allowed: np.ndarray | None) -> tuple[int, int]:
        """Return how many columns of scores there are, and how many columns a block has."""
        if allowed is None:
            return self.num_items + 1, block_width(num_states, self.num_items + 1, self.vectors.device)
        picked = max(1, FLOATS_AT_ONCE // self.vectors.shape[1])
        return len(allowed), max(1, min(picked, block_width(num_states, len(allowed), self.vectors.device)))

    # ------------------------------------------------------------------------------------------------ by bounds

    def _bounds_pay(self, k: int) -> bool:
        """Return whether the top k are found faster with upper bounds of scores than by scoring every item."""
        enough = self.num_items >= LARGE_CATALOGUE and (k + SPARE_GROUPS) * blocks.GROUP < (self.num_items + 1) // 8
        worth_a_table = self._quantized is not None or self._states_searched >= STATES_BEFORE_BOUNDS
        return enough and worth_a_table and int8_is_fast(self.vectors.device)

    def _by_bounds(self, states: Tensor, k: int, excluded: Exclusions) -> tuple[Tensor, Tensor]:
        """Return the numbers and scores of the best items. They are found by bounds, as the module's docstring
        describes."""
        bounds = self._quantized_table().bounds(states, excluded)
        numbers, scores, is_exact = self._verify_top_groups(states, bounds, k, excluded)
        if not is_exact.all():
            unsure = np.flatnonzero(~is_exact)
            numbers[unsure], scores[unsure], _ = self._block_by_block(states[unsure], k, excluded.select(unsure))
        return numbers, scores

    def _verify_top_groups(
        self, states: Tensor, bounds: Tensor, k: int, excluded: Exclusions
    ) -> tuple[Tensor, Tensor, np.ndarray]:
        """Return the best items of the groups with the highest bounds, their scores, and whether each row's result is
        exact."""
        count = min(k + SPARE_GROUPS, bounds.shape[1] - 1)
        highest, order = bounds.topk(count + 1, dim=1)
        groups = order[:, :count].sort(dim=1).values  # rising numbers: of equal scores the lower comes first
        rows_at_once = max(1, FLOATS_AT_ONCE // (count * blocks.GROUP * states.shape[1]))
        numbers, scores = order.new_empty(len(states), k), states.new_empty(len(states), k)
        for first in range(0, len(states), rows_at_once):
            part = slice(first, first + rows_at_once)
            some = excluded.between_rows(part.start, part.stop)
            numbers[part], scores[part] = self._best_of_groups(states[part], groups[part], k, some)
        return numbers, scores, (highest[:, -1] < scores[:, -1]).cpu().numpy()

    def _best_of_groups(self, states: Tensor, groups: Tensor, k: int, excluded: Exclusions) -> tuple[Tensor, Tensor]:
        """Return the k best items, and their scores, of the given groups of each row, int64 (B, c), rising."""
        numbers = groups[:, :, None] * blocks.GROUP + torch.arange(blocks.GROUP, device=groups.device)
        numbers = numbers.flatten(1)  # (B, c GROUP)
        real = numbers.clamp(max=self.num_items)
        # A product and a sum, not a matrix product: items of equal vectors score the same, wherever they stand.
        scores = F.embedding(real, self.vectors).mul_(states[:, None]).sum(2).add_(self.biases[real])
        scores.masked_fill_((numbers == 0) | (numbers > self.num_items), EXCLUDED)
        excluded.within_groups(groups.cpu().numpy(), blocks.GROUP).apply_(scores)
        at, best = top_k(scores, k)
        return numbers.gather(1, at).masked_fill_(best == EXCLUDED, 0), best

    def _quantized_table(self) -> QuantizedTable:
        """Return the quantized table, which the first search by bounds computes."""
        with self._deriving:
            if self._quantized is None:
                self._quantized = QuantizedTable.of(self.vectors, self.biases)
            return self._quantized

    # ------------------------------------------------------------------------------------------- edited scores

    def _merge_edited(
        self,
        states: Tensor,
        numbers: Tensor,
        scores: Tensor,
        edits: ScoreEdits,
        allowed: np.ndarray | None,
        log_normalizers: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Merge the best unedited items, (B, k) best first, with the shifted and boosted items.

        Args:
            numbers, scores: the unedited items. If a row has fewer than k items, its last numbers are 0, and their
                scores are -inf.
        """
        host_states = states.cpu().numpy()
        rows, columns, values = edits.competing(
            lambda rows, columns: self.scores_of(host_states, rows, columns), log_normalizers, allowed
        )
        if not len(rows):
            return numbers, scores
        counts = np.bincount(rows, minlength=len(states))
        places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        edited = np.zeros((len(states), counts.max()), np.int64)
        edited_scores = np.full(edited.shape, EXCLUDED, np.float32)
        edited[rows, places], edited_scores[rows, places] = columns, values
        both = torch.cat([numbers, torch.from_numpy(edited).to(numbers.device)], 1)
        both_scores = torch.cat([scores, torch.from_numpy(edited_scores).to(scores.device)], 1)
        both, order = both.sort(dim=1)  # rising numbers: of equal scores the lower comes first
        at, best = top_k(both_scores.gather(1, order), numbers.shape[1])
        return both.gather(1, at).masked_fill_(best == EXCLUDED, 0), best


def states_at_once(k: int, columns: int, device: torch.device) -> int:
    """Return how many states to search together when every item is scored. With few columns, they fit in one block."""
    in_one_block = blocks.scores_at_once(device) // max(1, columns)
    if in_one_block >= FEWEST_STATES:
        return in_one_block
    return STATES_BY_BLOCKS if k <= SMALL_K else FEWEST_STATES


def log_sum(scores: Tensor) -> Tensor:
    """Return log(sum(exp(scores))) of each row, float32 (B, n) -> (B,).

    The result equals torch.logsumexp, but the function uses powers of 2, which torch computes twice as fast on a CPU.
    It also clamps tiny terms: a CPU takes as long for one denormal number as for fifty normal numbers.
    """
    top = scores.amax(1, keepdim=True)
    shares = torch.add(top * -LOG2_E, scores, alpha=LOG2_E).clamp_(min=-126).exp2_()
    return top[:, 0] + shares.sum(1).log()
