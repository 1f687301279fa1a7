import numpy as np
import pytest

from corerec.evaluation import ranking
from corerec.evaluation.evaluate import METRICS, evaluate
from scorers import FIXED, THREE, Fixed, Hashed, Next, asked


def test_a_perfect_scorer_gets_1():
    walks = asked(*((list(range(first, first + 3)), [first + 3]) for first in range(1, 30)))
    report = evaluate(Next(40), walks, ks=[1, 5], names=[name for name in METRICS if name != "Precision"])
    assert {measure.mean for measure in report.measures} == {1.0}
    assert {measure.error for measure in report.measures} == {0.0}
    assert evaluate(Next(40), walks, ks=[5], names=["Precision"]).value("Precision", 5) == pytest.approx(1 / 5)


@pytest.mark.parametrize("constant", [0.0, -3.0, float("nan")])
def test_a_scorer_that_says_nothing_gets_0(constant):
    report = evaluate(Fixed(*[constant] * 40), asked(([1, 2], [3]), ([5], [40]), ([9], [1])), names=list(METRICS))
    assert {measure.mean for measure in report.measures} == {0.0}


def test_padding_is_no_item():
    # Column 0 scores 99, yet item 1 is first.
    report = evaluate(FIXED, asked(([2], [1])), ks=[1])
    assert report.value("HR", 1) == 1.0
    assert report.catalogue_coverage == 0.25


def test_an_answer_in_its_history_competes_all_the_same():
    assert evaluate(FIXED, asked(([1, 2], [2])), ks=[1]).value("HR", 1) == 1.0
    assert evaluate(FIXED, asked(([1, 2], [2])), ks=[1], seen="included").value("HR", 1) == 0.0


def test_an_unknown_answer_is_a_miss_even_beyond_the_catalogue():
    report = evaluate(FIXED, asked(([1], [0]), ([1], [2])), ks=[1, 100], names=["HR", "MRR"], seen="both")
    assert report.value("HR", 100, "excluded") == report.value("HR", 100, "included") == 0.5
    assert report.value("MRR", 100) == 0.5


def test_every_unknown_answer_is_a_miss_of_its_own():
    report = evaluate(FIXED, asked(([], [0, 1, 0])), ks=[100], names=["Recall"])
    assert report.value("Recall", 100) == pytest.approx(1 / 3)


def test_an_answer_that_came_twice_counts_once():
    once, twice = asked(([4], [1, 2]), ([4], [3])), asked(([4], [1, 2, 1, 1]), ([4], [3, 3]))
    assert evaluate(FIXED, twice, ks=[1, 3], names=list(METRICS)) == evaluate(
        FIXED, once, ks=[1, 3], names=list(METRICS)
    )


def test_negatives_are_100_items_that_were_not_seen_and_not_the_answer():
    random = np.random.default_rng(0)
    histories = [random.choice(np.arange(2, 301), size=60, replace=False).tolist() for _ in range(50)]
    holdout = asked(*((history, [1]) for history in histories))
    counts = np.ones(301, int)

    class SeenFirst(Fixed):
        def score(self, histories):
            scores = super().score(histories)
            for row in range(len(histories)):
                scores[row, histories.row(row).astype(int)] = 9.0
            return scores

    # Seen items score 9, the answer 1, others 0: it leads only if no seen item is drawn.
    low = evaluate(SeenFirst(1, *[0] * 299), holdout, ks=[1], negatives=100, item_counts=counts, seen="both")
    assert low.value("HR", 1, "excluded") == low.value("HR", 1, "included") == 1.0
    # Others score 5, more than the answer: it comes behind exactly 100 of them.
    high = evaluate(SeenFirst(1, *[5] * 299), holdout, ks=[100, 101], negatives=100, item_counts=counts)
    assert (high.value("HR", 100), high.value("HR", 101)) == (0.0, 1.0)
    assert high.candidates == "100 popularity-sampled negatives"


def test_negatives_are_drawn_by_popularity():
    # One negative, among items of 30, 10 and 0 events: the answer leads only when it is the second, 1 time in 4.
    questions, counts = asked(*[([5], [1])] * 4000), np.array([0, 500, 30, 10, 0, 500])
    report = evaluate(Fixed(3, 5, 1, 9, 9), questions, ks=[1], negatives=1, item_counts=counts)
    assert report.value("HR", 1) == pytest.approx(0.25, abs=0.03)  # four standard errors


def test_negatives_are_drawn_without_replacement():
    questions, counts = asked(*[([5], [1])] * 200), np.array([0, 500, 1000, 1, 0, 500])
    report = evaluate(Fixed(3, 5, 5, 9, 9), questions, ks=[2, 3], negatives=2, item_counts=counts)
    assert (report.value("HR", 2), report.value("HR", 3)) == (0.0, 1.0)


def test_fewer_items_than_negatives_means_all_of_them():
    whole = evaluate(FIXED, THREE, ks=[1, 3], item_counts=np.ones(5, int))
    assert evaluate(FIXED, THREE, ks=[1, 3], negatives=100, item_counts=np.ones(5, int)).measures == whole.measures


def test_the_seed_decides_the_negatives():
    questions, counts = asked(*[([5], [1])] * 100), np.array([0, 1, 1, 1, 1, 1])

    def value(seed):
        return evaluate(Fixed(3, 5, 1, 1, 1), questions, [1], negatives=1, item_counts=counts, seed=seed).value("HR", 1)

    assert value(0) == value(0)
    assert len({value(seed) for seed in range(5)}) > 1


@pytest.mark.parametrize("rows_at_once", [1, 2, 5])
def test_in_blocks_equals_in_one(monkeypatch, rows_at_once):
    questions = asked(
        ([1, 2], [3]), ([], [5, 1]), ([7], [7]), ([2, 2, 8], [0, 4]), ([6], [1]), ([3], [2, 2]), ([4], [8])
    )
    in_one = evaluate(Hashed(8), questions, ks=[1, 3], names=list(METRICS), seen="both")
    monkeypatch.setattr(ranking, "MAX_SCORES", rows_at_once * 9)
    assert evaluate(Hashed(8), questions, ks=[1, 3], names=list(METRICS), seen="both") == in_one
    assert 0 < in_one.value("MRR", 3) < 1


def test_a_catalogue_beyond_one_block_goes_row_by_row(monkeypatch):
    monkeypatch.setattr(ranking, "MAX_SCORES", 1)
    assert evaluate(FIXED, THREE, ks=[1]).value("HR", 1) == pytest.approx(2 / 3)
