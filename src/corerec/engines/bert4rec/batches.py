"""Cut histories into windows, and group windows of similar length into batches of about equally many padded events.

Shapes: B windows in a batch, L events in its longest window.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from corerec.data.cut_store import CutStore
from corerec.data.sequences import SequenceStore

LENGTH_NOISE = 8  # windows are shuffled among each other if their lengths differ by up to so many events
NOISE_SHARE = 0.25  # the noise is at most this share of a window's length; else half of a short batch would be padding


def windows(
    store: SequenceStore | CutStore, max_seq_len: int, whole_history: bool, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cut each row into windows of at most `max_seq_len` events that together cover it.

    A row of n events gets ceil(n / max_seq_len) windows. The newest window always ends at the row's end. The older
    windows follow each other without gaps. The newest window overlaps the next older one by a random number of events,
    which shifts all older windows. So the windows differ from epoch to epoch. Empty rows get no window.

        10 events, max_seq_len 4, overlap 1  ->  [6, 10) [3, 7) [0, 3)

    Args:
        whole_history: whether to cover the whole row. False keeps only the newest window of each row.
    Returns:
        starts, ends: int64 (windows,) into the store's events.
    """
    first, end, lengths = store.starts, store.ends, store.lengths
    counts = window_counts(lengths, max_seq_len, whole_history)
    overlap = np.floor(random.random(len(lengths)) * (counts * max_seq_len - lengths + 1)).astype(np.int64)
    row = np.repeat(np.arange(len(lengths)), counts)
    back = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)  # 0 is the newest window of its row
    ends = end[row] - back * max_seq_len + np.where(back > 0, overlap[row], 0)
    return np.maximum(ends - max_seq_len, first[row]), ends


def window_counts(lengths: np.ndarray, max_seq_len: int, whole_history: bool) -> np.ndarray:
    """Return the number of windows of each row, given the lengths of the rows: int64 (rows,)."""
    counts = -(-lengths // max_seq_len)
    return counts if whole_history else np.minimum(counts, 1)


def batch_order(
    lengths: np.ndarray, num_batches: int, max_seq_len: int, random: np.random.Generator
) -> list[np.ndarray]:
    """Group windows of nearly equal length into batches of about equally many padded events, in random order.

    A batch has many windows if they are short, and few if they are long. So no batch needs much more memory than the
    mean batch, even if a few windows are very long. Nearly all batches of the same padded length have equally many
    windows, also in other epochs. So there are few shapes of batches. This saves memory and time, as libraries keep
    prepared code for each shape, and a GPU records a graph for each shape.

    Args:
        lengths: int64 (windows,), from 1.
        num_batches: the number of batches. There are fewer if there are fewer windows.
        max_seq_len: the largest padded length.
    Returns:
        int64 arrays of window indices. No array is empty, and each window is in exactly one array.
    """
    num_batches = min(num_batches, len(lengths))
    if not num_batches:
        return []
    noise = np.minimum(LENGTH_NOISE, NOISE_SHARE * lengths)
    order = np.argsort(-lengths - random.uniform(0, 1, len(lengths)) * noise, kind="stable")
    padded = rounded_lengths(max_seq_len)[lengths[order]]
    padded = np.maximum.accumulate(padded[::-1])[::-1]  # a running maximum from the end, so that lengths fall
    low, high = 0.0, 2.0 * padded[0] * len(lengths)  # search the least size that gives at most num_batches batches
    while high - low > 1:
        middle = (low + high) / 2
        low, high = (low, middle) if len(_starts(padded, middle)) <= num_batches else (middle, high)
    starts = _starts(padded, high)
    while missing := num_batches - len(starts):  # split the batches with most windows in half
        counts = np.diff(starts, append=len(order))
        largest = np.argsort(-counts, kind="stable")[:missing]
        largest = largest[counts[largest] > 1]
        starts = np.sort(np.concatenate([starts, starts[largest] + (counts[largest] + 1) // 2]))
    batches = np.split(order, starts[1:])
    random.shuffle(batches)
    return batches


def _starts(padded: np.ndarray, size: float) -> np.ndarray:
    """Return where batches of at most `size` padded events begin, int64 (batches,), given falling padded lengths."""
    starts, start = [], 0
    runs = np.flatnonzero(np.diff(padded, append=0)) + 1  # where the windows of each padded length end
    for end in runs.tolist():
        if start < end:
            count = _few_digits(int(size / padded[end - 1]))
            starts.append(np.arange(start, end, count))
            start = int(starts[-1][-1]) + count
    return np.concatenate(starts)


def _few_digits(count: int) -> int:
    """Round a number of windows down to four significant binary digits, but to 1 at least. So all epochs have batches
    of the same few sizes.

    >>> [_few_digits(count) for count in (0, 13, 31, 100, 1000)]
    [1, 13, 30, 96, 960]
    """
    step = 2 ** max(0, count.bit_length() - 4)
    return max(1, count // step * step)


class Batch(NamedTuple):
    """The windows of one step. `items`: int64 (B, L), left-padded with 0. `times`: float64 (B, L), or None."""

    items: Tensor
    times: Tensor | None


def pad(
    items: np.ndarray, starts: np.ndarray, ends: np.ndarray, width: int | None = None, dtype: type = np.int64
) -> Tensor:
    """Copy windows of events into one left-padded matrix.

        windows [5 6] and [7]  ->  [[5, 6], [0, 7]]

    Args:
        items: (events,), a column of a SequenceStore.
        width: L. None means the length of the longest window.
        dtype: the type of the matrix.
    Returns:
        (B, L), 0 at padding.
    """
    if width is None:
        width = int((ends - starts).max(initial=1))
    at = ends[:, None] + np.arange(-width, 0)
    inside = at >= starts[:, None]
    matrix = np.zeros(at.shape, dtype)
    matrix[inside] = items[at[inside]]
    return torch.from_numpy(matrix)


def epoch_batches(
    store: SequenceStore | CutStore,
    max_seq_len: int,
    num_batches: int,
    whole_history: bool,
    random: np.random.Generator,
    first: int = 0,
) -> Iterator[Batch]:
    """Yield one pass over the store in `num_batches` batches.

    Args:
        first: the number of batches to skip at the start. A resumed training skips the batches that it has done.
    """
    starts, ends = windows(store, max_seq_len, whole_history, random)
    lengths = ends - starts
    for chosen in batch_order(lengths, num_batches, max_seq_len, random)[first:]:
        width = rounded_length(int(lengths[chosen].max()), max_seq_len)
        begin, end = starts[chosen], ends[chosen]
        times = None if store.times is None else pad(store.times, begin, end, width, np.float64)
        yield Batch(pad(store.items, begin, end, width), times)


def rounded_length(length: int, longest: int) -> int:
    """Round a length up to a multiple of a quarter of its power of two (16 at most), and to `longest` at most.

    Matrix libraries prepare code for each shape of a matrix, and keep the code in memory. On a CPU, the code for 200
    lengths takes half a gigabyte.

    >>> [rounded_length(length, 200) for length in (5, 9, 33, 70, 199)]
    [5, 10, 40, 80, 200]
    """
    step = min(16, max(1, 2 ** (length.bit_length() - 3)))
    return min(-(-length // step) * step, longest)


@cache
def rounded_lengths(longest: int) -> np.ndarray:
    """Return a table of the `rounded_length` of every length, int64 (longest + 1,)."""
    return np.array([rounded_length(length, longest) for length in range(longest + 1)])
