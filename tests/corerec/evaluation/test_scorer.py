"""The contract of scorers notices a scorer that breaks it, promise by promise."""

import pytest
import torch

import scorer_contract
from corerec.evaluation.scorer import VectorScorer
from corerec.retrieval.score_edits import NO_SHIFTS
from scorer_contract import PROMISES
from scorers import Hashed, Next


class Vectors(Hashed):
    """Two numbers a history, times two numbers an item."""

    vectors = torch.arange(14.0).reshape(7, 2).sin()
    biases = torch.arange(7.0).cos()

    def __init__(self) -> None:
        super().__init__(6)

    def states(self, histories):
        return super().score(histories)[:, 1:3].clone()

    def shifts(self, histories):
        return NO_SHIFTS

    def boosts(self, histories):
        return None

    def score(self, histories):
        return self.states(histories) @ self.vectors.T + self.biases


class TooNarrow(Hashed):
    def score(self, histories):
        return super().score(histories)[:, :-1]


class Restless(Hashed):
    calls = 0

    def score(self, histories):
        self.calls += 1
        return super().score(histories) + self.calls


class Sociable(Hashed):
    """A row's scores depend on the company."""

    def score(self, histories):
        return super().score(histories) - torch.arange(len(histories))[:, None]


class Remembering(Hashed):
    """Gives out the scores that it keeps."""

    kept: dict = {}  # noqa: RUF012

    def score(self, histories):
        return self.kept.setdefault(len(histories), super().score(histories))


class Writing(Hashed):
    def score(self, histories):
        scores = super().score(histories)
        histories.items[:] = 1
        return scores


class Punctual(Hashed):
    def score(self, histories):
        return super().score(histories) * (float("nan") if histories.times is None else 1)


class Backward(Vectors):
    """Its vectors rank the other way round than its scores."""

    def score(self, histories):
        return -super().score(histories)


class Unsure(Hashed):
    def probabilities(self, histories):
        return self.score(histories).softmax(1)


BROKEN = {
    "scores_have_a_row_for_each_history_and_a_column_for_each_item": TooNarrow(6),
    "a_history_has_the_same_scores_each_time": Restless(6),
    "a_row_depends_on_its_history_alone": Sociable(6),
    "the_caller_may_write_into_the_scores": Remembering(6),
    "histories_stay_as_they_are": Writing(6),
    "times_may_be_missing": Punctual(6),
    "evaluate_ranks_as_a_plain_sort_of_the_scores": Backward(),
    "vectors_and_boosts_give_the_scores": Backward(),
    "probabilities_sum_to_1_in_the_order_of_the_scores": Unsure(6),
}


@pytest.mark.parametrize("promise", PROMISES)
def test_a_broken_promise_is_noticed(promise):
    with pytest.raises(AssertionError):
        promise(BROKEN[promise.__name__])


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("scorer", [Hashed(6), Vectors()], ids=["scores", "vectors"])
def test_a_sound_scorer_keeps_every_promise(promise, scorer):
    promise(scorer)


def test_what_is_asked_of_vectors_is_asked_where_there_are_some():
    assert isinstance(Vectors(), VectorScorer)
    assert not isinstance(Next(6), VectorScorer)
    assert len(BROKEN) == len(PROMISES) == len({promise.__name__ for promise in PROMISES})
    assert all(hasattr(scorer_contract, name) for name in BROKEN)
