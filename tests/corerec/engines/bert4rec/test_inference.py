import pytest
import torch

from corerec.engines.bert4rec import inference
from corerec.engines.bert4rec.config import ModelConfig
from corerec.engines.bert4rec.inference import StateCache, UserState, log_totals, next_states, score_states
from corerec.engines.bert4rec.training import build_network
from corerec.interactions import SequenceStore

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
        expected = network(torch.tensor([[*history[-15:], 21]]))[0, -1]
    torch.testing.assert_close(next_states(network, SequenceStore.from_lists([history]))[0], expected)


def test_log_totals_turn_scores_into_probabilities(monkeypatch, network):
    monkeypatch.setattr(inference, "SCORES_AT_ONCE", 40)
    states = next_states(network, SequenceStore.from_lists(HISTORIES))
    probabilities = (score_states(network, states) - log_totals(network, states)[:, None]).exp()
    torch.testing.assert_close(probabilities[:, 1:].sum(1), torch.ones(len(HISTORIES)))


def test_cache_forgets_the_longest_unused():
    cache = StateCache(capacity=2)
    one, two, three = (UserState(torch.zeros(1).numpy(), float(n)) for n in (1, 2, 3))
    cache.put(1, one)
    cache.put(2, two)
    assert cache.get(1) is one
    cache.put(3, three)
    assert cache.get(2) is None
    assert (cache.get(1), cache.get(3)) == (one, three)
    cache.clear()
    assert cache.get(1) is None
