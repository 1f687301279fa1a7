"""Two honest baselines behind the Scorer protocol: what is popular, and what followed the last item before."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from corerec.interactions import SequenceStore, flat_ranges


class Popularity:
    """Scores every item by its share of the training events, whatever the history."""

    name = "Popularity"

    def __init__(self, train: SequenceStore, num_items: int) -> None:
        self.num_items = num_items
        counts = train.item_counts(num_items)
        self.shares = torch.from_numpy(counts / max(counts.sum(), 1)).float()

    def score(self, histories: SequenceStore) -> Tensor:
        return self.shares.repeat(len(histories), 1)


class LastItemMarkov:
    """Scores an item by how often it followed the history's last item in training; popularity breaks the ties.

    First-order Markov chain with add-one mass on popularity: (count(last -> i) + popularity(i)) / (count(last) + 1).
    """

    name = "Last-item Markov"

    def __init__(self, train: SequenceStore, num_items: int) -> None:
        self.num_items = num_items
        self.popularity = Popularity(train, num_items)
        follows = np.ones(train.num_events, dtype=bool)
        follows[train.offsets[:-1][train.lengths > 0]] = False  # a row's first event follows nothing
        at = np.flatnonzero(follows)
        pairs = train.items[at - 1].astype(np.int64) * (num_items + 1) + train.items[at]
        distinct, counts = np.unique(pairs, return_counts=True)
        self._next, self._counts = distinct % (num_items + 1), counts.astype(np.float32)
        self._offsets = np.searchsorted(distinct // (num_items + 1), np.arange(num_items + 2))

    def score(self, histories: SequenceStore) -> Tensor:
        scores = self.popularity.score(histories)
        known = np.flatnonzero(histories.lengths > 0)
        last = histories.items[histories.offsets[1:][known] - 1]
        at, offsets = flat_ranges(self._offsets[last], self._offsets[last + 1])
        rows = np.repeat(known, np.diff(offsets))
        scores[rows, self._next[at]] += torch.from_numpy(self._counts[at])
        totals = np.zeros(len(histories), dtype=np.float32)
        np.add.at(totals, rows, self._counts[at])
        return scores / torch.from_numpy(totals + 1)[:, None]
