"""Which items directly followed which in the fitted log, and how they are mixed into what a network expects.

B histories, V items, P pairs of an item and one that followed it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corerec.basic.popularity import Popularity
from corerec.data.sequences import SequenceStore, flat_ranges, last_items
from corerec.retrieval.item_index import log_sum
from corerec.retrieval.score_edits import Boosts

UNCERTAINTY_EXPONENT = 0.7  # how fast a network's lack falls with what it has to go by; see `TransitionModel`
HALF_TRUST_EVENTS = 250  # of an item, that halve what its counts lack; both chosen on validation
MAX_SUCCESSORS = 64  # kept of one item: memory stays small, and an ONNX graph can hold them


def count_transitions(store: SequenceStore, num_items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each item directly followed each other one, in compressed sparse rows by the earlier item's number.

    Returns:
        offsets int64 (V + 2,), items int32 (P,) rising within a row, counts int64 (P,).
    """
    follows = np.ones(store.num_events, dtype=bool)
    follows[store.offsets[:-1][store.lengths > 0]] = False  # a row's first event follows nothing
    at = np.flatnonzero(follows)
    columns = num_items + 1
    pairs, counts = np.unique(store.items[at - 1].astype(np.int64) * columns + store.items[at], return_counts=True)
    offsets = np.searchsorted(pairs // columns, np.arange(num_items + 2))
    return offsets, (pairs % columns).astype(np.int32), counts


@dataclass(frozen=True)
class TransitionModel:
    """What followed each item in the fitted log, in compressed sparse rows by item number:

        sequences [[1, 2, 1, 3], [1, 2]]  ->  1: {2: 2/3, 3: 1/3}, 2: {1: 1}, 3: {}

    In a log of short histories a network ranks below a plain count of what followed the last item (Amazon Beauty;
    `benchmarks/by_history.py` measures it), because a catalogue's rare items are met too seldom to be learned, but not
    too seldom to be remembered. So the two are interpolated (Jelinek & Mercer 1980):

        p(i) = (1 - w) p_network(i) + w share(last item -> i),      w = s / (s + t)

        s = (1 / n + 1 / m) ** UNCERTAINTY_EXPONENT   the network's: n events of the history, m of an average item
        t = 1 / (1 + N / HALF_TRUST_EVENTS)           the counts': N events of the last item

    and w = 0 where nothing ever followed the last item, or there is none.

    Attributes:
        item_counts: int64 (V + 1,), events of each item number; 0 for padding.
        offsets: int64 (V + 2,); item number i has the transitions offsets[i] .. offsets[i + 1]; 0, padding, has none.
        items: int32 (P,), rising within a row: the MAX_SUCCESSORS most frequent; of equally frequent ones, the lower.
        shares: float32 (P,), above 0, of the times that any of those kept followed; they sum to 1 in each row.
    """

    item_counts: np.ndarray
    offsets: np.ndarray
    items: np.ndarray
    shares: np.ndarray

    @classmethod
    def of(cls, store: SequenceStore, num_items: int) -> TransitionModel:
        """The transitions of a log of so many items, counted without a loop."""
        starts, successors, counts = count_transitions(store, num_items)
        last = np.repeat(np.arange(num_items + 1), np.diff(starts))
        # Stable: of equally frequent successors the lower number comes first.
        by_count = np.lexsort((-counts, last))
        kept = np.sort(by_count[np.arange(len(last)) - starts[last] < MAX_SUCCESSORS])
        offsets = np.concatenate([[0], np.cumsum(np.minimum(np.diff(starts), MAX_SUCCESSORS))])
        last, counts = last[kept], counts[kept]
        totals = np.bincount(last, counts, num_items + 1)
        return cls(store.item_counts(num_items), offsets, successors[kept], (counts / totals[last]).astype(np.float32))

    @classmethod
    def none(cls, item_counts: np.ndarray) -> TransitionModel:
        """Nothing followed anything: the network is left alone."""
        return cls(
            item_counts, np.zeros(len(item_counts) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
        )

    def with_new_items(self, count: int) -> TransitionModel:
        """The same with so many more items, which no event was about."""
        counts = np.append(self.item_counts, np.zeros(count, np.int64))
        return replace(self, item_counts=counts, offsets=np.append(self.offsets, np.repeat(self.offsets[-1:], count)))

    def tensors(self) -> dict[str, Tensor]:
        """What a file needs besides the counts; `of_tensors` reads them back."""
        arrays = {"offsets": self.offsets, "items": self.items, "shares": self.shares}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor], item_counts: np.ndarray) -> TransitionModel:
        """Raises:
        ValueError, KeyError: the tensors do not fit together.
        """
        num_items = len(item_counts) - 1
        names = ("offsets", "items", "shares")
        if tensors.keys() != set(names):
            raise ValueError(f"transitions of the parts {', '.join(sorted(tensors))}")
        offsets, items, shares = (tensors[name].numpy() for name in names)
        if (offsets.dtype, items.dtype, shares.dtype) != (np.int64, np.int32, np.float32):
            raise ValueError(f"transitions of the types {offsets.dtype}, {items.dtype}, {shares.dtype}")
        if offsets.shape != (num_items + 2,) or not items.shape == shares.shape == (offsets[-1],):
            raise ValueError(f"{len(items):,} transitions in {len(offsets) - 1:,} rows, for {num_items:,} items")
        lengths = np.diff(offsets)
        if offsets[:2].any() or (lengths < 0).any() or (lengths > MAX_SUCCESSORS).any():
            raise ValueError(f"offsets that do not divide {len(items):,} transitions among {num_items:,} items")
        rows = np.repeat(np.arange(num_items + 1), lengths)
        if (items < 1).any() or (items > num_items).any() or (np.diff(rows * (num_items + 1) + items) <= 0).any():
            raise ValueError(f"transitions that are not among {num_items:,} items, or not in their order")
        totals = np.bincount(rows, shares, num_items + 1)[lengths > 0]
        if not (shares > 0).all() or not (np.abs(totals - 1) < 1e-3).all():  # NaN is neither
            raise ValueError("transitions whose shares are not above 0, or do not sum to 1")
        return cls(item_counts, offsets, items, shares)

    # ---------------------------------------------------------------------------------------------- probabilities

    def weights(self, lengths: Any, last: Any) -> Any:
        """w of histories, float64 (B,), or of one.

        Args:
            lengths: int (B,), events in all; those too old for the network to read count, too.
            last: int (B,), each history's last item, 0 where it is empty.
        """
        lacks = (1 / np.maximum(lengths, 1) + self.scarcity) ** UNCERTAINTY_EXPONENT
        return lacks / (lacks + self.counts_lack[last])

    def share(self, last: Any, items: Any) -> Any:
        """How often each item followed each last one, float32 (pairs,), or of one pair; 0 where it never did."""
        keys, shares = self._by_pair
        wanted = last * self._columns + items
        at = keys.searchsorted(wanted)
        return shares[at] * (keys[at] == wanted)

    def blended(self, probabilities: Any, lengths: Any, last: Any, items: Any) -> Any:
        """The network's probabilities of (history, item) pairs, or of one, mixed with the shares.

        Args:
            probabilities: float (pairs,), of the network.
            lengths, last: int64 (pairs,), as to `weights`.
            items: int64 (pairs,).
        """
        return probabilities + self.weights(lengths, last) * (self.share(last, items) - probabilities)

    def blend_(self, scores: Tensor, histories: SequenceStore) -> Tensor:
        """Mix the transitions into the scores of all items, in place.

        Only the successors' scores change, and only upwards: the others are scaled by 1 - w alike, which a score,
        known up to a constant, leaves out.

        Args:
            scores: float32 (B, V + 1), log-probabilities up to a constant; column 0 is ignored.
            histories: B rows.
        """
        last = last_items(histories)
        totals = log_sum(scores[:, 1:])
        self.boosts(last, self.weights(histories.lengths, last)).beside(totals).raise_(scores)
        return scores

    def boosts(self, last: np.ndarray, weights: np.ndarray) -> Boosts:
        """What the transitions add to a network's probabilities, as shares of the network's part.

        Args:
            last: int64 (B,), each history's last item.
            weights: float64 (B,), w of each; above 0 only where the last item has transitions.
        """
        at, offsets = flat_ranges(self.offsets[last], self.offsets[last + 1])
        rows = np.repeat(np.arange(len(last)), np.diff(offsets))
        amounts = np.log((weights / (1 - weights))[rows] * self.shares[at])
        return Boosts(rows, self.items[at].astype(np.int64), amounts.astype(np.float32))

    def pad(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of one width F, the longest's: numbers int32 (V + 1, F), 0 from where a row has ended; their shares."""
        counts = np.diff(self.offsets)
        rows = np.repeat(np.arange(len(counts)), counts)
        places = np.arange(len(rows)) - self.offsets[rows]
        numbers = np.zeros((len(counts), counts.max()), np.int32)
        shares = np.zeros(numbers.shape, np.float32)
        numbers[rows, places], shares[rows, places] = self.items, self.shares
        return numbers, shares

    @cached_property
    def scarcity(self) -> float:
        """1 / m."""
        return np.count_nonzero(self.item_counts) / max(1, int(self.item_counts.sum()))

    @cached_property
    def counts_lack(self) -> np.ndarray:
        """t of each last item, float64 (V + 1,); infinite where nothing followed."""
        lack = 1 / (1 + self.item_counts / HALF_TRUST_EVENTS)
        return np.where(self.offsets[1:] > self.offsets[:-1], lack, np.inf)

    @property
    def _columns(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def _by_pair(self) -> tuple[np.ndarray, np.ndarray]:
        """A rising key for each pair, int64 (P + 1,), and its share; the last is above all and of none."""
        last = np.repeat(np.arange(self._columns), np.diff(self.offsets))
        keys = np.append(last * self._columns + self.items, np.iinfo(np.int64).max)
        return keys, np.append(self.shares, np.float32(0))


class LastItemMarkov:
    """Scores an item by how often it followed the history's last item in training; popularity breaks the ties.

    First-order Markov chain with add-one mass on popularity: (count(last -> i) + popularity(i)) / (count(last) + 1).
    """

    name = "Last-item Markov"

    def __init__(self, train: SequenceStore, num_items: int) -> None:
        self.num_items = num_items
        self.popularity = Popularity(train.item_counts(num_items))
        self._offsets, self._next, counts = count_transitions(train, num_items)
        self._counts = counts.astype(np.float32)

    def score(self, histories: SequenceStore) -> Tensor:
        scores = self.popularity.score(histories)
        last = last_items(histories)
        at, offsets = flat_ranges(self._offsets[last], self._offsets[last + 1])
        rows = np.repeat(np.arange(len(histories)), np.diff(offsets))
        scores[rows, self._next[at]] += torch.from_numpy(self._counts[at])
        totals = np.bincount(rows, self._counts[at], len(histories)).astype(np.float32)
        return scores / torch.from_numpy(totals + 1)[:, None]
