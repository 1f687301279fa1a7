from dataclasses import replace

import numpy as np
import pytest
import torch

from corerec.basic.transitions import TransitionModel
from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec import encoding as inference
from corerec.engines.bert4rec.config import MASK, ModelConfig
from corerec.engines.bert4rec.encoding import NetworkScorer, encode, next_states, score_states
from corerec.engines.bert4rec.state_cache import StateCache
from corerec.engines.bert4rec.training import build_network
from corerec.retrieval import item_index as retrieval
from corerec.retrieval.item_index import ItemIndex
from scorer_contract import PROMISES

pytestmark = pytest.mark.usefixtures("kernels")  # with the private operations of PyTorch and without

HISTORIES = [[1, 2, 3], [], [4], list(range(1, 21)) * 3, [5, 6]]


@pytest.fixture
def network():
    return build_network(ModelConfig(num_items=20, max_seq_len=16), seed=0).eval()


@pytest.mark.parametrize("places", [1, 40, 2**14])
def test_state_is_the_same_alone_and_in_any_company(monkeypatch, network, places):
    monkeypatch.setattr(inference, "PLACES_AT_ONCE", places)
    together = next_states(network, SequenceStore.from_lists(HISTORIES))
    for row, history in enumerate(HISTORIES):
        torch.testing.assert_close(next_states(network, SequenceStore.from_lists([history]))[0], together[row])


def test_state_is_that_of_a_blank_after_the_newest_events(network):
    history = HISTORIES[3]
    with torch.no_grad():
        expected = network(torch.tensor([[*history[-15:], MASK]]))[0, -1]
    torch.testing.assert_close(next_states(network, SequenceStore.from_lists([history]))[0], expected)


def test_histories_of_all_lengths_are_read_in_few_widths():
    network, widths = build_network(ModelConfig(num_items=9, max_seq_len=100, hidden_dim=4), seed=0).eval(), set()
    network.register_forward_pre_hook(lambda _, args: widths.add(args[0].shape[1]))
    for length in range(150):  # one by one, as a server meets them
        next_states(network, SequenceStore.from_lists([[1] * length]))
    assert len(widths) < 30
    assert max(widths) == 100


def test_log_totals_turn_scores_into_probabilities(monkeypatch, network):
    monkeypatch.setattr(retrieval, "STATES_AT_ONCE", 2)
    states = next_states(network, SequenceStore.from_lists(HISTORIES))
    totals = ItemIndex(network.item_vectors(), network.item_bias).log_normalizers(states)
    probabilities = (score_states(network, states) - totals[:, None]).exp()
    torch.testing.assert_close(probabilities[:, 1:].sum(1), torch.ones(len(HISTORIES)))


# ------------------------------------------------------------------------------------------------------- the best items


# ---------------------------------------------------------------------------------------------------------- the scorer


def network_scorer(kind: str) -> NetworkScorer:
    """A scorer over 12 items whose weights are far from where a training starts."""
    config = ModelConfig(num_items=12, max_seq_len=8, hidden_dim=8, num_heads=2)
    if kind == "reads time":
        config = replace(config, gap_unit=30.0, gap_buckets=8)
    network = build_network(config, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        network.item_embedding[0] = 0
    if kind != "with transitions":
        return NetworkScorer(network)
    log = SequenceStore.from_lists([[1, 2, 3, 1, 2], [12, 1, 2, 12, 12], [5, 6, 5, 6]])
    return NetworkScorer(network, "Blended", TransitionModel.of(log, 12))


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("kind", ["alone", "reads time", "with transitions"])
def test_keeps_what_every_scorer_promises(promise, kind):
    promise(network_scorer(kind))


def test_kept_states_are_not_computed_again(network, monkeypatch):
    cache, histories = StateCache(128), SequenceStore.from_lists(HISTORIES)
    users = np.array([1, 2, 3, 0, 5])
    states, totals = encode(network, cache, users, histories)
    assert np.isnan(totals).all()
    cache.keep(users, histories.lengths, states, totals)
    cache.keep(users, histories.lengths, states, np.arange(5, dtype=np.float32))
    computed = []

    def watched(network, histories):
        computed.append(len(histories))
        return next_states(network, histories)

    monkeypatch.setattr(inference, "next_states", watched)
    again, totals = encode(network, cache, users, histories)
    assert computed == [1]  # nobody's history
    np.testing.assert_allclose(again, states, atol=1e-5)
    np.testing.assert_array_equal(totals, [0, 1, 2, np.nan, 4])
    encode(network, cache, users[:3], histories.select(np.arange(3)))
    assert computed == [1]
