import numpy as np
import pytest
import torch

from corerec.errors import DataError
from corerec.retrieval import reranking
from corerec.retrieval.reranking import Reranking

# Items 1 and 2 point one way, 3 and 4 another, at a right angle.
VECTORS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
GROUPS = np.array([0, 1, 1, 2, 0])
NUMBERS = np.array([[1, 2, 3, 4]])
PROBABILITIES = np.exp([[-1.0, -2.0, -3.0, -5.0]])  # scaled to 1, .75, .5, 0


def picks(rule, k, numbers=NUMBERS, probabilities=PROBABILITIES):
    return rule.pick(numbers, probabilities, VECTORS, k).tolist()


def test_mmr_gives_relevance_for_unlikeness():
    # After item 1: item 2 is worth .5 * .75 - .5 * 1, item 3 .5 * .5 - .5 * 0, item 4 0. Then 2: -.125, 4: -.5.
    assert picks(Reranking(0.5), 4) == [[0, 2, 1, 3]]
    # With little weight, item 2 comes second: .9 * .75 - .1 against .9 * .5.
    assert picks(Reranking(0.1), 4) == [[0, 1, 2, 3]]
    assert picks(Reranking(1.0), 2) == [[0, 2]]


def test_without_diversity_the_order_stays():
    assert picks(Reranking(0.0), 3) == [[0, 1, 2]]


def test_a_group_is_named_so_many_times_and_no_more():
    assert picks(Reranking(0.0, 1, GROUPS), 4) == [[0, 2, 3, -1]]
    assert picks(Reranking(0.1, 1, GROUPS), 4) == [[0, 2, 3, -1]]
    assert picks(Reranking(0.0, 2, GROUPS), 4) == [[0, 1, 2, 3]]


def test_items_without_a_group_are_not_limited():
    no_groups = np.zeros(5, np.int64)
    for diversity in (0.0, 0.1):
        assert picks(Reranking(diversity, 1, no_groups), 4) == [[0, 1, 2, 3]]


def test_rows_that_have_ended_stay_ended():
    for diversity in (0.0, 0.5):
        assert picks(Reranking(diversity), 3, np.array([[2, 0, 0, 0]])) == [[0, -1, -1]]
        assert picks(Reranking(diversity), 2, np.array([[0, 0, 0, 0]])) == [[-1, -1]]


def test_queries_together_are_picked_as_one_by_one(monkeypatch):
    rng = np.random.default_rng(0)
    numbers = np.stack([rng.permutation(np.arange(1, 5)) for _ in range(9)])
    probabilities = np.sort(rng.random((9, 4)))[:, ::-1]
    monkeypatch.setattr(reranking, "FLOATS_AT_ONCE", 4 * 4 * 2)
    for rule in (Reranking(0.3), Reranking(0.7, 1, GROUPS), Reranking(0.0, 1, GROUPS)):
        alone = [picks(rule, 3, numbers[[row]], probabilities[[row]])[0] for row in range(9)]
        assert picks(rule, 3, numbers, probabilities) == alone


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"diversity": 1.5}, "diversity must be a number from 0 to 1, not 1.5"),
        ({"diversity": float("nan")}, "diversity must be a number from 0 to 1"),
        ({"max_per_group": 0, "groups": GROUPS}, "max_per_group must be a whole number from 1, not 0"),
        ({"max_per_group": 2}, "max_per_group needs groups"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(DataError, match=message):
        Reranking(**settings)
