from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec.batches import (
    batch_order,
    epoch_batches,
    pad,
    rounded_length,
    window_counts,
    windows,
)


def rows_of(lengths):
    return SequenceStore.from_lists([np.arange(1, length + 1) for length in lengths])


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=8), st.integers(2, 20), st.integers(0, 5))
def test_windows_cover_every_event_and_never_leave_their_row(lengths, max_seq_len, seed):
    store = rows_of(lengths)
    offsets = store.offsets
    starts, ends = windows(store, max_seq_len, True, np.random.default_rng(seed))
    visited = np.zeros(offsets[-1], bool)
    for start, end in zip(starts, ends, strict=True):
        row = np.searchsorted(offsets, start, side="right") - 1
        assert offsets[row] <= start < end <= offsets[row + 1]
        assert end - start <= max_seq_len
        visited[start:end] = True
    assert visited.all()


def test_newest_window_ends_at_the_rows_end_and_others_move_between_epochs():
    store = rows_of([25])
    drawn = {tuple(windows(store, 10, True, np.random.default_rng(seed))[1]) for seed in range(20)}
    assert {ends[0] for ends in drawn} == {25}
    assert len(drawn) > 1


def test_newest_events_only_when_the_whole_history_is_not_wanted():
    starts, ends = windows(rows_of([25, 3]), 10, False, np.random.default_rng(0))
    assert (starts.tolist(), ends.tolist()) == ([15, 25], [25, 28])


def test_padding_stands_on_the_left():
    assert pad(np.array([5, 6, 7]), np.array([0, 2]), np.array([2, 3])).tolist() == [[5, 6], [0, 7]]


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(1, 100), st.integers(0, 5))
def test_each_window_is_in_exactly_one_batch_and_there_are_as_many_as_wanted(lengths, num_batches, seed):
    batches = batch_order(np.array(lengths), num_batches, 60, np.random.default_rng(seed))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert len(batches) == min(num_batches, len(lengths))
    assert all(len(batch) for batch in batches)


def test_windows_of_a_batch_are_near_in_length():
    lengths = np.random.default_rng(0).integers(1, 200, 1000)
    batches = batch_order(lengths, 32, 200, np.random.default_rng(1))
    assert max(np.ptp(lengths[batch]) for batch in batches if len(batch) < 100) < 8 + 4 * 200 / 32


def test_a_batch_of_the_longest_windows_holds_no_more_than_others():
    """As in a shop's log: most windows are short, few are long. Batches of as many windows are the control."""
    lengths = np.minimum(np.random.default_rng(0).lognormal(1.5, 1.2, 30_000).astype(np.int64) + 1, 200)

    def padded(batches):
        return np.array([len(batch) * rounded_length(int(lengths[batch].max()), 200) for batch in batches])

    sizes = padded(batch_order(lengths, 200, 200, np.random.default_rng(1)))
    by_length = np.argsort(lengths)
    as_many = padded([by_length[at : at + 150] for at in range(0, len(by_length), 150)])
    assert sizes.max() < 1.5 * sizes.mean()
    assert as_many.max() > 10 * as_many.mean()
    assert sizes.sum() <= as_many.sum() + 8 * len(lengths)  # the noise


def test_short_windows_are_hardly_padded():
    """Half of such a batch was padding while windows within 8 events of each other shared one."""
    lengths = np.minimum(np.random.default_rng(0).geometric(1 / 3, 30_000), 200)
    batches = batch_order(lengths, 60, 200, np.random.default_rng(1))
    padded = sum(len(batch) * rounded_length(int(lengths[batch].max()), 200) for batch in batches)
    assert padded < 1.15 * lengths.sum()


def test_batches_have_few_shapes_and_the_same_ones_in_each_epoch():
    """Libraries keep code for each shape: a shop's log with 170 shapes in six epochs took half a gigabyte more."""
    lengths = np.minimum(np.random.default_rng(0).lognormal(1.5, 1.2, 30_000).astype(np.int64) + 1, 200)
    epochs = [batch_order(lengths, 200, 200, np.random.default_rng(seed)) for seed in range(6)]
    shapes = {(len(batch), rounded_length(int(lengths[batch].max()), 200)) for batches in epochs for batch in batches}
    assert len(shapes) < 50


def test_batches_are_balanced_by_the_length_that_they_are_padded_to():
    lengths = np.concatenate([np.full(400, 65), np.full(20_000, 9)])  # 65 is padded to 80
    batches = batch_order(lengths, 100, 200, np.random.default_rng(0))
    sizes = [len(batch) * rounded_length(int(lengths[batch].max()), 200) for batch in batches]
    assert max(sizes) < 1.1 * np.mean(sizes)


def test_no_window_is_no_batch():
    assert batch_order(np.zeros(0, np.int64), 3, 200, np.random.default_rng(0)) == []


def test_epoch_yields_every_window_announced():
    random = np.random.default_rng(0)
    store = SequenceStore.from_lists([list(range(1, n + 1)) for n in random.integers(0, 90, 50)])
    for whole in (True, False):
        batches = [batch.items for batch in epoch_batches(store, 20, 8, whole, np.random.default_rng(0))]
        assert sum(len(batch) for batch in batches) == window_counts(store.lengths, 20, whole).sum()
        assert all(1 <= batch.shape[1] <= 20 for batch in batches)
        assert len(batches) == 8


def test_little_of_a_long_tailed_log_is_padding():
    random = np.random.default_rng(0)
    store = SequenceStore.from_lists([[1] * int(n) for n in random.lognormal(4.4, 0.9, 2000) + 1])
    batches = [batch.items for batch in epoch_batches(store, 200, 80, True, np.random.default_rng(0))]
    padding = sum(int((batch == 0).sum()) for batch in batches) / sum(batch.numel() for batch in batches)
    assert padding < 0.1


def test_each_event_of_a_batch_has_its_own_time_beside_it():
    store = SequenceStore.from_lists([[1, 2, 3], [4, 5]])
    store = replace(store, times=store.items.astype(np.int64) * 100)
    batches = list(epoch_batches(store, 2, 1, True, np.random.default_rng(0)))
    assert all(torch.equal(batch.times, batch.items * 100.0) for batch in batches)
    untimed = epoch_batches(replace(store, times=None), 2, 1, True, np.random.default_rng(0))
    assert [batch.times for batch in untimed] == [None]


def test_rounded_lengths_are_few_and_never_shorter():
    lengths = [rounded_length(length, 200) for length in range(1, 201)]
    assert all(rounded >= length for length, rounded in enumerate(lengths, 1))
    assert max(lengths) == 200
    assert len(set(lengths)) < 30
