"""The two baselines by hand, against plain Python, and on a log whose right answer is a Markov chain."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.basic.popularity import Popularity
from corerec.basic.transitions import LastItemMarkov
from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import leave_one_out
from corerec.evaluation.evaluate import evaluate
from cr_learn import sample

store = SequenceStore.from_lists
# Items 1, 2, 3 have 3, 2 and 2 events, item 4 none; 1 -> 2 twice, 1 -> 3 and 2 -> 3 once.
TRAIN = store([[1, 2, 3], [1, 2], [], [1, 3]])
POPULAR = [0, 3 / 7, 2 / 7, 2 / 7, 0]


def test_popularity_is_the_share_of_events_whatever_the_history():
    scores = Popularity(TRAIN.item_counts(num_items=4)).score(store([[1, 2], []]))
    assert scores.tolist() == [pytest.approx(POPULAR)] * 2


def test_markov_by_hand():
    scores = LastItemMarkov(TRAIN, num_items=4).score(store([[1], [2]]))
    assert scores[0].tolist() == pytest.approx([0, (3 / 7) / 4, (2 + 2 / 7) / 4, (1 + 2 / 7) / 4, 0])
    assert scores[1].tolist() == pytest.approx([0, (3 / 7) / 2, (2 / 7) / 2, (1 + 2 / 7) / 2, 0])


def test_markov_looks_at_the_last_item_only():
    markov = LastItemMarkov(TRAIN, num_items=4)
    assert torch.equal(markov.score(store([[2, 3, 1]])), markov.score(store([[1]])))


@pytest.mark.parametrize("history", [[], [4], [3], [0]], ids=["empty", "never met", "never followed", "unknown"])
def test_markov_falls_back_on_popularity(history):
    assert LastItemMarkov(TRAIN, num_items=4).score(store([history]))[0].tolist() == pytest.approx(POPULAR)


sequences = st.lists(st.lists(st.integers(1, 6), max_size=6), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sequences, sequences)
def test_markov_is_a_plain_count_of_pairs(train, histories):
    events = Counter(item for sequence in train for item in sequence)
    pairs = Counter(pair for sequence in train for pair in pairwise(sequence))

    def expected(history: list[int]) -> list[float]:
        transitions = {item: pairs[history[-1], item] if history else 0 for item in range(7)}
        mass = 1 + sum(transitions.values())
        return [(transitions[item] + events[item] / max(events.total(), 1)) / mass for item in range(7)]

    scores = LastItemMarkov(store(train), num_items=6).score(store(histories))
    np.testing.assert_allclose(scores, [expected(history) for history in histories], atol=1e-6)


@pytest.mark.parametrize("scorer", [Popularity(TRAIN.item_counts(4)), LastItemMarkov(TRAIN, num_items=4)])
def test_the_caller_may_write_into_the_scores(scorer):
    first = scorer.score(store([[1], []]))
    kept = first.clone()
    first.fill_(-1.0)
    assert torch.equal(scorer.score(store([[1], []])), kept)


@pytest.fixture(scope="module")
def ratings():
    return sample.load()["ratings"]


def ndcg(baseline, ratings) -> float:
    log = Interactions.from_columns(ratings["user_id"], ratings["movie_id"], timestamps=ratings["timestamp"])
    split = leave_one_out(log.sequences)
    return evaluate(baseline(split.train, len(log.items)), split.test).value("NDCG", 10)


def test_markov_beats_popularity_where_order_matters(ratings):
    popularity = ndcg(lambda train, num_items: Popularity(train.item_counts(num_items)), ratings)
    assert ndcg(LastItemMarkov, ratings) > 5 * popularity


def test_markov_comes_near_the_best_possible_and_not_above(ratings):
    best = sample.best_possible(ratings)["ndcg"]
    assert 0.8 * best < ndcg(LastItemMarkov, ratings) < 1.1 * best


def test_markov_learns_nothing_from_a_shuffled_log(ratings):
    shuffled = ratings.assign(timestamp=np.random.default_rng(0).permutation(len(ratings)))
    assert ndcg(LastItemMarkov, shuffled) < 0.3 * ndcg(LastItemMarkov, ratings)
