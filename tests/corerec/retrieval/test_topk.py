"""Top-k, the filter of seen items and ties, against plain Python. Column 0 of every score matrix is padding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data.sequences import SequenceStore
from corerec.retrieval.topk import BLOCK, EXCLUDED, exclude_, rank_of, top_k

X = EXCLUDED
store = SequenceStore.from_lists
repeatable = settings(max_examples=150, deadline=None, derandomize=True)


@st.composite
def tied_scores(draw) -> list[list[float]]:
    """1..4 rows of 1..12 items with few distinct scores, some items excluded; column 0 always is."""
    num_items = draw(st.integers(1, 12))
    row = st.lists(st.sampled_from([X, -1.5, 0.0, 0.5, 2.0]), min_size=num_items, max_size=num_items)
    return [[X, *scores] for scores in draw(st.lists(row, min_size=1, max_size=4))]


def plain_top_k(scores: list[float], k: int) -> list[int]:
    best = sorted((item for item, score in enumerate(scores) if score > X), key=lambda item: (-scores[item], item))
    return (best + [0] * k)[: min(k, len(scores))]


def plain_rank(scores: list[float], target: int) -> int:
    return 1 + sum(score >= scores[target] for item, score in enumerate(scores) if item != target)


# --- top_k


def test_best_first():
    items, scores = top_k(torch.tensor([[X, 0.1, 0.9, 0.5]]), 2)
    assert items.tolist() == [[2, 3]]
    assert torch.equal(scores, torch.tensor([[0.9, 0.5]]))


def test_equal_scores_go_by_the_lower_number():
    scores = torch.tensor([[X, 5, 7, 5, 7, 5], [X, 1, 1, 1, 1, 1]])
    assert top_k(scores, 3)[0].tolist() == [[2, 4, 1], [1, 2, 3]]


def test_one_tie_across_a_large_catalogue_goes_by_the_lower_number():
    scores = torch.zeros(2, 5001)
    scores[:, 0] = X
    scores[1, 4000] = 1.0
    assert top_k(scores, 4)[0].tolist() == [[1, 2, 3, 4], [4000, 1, 2, 3]]


def test_0_stands_where_a_row_has_no_item_left():
    items, scores = top_k(torch.tensor([[X, 3, X, 1], [X, X, X, X]]), 3)
    assert items.tolist() == [[1, 3, 0], [0, 0, 0]]
    assert scores.tolist() == [[3, 1, X], [X, X, X]]


def test_k_beyond_the_catalogue_names_every_item_once():
    assert top_k(torch.tensor([[X, 1.0, 2.0]]), 10)[0].tolist() == [[2, 1, 0]]


@repeatable
@given(tied_scores(), st.integers(1, 15))
def test_top_k_is_a_plain_sort(scores, k):
    items, best = top_k(torch.tensor(scores), k)
    assert items.tolist() == [plain_top_k(row, k) for row in scores]
    assert best.tolist() == [[row[item] for item in named] for row, named in zip(scores, items.tolist(), strict=True)]


def test_top_k_leaves_the_scores_as_they_were():
    scores = torch.tensor([[X, 1.0, 1.0, 2.0]])
    before = scores.clone()
    top_k(scores, 2)
    assert torch.equal(scores, before)


# --- exclude_


def test_excluded_items_never_appear():
    scores = torch.tensor([[9.0, 4, 3, 2, 1], [9.0, 4, 3, 2, 1]])
    exclude_(scores, store([[1, 3, 3], []]))
    assert scores.tolist() == [[X, X, 3, X, 1], [X, 4, 3, 2, 1]]
    assert top_k(scores, 4)[0].tolist() == [[2, 4, 0, 0], [1, 2, 3, 4]]


@repeatable
@given(tied_scores(), st.data())
def test_what_is_excluded_is_the_only_change(scores, data):
    items = st.lists(st.integers(1, len(scores[0]) - 1), max_size=5)
    gone = data.draw(st.lists(items, min_size=len(scores), max_size=len(scores)))
    left = exclude_(torch.tensor(scores), store(gone)).tolist()
    expected = [[X if i in out else s for i, s in enumerate(row)] for row, out in zip(scores, gone, strict=True)]
    assert left == expected


# --- rank_of


def test_the_best_ranks_1_and_the_worst_last():
    scores = torch.tensor([[X, 0.9, 0.5, 0.1], [X, 0.9, 0.5, 0.1]])
    assert rank_of(scores, store([[1], [3]])).tolist() == [1, 3]


def test_ties_count_against_the_target():
    assert rank_of(torch.tensor([[X, 5, 5, 5, 1]]), store([[1, 4]])).tolist() == [3, 4]
    assert rank_of(torch.tensor([[X, 0, 0, 0, 0]]), store([[1]])).tolist() == [4]


def test_excluded_items_do_not_compete():
    assert rank_of(torch.tensor([[X, X, X, 1, 2]]), store([[3]])).tolist() == [2]


def test_a_target_that_stands_in_the_history_still_competes():
    scores = torch.tensor([[X, 9.0, 5.0, 7.0]])
    targets = store([[2]])
    own = scores[0, [2]]
    exclude_(scores, store([[2, 3]]))
    assert rank_of(scores, targets, own).tolist() == [2]  # below item 1; item 3 is seen


def test_targets_that_stand_in_the_history_compete_with_each_other():
    scores = torch.tensor([[X, 9.0, 5.0, 7.0]])
    own = scores[0, [1, 2]]
    exclude_(scores, store([[1]]))
    assert rank_of(scores, store([[1, 2]]), own).tolist() == [1, 3]
    assert scores.tolist() == [[X, X, 5.0, 7.0]]


def test_a_model_that_scores_nan_ranks_last():
    assert rank_of(torch.full((1, 5), torch.nan), store([[2]])).item() >= 4
    assert rank_of(torch.tensor([[X, torch.nan, 1.0, 2.0]]), store([[3]])).tolist() == [2]


@repeatable
@given(tied_scores(), st.data())
def test_rank_of_is_a_plain_count(scores, data):
    live = [[item for item, score in enumerate(row) if score > X] for row in scores]
    targets = [data.draw(st.lists(st.sampled_from(items), unique=True)) if items else [] for items in live]
    expected = [plain_rank(row, target) for row, wanted in zip(scores, targets, strict=True) for target in wanted]
    assert rank_of(torch.tensor(scores), store(targets)).tolist() == expected


@pytest.mark.parametrize("num_rows", [BLOCK - 1, BLOCK, 2 * BLOCK + 1])
def test_more_targets_than_one_block_rank_alike(num_rows):
    scores = torch.arange(6.0).repeat(num_rows, 1)
    scores[:, 0] = X
    targets = [[1 + row % 5] for row in range(num_rows)]
    assert rank_of(scores, store(targets)).tolist() == [5 - row % 5 for row in range(num_rows)]


def test_the_target_is_in_the_top_k_where_its_rank_says_so_if_nothing_ties():
    scores = torch.from_numpy(np.random.default_rng(0).permuted(np.tile(np.arange(21.0), (50, 1)), axis=1))
    scores[:, 0] = X
    targets = [[1 + row % 20] for row in range(50)]
    as_list = [target in named for [target], named in zip(targets, top_k(scores, 7)[0].tolist(), strict=True)]
    assert as_list == (rank_of(scores, store(targets)) <= 7).tolist()
    assert 5 < sum(as_list) < 45
