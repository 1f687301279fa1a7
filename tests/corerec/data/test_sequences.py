import numpy as np

from corerec.data.sequences import SequenceStore


def timed(sequences, asked_at=None):
    store = SequenceStore.from_lists(sequences)
    return SequenceStore(
        store.items, store.offsets, np.arange(store.num_events) * 10, asked_at=None if asked_at is None else asked_at
    )


def test_concatenate_keeps_the_times_of_some_beside_rows_without_any():
    both = SequenceStore.concatenate([timed([[1, 2], [3]]), SequenceStore.from_lists([[4]])])
    np.testing.assert_array_equal(both.times, [0, 10, 20, np.nan])
    assert SequenceStore.concatenate([SequenceStore.from_lists([[1]])] * 2).times is None


def test_the_moments_asked_about_go_with_their_rows():
    store = timed([[1, 2], [], [3]], asked_at=np.array([7.0, np.nan, 9.0]))
    np.testing.assert_array_equal(store.select(np.array([2, 0])).asked_at, [9, 7])
    np.testing.assert_array_equal(store.last(1).asked_at, [7, np.nan, 9])
    both = SequenceStore.concatenate([store, SequenceStore.from_lists([[4]])])
    np.testing.assert_array_equal(both.asked_at, [7, np.nan, 9, np.nan])
