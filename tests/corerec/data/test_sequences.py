from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data import sequences as module
from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore, flat_ranges, last_items

repeatable = settings(max_examples=100, deadline=None, derandomize=True)
sequence_lists = st.lists(st.lists(st.integers(1, 9), max_size=6), max_size=6)


def lists(store: SequenceStore) -> list[list[int]]:
    return [store.row(row).tolist() for row in range(len(store))]


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


def test_a_row_of_the_tiny_store(tiny):
    assert lists(tiny) == [[1, 2, 3, 4, 5], [6, 7, 1], [3], []]
    assert tiny.lengths.tolist() == [5, 3, 1, 0]
    assert (len(tiny), tiny.num_events) == (4, 9)
    assert tiny.item_counts(8).tolist() == [0, 2, 1, 2, 1, 1, 1, 1, 0]


@repeatable
@given(sequence_lists)
def test_lists_come_back_as_they_went_in(sequences):
    assert lists(SequenceStore.from_lists(sequences)) == sequences


@repeatable
@given(sequence_lists.filter(len), st.data())
def test_select_takes_rows_as_plain_python_does(sequences, data):
    rows = data.draw(st.lists(st.integers(0, len(sequences) - 1), max_size=8))
    selected = SequenceStore.from_lists(sequences).select(np.array(rows, np.int64))
    assert lists(selected) == [sequences[row] for row in rows]


@repeatable
@given(sequence_lists, st.integers(1, 7))
def test_last_cuts_rows_as_plain_python_does(sequences, count):
    assert lists(SequenceStore.from_lists(sequences).last(count)) == [sequence[-count:] for sequence in sequences]


def test_select_and_last_carry_times_and_ratings_along():
    store = Interactions.from_columns([1, 1, 2], [1, 2, 3], [3, 4, 5], [10, 20, 30]).sequences
    cut = store.select(np.array([1, 0])).last(1)
    assert (cut.items.tolist(), cut.times.tolist(), cut.ratings.tolist()) == ([3, 2], [30, 20], [5, 4])


@repeatable
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=8))
def test_flat_ranges_are_the_ranges_one_after_another(spans):
    starts = np.array([start for start, _ in spans], np.int64)
    lengths = np.array([length for _, length in spans], np.int64)
    at, offsets = flat_ranges(starts, starts + lengths)
    ranges = [list(range(start, start + length)) for start, length in spans]
    assert [at[first:end].tolist() for first, end in pairwise(offsets)] == ranges
    store = SequenceStore(np.arange(100, 130, dtype=np.int32), np.array([0, 30]), np.arange(30), None)
    assert lists(store.ranges(starts, starts + lengths)) == [[100 + i for i in span] for span in ranges]


def test_joined_stores_lie_one_after_another():
    one = SequenceStore(np.array([5, 6], np.int32), np.array([0, 2]), np.array([1, 2]), np.array([4, 5], np.float32))
    raw = SequenceStore.from_lists([[], [7]])
    concatenate = SequenceStore.concatenate([one, raw, one])
    assert [concatenate.row(row).tolist() for row in range(4)] == [[5, 6], [], [7], [5, 6]]
    np.testing.assert_array_equal(concatenate.times, [1, 2, np.nan, 1, 2])  # raw has none
    np.testing.assert_array_equal(concatenate.ratings, np.array([4, 5, np.nan, 4, 5], np.float32))
    assert SequenceStore.concatenate([one, one]).times.tolist() == [1, 2, 1, 2]
    assert SequenceStore.concatenate([raw, raw]).ratings is None


def test_last_items_are_0_where_a_history_is_empty():
    assert last_items(SequenceStore.from_lists([[], [3, 4], [], [5]])).tolist() == [0, 4, 0, 5]


def test_ranges_taken_some_at_a_time_are_those_taken_at_once(monkeypatch):
    random = np.random.default_rng(0)
    bounds = np.sort(random.integers(0, 500, (40, 2)), axis=1)
    times, ratings = np.arange(500) * 10, random.random(500).astype(np.float32)
    store = SequenceStore(random.integers(1, 9, 500).astype(np.int32), np.array([0, 500]), times, ratings)
    at_once = store.ranges(*bounds.T)
    monkeypatch.setattr(module, "EVENTS_AT_ONCE", 7)
    in_parts = store.ranges(*bounds.T)
    for name in ("items", "offsets", "times", "ratings"):
        ours, theirs = getattr(in_parts, name), getattr(at_once, name)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
