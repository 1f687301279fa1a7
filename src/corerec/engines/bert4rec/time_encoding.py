"""Time encoding: the gaps between events, and from the last event to the query's time, as inputs of the network.

B batch, L sequence length, D hidden_dim, G buckets.

A gap is the time since the previous event of the same sequence. Gaps are put into logarithmic buckets whose unit is
the log's own smallest gap, so that seconds, days and nanoseconds need no setting:

    bucket   0        1      2          3           4            ...
    gap      unknown  0      up to u    up to 2 u   up to 4 u    ...

Much longer gaps than any in training (`GapScale.longest`) count as unknown.

HSTU (Zhai et al. 2024, arXiv:2402.17152) adds log-bucketed gaps to its attention scores. Here the gaps are inputs of
the network. This costs almost no time, and on MovieLens-100K it gained as much (`benchmarks/LAB.md`).
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corerec.data.cut_store import CutStore
from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec.batches import pad

UNKNOWN = -1.0  # a gap that is not known
MOST_BUCKETS = 64
FORGET_ASKED = 0.3  # share of the training's questions whose own time is not known
FORGET_ALL = 0.1  # share of the training's sequences without any time
SMALLEST_QUANTILE = 0.01  # quantile of the positive gaps; smaller gaps share the first positive bucket
MOST_GAPS = 2**24  # the most gaps that are read to choose the buckets


class GapScale(NamedTuple):
    """The buckets of gaps: `unit`, the upper end of the first positive bucket, and `num_buckets`, G."""

    unit: float
    num_buckets: int

    @classmethod
    def of(cls, store: SequenceStore | CutStore) -> GapScale | None:
        """Choose the scale of a log. None if no two events of a sequence are known to be apart in time.

        In a log of more than MOST_GAPS events, only every n-th user is read.
        """
        if store.times is None:
            return None
        if store.num_events > MOST_GAPS or isinstance(store, CutStore):
            store = store.select(np.arange(0, len(store), max(1, -(-store.num_events // MOST_GAPS))))
        assert store.times is not None
        gaps = np.diff(store.times.astype(np.float64))
        is_first = np.zeros(store.num_events, bool)
        is_first[store.offsets[:-1][store.lengths > 0]] = True
        gaps = gaps[~is_first[1:]]
        gaps = gaps[gaps > 0]
        if not len(gaps):
            return None
        unit = float(np.quantile(gaps, SMALLEST_QUANTILE))
        return cls(unit, min(MOST_BUCKETS, 3 + math.ceil(math.log2(max(1.0, gaps.max() / unit)))))

    def edges(self) -> list[float]:
        """Return the upper ends of the buckets 2 .. G - 2. The last bucket has no upper end."""
        return [self.unit * 2.0**power for power in range(self.num_buckets - 3)]

    @property
    def longest(self) -> float:
        """The longest gap that is read. Longer gaps count as unknown."""
        return self.unit * 2.0 ** (self.num_buckets - 2)

    def buckets(self, gaps: np.ndarray) -> np.ndarray:
        """Return the bucket of each gap, float (...), as int64 (...)."""
        found = 2 + np.searchsorted(np.array(self.edges()), gaps, side="left")
        return np.where((gaps < 0) | (gaps > self.longest), 0, np.where(gaps > 0, found, 1))


def gaps_between(times: Tensor, is_known: Tensor) -> Tensor:
    """Return the time since the newest known event before: float64 (B, L), ascending -> float32 (B, L).

    It is UNKNOWN if the time itself, or every time before it, is not known.

        times 3 5 5 9, the second not known  ->  UNKNOWN UNKNOWN 2 4
    """
    # Differences before float32, which does not tell nanoseconds apart.
    lowest = torch.finfo(times.dtype).min
    newest = times.masked_fill(~is_known, lowest).cummax(1).values
    before = F.pad(newest[:, :-1], (1, 0), value=lowest)
    has_both = is_known & (before > lowest)
    return torch.where(has_both, (times - before).clamp(min=0), UNKNOWN).float()


def training_gaps(
    times: Tensor, is_item: Tensor, hidden: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, bool]:
    """Return the gaps of one training step. Some gaps are set to unknown, so that the network also learns to answer
    without gaps.

    Args:
        times: float64 (B, L).
        is_item: bool (B, L), false at padding.
        hidden: bool (B, L), the positions of a cloze; None for a next-item step.
    Returns:
        gaps, float32 (B, L), and whether a position knows the gap to the next event. A next-item step decides that at
        random.
    """
    rows = len(times), 1
    known = is_item & (torch.rand(rows, generator=generator) >= FORGET_ALL)
    asked = torch.rand(rows, generator=generator) < FORGET_ASKED
    if hidden is None:
        return gaps_between(times, known), not bool(asked[0])
    return gaps_between(times, known & ~(hidden & asked)), True


def history_gaps(histories: SequenceStore, rows: np.ndarray, width: int) -> Tensor | None:
    """Return the gaps of some histories, left-padded, each with the gap to the query's time: float32 (B, width + 1).

    Return None if the histories have no times.
    """
    if histories.times is None:
        return None
    first, end = histories.offsets[rows], histories.offsets[rows + 1]
    times = pad(histories.times, first, end, width, np.float64)
    known = torch.arange(-width, 0) >= torch.from_numpy(first - end)[:, None]
    asked = torch.full((len(rows), 1), torch.nan, dtype=torch.float64)
    if histories.asked_at is not None:
        asked = torch.from_numpy(histories.asked_at[rows])[:, None]
    times, known = torch.cat([times, asked], 1), torch.cat([known, torch.ones_like(asked, dtype=torch.bool)], 1)
    return gaps_between(times, known & ~times.isnan())


def asked_buckets(histories: SequenceStore, scale: GapScale | None) -> np.ndarray:
    """Return the bucket of the gap from each history's last event to the query's time, int64 (B,); 0 if not known.

    Two query times of one bucket give the same answer.
    """
    if scale is None or histories.times is None or histories.asked_at is None:
        return np.zeros(len(histories), np.int64)
    newest = histories.last(1)
    gaps = np.full(len(histories), UNKNOWN, np.float32)
    known = newest.lengths > 0
    assert newest.times is not None
    gaps[known] = np.maximum(0, histories.asked_at[known] - newest.times.astype(np.float64))
    return scale.buckets(np.where(np.isnan(gaps), UNKNOWN, gaps))


class TimeEncoder(nn.Module):
    """Computes a vector for the gap before each position, and one for the gap after it."""

    def __init__(self, dim: int, scale: GapScale) -> None:
        super().__init__()
        self.scale = scale
        self.since_embedding = nn.Parameter(torch.empty(scale.num_buckets, dim))
        self.until_embedding = nn.Parameter(torch.empty(scale.num_buckets, dim))

    def forward(self, gaps: Tensor, *, knows_next: bool = True) -> Tensor:
        """Return vectors to add to those of the items, float (B, L, D).

        Args:
            gaps: float32 (B, L), the time since the previous event; below 0 if it is not known.
            knows_next: whether a position also knows the gap to the next one.
        """
        since = self.buckets(gaps)  # (B, L)
        vectors = F.embedding(since, self.since_embedding, padding_idx=0)
        if not knows_next:
            return vectors
        until = F.pad(since[:, 1:], (0, 1))
        return vectors + F.embedding(until, self.until_embedding, padding_idx=0)

    def buckets(self, gaps: Tensor) -> Tensor:
        """Return the bucket of each gap, float32 (...), as int64 (...)."""
        if torch.compiler.is_exporting():  # ONNX has no bucketize
            found = (gaps[..., None] > torch.tensor(self.scale.edges(), dtype=torch.float32)).sum(-1)
        else:
            found = torch.bucketize(gaps, edges_on(self.scale, gaps.device))
        return torch.where(gaps > 0, (found + 2) * (gaps <= self.scale.longest), (gaps == 0).long())


@cache
def edges_on(scale: GapScale, device: torch.device) -> Tensor:
    """Return `GapScale.edges` on a device, float32 (G - 3,)."""
    return torch.tensor(scale.edges(), dtype=torch.float32, device=device)
