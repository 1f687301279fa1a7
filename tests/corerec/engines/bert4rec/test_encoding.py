import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec import encoding as inference
from corerec.engines.bert4rec.answers import rank_states
from corerec.engines.bert4rec.config import MASK, ModelConfig
from corerec.engines.bert4rec.encoding import encode, next_states, score_states
from corerec.engines.bert4rec.state_cache import StateCache
from corerec.engines.bert4rec.training import build_network
from corerec.queries import QueryBatch
from corerec.retrieval import item_index as retrieval
from corerec.retrieval.item_index import ItemIndex

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


def best_by_hand(scores, excluded, candidates, top_k):
    """Plain Python: (number, probability), best first, ties by the lower number."""
    total = sum(math.exp(score) for score in scores[1:])
    named = [n for n in range(1, len(scores)) if n not in excluded and (candidates is None or n in candidates)]
    ranked = sorted(named, key=lambda number: (-scores[number], number))[:top_k]
    return [(number, math.exp(scores[number]) / total) for number in ranked]


few_items = st.lists(st.integers(1, 6), max_size=4)
wishes = st.tuples(
    few_items, st.one_of(st.none(), few_items), st.integers(1, 9), st.lists(st.integers(0, 3), min_size=6, max_size=6)
)


@given(asked_for=st.lists(wishes, max_size=7), known=st.booleans(), with_normalizers=st.booleans())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_best_items_are_those_of_a_plain_sort(asked_for, known, with_normalizers):
    """Each question has its own scores: its state is a row of the unit matrix, its scores a column of the weights."""
    states = torch.eye(max(1, len(asked_for)))[: len(asked_for)]
    columns = [torch.tensor([9.0, *scores]) for *_, scores in asked_for] or [torch.zeros(7)]
    table = ItemIndex(torch.stack(columns, dim=1), torch.zeros(7))
    limited = [at for at, (_, candidates, *_) in enumerate(asked_for) if candidates is not None]
    excluded = SequenceStore.from_lists([excluded for excluded, *_ in asked_for])
    asked = QueryBatch(
        users=np.zeros(len(asked_for), np.int64),
        histories=excluded,
        excluded=excluded,
        top_k=np.array([top_k for _, _, top_k, _ in asked_for], np.int64),
        limited=np.array(limited, np.int64),
        candidates=SequenceStore.from_lists([asked_for[at][1] for at in limited]),
    )
    totals = np.array([math.log(sum(map(math.exp, scores))) for *_, scores in asked_for], np.float32)
    given = totals if known else np.full(len(asked_for), np.nan, np.float32)
    best = rank_states(table, states, asked, given, with_normalizers=with_normalizers)
    for row, (excluded, candidates, top_k, scores) in enumerate(asked_for):
        expected = best_by_hand([9, *scores], excluded, candidates, top_k)
        numbers = best.numbers[row]
        assert numbers[numbers > 0].tolist() == [number for number, _ in expected]
        if known or with_normalizers:
            assert best.probabilities[row][: len(expected)].tolist() == pytest.approx(
                [probability for _, probability in expected], rel=1e-5
            )
            assert best.log_normalizers[row] == pytest.approx(totals[row], rel=1e-5)
        else:
            assert np.isnan(best.log_normalizers[row])


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
