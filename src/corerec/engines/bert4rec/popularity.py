"""What is recommended to whom nothing is known of: what most events of the fitted log were about.

B questions, V items, k the most items that one question asks for.
"""

from __future__ import annotations

import numpy as np
import torch

from corerec import ranking
from corerec.engines.bert4rec.questions import Asked


class Popularity:
    """The items in the order of their shares of the fitted events; of equal ones the lower number first.

    `shares` float64 (V + 1,), by item number; 0 for padding.
    """

    def __init__(self, item_counts: np.ndarray) -> None:
        """Args:
        item_counts: int64 (V + 1,), events of each item number.
        """
        self.shares = item_counts / max(1, item_counts.sum())
        scores = torch.from_numpy(self.shares[None].copy())
        scores[:, 0] = ranking.EXCLUDED
        # Ranked once, for good: a question only walks down the list, whatever the catalogue's size.
        self._order = ranking.top_k(scores, len(item_counts) - 1)[0][0].numpy()
        self._place = np.empty(len(item_counts), np.int64)
        self._place[self._order] = np.arange(len(self._order))

    def best_items(self, asked: Asked) -> tuple[np.ndarray, np.ndarray]:
        """Item numbers, int64 (B, k), best first, 0 from the place on where a row has ended; their shares, float64."""
        numbers = np.zeros((len(asked), min(int(asked.top_k.max(initial=1)), len(self._order))), np.int64)
        limits = dict(zip(asked.limited.tolist(), range(len(asked.limited)), strict=True))
        for row, k in enumerate(asked.top_k.tolist()):
            left_out = np.unique(asked.left_out.row(row))
            first = self._order[: k + len(left_out)]  # more than this cannot be needed
            if row in limits:
                first = self._order[np.unique(self._place[asked.candidates.row(limits[row])])]
            found = first[np.isin(first, left_out, invert=True)][:k]
            numbers[row, : len(found)] = found
        return numbers, self.shares[numbers]
