"""Item-to-item transitions: discounted counts of the items that followed each item, with the network as their prior.

B histories, V items, P pairs of an item and an item that followed it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corerec.basic.popularity import Popularity
from corerec.data.cut_store import CutStore
from corerec.data.sequences import SequenceStore, blocks_of, flat_ranges, last_items, row_blocks
from corerec.retrieval.item_index import log_sum
from corerec.retrieval.score_edits import Boosts

EVENTS_AT_ONCE = 2**22  # events that are read at once; this bounds the working memory
TRANSITIONS_AT_ONCE = 2**23  # transitions that are sorted at once; this bounds the working memory
MAX_SUCCESSORS = 64  # successors kept per item, so that memory stays small and an ONNX graph can hold them
TYPICAL_LOG_LENGTH = 2.0  # the level of a concentration is that after exp(2), about 7, events; see `TransitionModel`
MOST_LEFT_OUT = 2**18  # the most pairs that discounts are fitted to; more would not change their second digit
MIN_CONCENTRATION, MAX_CONCENTRATION = 0.05, 1e6
LARGEST_CONCENTRATION = 100.0  # of its two logarithms, in a file
STORED = {
    "offsets": np.int64,
    "items": np.int32,
    "counts": np.int32,
    "totals": np.int64,
    "discounts": np.float64,
    "concentration": np.float64,
}  # what a file has of them


def count_transitions(store: SequenceStore | CutStore, num_items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count how often each item directly followed each item, in compressed sparse rows by the earlier item.

    The log is read once for about every TRANSITIONS_AT_ONCE transitions: each pass sorts the transitions from some of
    the items. So the working memory does not grow with the log or with the number of pairs.

    Returns:
        offsets int64 (V + 2,), items int32 (P,) rising within a row, counts int32 (P,).
    """
    columns = num_items + 1
    last = np.maximum(store.ends - 1, 0)[store.lengths > 0]
    totals = store.item_counts(num_items) - np.bincount(store.items[last], minlength=columns)
    ends = np.concatenate([[0], np.cumsum(totals)])
    items, counts = (np.empty(ends[-1], np.int32) for _ in range(2))  # unused memory at the end is never touched
    num_pairs = np.zeros(columns, np.int64)
    filled = 0
    for first, end in blocks_of(ends, TRANSITIONS_AT_ONCE):
        keys = np.empty(ends[end] - ends[first], np.int64)
        place = 0
        for before, after in _transitions(store, first, end):
            keys[place : place + len(before)] = (before - first) * columns + after
            place += len(before)
        keys.sort()
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
        found = slice(filled, filled + len(starts))
        counts[found] = np.diff(starts, append=len(keys))
        rows, items[found] = np.divmod(keys[starts], columns)
        num_pairs[first:end] = np.bincount(rows, minlength=end - first)
        filled = found.stop
    return np.concatenate([[0], np.cumsum(num_pairs)]), items[:filled], counts[:filled]


def _transitions(store: SequenceStore | CutStore, first: int, end: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the transitions from the items first .. end - 1 as two int64 arrays: items, and the items that followed
    them."""
    whole = store.whole if isinstance(store, CutStore) else store
    for row, stop in row_blocks(whole, EVENTS_AT_ONCE):
        start = whole.offsets[row]
        items = whole.items[start : whole.offsets[stop]]
        chosen = (items >= first) & (items < end)
        # Nothing follows a row's last event. Nor does what is cut off behind it.
        at, _ = flat_ranges(np.maximum(store.ends[row:stop] - 1, store.starts[row:stop]), whole.ends[row:stop])
        chosen[at - start] = False
        before = np.flatnonzero(chosen)
        yield items[before].astype(np.int64), items[before + 1].astype(np.int64)


def leave_one_out_fit(offsets: np.ndarray, items: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, float]:
    """Fit the discounts and a concentration, so that a log's transitions predict each other as well as possible.

    Each transition is left out in turn, and predicted from the other transitions of its item by the formula of
    `TransitionModel`. In place of the network's probabilities, the formula uses the items' shares of all transitions.
    The result maximises the likelihood (leaving-one-out; Ney, Essen & Kneser 1995). The discounts rise with the count,
    by at most 1 from one count to the next.

    Closed forms from counts of counts, such as modified Kneser-Ney's (Chen & Goodman 1999), fail where all items are
    about equally frequent. In a log where an item followed another one nine times in ten, these closed forms gave the
    item a probability of only a fifth.

    Args:
        offsets, items, counts: the result of `count_transitions`.
    Returns:
        the discounts of the counts 1, 2, and 3 or more, float64 (3,); and the logarithm of the concentration.
    """
    columns = len(offsets) - 1
    totals, followed, per_kind = np.zeros(columns), np.zeros(columns), np.zeros((columns, 3), np.int64)
    for first, end in blocks_of(offsets, TRANSITIONS_AT_ONCE):
        part = slice(offsets[first], offsets[end])
        rows = np.repeat(np.arange(end - first), np.diff(offsets[first : end + 1]))
        totals[first:end] = np.bincount(rows, counts[part], end - first)
        followed += np.bincount(items[part], counts[part], columns)
        kinds = rows * 3 + np.minimum(counts[part], 3) - 1
        per_kind[first:end] = np.bincount(kinds, minlength=3 * (end - first)).reshape(-1, 3)
    shares = (followed + 1) / (totals.sum() + columns - 1)
    last, told = _predictable(offsets, totals)
    kinds = np.minimum(counts[told], 3) - 1
    rest = counts[told] - 1  # what is left of the pair's own count
    others = per_kind[last].astype(np.float64)
    np.subtract.at(others, (np.arange(len(told)), kinds), 1)
    again = np.flatnonzero(rest)
    np.add.at(others, (again, np.minimum(rest[again], 3) - 1), 1)
    weights, rest, others, left_totals, base = (
        torch.from_numpy(np.asarray(values, np.float64))
        for values in (counts[told], rest, others, totals[last] - 1, shares[items[told]])
    )
    kind = rest.clamp(1, 3).long() - 1

    def unpacked(values: Tensor) -> tuple[Tensor, Tensor]:
        return values[:3].sigmoid().cumsum(0), values[3].clamp(-3, 14).exp()

    def loss() -> Tensor:
        optimizer.zero_grad()
        discounts, theta = unpacked(values)
        own = torch.where(rest > 0, rest - discounts[kind], 0)
        chances = (own + (theta + others @ discounts) * base) / (left_totals + theta)
        value = (values - prior).square().sum() / 8 - (weights * chances.log()).sum()
        value.backward()
        return value

    prior = torch.tensor([2.0, 0.0, 0.0, 1.0], dtype=torch.float64)  # deviations of 2: a log without a word on it
    values = prior.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([values], max_iter=100, line_search_fn="strong_wolfe")
    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    discounts, theta = unpacked(values.detach())
    return discounts.numpy(), float(theta.log())


def _predictable(offsets: np.ndarray, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs whose earlier item also has other transitions: the items, and the places of the pairs. If there
    are many such pairs, return every n-th.

    If an item has only one transition, there is no other transition to predict it from.
    """
    counts = np.where(totals > 1, np.diff(offsets), 0)
    ends = np.cumsum(counts)
    chosen = np.arange(0, ends[-1], 1 + ends[-1] // MOST_LEFT_OUT)
    last = np.searchsorted(ends, chosen, side="right")
    return last, offsets[last] + chosen - (ends - counts)[last]


@dataclass(frozen=True)
class TransitionModel:
    """The items that followed each item in the fitted log, in compressed sparse rows by item number:

        sequences [[1, 2, 1, 3], [1, 2]]  ->  1: {2: 2, 3: 1}, 2: {1: 1}, 3: {}

    In a log of short histories, such as Amazon Beauty, a network ranks below plain counts of what followed the last
    item (`benchmarks/by_history.py`). Rare items occur too seldom for the network to learn, but often enough to count.

    A count is not a probability: most pairs of a sparse log occur once, by chance. So each count is discounted. The
    probability that the discounts take away goes to the network's prediction, which is the base measure of this
    Pitman-Yor process. This is equation 8 of Teh (2006), with one discount for each of three counts:

        p(i) = (1 - w) p_network(i) + (c_i - D(c_i)) / (N + theta),      w = sum over i of the second term

    Here c_i is how often i followed the last item, N how often any item did, and D the discounts. The concentration
    theta is the number of observations that the network's estimate is worth. Theta depends on the number n of events of
    the history,

        log theta = concentration[0] + concentration[1] (log n - TYPICAL_LOG_LENGTH)

    because the network predicts better from a long history. w is 0 for an empty history, and also if nothing ever
    followed the last item.

    Attributes:
        item_counts: int64 (V + 1,), events of each item number; 0 for padding.
        offsets: int64 (V + 2,); item number i has the transitions offsets[i] .. offsets[i + 1]. Padding (0) has none.
        items: int32 (P,), the MAX_SUCCESSORS most frequent successors of each item, rising within a row. Of equally
            frequent successors, the lower numbers are kept.
        counts: int32 (P,), how often each successor followed, from 1.
        totals: int64 (V + 1,), N. It counts all successors, also successors that were not kept.
        discounts: float64 (3,), the discounts of the counts 1, 2, and 3 or more.
        concentration: float64 (2,).
    """

    item_counts: np.ndarray
    offsets: np.ndarray
    items: np.ndarray
    counts: np.ndarray
    totals: np.ndarray
    discounts: np.ndarray
    concentration: np.ndarray

    @classmethod
    def of(
        cls, store: SequenceStore | CutStore, num_items: int, like: TransitionModel | None = None
    ) -> TransitionModel:
        """Count the transitions of a log, without a loop over events.

        Args:
            like: a model from which the discounts and the concentration are copied. With None, `leave_one_out_fit` fits
                both. Its concentration is too low for a network, because a network predicts better than popularity
                does.
        """
        starts, successors, counts = count_transitions(store, num_items)
        if like is None:
            discounts, log_theta = leave_one_out_fit(starts, successors, counts)
            concentration = np.array([log_theta, 0.0])
        else:
            discounts, concentration = like.discounts, like.concentration
        totals, kept = np.zeros(num_items + 1, np.int64), []
        for first, end in blocks_of(starts, TRANSITIONS_AT_ONCE):
            part = slice(starts[first], starts[end])
            rows = np.repeat(np.arange(first, end), np.diff(starts[first : end + 1]))
            totals[first:end] = np.bincount(rows - first, counts[part], end - first)
            # Stable: of equally frequent successors the lower number comes first.
            by_count = np.lexsort((-counts[part], rows))
            is_frequent = np.arange(part.start, part.stop) - starts[rows] < MAX_SUCCESSORS
            kept.append(part.start + np.sort(by_count[is_frequent]))
        chosen = np.concatenate(kept)
        return cls(
            store.item_counts(num_items),
            np.concatenate([[0], np.cumsum(np.minimum(np.diff(starts), MAX_SUCCESSORS))]),
            successors[chosen],
            counts[chosen],
            totals,
            discounts,
            concentration,
        )

    @classmethod
    def none(cls, item_counts: np.ndarray) -> TransitionModel:
        """Return a model without transitions, which leaves a network's probabilities as they are."""
        return cls(
            item_counts,
            np.zeros(len(item_counts) + 1, np.int64),
            np.zeros(0, np.int32),
            np.zeros(0, np.int32),
            np.zeros(len(item_counts), np.int64),
            np.zeros(3),
            np.zeros(2),
        )

    def with_new_items(self, count: int) -> TransitionModel:
        """Return a model with `count` more items, which have no events."""
        item_counts, totals = (np.append(old, np.zeros(count, np.int64)) for old in (self.item_counts, self.totals))
        offsets = np.append(self.offsets, np.repeat(self.offsets[-1:], count))
        return replace(self, item_counts=item_counts, offsets=offsets, totals=totals)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save in a file besides the item counts; `of_tensors` reads them."""
        return {name: torch.from_numpy(array) for name, array in vars(self).items() if name in STORED}

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor], item_counts: np.ndarray) -> TransitionModel:
        """Build the model from the tensors of a file.

        Raises:
            ValueError, KeyError: the tensors do not fit together.
        """
        num_items = len(item_counts) - 1
        if tensors.keys() != set(STORED):
            raise ValueError(f"transitions of the parts {', '.join(sorted(tensors))}")
        arrays = {name: tensors[name].numpy() for name in STORED}
        if wrong := {name: array.dtype for name, array in arrays.items() if array.dtype != STORED[name]}:
            raise ValueError(f"transitions of the types {wrong}")
        offsets, items, counts, totals, discounts, concentration = arrays.values()
        if offsets.shape != (num_items + 2,) or not items.shape == counts.shape == (offsets[-1],):
            raise ValueError(f"{len(items):,} transitions in {len(offsets) - 1:,} rows, for {num_items:,} items")
        lengths = np.diff(offsets)
        if offsets[:2].any() or (lengths < 0).any() or (lengths > MAX_SUCCESSORS).any():
            raise ValueError(f"offsets that do not divide {len(items):,} transitions among {num_items:,} items")
        rows = np.repeat(np.arange(num_items + 1), lengths)
        if (items < 1).any() or (items > num_items).any() or (np.diff(rows * (num_items + 1) + items) <= 0).any():
            raise ValueError(f"transitions that are not among {num_items:,} items, or not in their order")
        kept = np.bincount(rows, counts, num_items + 1)
        if totals.shape != (num_items + 1,) or (counts < 1).any() or (totals < kept).any() or (totals > 2**53).any():
            raise ValueError("transitions whose counts are not from 1, or above all of their item's together")
        if discounts.shape != (3,) or not ((discounts >= 0) & (discounts <= np.arange(1, 4))).all():
            raise ValueError(f"discounts {discounts.tolist()}, which are not from 0 to 1, 2 and 3")
        if concentration.shape != (2,) or not (np.abs(concentration) <= LARGEST_CONCENTRATION).all():
            raise ValueError(f"a concentration {concentration.tolist()}")
        return cls(item_counts, **arrays)

    # ---------------------------------------------------------------------------------------------- probabilities

    def concentrations(self, lengths: Any) -> Any:
        """Return theta for histories of the given numbers of events, float64 (B,), or for one history."""
        level, slope = self.concentration
        logs = level + slope * (np.log(np.maximum(lengths, 1)) - TYPICAL_LOG_LENGTH)
        return np.minimum(np.maximum(np.exp(logs), MIN_CONCENTRATION), MAX_CONCENTRATION)

    def weights(self, lengths: Any, last: Any) -> Any:
        """Return w for histories, float64 (B,), or for one history.

        Args:
            lengths: int (B,), the number of events of each history. Events that are too old for the network to read
                count, too.
            last: int (B,), the last item of each history; 0 for an empty history.
        """
        return self.masses[last] / (self.totals[last] + self.concentrations(lengths))

    def count(self, last: Any, items: Any) -> Any:
        """Return, for pairs of a last item and an item, how often the item followed, int32 (pairs,), or one number for
        one pair."""
        return self._of_pairs(self._values[0], last, items)

    def blended(self, probabilities: Any, lengths: Any, last: Any, items: Any) -> Any:
        """Mix the network's probabilities of (history, item) pairs, or of one pair, with the transitions.

        Args:
            probabilities: float (pairs,), the network's.
            lengths, last: int64 (pairs,), as in `weights`.
            items: int64 (pairs,).
        """
        evidence = self.totals[last] + self.concentrations(lengths)
        left = evidence - self.masses[last]
        return (left * probabilities + self._of_pairs(self._values[1], last, items)) / evidence

    def blend_(self, scores: Tensor, histories: SequenceStore) -> Tensor:
        """Mix the transitions into the scores of all items, in place.

        A row's scores may differ from log-probabilities by a constant, so the factor 1 - w, which all items share, is
        left out. Thus only the scores of the last item's successors change, and they only rise.

        Args:
            scores: float32 (B, V + 1), log-probabilities up to a constant; column 0 is ignored.
            histories: B rows.
        """
        totals = log_sum(scores[:, 1:])
        self.boosts(histories.lengths, last_items(histories)).beside(totals).raise_(scores)
        return scores

    def boosts(self, lengths: np.ndarray, last: np.ndarray) -> Boosts:
        """Return the amounts that the transitions add to a network's probabilities, as shares of the network's part.

        Args:
            lengths, last: int64 (B,), as in `weights`.
        """
        at, offsets = flat_ranges(self.offsets[last], self.offsets[last + 1])
        rows = np.repeat(np.arange(len(last)), np.diff(offsets))
        left = self.totals[last] + self.concentrations(lengths) - self.masses[last]
        amounts = self._log_discounted[at] - np.log(left).astype(np.float32)[rows]
        return Boosts(rows, self.items[at].astype(np.int64), amounts)

    def pad(self) -> tuple[np.ndarray, np.ndarray]:
        """Pad each item's row of successors to the width F of the longest row.

        Returns:
            the successors' numbers, int32 (V + 1, F), with 0 as padding, and their values of `discounted`, float32 (V +
            1, F).
        """
        counts = np.diff(self.offsets)
        rows = np.repeat(np.arange(len(counts)), counts)
        places = np.arange(len(rows)) - self.offsets[rows]
        numbers = np.zeros((len(counts), counts.max()), np.int32)
        discounted = np.zeros(numbers.shape, np.float32)
        numbers[rows, places], discounted[rows, places] = self.items, self.discounted
        return numbers, discounted

    @cached_property
    def discounted(self) -> np.ndarray:
        """Each count minus its discount, float32 (P,)."""
        return (self.counts - self.discounts[np.minimum(self.counts, 3) - 1]).astype(np.float32)

    @cached_property
    def masses(self) -> np.ndarray:
        """The sum of all discounted counts of each last item, float64 (V + 1,); at most the item's total count."""
        rows = np.repeat(np.arange(self._columns), np.diff(self.offsets))
        return np.bincount(rows, self.counts - self.discounts[np.minimum(self.counts, 3) - 1], self._columns)

    @cached_property
    def _log_discounted(self) -> np.ndarray:
        with np.errstate(divide="ignore"):  # if no probability is left, the logarithm is -inf, which raises no score
            return np.log(self.discounted)

    @property
    def _columns(self) -> int:
        return len(self.offsets) - 1

    def _of_pairs(self, values: np.ndarray, last: Any, items: Any) -> Any:
        """Return the value, float (P + 1,), of each pair of a last item and its successor; 0 for other pairs."""
        wanted = last * self._columns + items
        at = self._keys.searchsorted(wanted)
        return values[at] * (self._keys[at] == wanted)

    @cached_property
    def _keys(self) -> np.ndarray:
        """A rising key for each pair, int64 (P + 1,). The last key is above all others, and belongs to no pair."""
        last = np.repeat(np.arange(self._columns), np.diff(self.offsets))
        return np.append(last * self._columns + self.items, np.iinfo(np.int64).max)

    @cached_property
    def _values(self) -> tuple[np.ndarray, np.ndarray]:
        """`counts` and `discounted` in the order of the keys, (P + 1,). The last value is 0."""
        return np.append(self.counts, 0), np.append(self.discounted, 0)


class LastItemMarkov:
    """Scores an item by how often it followed the history's last item in training. Popularity breaks ties.

    The score is the probability of item i in a first-order Markov chain, with popularity added as one pseudo-count:
    (count(last -> i) + popularity(i)) / (count(last) + 1).
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

    probabilities = score
