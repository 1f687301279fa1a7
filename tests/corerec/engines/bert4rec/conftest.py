"""Models that tests of the engine share. Who changes one takes `live`, a copy of its own."""

import copy

import numpy as np
import pytest

from corerec.engines.bert4rec import Bert4Rec


@pytest.fixture(scope="session")
def model(cycle_log):
    """A model that has learned the ring of `cycle_log`; user 0 has seen "a" to "h"."""
    settings = {"hidden_dim": 16, "max_seq_len": 8, "dropout": 0.0, "batch_size": 8, "learning_rate": 5e-3}
    settings |= {"weight_decay": 0.01}  # with the decay that is chosen for 420 events, two blanks at once are confused
    return Bert4Rec(epochs=60, seed=1, **settings).fit_interactions(cycle_log)


@pytest.fixture(scope="session")
def beginner(cycle_log):
    """A model of the ring after one epoch; users' times run 0, 1, 2, ..."""
    return Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=8).fit_interactions(cycle_log)


@pytest.fixture
def live(beginner):
    """A copy of `beginner`, to observe events with."""
    return copy.deepcopy(beginner)


@pytest.fixture(scope="session")
def rated_log():
    """User ids, item ids and ratings: even users love even items and odd users odd ones, by 2 stars, with noise of .3.

    120 users rate 16 of 24 items each, numbered from 100.
    """
    random = np.random.default_rng(0)
    chosen = np.stack([random.permutation(24)[:16] for _ in range(120)])
    alike = chosen % 2 == np.arange(120)[:, None] % 2
    stars = np.where(alike, 4.0, 2.0) + random.normal(0, 0.3, chosen.shape)
    return np.repeat(np.arange(120), 16), chosen.ravel() + 100, stars.clip(1, 5).ravel()


@pytest.fixture(scope="session")
def rated(rated_log):
    """A model of `rated_log`, in the order of its rows."""
    users, items, stars = rated_log
    return Bert4Rec(epochs=2, hidden_dim=16, max_seq_len=16).fit(users, items, stars, timestamps=np.arange(len(users)))


@pytest.fixture(scope="session")
def same_answers():
    """(answers, answers) -> None: holds them to the same items and, within rounding, the same scores."""

    def compare(got, expected):
        got, expected = ([getattr(one, "pairs", lambda one=one: one)() for one in some] for some in (got, expected))
        assert [[item for item, _ in answer] for answer in got] == [[item for item, _ in answer] for answer in expected]
        for answer, other in zip(got, expected, strict=True):
            assert [score for _, score in answer] == pytest.approx([score for _, score in other], rel=1e-4)

    return compare
