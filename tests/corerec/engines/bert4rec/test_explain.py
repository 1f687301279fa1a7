"""Pairs, whose reason is known: a random item 1..8 comes first, and 8 more than it comes second.

After a first item its second is certain, and nothing else says which; after a second, any first may follow.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch

from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec import encoding as inference
from corerec.engines.bert4rec.config import MASK, ModelConfig, TrainConfig
from corerec.engines.bert4rec.encoding import next_states, score_states
from corerec.engines.bert4rec.explain import Reason, event_weights, reasons
from corerec.engines.bert4rec.training import build_network, train_epochs
from corerec.engines.bert4rec.training_state import TrainingState
from corerec.retrieval.item_index import ItemIndex

pytestmark = pytest.mark.usefixtures("kernels")  # with the private operations of PyTorch and without

FIRSTS = 8
HISTORY = [3, 11, 5, 13, 2]  # asks for 10
UNTRAINED = ModelConfig(num_items=20, max_seq_len=12, hidden_dim=16, num_heads=2)


@pytest.fixture(scope="module")
def pairs():
    """A network that has learned the pairs."""
    firsts = np.random.default_rng(0).integers(1, FIRSTS + 1, (300, 3))
    rows = np.stack([firsts, firsts + FIRSTS], axis=2).reshape(300, 6)
    rows = [row[user % 2 :] for user, row in enumerate(rows)]  # every other user begins with a second item
    config = ModelConfig(num_items=2 * FIRSTS, max_seq_len=10, hidden_dim=16, num_heads=2)
    network = build_network(config, seed=0)
    training = TrainConfig(epochs=40, batch_size=16, learning_rate=0.01, mask_prob=0.3, weight_decay=0.01)
    for _ in train_epochs(
        TrainingState.start(network, SequenceStore.from_lists(rows), training), SequenceStore.from_lists(rows)
    ):
        pass
    return network.eval()


@pytest.fixture
def network():
    return build_network(UNTRAINED, seed=0).eval()


def log_probability(network, history, item):
    states = next_states(network, SequenceStore.from_lists([history]))
    return float(
        score_states(network, states)[0, item]
        - ItemIndex(network.item_vectors(), network.item_bias).log_normalizers(states)[0]
    )


def test_the_event_that_drove_the_item_weighs_what_it_told(pairs):
    weights = np.stack(
        [event_weights(pairs, [3, 11, 5, 13, first], [first + FIRSTS])[0] for first in range(1, FIRSTS + 1)]
    )
    # With the first item hidden all eight questions are the same one, whose eight answers share a probability of 1.
    assert weights[:, -1].mean() > math.log(FIRSTS) - 0.1
    assert (np.abs(weights[:, :-1]).max(axis=1) < 0.2 * weights[:, -1]).all()


def test_an_event_that_spoke_against_the_item_weighs_below_zero(pairs):
    (weights,) = event_weights(pairs, HISTORY, [12])
    assert weights[-1] < -1
    assert weights.argmin() == len(HISTORY) - 1


def test_events_that_are_not_looked_at_weigh_nothing(pairs, network):
    with torch.no_grad():
        for block in network.blocks:
            block.attention_out.weight.zero_()
    history = list(range(1, 9))
    np.testing.assert_allclose(event_weights(network, history, [3, 9]), 0, atol=1e-5)


def test_weight_is_the_loss_of_log_probability_behind_the_mask(network):
    history = [4, 5, 4, 6]
    (weights,) = event_weights(network, history, [7])
    for hidden in range(len(history)):
        without = [*history[:hidden], MASK, *history[hidden + 1 :]]
        loss = log_probability(network, history, 7) - log_probability(network, without, 7)
        assert weights[hidden] == pytest.approx(loss, abs=1e-5)


def test_many_items_equal_one_by_one_and_share_the_sequences(network, monkeypatch):
    rows = []
    counted = network.forward
    monkeypatch.setattr(
        network, "forward", lambda items, *rest, **more: rows.append(len(items)) or counted(items, *rest, **more)
    )
    together = event_weights(network, HISTORY, [1, 7, 7, 2, 20])
    assert sum(rows) == len(HISTORY) + 1
    alone = np.concatenate([event_weights(network, HISTORY, [item]) for item in (1, 7, 7, 2, 20)])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert together.shape == (5, len(HISTORY))
    assert together.dtype == np.float32


def test_in_blocks_equals_in_one(network, monkeypatch):
    in_one = event_weights(network, HISTORY, [7])
    monkeypatch.setattr(inference, "PLACES_AT_ONCE", 1)
    np.testing.assert_allclose(event_weights(network, HISTORY, [7]), in_one, atol=1e-5)


def test_an_item_that_comes_twice_has_two_weights(network):
    (weights,) = event_weights(network, [4, 9, 4], [4])
    assert weights[0] != weights[2]


def test_events_too_old_to_be_read_weigh_nothing(network):
    recent = [*range(1, 12)]
    (weights,) = event_weights(network, [20, 19, *recent], [7])
    assert weights[:2].tolist() == [0, 0]
    np.testing.assert_array_equal(weights[2:], event_weights(network, recent, [7])[0])
    assert np.abs(weights[2:]).min() > 0


def test_only_the_newest_events_are_hidden_if_so_asked(network):
    every, some = event_weights(network, HISTORY, [7, 8]), event_weights(network, HISTORY, [7, 8], newest=2)
    assert np.isnan(some[:, :3]).all()
    np.testing.assert_allclose(some[:, 3:], every[:, 3:], atol=1e-6)
    assert {reason.position for reason in reasons(HISTORY, some[0])} == {3, 4}
    np.testing.assert_array_equal(event_weights(network, HISTORY, [7, 8], newest=50), every)


def test_unknown_items_are_skipped_and_are_no_reasons(network):
    long = [0, *range(1, 12), 0, 13]
    (weights,) = event_weights(network, long, [7])
    known = np.flatnonzero(long)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(weights)), [0, 12])
    np.testing.assert_array_equal(weights[known], event_weights(network, np.array(long)[known], [7])[0])
    assert sorted(reason.position for reason in reasons(long, weights)) == known.tolist()


def test_without_a_history_there_are_no_weights(network):
    assert event_weights(network, [], [7, 8]).shape == (2, 0)
    assert np.isnan(event_weights(network, [0, 0], [7])).all()
    assert event_weights(network, HISTORY, []).shape == (0, len(HISTORY))
    assert reasons([], np.zeros(0)) == []


def test_reasons_come_best_first_and_the_newer_of_equals_first():
    found = reasons(["a", "b", "a", "c"], np.array([0.5, -1.0, 2.0, 0.5], np.float32))
    assert found == [Reason(2, "a", 2.0), Reason(3, "c", 0.5), Reason(0, "a", 0.5), Reason(1, "b", -1.0)]
    assert type(found[0].position) is int
    with pytest.raises(dataclasses.FrozenInstanceError):
        found[0].weight = 0
