import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data.sequences import SequenceStore
from corerec.retrieval.score_edits import NO_BOOSTS, Boosts, Exclusions, ScoreEdits, look_up
from corerec.retrieval.topk import EXCLUDED

V = 12
store = SequenceStore.from_lists
item_sets = st.sets(st.integers(1, V), max_size=6)
many_rows = st.lists(st.tuples(st.lists(st.integers(1, V), max_size=6), item_sets), min_size=1, max_size=5)


def edits_of(rows):
    """Each row's excluded items, and its boosted ones with 0.1 for item 1, 0.2 for item 2 and so on."""
    columns = [sorted(boosted) for _, boosted in rows]
    counts = [len(row) for row in columns]
    flat = np.array([number for row in columns for number in row], np.int64)
    boosts = Boosts(np.repeat(np.arange(len(rows)), counts), flat, np.log(0.1 * flat).astype(np.float32))
    return ScoreEdits.of(store([excluded for excluded, _ in rows]), boosts)


def matrix(excluded: Exclusions, num_rows):
    """The cells as a 0-1 matrix."""
    block = torch.zeros(num_rows, V + 1)
    excluded.apply_(block, 1)
    return block


def applied(edits, num_rows):
    """All scores 0, edited; each sum of exponentiated scores is 2."""
    block = torch.zeros(num_rows, V + 1)
    edits.apply_(block, torch.full((num_rows,), math.log(2)))
    return block


@given(rows=many_rows)
@settings(deadline=None, derandomize=True)
def test_boosts_add_a_share_of_the_sum_and_exclusions_win(rows):
    expected = torch.zeros(len(rows), V + 1)
    for row, (excluded, boosted) in enumerate(rows):
        for number in boosted:
            expected[row, number] = math.log(1 + 0.1 * number * 2)
        expected[row, excluded] = EXCLUDED
    torch.testing.assert_close(applied(edits_of(rows), len(rows)), expected)


@given(rows=many_rows, data=st.data())
@settings(deadline=None, derandomize=True)
def test_some_rows_are_edited_as_among_all(rows, data):
    edits, whole = edits_of(rows), applied(edits_of(rows), len(rows))
    first = data.draw(st.integers(0, len(rows)))
    end = data.draw(st.integers(first, len(rows)))
    assert torch.equal(applied(edits.rows(first, end), end - first), whole[first:end])
    some = np.array(sorted(data.draw(st.sets(st.integers(0, len(rows) - 1)))), np.int64)
    excluded = edits.exclusions
    assert torch.equal(matrix(excluded.select(some), len(some)), matrix(excluded, len(rows))[some])


@given(rows=many_rows, first=st.integers(0, V), width=st.integers(0, V), numbers=item_sets)
@settings(deadline=None, derandomize=True)
def test_a_block_s_columns_are_edited_as_among_all(rows, first, width, numbers):
    excluded = edits_of(rows).exclusions
    whole, end = matrix(excluded, len(rows)), min(V + 1, first + width)
    block = torch.zeros(len(rows), end - first)
    excluded.by_column().between_columns(first, end).apply_(block, 1)
    assert torch.equal(block, whole[:, first:end])
    rising = np.array(sorted(numbers), np.int64)
    block = torch.zeros(len(rows), len(rising))
    excluded.within(rising).apply_(block, 1)
    assert torch.equal(block, whole[:, rising])


def test_the_cells_of_chosen_groups_are_places_among_their_scores():
    excluded = Exclusions.of(store([[1, 5, 11], [11], [4, 4, 9]]))
    groups = np.array([[0, 2], [1, 3], [0, 2]])  # of 4 columns: 0..3, 4..7, 8..11, 12..15
    block = torch.zeros(3, 8)
    excluded.within_groups(groups, 4).apply_(block, 1)
    assert block.nonzero().tolist() == [[0, 1], [0, 7], [2, 5]]


@given(rows=many_rows, numbers=item_sets)
@settings(deadline=None, derandomize=True)
def test_boosts_and_exclusions_are_told_apart(rows, numbers):
    edits = edits_of(rows)
    taken = [set(excluded) | boosted for excluded, boosted in rows]
    assert matrix(edits.all_cells(), len(rows)).nonzero().tolist() == [
        [row, number] for row, both in enumerate(taken) for number in sorted(both)
    ]
    rising = np.array(sorted(numbers), np.int64)
    left = edits.boosts.without(edits.exclusions).among(rising)
    expected = [(row, n) for row, (out, boosted) in enumerate(rows) for n in sorted((boosted - set(out)) & numbers)]
    assert list(zip(left.rows.tolist(), left.columns.tolist(), strict=True)) == expected
    np.testing.assert_allclose(np.exp(left.amounts), [0.1 * n for _, n in expected], rtol=1e-6)


def test_without_boosts_no_normalizers_are_needed():
    block = torch.zeros(2, 4)
    ScoreEdits.of(store([[3], [1, 1]])).apply_(block, None)
    assert (block == EXCLUDED).nonzero().tolist() == [[0, 3], [1, 1]]
    assert not len(NO_BOOSTS)


@pytest.mark.parametrize("rising", [[], [4], [1, 4, 9]])
def test_numbers_are_looked_up_among_rising_ones(rising):
    at, found = look_up(np.array(rising, np.int64), np.arange(12))
    assert np.arange(12)[found].tolist() == rising
    assert at[found].tolist() == list(range(len(rising)))
