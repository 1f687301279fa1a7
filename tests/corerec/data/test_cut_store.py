"""A cut store has the rows of a copy that ends where they end, and copies no event."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.basic.transitions import TransitionModel, count_transitions
from corerec.data import cut_store as module
from corerec.data.cut_store import CutStore
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import hold_out_last
from corerec.engines.bert4rec.batches import epoch_batches
from corerec.engines.bert4rec.time_encoding import GapScale

repeatable = settings(max_examples=100, deadline=None, derandomize=True)


def cut_of(sequences, kept) -> CutStore:
    """The first `kept` events of each sequence, or all where it has fewer; times and ratings differ in each event."""
    store = SequenceStore.from_lists(sequences)
    numbers = np.arange(store.num_events)
    store = SequenceStore(store.items, store.offsets, numbers**2, numbers.astype(np.float32))
    return CutStore(store, store.starts + np.minimum(store.lengths, kept))


cuts = st.lists(st.tuples(st.lists(st.integers(1, 9), max_size=6), st.integers(0, 6)), min_size=1, max_size=8).map(
    lambda rows: cut_of([row for row, _ in rows], [kept for _, kept in rows])
)


@repeatable
@given(cuts, st.integers(1, 5))
def test_it_counts_and_digests_as_a_copy_does(cut, events_at_once):
    copy = cut.compact()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EVENTS_AT_ONCE", events_at_once)
        patch.setattr("corerec.basic.transitions.EVENTS_AT_ONCE", events_at_once)
        patch.setattr("corerec.basic.transitions.TRANSITIONS_AT_ONCE", events_at_once)
        assert (len(cut), cut.num_events) == (len(copy), copy.num_events)
        assert cut.lengths.tolist() == copy.lengths.tolist()
        assert cut.item_counts(9).tolist() == copy.item_counts(9).tolist()
        assert cut.digest() == copy.digest()
        in_parts = count_transitions(cut, 9)
    for ours, theirs in zip(in_parts, count_transitions(copy, 9), strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


@repeatable
@given(cuts, st.integers(2, 4), st.booleans(), st.integers(0, 3))
def test_its_batches_are_those_of_a_copy(cut, max_seq_len, whole_history, seed):
    def batches(store):
        return list(epoch_batches(store, max_seq_len, 2, whole_history, np.random.default_rng(seed)))

    for ours, theirs in zip(batches(cut), batches(cut.compact()), strict=True):
        assert torch.equal(ours.items, theirs.items)
        assert ours.times is not None
        assert theirs.times is not None
        assert torch.equal(ours.times, theirs.times)


def test_its_time_scale_is_that_of_a_copy():
    cut = cut_of([[1, 2, 3, 4], [5, 6, 7], [8]], [3, 2, 1])
    assert GapScale.of(cut) == GapScale.of(cut.compact())
    assert GapScale.of(cut) != GapScale.of(cut.whole)


def test_a_row_without_events_takes_no_transition_from_its_neighbours():
    cut = cut_of([[], [1, 2], [3, 4, 5], [6]], [0, 2, 0, 1])
    assert TransitionModel.of(cut, 6).totals.tolist() == [0, 1, 0, 0, 0, 0, 0]


def test_held_out_events_are_not_copied_away():
    store = SequenceStore.from_lists([[1, 2, 3], [4, 5]])
    rest, questions = hold_out_last(store, np.array([0, 1]), asked=np.array([1]))
    assert rest.items is store.items
    assert rest.ends.tolist() == [2, 4]
    assert (questions.users.tolist(), questions.targets.items.tolist()) == ([2], [5])
