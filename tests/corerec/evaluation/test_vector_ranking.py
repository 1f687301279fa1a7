"""Ranks by blocks of items are the ranks of whole rows of scores: with ties, boosts, repeats and unknown answers."""

import numpy as np
import pytest
import torch

from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout
from corerec.evaluation import ranking, vector_ranking
from corerec.evaluation.evaluate import METRICS, evaluate
from corerec.evaluation.scorer import VectorScorer
from corerec.retrieval import blocks
from corerec.retrieval.score_edits import Boosts, Shifts

pytestmark = pytest.mark.usefixtures("kernels")  # with the private operations of PyTorch and without


class ByVectors:
    """Whole numbers for scores, so that many tie; all items of a history score 1 less.

    Each history's last two items are boosted, where `boosted`.
    """

    name = "ByVectors"

    def __init__(self, num_items: int, boosted: bool, low: int = -2, high: int = 3) -> None:
        random = torch.Generator().manual_seed(0)
        self.num_items, self.boosted = num_items, boosted
        self.vectors = torch.randint(low, high, (num_items + 1, 3), generator=random).float()
        self.biases = torch.randint(low, high, (num_items + 1,), generator=random).float()

    def states(self, histories: SequenceStore) -> torch.Tensor:
        sums = np.array(
            [
                [histories.row(row).sum() + at * len(histories.row(row)) for at in range(3)]
                for row in range(len(histories))
            ]
        )
        return torch.from_numpy(sums % 5 - 2).float().reshape(-1, 3)

    def shifts(self, histories: SequenceStore) -> Shifts:
        return Shifts.of(histories, -1.0)

    def boosts(self, histories: SequenceStore) -> Boosts | None:
        if not self.boosted:
            return None
        items = [np.unique(histories.row(row)[-2:] % self.num_items + 1) for row in range(len(histories))]
        rows = np.repeat(np.arange(len(items)), [len(part) for part in items])
        columns = np.concatenate([np.zeros(0, np.int64), *items]).astype(np.int64)
        return Boosts(rows, columns, np.where(columns % 2, -0.5, -9.0).astype(np.float32))

    def score(self, histories: SequenceStore) -> torch.Tensor:
        scores = self.states(histories) @ self.vectors.T + self.biases
        self.shifts(histories).add_(scores)
        boosts = self.boosts(histories)
        if boosts is not None:
            boosts.beside(scores[:, 1:].logsumexp(1)).raise_(scores)
        return scores


class Plain:
    """The same scores, without the vectors."""

    def __init__(self, scorer: ByVectors) -> None:
        self.name, self.num_items, self.score = scorer.name, scorer.num_items, scorer.score


def random_questions(num_items: int, answers: int, count: int = 60) -> Holdout:
    random = np.random.default_rng(1)

    def store(low: int, high: int, first: int) -> SequenceStore:
        return SequenceStore.from_lists(
            [random.integers(first, num_items + 1, random.integers(low, high + 1)) for _ in range(count)]
        )

    return Holdout(store(0, 12, 1), store(1, answers, 0), np.arange(1, count + 1))


@pytest.mark.parametrize("boosted", [False, True], ids=["plain", "boosted"])
@pytest.mark.parametrize("answers", [1, 5])
@pytest.mark.parametrize("width", [3, 16, 2048])
def test_block_by_block_equals_whole_rows(monkeypatch, boosted, answers, width):
    scorer, questions = ByVectors(40, boosted), random_questions(40, answers)
    assert isinstance(scorer, VectorScorer)
    assert not isinstance(Plain(scorer), VectorScorer)
    whole = evaluate(Plain(scorer), questions, ks=[1, 5, 20], names=list(METRICS), seen="both")
    monkeypatch.setattr(vector_ranking, "block_width", lambda rows, columns, device: min(width, columns))
    monkeypatch.setattr(vector_ranking, "STATES_AT_ONCE", 7)
    monkeypatch.setattr(vector_ranking, "ANSWERS_AT_ONCE", 4)
    monkeypatch.setattr(ranking, "HISTORIES_AT_ONCE", 25)
    assert evaluate(scorer, questions, ks=[1, 5, 20], names=list(METRICS), seen="both") == whole
    for seen in ("excluded", "included"):
        alone = evaluate(scorer, questions, ks=[5], seen=seen)
        assert alone == evaluate(Plain(scorer), questions, ks=[5], seen=seen)


def test_vectors_that_are_all_alike_rank_last():
    scorer = ByVectors(5000, boosted=False)
    scorer.vectors[:], scorer.biases[:] = 0.1234567, 0.7654321
    report = evaluate(scorer, random_questions(5000, 1), ks=[4900], names=["HR"], seen="both")
    assert {measure.mean for measure in report.measures} == {0.0}


def test_scores_that_are_no_numbers_rank_last():
    scorer = ByVectors(50, boosted=False)
    scorer.biases[:] = float("nan")
    assert evaluate(scorer, random_questions(50, 1), ks=[40], names=["HR"]).value("HR", 40) == 0.0


def test_negatives_are_drawn_alike():
    scorer, questions = ByVectors(40, boosted=True), random_questions(40, 1)
    assert evaluate(scorer, questions, negatives=5) == evaluate(Plain(scorer), questions, negatives=5)


def test_a_large_catalogue_goes_by_narrow_blocks():
    rows = vector_ranking.STATES_AT_ONCE
    assert blocks.block_width(rows, 10**7, torch.device("cpu")) * rows <= 2**21
