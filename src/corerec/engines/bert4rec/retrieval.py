"""The exact best items of a whole catalogue, for many states at once, with never more than a block of scores held.

B states, D hidden_dim, V items, k answers; items lie in groups of GROUP neighbouring numbers, G of them.

Most catalogues are scored and ranked item by item. In a large one this is wasted on items that stand no chance, unless
every score is needed for the probabilities. Where the processor is good at it, bounds come first, which take a fifth of
the time:

    bound     what no score in a group exceeds, from a copy of the table in int8
    settle    the groups of the highest bounds, item by item in float32; `bar` is the k-th best score among these

If every other group's bound is below `bar`, no item in them can be among the k best, nor tie with the last of these:
the answer is proven. Where it is not, because many groups nearly tie, every item is scored after all.

What raises single scores beyond states @ weights (`Gains`) raises the bounds of their groups as well.

Answers are exact up to the rounding of float32: where the scores of two items differ by less than about
D 2**-23 |state| |weights|, either may come first.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from corerec.engines.bert4rec.pairs import Gains, LeftOut, look_up
from corerec.interactions import SequenceStore
from corerec.ranking import EXCLUDED, places, top_k

LARGE_CATALOGUE = 2**17  # items from which bounds pay
FEWEST_STATES = 32  # ranked at once, so that an item's weights are read for many
STATES_AT_ONCE = 256  # of a large catalogue: each holds a bound of every group
SCORES_AT_ONCE = 2**19  # 2 MB, near a CPU's cache
NARROWEST = 2**11  # items in a block, at least
GROUP = 64  # items with one bound
SPARE_GROUPS = 64  # settled beyond k: enough for most proofs
FLOATS_AT_ONCE = 2**20  # weights of items picked out: 4 MB
LOWEST = -(2**31)  # EXCLUDED among whole numbers
LOG2_E = math.log2(math.e)
TINY = 1e-30  # instead of a scale of 0
SMALLEST_STATE = 2**-4  # int8 is no finer for states whose greatest value is below this


class BestItems(NamedTuple):
    """The best items of B states, best first.

    `numbers` int64 (B, at most k), 0 from the place on where a row has no item left; `scores` float32, same shape, are
    log-probabilities once `log_totals`, float32 (B,), are taken off; these are None where not asked for.
    """

    numbers: Tensor
    scores: Tensor
    log_totals: Tensor | None


class ItemTable:
    """The output layer of a network, weights and a bias for each item, asked for its best items. Thread-safe.

    The weights must not change while the table is in use: what is derived from them is kept.
    """

    def __init__(self, weights: Tensor, biases: Tensor) -> None:
        """Args:
        weights: float32 (V + 2, D); row i is item number i, the first is padding and the last the mask.
        biases: float32 (V + 2,).
        """
        self.num_items = len(weights) - 2
        self._weights, self._biases = weights.detach()[:-1], biases.detach()[:-1]
        self._rough: RoughTable | None = None
        self._deriving = threading.Lock()

    def best_items(
        self,
        states: Tensor,
        k: int,
        left_out: SequenceStore,
        allowed: np.ndarray | None = None,
        *,
        with_totals: bool = False,
        log_totals: Tensor | None = None,
        gains: Gains | None = None,
    ) -> BestItems:
        """The k best items of each state; equal scores go by the lower number.

        Args:
            states: float32 (B, D), finite, on the table's device.
            left_out: B rows of item numbers that may not be named.
            allowed: item numbers, the only ones that may be named; None means all.
            with_totals: compute `log_totals`, too. They take the score of every item: in a large catalogue, five times
                the time of the best items alone.
            log_totals: float32 (B,), where they are known already.
            gains: as shares of the totals, which are computed for them if not known.
        """
        columns = self.num_items + 1 if allowed is None else len(allowed)
        large = allowed is None and self.num_items >= LARGE_CATALOGUE and len(states) > 0
        large = large and (k + SPARE_GROUPS) * GROUP < columns // 8 and int8_pays(states.device)
        if large and gains is not None and log_totals is None:
            log_totals = self.log_totals(states)
        bounded = large and (log_totals is not None or not with_totals)
        rows_at_once = STATES_AT_ONCE if bounded else max(FEWEST_STATES, SCORES_AT_ONCE // max(1, columns))
        if len(states) > rows_at_once:
            parts = []
            for first in range(0, len(states), rows_at_once):
                rows = slice(first, min(first + rows_at_once, len(states)))
                part = self.best_items(
                    states[rows],
                    k,
                    left_out.select(np.arange(rows.start, rows.stop)),
                    allowed,
                    with_totals=with_totals,
                    log_totals=None if log_totals is None else log_totals[rows],
                    gains=None if gains is None else gains.of_rows(rows.start, rows.stop),
                )
                parts.append(part)
            numbers, scores, totals = zip(*parts, strict=True)
            return BestItems(torch.cat(numbers), torch.cat(scores), None if totals[0] is None else torch.cat(totals))
        if allowed is None and not bounded and self._num_blocks(len(states)) == 1:
            return self._at_once(states, k, left_out, with_totals, log_totals, gains)
        if gains is not None or (with_totals and allowed is not None):
            log_totals = self.log_totals(states) if log_totals is None else log_totals
            gains = None if gains is None else gains.beside(log_totals)
        if bounded:
            return BestItems(*self._by_bounds(states, k, left_out, gains), log_totals)
        if allowed is not None:
            return BestItems(*self._among(states, k, left_out, allowed, gains), log_totals)
        numbers, scores, sums = self._block_by_block(states, k, left_out, gains, with_totals and log_totals is None)
        return BestItems(numbers, scores, log_totals if sums is None else sums)

    def log_totals(self, states: Tensor) -> Tensor:
        """float32 (B, D) -> (B,): what turns scores into log-probabilities over the catalogue when taken off."""
        if len(states) > STATES_AT_ONCE:
            return torch.cat([self.log_totals(part) for part in states.split(STATES_AT_ONCE)])
        sums = states.new_empty(len(states), self._num_blocks(len(states)))
        for at, (_, block) in enumerate(self._score_blocks(states)):
            sums[:, at] = log_sum(block)
        return sums.logsumexp(1)

    def score_of(self, state: np.ndarray, number: int) -> np.float32:
        """The score of one item for one state, float32 (D,): a microsecond, where a torch call takes several."""
        return self._host_weights[number] @ state + self._host_biases[number]

    def scores_of(self, states: np.ndarray, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The scores of single items, float32 (pairs,), for int64 (pairs,) rows of `states` and item numbers.

        In NumPy: a few pairs take a third of the time of torch's calls.
        """
        scores = self._host_biases[numbers]
        pairs_at_once = max(1, FLOATS_AT_ONCE // states.shape[1])
        for first in range(0, len(rows), pairs_at_once):
            pairs = slice(first, first + pairs_at_once)
            scores[pairs] += np.einsum("pd,pd->p", self._host_weights[numbers[pairs]], states[rows[pairs]])
        return scores

    @cached_property
    def _host_weights(self) -> np.ndarray:
        return self._weights.cpu().numpy()

    @cached_property
    def _host_biases(self) -> np.ndarray:
        return self._biases.cpu().numpy()

    # --------------------------------------------------------------------------------------------- item by item

    def _score_block(self, states: Tensor, first: int = 0, end: int | None = None, out: Tensor | None = None) -> Tensor:
        """The scores of the items `first` to `end`, float32 (B, block), padding EXCLUDED."""
        block = torch.addmm(self._biases[first:end], states, self._weights[first:end].T, out=out)
        if first == 0:
            block[:, 0] = EXCLUDED
        return block

    def _score_blocks(self, states: Tensor) -> Iterator[tuple[int, Tensor]]:
        """A block of items at a time: the first one's number, and scores; each block overwrites the one before."""
        columns = self.num_items + 1
        width = _block_width(len(states), columns)
        buffer = states.new_empty(len(states) * width)
        for first in range(0, columns, width):
            end = min(first + width, columns)
            block = buffer[: len(states) * (end - first)].view(len(states), end - first)
            yield first, self._score_block(states, first, end, out=block)

    def _num_blocks(self, num_states: int) -> int:
        return -(-(self.num_items + 1) // _block_width(num_states, self.num_items + 1))

    def _at_once(
        self,
        states: Tensor,
        k: int,
        left_out: SequenceStore,
        with_totals: bool,
        log_totals: Tensor | None,
        gains: Gains | None,
    ) -> BestItems:
        """Every item ranked, all in one block; the totals if known, asked for or needed."""
        block = self._score_block(states)
        if log_totals is None and (with_totals or gains is not None):
            log_totals = log_sum(block)
        if gains is not None and log_totals is not None:
            gains.beside(log_totals).raise_(block)
        block[places(left_out, block.device)] = EXCLUDED
        return BestItems(*top_k(block, k), log_totals)

    def _block_by_block(
        self, states: Tensor, k: int, left_out: SequenceStore, gains: Gains | None, with_totals: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Every item ranked: the best of each block, and of these the best; and the totals if asked for."""
        blocks = self._num_blocks(len(states))
        sums = states.new_empty(len(states), blocks) if with_totals else None
        barred = LeftOut.of(left_out)
        gains = None if gains is None else gains.by_column()
        found = Found(states, min(k * blocks, self.num_items + 1))
        for at, (first, block) in enumerate(self._score_blocks(states)):
            if sums is not None:
                sums[:, at] = log_sum(block)
            if gains is not None:
                gains.of_columns(first, first + block.shape[1]).raise_(block)
            barred.exclude_(block, first, EXCLUDED)
            columns, scores = top_k(block, k)
            found.add(columns.add_(first), scores)
        return *found.best(k), None if sums is None else sums.logsumexp(1)

    def _among(
        self, states: Tensor, k: int, left_out: SequenceStore, allowed: np.ndarray, gains: Gains | None
    ) -> tuple[Tensor, Tensor]:
        """Only the allowed items scored and ranked."""
        rising = np.unique(allowed).astype(np.int64)  # of equal scores the lower column is now the lower number
        barred = LeftOut.of(left_out).within(rising)
        gains = None if gains is None else gains.within(rising).by_column()
        width = max(1, FLOATS_AT_ONCE // states.shape[1])
        found = Found(states, min(k * -(-len(rising) // width), len(rising)))
        for first in range(0, len(rising), width):
            only = torch.from_numpy(rising[first : first + width]).to(states.device)
            block = torch.addmm(self._biases.index_select(0, only), states, self._weights.index_select(0, only).T)
            if gains is not None:
                gains.of_columns(first, first + len(only)).raise_(block)
            barred.exclude_(block, first, EXCLUDED)
            at, scores = top_k(block, k)
            found.add(only[at].masked_fill_(scores == EXCLUDED, 0), scores)
        return found.best(k)

    # ------------------------------------------------------------------------------------------------ by bounds

    def _by_bounds(self, states: Tensor, k: int, left_out: SequenceStore, gains: Gains | None) -> tuple[Tensor, Tensor]:
        """The numbers and scores of a large catalogue's best items, as the head of this file tells."""
        bounds = self._bounds(states, LeftOut.of(left_out))
        if gains is not None:
            gains.raise_groups_(bounds, GROUP)
        numbers, scores, proven = self._settled(states, bounds, k, left_out, gains)
        if not proven.all():
            unsure = np.flatnonzero(~proven)
            some = None if gains is None else gains.select(unsure)
            sure = self._block_by_block(states[unsure], k, left_out.select(unsure), some, with_totals=False)
            numbers[unsure], scores[unsure] = sure[:2]
        return numbers, scores

    def _bounds(self, states: Tensor, left_out: LeftOut) -> Tensor:
        """What no score of a group exceeds, but those of items left out, float32 (B, G).

        With h a state, e an item's weights, b its bias, h' and e' what int8 makes of the two, and |.| Euclidean length,

            h e + b  =  h' e' + b + (h - h') e' + h (e - e')  <=  h' e' + b + |h - h'| |e'| + |h| |e - e'|

        (Cauchy-Schwarz). h' e' is exact: a whole number of units, the product of both scales. b is rounded to units.
        """
        rough = self._rough_table()
        scale = max(float(states.abs().max()), SMALLEST_STATE) / 127
        whole = (states / scale).round_()
        lost = torch.linalg.vector_norm(states - whole * scale, dim=1)
        whole = whole.to(torch.int8)
        width = _block_width(len(states), len(rough.weights))
        buffer = torch.empty(len(states) * width, dtype=torch.int32)
        best = torch.empty(len(states), len(rough.scales), dtype=torch.int32)
        for first in range(0, len(rough.weights), width):
            end = min(first + width, len(rough.weights))
            block = buffer[: len(states) * (end - first)].view(len(states), end - first)
            torch._int_mm(whole, rough.weights[first:end].T, out=block)  # pyright: ignore[reportPrivateImportUsage]
            block += (rough.biases[first:end] / scale).round_().to(torch.int32)
            left_out.exclude_(block, first, LOWEST)
            torch.amax(block.unflatten(1, (-1, GROUP)), 2, out=best[:, first // GROUP : end // GROUP])
        bounds = best.to(torch.float32).add_(0.5).mul_(rough.scales * scale)
        lengths = torch.linalg.vector_norm(states, dim=1)
        # No matrix product: torch.set_float32_matmul_precision may make those coarser than float32.
        bounds.addcmul_(lost[:, None], rough.longest).addcmul_(lengths[:, None], rough.lost)
        return bounds.add_(rough.rounded)

    def _settled(
        self, states: Tensor, bounds: Tensor, k: int, left_out: SequenceStore, gains: Gains | None
    ) -> tuple[Tensor, Tensor, np.ndarray]:
        """The best items of the groups of the highest bounds, their scores, and which rows are proven, bool (B,)."""
        count = k + SPARE_GROUPS + (0 if gains is None else gains.most)  # a gain may raise any group's bound
        count = min(count, bounds.shape[1] - 1)
        highest, order = bounds.topk(count + 1, dim=1)
        chosen = order[:, :count].sort(dim=1).values  # rising numbers, for the sake of ties
        rows_at_once = max(1, FLOATS_AT_ONCE // (count * GROUP * states.shape[1]))
        numbers, scores = order.new_empty(len(states), k), states.new_empty(len(states), k)
        for first in range(0, len(states), rows_at_once):
            rows = np.arange(first, min(first + rows_at_once, len(states)))
            part = slice(first, first + len(rows))
            some = None if gains is None else gains.of_rows(part.start, part.stop)
            best = self._best_of_groups(states[part], chosen[part], k, left_out.select(rows), some)
            numbers[part], scores[part] = best
        proven = highest[:, -1] < scores[:, -1]
        return numbers, scores, proven.cpu().numpy()

    def _best_of_groups(
        self, states: Tensor, chosen: Tensor, k: int, left_out: SequenceStore, gains: Gains | None
    ) -> tuple[Tensor, Tensor]:
        """The best k items, and their scores, of each row's chosen groups, int64 (B, c), rising."""
        within = torch.arange(GROUP, device=states.device)
        numbers = (chosen[:, :, None] * GROUP + within).flatten(1)  # (B, c GROUP)
        real = numbers.clamp(max=self.num_items)
        # A product and a sum, not a matrix product: items of the same weights score the same, wherever they stand.
        scores = F.embedding(real, self._weights).mul_(states[:, None]).sum(2).add_(self._biases[real])
        scores.masked_fill_((numbers == 0) | (numbers > self.num_items), EXCLUDED)
        groups = self.num_items // GROUP + 1
        keys = (chosen + groups * torch.arange(len(chosen), device=chosen.device)[:, None]).flatten().cpu().numpy()
        if gains is not None:
            at, met = look_up(keys, gains.rows * groups + gains.columns // GROUP)
            Gains(at[met], gains.columns[met] % GROUP, gains.amounts[met]).raise_(scores.view(-1, GROUP))
        barred = LeftOut.of(left_out)
        at, met = look_up(keys, barred.rows * groups + barred.columns // GROUP)
        scores.view(-1, GROUP)[torch.from_numpy(at[met]), torch.from_numpy(barred.columns[met] % GROUP)] = EXCLUDED
        at, best = top_k(scores, k)
        return numbers.gather(1, at).masked_fill_(best == EXCLUDED, 0), best

    def _rough_table(self) -> RoughTable:
        """Made at the first question, and kept."""
        with self._deriving:
            if self._rough is None:
                self._rough = RoughTable.of(self._weights, self._biases)
            return self._rough


@dataclass(frozen=True)
class RoughTable:
    """A table in int8, with a scale for each group: an item's weights are about `weights` times its group's scale.

    Attributes:
        weights: int8 (G GROUP, D); zeros beyond the table.
        biases: float32 (G GROUP,), in units of their group's scale.
        scales: float32 (G,).
        longest, lost, rounded: float32 (G,), factors of |h - h'|, |h| and 1 in a bound (`ItemTable._bounds`): a group's
            greatest |e'|; its greatest |e - e'| and what float32 may lose of products; and what it may lose of biases.
    """

    weights: Tensor
    biases: Tensor
    scales: Tensor
    longest: Tensor
    lost: Tensor
    rounded: Tensor

    @classmethod
    def of(cls, weights: Tensor, biases: Tensor) -> RoughTable:
        groups = -(-len(weights) // GROUP)
        table = cls(
            torch.zeros(groups * GROUP, weights.shape[1], dtype=torch.int8),
            torch.zeros(groups * GROUP),
            *torch.empty(4, groups),
        )
        # A sum of D products, in any order, is off by at most D 2**-24 of the sum of their sizes (Higham 2002, 3.1).
        # Twice as much is enough for the bias and for the arithmetic of the bounds, too.
        rounding = (weights.shape[1] + 8) * 2**-23
        for first in range(0, groups, NARROWEST // GROUP):
            here = slice(first, first + NARROWEST // GROUP)
            items = slice(here.start * GROUP, here.stop * GROUP)
            part, bias = weights[items], biases[items]
            missing = -len(part) % GROUP
            part = F.pad(part, (0, 0, 0, missing)).unflatten(0, (-1, GROUP))  # (groups, GROUP, D)
            bias = F.pad(bias, (0, missing)).unflatten(0, (-1, GROUP))
            # Not so fine that biases, in units of this scale and a state's, would pass 2**30.
            largest_bias = bias.abs().amax(1)
            greatest = torch.maximum(part.abs().amax((1, 2)), largest_bias * 2**-12)
            scale = table.scales[here] = greatest.clamp_(min=TINY) / 127
            whole = (part / scale[:, None, None]).round_()
            table.weights[items] = whole.flatten(0, 1)
            table.biases[items] = (bias / scale[:, None]).flatten()
            rough = whole.mul_(scale[:, None, None])
            longest = table.longest[here] = torch.linalg.vector_norm(rough, dim=2).amax(1)
            lost = torch.linalg.vector_norm(part - rough, dim=2).amax(1)
            table.lost[here] = lost + rounding * (longest + lost)
            table.rounded[here] = rounding * largest_bias
        return table


class Found:
    """The best items of one block after another, from the lowest numbers to the highest.

    Those of several blocks are written into one piece of memory: a small piece for each, lying between the large ones
    that come and go, would keep these from being used again (that cost 200 MB in a catalogue of a million items).
    """

    def __init__(self, states: Tensor, most: int) -> None:
        """Args:
        most: items that all blocks of a state may add.
        """
        self._numbers = torch.empty(len(states), most, dtype=torch.int64, device=states.device)
        self._scores = states.new_empty(len(states), most)
        self._ends = [0]

    def add(self, numbers: Tensor, scores: Tensor) -> None:
        """A block's best items, best first, int64 and float32 (B, some); the only block's have 0 where none is left."""
        self._ends.append(self._ends[-1] + numbers.shape[1])
        here = slice(*self._ends[-2:])
        self._numbers[:, here], self._scores[:, here] = numbers, scores

    def best(self, k: int) -> tuple[Tensor, Tensor]:
        """Numbers and scores, (B, at most k), best first; 0 where a row has no item left."""
        numbers, scores = self._numbers[:, : self._ends[-1]], self._scores[:, : self._ends[-1]]
        if len(self._ends) > 2:  # more than one block
            at, scores = top_k(scores, k)
            numbers = numbers.gather(1, at).masked_fill_(scores == EXCLUDED, 0)
        return numbers, scores


def int8_pays(device: torch.device) -> bool:
    """Whether products of int8 are fast here: measured to be so where torch's oneDNN has AVX-512 to use."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def log_sum(scores: Tensor) -> Tensor:
    """float32 (B, n) -> (B,): log(sum(exp(scores))).

    As torch.logsumexp, but in powers of 2, which torch computes twice as fast on a CPU, and without those so small that
    float32 holds them badly: one such costs a CPU as much as fifty others.
    """
    top = scores.amax(1, keepdim=True)
    shares = torch.add(top * -LOG2_E, scores, alpha=LOG2_E).clamp_(min=-126).exp2_()
    return top[:, 0] + shares.sum(1).log()


def _block_width(rows: int, columns: int) -> int:
    """How many columns to score at once: a multiple of GROUP, or all."""
    width = max(NARROWEST, SCORES_AT_ONCE // max(1, rows))
    return min(-(-width // GROUP) * GROUP, columns)
