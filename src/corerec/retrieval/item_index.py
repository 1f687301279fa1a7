"""The exact best items of a whole catalogue, for many states at once, with never more than a block of scores held.

B states, D hidden_dim, V items, k answers; items lie in groups of GROUP neighbouring numbers, G of them.

Small catalogues are scored and ranked item by item. In a large one that is wasted on items that stand no chance, unless
every score is needed for the probabilities. Where the processor is good at it, bounds come first, which take a fifth of
the time:

    bound     what no score in a group exceeds, from a copy of the table in int8
    settle    the groups of the highest bounds, item by item in float32; `bar` is the k-th best score among these

If every other group's bound is below `bar`, no item in them can be among the k best, nor tie with the last of these:
the answer is exact. Where it is not, because many groups nearly tie, every item is scored after all.

What raises single scores beyond states @ weights (`Boosts`) raises the bounds of their groups as well.

Answers are exact up to the rounding of float32: where the scores of two items differ by less than about
D 2**-23 |state| |weights|, either may come first.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from corerec.data.sequences import SequenceStore
from corerec.kernels import int8_is_fast
from corerec.retrieval import blocks
from corerec.retrieval.blocks import BlockTopK
from corerec.retrieval.int8_bounds import QuantizedTable
from corerec.retrieval.score_edits import Boosts, Exclusions, look_up
from corerec.retrieval.topk import EXCLUDED, exclude_, places, top_k

LARGE_CATALOGUE = 2**17  # items from which bounds pay
FEWEST_STATES = 32  # ranked at once, so that an item's weights are read for many
STATES_AT_ONCE = 256  # of a large catalogue: each holds a bound of every group
SPARE_GROUPS = 64  # settled beyond k: enough for most proofs
FLOATS_AT_ONCE = 2**20  # weights of items picked out: 4 MB
LOG2_E = math.log2(math.e)


class TopItems(NamedTuple):
    """The best items of B states, best first.

    `numbers` int64 (B, at most k), 0 from the place on where a row has no item left; `scores` float32, same shape, are
    log-probabilities once `log_normalizers`, float32 (B,), are taken off; these are None where not asked for.
    """

    numbers: Tensor
    scores: Tensor
    log_normalizers: Tensor | None


class ItemIndex:
    """The output layer of a network, weights and a bias for each item, asked for its best items. Thread-safe.

    The weights must not change while the table is in use: what is derived from them is kept.
    """

    def __init__(self, weights: Tensor, biases: Tensor) -> None:
        """Args:
        weights: float32 (V + 1, D); row i is item number i, row 0 is padding.
        biases: float32 (V + 1,).
        """
        self.num_items = len(weights) - 1
        self._weights, self._biases = weights.detach(), biases.detach()
        self._rough: QuantizedTable | None = None
        self._deriving = threading.Lock()

    def search(
        self,
        states: Tensor,
        k: int,
        excluded: SequenceStore,
        allowed: np.ndarray | None = None,
        *,
        with_normalizers: bool = False,
        log_normalizers: Tensor | None = None,
        boosts: Boosts | None = None,
    ) -> TopItems:
        """The k best items of each state; equal scores go by the lower number.

        Args:
            states: float32 (B, D), finite, on the table's device.
            excluded: B rows of item numbers that may not be named.
            allowed: item numbers, the only ones that may be named; None means all.
            with_normalizers: compute `log_normalizers`, too. They need the score of every item: five times
                the time of the best items alone in a large catalogue.
            log_normalizers: float32 (B,), where they are known already.
            boosts: as shares of the totals, which are computed for them if not known.
        """
        columns = self.num_items + 1 if allowed is None else len(allowed)
        large = allowed is None and self.num_items >= LARGE_CATALOGUE and len(states) > 0
        large = large and (k + SPARE_GROUPS) * blocks.GROUP < columns // 8 and int8_is_fast(states.device)
        if large and boosts is not None and log_normalizers is None:
            log_normalizers = self.log_normalizers(states)
        bounded = large and (log_normalizers is not None or not with_normalizers)
        rows_at_once = STATES_AT_ONCE if bounded else max(FEWEST_STATES, blocks.SCORES_AT_ONCE // max(1, columns))
        if len(states) > rows_at_once:
            parts = []
            for first in range(0, len(states), rows_at_once):
                rows = slice(first, min(first + rows_at_once, len(states)))
                part = self.search(
                    states[rows],
                    k,
                    excluded.select(np.arange(rows.start, rows.stop)),
                    allowed,
                    with_normalizers=with_normalizers,
                    log_normalizers=None if log_normalizers is None else log_normalizers[rows],
                    boosts=None if boosts is None else boosts.of_rows(rows.start, rows.stop),
                )
                parts.append(part)
            numbers, scores, totals = zip(*parts, strict=True)
            return TopItems(torch.cat(numbers), torch.cat(scores), None if totals[0] is None else torch.cat(totals))
        if allowed is None and not bounded and self._num_blocks(len(states)) == 1:
            return self._at_once(states, k, excluded, with_normalizers, log_normalizers, boosts)
        if boosts is not None or (with_normalizers and allowed is not None):
            log_normalizers = self.log_normalizers(states) if log_normalizers is None else log_normalizers
            boosts = None if boosts is None else boosts.beside(log_normalizers)
        if bounded:
            return TopItems(*self._search_by_bounds(states, k, excluded, boosts), log_normalizers)
        if allowed is not None:
            return TopItems(*self._among(states, k, excluded, allowed, boosts), log_normalizers)
        numbers, scores, sums = self._block_by_block(
            states, k, excluded, boosts, with_normalizers and log_normalizers is None
        )
        return TopItems(numbers, scores, log_normalizers if sums is None else sums)

    @torch.no_grad()
    def nearest(self, number: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k items whose weights point most nearly the same way as one item's, best first, without that item.

        Returns:
            item numbers, int64 (k,), and cosines, float32 (k,); fewer in a catalogue of fewer.
        """
        directions = F.normalize(self._weights, dim=1)
        cosines = (directions @ directions[number])[None]
        exclude_(cosines, SequenceStore.from_lists([[number]]))
        numbers, best = top_k(cosines, min(k, self.num_items - 1))
        return numbers[0].cpu().numpy(), best[0].cpu().numpy()

    def log_normalizers(self, states: Tensor) -> Tensor:
        """float32 (B, D) -> (B,): what turns scores into log-probabilities over the catalogue when taken off."""
        if len(states) > STATES_AT_ONCE:
            return torch.cat([self.log_normalizers(part) for part in states.split(STATES_AT_ONCE)])
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

    def __getstate__(self) -> dict[str, Any]:
        """What a copy needs: not the lock, nor what is derived from the weights."""
        return {"_weights": self._weights, "_biases": self._biases}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_weights"], state["_biases"])

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
        width = blocks.block_width(len(states), columns)
        buffer = states.new_empty(len(states) * width)
        for first in range(0, columns, width):
            end = min(first + width, columns)
            block = buffer[: len(states) * (end - first)].view(len(states), end - first)
            yield first, self._score_block(states, first, end, out=block)

    def _num_blocks(self, num_states: int) -> int:
        return -(-(self.num_items + 1) // blocks.block_width(num_states, self.num_items + 1))

    def _at_once(
        self,
        states: Tensor,
        k: int,
        excluded: SequenceStore,
        with_normalizers: bool,
        log_normalizers: Tensor | None,
        boosts: Boosts | None,
    ) -> TopItems:
        """Every item ranked, all in one block; the totals if known, asked for or needed."""
        block = self._score_block(states)
        if log_normalizers is None and (with_normalizers or boosts is not None):
            log_normalizers = log_sum(block)
        if boosts is not None and log_normalizers is not None:
            boosts.beside(log_normalizers).raise_(block)
        block[places(excluded, block.device)] = EXCLUDED
        return TopItems(*top_k(block, k), log_normalizers)

    def _block_by_block(
        self, states: Tensor, k: int, excluded: SequenceStore, boosts: Boosts | None, with_normalizers: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Every item ranked: the best of each block, and of these the best; and the totals if asked for."""
        blocks = self._num_blocks(len(states))
        sums = states.new_empty(len(states), blocks) if with_normalizers else None
        exclusions = Exclusions.of(excluded)
        boosts = None if boosts is None else boosts.by_column()
        found = BlockTopK(states, min(k * blocks, self.num_items + 1))
        for at, (first, block) in enumerate(self._score_blocks(states)):
            if sums is not None:
                sums[:, at] = log_sum(block)
            if boosts is not None:
                boosts.of_columns(first, first + block.shape[1]).raise_(block)
            exclusions.exclude_(block, first, EXCLUDED)
            columns, scores = top_k(block, k)
            found.add(columns.add_(first), scores)
        return *found.best(k), None if sums is None else sums.logsumexp(1)

    def _among(
        self, states: Tensor, k: int, excluded: SequenceStore, allowed: np.ndarray, boosts: Boosts | None
    ) -> tuple[Tensor, Tensor]:
        """Only the allowed items are scored and ranked."""
        rising = np.unique(allowed).astype(np.int64)  # of equal scores the lower column is now the lower number
        exclusions = Exclusions.of(excluded).within(rising)
        boosts = None if boosts is None else boosts.within(rising).by_column()
        width = max(1, FLOATS_AT_ONCE // states.shape[1])
        found = BlockTopK(states, min(k * -(-len(rising) // width), len(rising)))
        for first in range(0, len(rising), width):
            only = torch.from_numpy(rising[first : first + width]).to(states.device)
            block = torch.addmm(self._biases.index_select(0, only), states, self._weights.index_select(0, only).T)
            if boosts is not None:
                boosts.of_columns(first, first + len(only)).raise_(block)
            exclusions.exclude_(block, first, EXCLUDED)
            at, scores = top_k(block, k)
            found.add(only[at].masked_fill_(scores == EXCLUDED, 0), scores)
        return found.best(k)

    # ------------------------------------------------------------------------------------------------ by bounds

    def _search_by_bounds(
        self, states: Tensor, k: int, excluded: SequenceStore, boosts: Boosts | None
    ) -> tuple[Tensor, Tensor]:
        """The numbers and scores of a large catalogue's best items, as the head of this file tells."""
        bounds = self._quantized_table().bounds(states, Exclusions.of(excluded))
        if boosts is not None:
            boosts.raise_groups_(bounds, blocks.GROUP)
        numbers, scores, is_exact = self._verify_top_groups(states, bounds, k, excluded, boosts)
        if not is_exact.all():
            unsure = np.flatnonzero(~is_exact)
            some = None if boosts is None else boosts.select(unsure)
            sure = self._block_by_block(states[unsure], k, excluded.select(unsure), some, with_normalizers=False)
            numbers[unsure], scores[unsure] = sure[:2]
        return numbers, scores

    def _verify_top_groups(
        self, states: Tensor, bounds: Tensor, k: int, excluded: SequenceStore, boosts: Boosts | None
    ) -> tuple[Tensor, Tensor, np.ndarray]:
        """The best items of the groups of the highest bounds, their scores, and which rows are is_exact, bool (B,)."""
        count = k + SPARE_GROUPS + (0 if boosts is None else boosts.most)  # a gain may raise any group's bound
        count = min(count, bounds.shape[1] - 1)
        highest, order = bounds.topk(count + 1, dim=1)
        chosen = order[:, :count].sort(dim=1).values  # rising numbers, for the sake of ties
        rows_at_once = max(1, FLOATS_AT_ONCE // (count * blocks.GROUP * states.shape[1]))
        numbers, scores = order.new_empty(len(states), k), states.new_empty(len(states), k)
        for first in range(0, len(states), rows_at_once):
            rows = np.arange(first, min(first + rows_at_once, len(states)))
            part = slice(first, first + len(rows))
            some = None if boosts is None else boosts.of_rows(part.start, part.stop)
            best = self._best_of_groups(states[part], chosen[part], k, excluded.select(rows), some)
            numbers[part], scores[part] = best
        is_exact = highest[:, -1] < scores[:, -1]
        return numbers, scores, is_exact.cpu().numpy()

    def _best_of_groups(
        self, states: Tensor, chosen: Tensor, k: int, excluded: SequenceStore, boosts: Boosts | None
    ) -> tuple[Tensor, Tensor]:
        """The best k items, and their scores, of each row's chosen groups, int64 (B, c), rising."""
        within = torch.arange(blocks.GROUP, device=states.device)
        numbers = (chosen[:, :, None] * blocks.GROUP + within).flatten(1)  # (B, c blocks.GROUP)
        real = numbers.clamp(max=self.num_items)
        # A product and a sum, not a matrix product: items of the same weights score the same, wherever they stand.
        scores = F.embedding(real, self._weights).mul_(states[:, None]).sum(2).add_(self._biases[real])
        scores.masked_fill_((numbers == 0) | (numbers > self.num_items), EXCLUDED)
        groups = self.num_items // blocks.GROUP + 1
        keys = (chosen + groups * torch.arange(len(chosen), device=chosen.device)[:, None]).flatten().cpu().numpy()
        if boosts is not None:
            at, met = look_up(keys, boosts.rows * groups + boosts.columns // blocks.GROUP)
            Boosts(at[met], boosts.columns[met] % blocks.GROUP, boosts.amounts[met]).raise_(
                scores.view(-1, blocks.GROUP)
            )
        exclusions = Exclusions.of(excluded)
        at, met = look_up(keys, exclusions.rows * groups + exclusions.columns // blocks.GROUP)
        scores.view(-1, blocks.GROUP)[
            torch.from_numpy(at[met]), torch.from_numpy(exclusions.columns[met] % blocks.GROUP)
        ] = EXCLUDED
        at, best = top_k(scores, k)
        return numbers.gather(1, at).masked_fill_(best == EXCLUDED, 0), best

    def _quantized_table(self) -> QuantizedTable:
        """Made at the first question, and kept."""
        with self._deriving:
            if self._rough is None:
                self._rough = QuantizedTable.of(self._weights, self._biases)
            return self._rough


def log_sum(scores: Tensor) -> Tensor:
    """float32 (B, n) -> (B,): log(sum(exp(scores))).

    As torch.logsumexp, but in powers of 2, which torch computes twice as fast on a CPU, and without those so small that
    float32 holds them badly: one such costs a CPU as much as fifty others.
    """
    top = scores.amax(1, keepdim=True)
    shares = torch.add(top * -LOG2_E, scores, alpha=LOG2_E).clamp_(min=-126).exp2_()
    return top[:, 0] + shares.sum(1).log()
