"""Score items in blocks of bounded size, and keep the best items of each block."""

from __future__ import annotations

import torch
from torch import Tensor

from corerec.retrieval.topk import EXCLUDED, top_k

GROUP = 64  # neighbouring items that share a scale and a bound in the int8 copy
NARROWEST = 2**11  # items in a block, at least
SCORES_AT_ONCE = 2**19  # 2 MB, near a CPU's cache
SCORES_AT_ONCE_GPU = 2**26  # there each block costs launches: few, of 256 MB


class BlockTopK:
    """Collects the best items of one block after another, in rising order of item numbers.

    The best items of all blocks are written into one array. A small array for each block would fragment the heap
    between the large blocks, and cost 200 MB in a catalogue of a million items.
    """

    def __init__(self, states: Tensor, most: int) -> None:
        """Allocate the array.

        Args:
            states: (B, D), one row for each query.
            most: the most items that all blocks together may add for a state.
        """
        self._numbers = torch.empty(len(states), most, dtype=torch.int64, device=states.device)
        self._scores = states.new_empty(len(states), most)
        self._ends = [0]

    def add(self, numbers: Tensor, scores: Tensor) -> None:
        """Add a block's best items, best first: numbers, int64, and scores, float32, both (B, some). If there is only
        one block, rows without further items are padded with 0."""
        self._ends.append(self._ends[-1] + numbers.shape[1])
        here = slice(*self._ends[-2:])
        self._numbers[:, here], self._scores[:, here] = numbers, scores

    def best(self, k: int) -> tuple[Tensor, Tensor]:
        """Return item numbers and scores, (B, at most k), best first. The number is 0 if a row has no item left."""
        numbers, scores = self._numbers[:, : self._ends[-1]], self._scores[:, : self._ends[-1]]
        if len(self._ends) > 2:  # more than one block
            at, scores = top_k(scores, k)
            numbers = numbers.gather(1, at).masked_fill_(scores == EXCLUDED, 0)
        return numbers, scores


def scores_at_once(device: torch.device) -> int:
    """Return how many scores a block has: few on a CPU, so that they nearly fit into its cache, and many on other
    devices."""
    return SCORES_AT_ONCE if device.type == "cpu" else SCORES_AT_ONCE_GPU


def block_width(rows: int, columns: int, device: torch.device) -> int:
    """Return how many columns to score at once: a multiple of GROUP, or all columns."""
    width = max(NARROWEST, scores_at_once(device) // max(1, rows))
    return min(-(-width // GROUP) * GROUP, columns)
