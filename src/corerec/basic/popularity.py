"""Popularity of items: a baseline model, and the fallback for users without a known event.

B queries, V items, k the most items that one query asks for.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from corerec.data.sequences import SequenceStore
from corerec.queries import QueryBatch
from corerec.retrieval.topk import EXCLUDED, top_k


class Popularity:
    """Scores every item by its share of the training events, whatever the history is. Of equal shares, the lower item
    number ranks first.

    `shares` is float64 (V + 1,), by item number; 0 for padding.
    """

    name = "Popularity"

    def __init__(self, item_counts: np.ndarray) -> None:
        """Compute the shares.

        Args:
            item_counts: int64 (V + 1,), events of each item number.
        """
        self.num_items = len(item_counts) - 1
        self.shares = item_counts / max(1, item_counts.sum())

    def score(self, histories: SequenceStore) -> Tensor:
        """Return the same shares for each history, float32 (B, V + 1)."""
        return torch.from_numpy(self.shares).float().repeat(len(histories), 1)

    probabilities = score

    def answer(self, batch: QueryBatch) -> tuple[np.ndarray, np.ndarray]:
        """Return item numbers, int64 (B, k), best first, and their shares, float64. Where a row has no item left, the
        number is 0."""
        order, rank = self._order
        numbers = np.zeros((len(batch), min(int(batch.top_k.max(initial=1)), len(order))), np.int64)
        limits = dict(zip(batch.limited.tolist(), range(len(batch.limited)), strict=True))
        shared = batch.shared_candidates
        common = order if shared is None else order[np.unique(rank[shared])]
        for row, k in enumerate(batch.top_k.tolist()):
            excluded = np.unique(batch.excluded.row(row))
            first = common[: k + len(excluded)]  # these are enough even if all excluded items are among them
            if row in limits:
                first = order[np.unique(rank[batch.candidates.row(limits[row])])]
            found = first[np.isin(first, excluded, invert=True)][:k]
            numbers[row, : len(found)] = found
        return numbers, self.shares[numbers]

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """Item numbers by falling share, int64 (V,), and each number's place in that order, int64 (V + 1,).

        The order is computed once. Each query then reads the list from the top, so its time does not grow with the
        catalogue.
        """
        scores = torch.from_numpy(self.shares[None].copy())
        scores[:, 0] = EXCLUDED
        order = top_k(scores, self.num_items)[0][0].numpy()
        rank = np.empty(self.num_items + 1, np.int64)
        rank[order] = np.arange(len(order))
        return order, rank
