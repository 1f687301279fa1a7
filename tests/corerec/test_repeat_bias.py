"""Every way to ask says the same probabilities, where the items of a history are shifted by the repeat bias."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout
from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec.encoding import NetworkScorer
from corerec.engines.bert4rec.explain import event_weights
from corerec.evaluation.evaluate import evaluate

V, USERS = 30, 12


@pytest.fixture(scope="module", params=[-3.0, 1.5])
def model(request, tmp_path_factory):
    """Weights far from where training starts. Histories are longer than the eight places that the network sees."""
    random = np.random.default_rng(0)
    items = np.concatenate([np.arange(V), random.integers(0, V, 20 * USERS - V)])
    log = Interactions.from_columns(np.arange(20 * USERS) % USERS, items, timestamps=np.arange(20 * USERS))
    model = Bert4Rec(epochs=1, hidden_dim=16, num_heads=2, max_seq_len=8).fit_interactions(log)
    network, generator = model.fitted.network, torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    network.repeat_bias.fill_(request.param)
    path = tmp_path_factory.mktemp("model") / "repeats.model"
    model.save(path)
    return Bert4Rec.load(path)


def rows(model):
    return SequenceStore.from_lists([model.items.require(model.history(user)) for user in range(USERS)])


def by_hand(model):
    """float64 (USERS, V + 1): softmax of the shifted scores of the network, then the formula of the transitions."""
    store, transitions = rows(model), model.scorer.transitions
    network = model.fitted.network
    bias = float(network.repeat_bias)
    network.repeat_bias.fill_(0)
    scores = NetworkScorer(network).score(store).double().numpy()
    network.repeat_bias.fill_(bias)
    for row in range(USERS):
        scores[row, np.unique(store.row(row))] += bias
    shares = np.exp(scores)
    shares[:, 0] = 0
    shares /= shares.sum(1, keepdims=True)
    last = np.array([store.row(row)[-1] for row in range(USERS)])
    said = transitions.blended(shares, store.lengths[:, None], last[:, None], np.arange(V + 1)[None])
    said[:, 0] = 0
    return said


def test_probabilities_sum_to_1_and_agree_however_they_are_asked(model):
    said = by_hand(model)
    np.testing.assert_allclose(said.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(model.scorer.probabilities(rows(model)), said, rtol=1e-4)
    ids = model.items.ids.tolist()
    for exclude_seen in (True, False):
        fresh = replace_states(model)
        together = fresh.batch_recommend(list(range(USERS)), V, exclude_seen=exclude_seen, with_scores=True)
        for user, of_batch in enumerate(together):
            seen = set(fresh.history(user)) if exclude_seen else set()
            unlike = fresh.recommend(history=fresh.history(user), top_k=V, exclude_seen=exclude_seen, with_scores=True)
            again = fresh.recommend(user, V, exclude_seen=exclude_seen, with_scores=True)  # its state is kept now
            assert {item for item, _ in of_batch} == set(ids) - seen
            for answer in (of_batch, unlike, again):
                numbers = model.items.require([item for item, _ in answer])
                chances = [chance for _, chance in answer]
                assert chances == sorted(chances, reverse=True)
                np.testing.assert_allclose(chances, said[user, numbers], rtol=1e-4)


@pytest.mark.parametrize("many_first", [True, False])
def test_predictions_of_single_pairs_are_those_of_all_items(model, many_first):
    said, fresh = by_hand(model), replace_states(model)
    pairs = [(user, item) for user in range(USERS) for item in fresh.items.ids.tolist()]
    asks = [lambda: fresh.batch_predict(pairs), lambda: [fresh.predict(*pair) for pair in pairs]]
    for ask in asks if many_first else asks[::-1]:
        np.testing.assert_allclose(np.reshape(ask(), (USERS, V)), said[:, 1:], rtol=1e-4)


def test_some_items_may_repeat_and_candidates_change_no_probability(model):
    said, history = by_hand(model), model.history(3)
    for rules in ({"repeatable": history[:4]}, {"candidates": history[:5], "exclude_seen": False}):
        answer = model.recommend(3, V, with_scores=True, **rules)
        assert set(history[:4]) <= {item for item, _ in answer}
        numbers = model.items.require([item for item, _ in answer])
        np.testing.assert_allclose([chance for _, chance in answer], said[3, numbers], rtol=1e-4)


def test_evaluate_ranks_by_the_same_scores(model):
    """Every item is asked for, seen ones included: its rank is its place among the probabilities."""
    said, store = by_hand(model), rows(model)
    for item in (1, 7, 20):
        asked = Holdout(store, SequenceStore.from_lists([[item]] * USERS), np.arange(1, USERS + 1))
        expected = np.mean([1 + (said[row, 1:] > said[row, item] * (1 + 1e-6)).sum() <= 5 for row in range(USERS)])
        assert evaluate(model.scorer, asked, ks=[5], names=["HR"], seen="included").value("HR", 5) == expected


def test_an_event_s_weight_has_the_repeat_bias_in_it(model):
    """Hidden, an item that stands once in a history is none of it; one that stands twice still is."""
    fitted = model.fitted
    network, bias = fitted.network, fitted.repeat_bias
    history, items = [5, 9, 5, 3], [5, 9, 3, 11]
    shifted = event_weights(network, history, items)
    network.repeat_bias.fill_(0)
    plain = event_weights(network, history, items)
    network.repeat_bias.fill_(bias)
    difference = shifted - plain
    # What leaves the history loses the bias; what else changes is the normalizer, alike for all items.
    np.testing.assert_allclose(difference[1, 1] - difference[0, 1], bias, rtol=1e-3)
    np.testing.assert_allclose(difference[2, 3] - difference[3, 3], bias, rtol=1e-3)
    np.testing.assert_allclose(difference[:, 0], difference[0, 0], atol=1e-4)


def replace_states(model):
    """The same model with nothing kept."""
    fresh = Bert4Rec()
    fresh._adopt(replace(model.fitted))
    return fresh
