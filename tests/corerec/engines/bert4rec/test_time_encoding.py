from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from corerec.batch import score
from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import leave_one_out
from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec.config import MASK, ModelConfig
from corerec.engines.bert4rec.encoding import NetworkScorer, next_states
from corerec.engines.bert4rec.time_encoding import (
    UNKNOWN,
    GapScale,
    asked_buckets,
    gaps_between,
    history_gaps,
    training_gaps,
)
from corerec.engines.bert4rec.training import build_network
from corerec.errors import DataError
from corerec.evaluation.evaluate import evaluate
from corerec.queries import Query

SCALE = GapScale(unit=10.0, num_buckets=6)  # unknown, 0, <= 10, <= 20, <= 40, above
NUM_ITEMS = 12


def timed(sequences, times, asked_at=None):
    store = SequenceStore.from_lists(sequences)
    return SequenceStore(store.items, store.offsets, np.concatenate(times), asked_at=asked_at)


def shaken_network(seed=0):
    """A network that reads time, its weights far from where training starts, so that each of them counts."""
    config = ModelConfig(NUM_ITEMS, max_seq_len=8, hidden_dim=16, gap_unit=SCALE.unit, gap_buckets=SCALE.num_buckets)
    network = build_network(config, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        network.item_embedding[0] = 0
        network.time_encoder.since_embedding[0] = network.time_encoder.until_embedding[0] = 0
    return network


def pauses(users=240, length=14, seed=0):
    """A pause tells what comes: after 1 the next item of a ring, after 1,000 the item six further on."""
    random = np.random.default_rng(seed)
    is_long = random.random((users, length)) < 0.5
    items = (random.integers(0, NUM_ITEMS, (users, 1)) + np.cumsum(np.where(is_long, 6, 1), 1)) % NUM_ITEMS
    times = np.cumsum(np.where(is_long, 1000, 1), 1)
    return np.repeat(np.arange(users), length), items.ravel(), times.ravel()


SETTINGS = {"epochs": 20, "hidden_dim": 32, "max_seq_len": 5, "batch_size": 16, "learning_rate": 1e-2, "dropout": 0.0}


@pytest.fixture(scope="module")
def model():
    users, items, times = pauses()
    return Bert4Rec(**SETTINGS).fit(users, items, timestamps=times)


# ------------------------------------------------------------------------------------------------------ buckets


def test_buckets_double_from_the_unit_and_keep_zero_and_the_unknown_apart():
    longest = SCALE.longest
    gaps = np.array([UNKNOWN, 0, 0.1, 10, 10.1, 20, 21, 40, 41, longest, 1.01 * longest, 1e9])
    assert SCALE.buckets(gaps).tolist() == [0, 1, 2, 2, 3, 3, 4, 4, 5, 5, 0, 0]  # no training met a longer gap
    encoder = shaken_network().time_encoder
    assert encoder.buckets(torch.from_numpy(gaps).float()).tolist() == SCALE.buckets(gaps).tolist()


@pytest.mark.parametrize("unit", [1, 86_400, 10**9])
def test_the_buckets_of_a_log_do_not_depend_on_its_unit(unit):
    times = np.array([0, 1, 4, 5, 100])
    scale = GapScale.of(timed([[1] * 5], [times * unit]))
    assert scale.buckets(np.diff(times) * unit).tolist() == [2, 4, 2, 9]


def test_gaps_between_users_do_not_count_and_a_log_of_one_moment_has_no_scale():
    assert GapScale.of(timed([[1, 2], [3, 4]], [[0, 2], [10**9, 10**9 + 4]])).num_buckets == 4
    assert GapScale.of(timed([[1, 2], [3]], [[5, 5], [9]])) is None
    assert GapScale.of(SequenceStore.from_lists([[1, 2]])) is None


def test_a_gap_is_counted_from_the_newest_known_event():
    times = torch.tensor([[0.0, 3, 5, 5, 9]]).double()
    known = torch.tensor([[False, True, False, True, True]])
    assert gaps_between(times, known).tolist() == [[UNKNOWN, UNKNOWN, UNKNOWN, 2, 4]]


def test_a_second_between_two_nanosecond_stamps_is_not_lost():
    store = timed([[1, 2]], [[1_700_000_000 * 10**9, 1_700_000_001 * 10**9]], np.array([1_700_000_001e9]))
    gaps = history_gaps(store, np.array([0]), 3)
    np.testing.assert_allclose(gaps, [[UNKNOWN, UNKNOWN, 1e9, 0]])


def test_a_hidden_event_loses_its_time_in_some_rows_and_no_gap_of_others_changes():
    times = torch.arange(6).double().repeat(400, 1) * 7
    hidden = torch.zeros(400, 6, dtype=torch.bool)
    hidden[:, 3] = True
    gaps, knows_next = training_gaps(times, torch.ones_like(hidden), hidden, torch.Generator().manual_seed(0))
    kinds = {tuple(row) for row in gaps.tolist()}
    u = UNKNOWN
    assert kinds == {(u, 7, 7, 7, 7, 7), (u, 7, 7, u, 14, 7), (u, u, u, u, u, u)}
    assert knows_next
    assert 0.2 < float((gaps[:, 4] == 14).float().mean()) < 0.35
    next_items = [
        training_gaps(times, torch.ones_like(hidden), None, torch.Generator().manual_seed(seed)) for seed in range(50)
    ]
    assert {knows for _, knows in next_items} == {True, False}


# ------------------------------------------------------------------------------------------------------ network


def test_padding_and_company_change_no_state_of_a_history_with_times():
    network = shaken_network()
    sequences = [[1], [2, 3], [4, 5, 6, 7, 8, 9, 10, 11, 12], []]
    times = [[5], [1, 30], np.arange(9) ** 3, []]
    asked = np.array([6.0, np.nan, 2000.0, np.nan])
    together = next_states(network, timed(sequences, times, asked))
    for row in range(4):
        alone = next_states(network, timed([sequences[row]], [times[row]], asked[row : row + 1]))
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)


def test_the_state_depends_on_the_gaps_and_on_the_bucket_of_the_moment_alone():
    network = shaken_network()

    def state(times, asked_at):
        return next_states(network, timed([[1, 2, 3]], [times], np.array([asked_at])))

    one = state([0, 5, 9], 24.0)
    assert torch.equal(one, state([100, 105, 109], 124.0))
    assert torch.equal(one, state([0, 5, 9], 29.0))  # gaps of 15 and 20 share a bucket
    for other in (state([0, 5, 9], 39.0), state([0, 5, 9], np.nan), state([0, 5, 5], 20.0)):
        assert not torch.allclose(one, other, atol=1e-3)


def test_without_any_time_the_network_is_the_one_without_an_encoder():
    network, untimed = shaken_network(), SequenceStore.from_lists([[1, 2, 3], [4]])
    expected = next_states(network, untimed)
    network.forget_time()
    assert network.config.gap_buckets == 0
    assert torch.equal(next_states(network, untimed), expected)
    assert torch.equal(next_states(network, timed([[1, 2, 3], [4]], [[1, 2, 3], [4]])), expected)


def test_the_other_weights_begin_the_same_with_and_without_time():
    config = ModelConfig(NUM_ITEMS, hidden_dim=16)
    plain = build_network(config, 3).state_dict()
    timed_weights = build_network(replace(config, gap_unit=1.0, gap_buckets=9), 3).state_dict()
    assert all(timed_weights[name].equal(weight) for name, weight in plain.items())
    assert len(timed_weights) == len(plain) + 2


def test_a_position_that_does_not_know_the_next_gap_has_no_part_of_it():
    network, items = shaken_network(), torch.tensor([[1, 2, 3]])

    def states(gap, **how):
        return network(items, None, causal=True, gaps=torch.tensor([[UNKNOWN, 5, gap]]), **how)[:, :2]

    with torch.no_grad():
        assert torch.equal(states(5.0, knows_next=False), states(900.0, knows_next=False))
        assert not torch.allclose(states(5.0), states(900.0), atol=1e-3)


# --------------------------------------------------------------------------------------------------- recommender


def test_learns_what_a_pause_means_and_answers_by_the_moment_asked_about(model):
    users, items, times = pauses(seed=1)
    store = Interactions.from_columns(users, items, timestamps=times).sequences
    split = leave_one_out(replace(store, items=model.items.encode(items).astype(np.int32)))
    blind, told = (
        evaluate(NetworkScorer(model.fitted.network), holdout, ks=[1], names=["HR"], seen="included").value("HR", 1)
        for holdout in (split.test, split.test.asked_at("target"))
    )
    assert told > 0.9
    assert blind < 0.75  # either of two is as likely

    users, items, times = pauses()
    newest, last = times[users == 5].max(), items[users == 5][-1]
    soon, late = (
        dict(model.recommend(5, NUM_ITEMS, at=newest + wait, exclude_seen=False, with_scores=True))
        for wait in (1, 1000)
    )
    # Each item has two successors here, hundreds of times each, so the counted transitions outweigh the network.
    near, far = (last + 1) % NUM_ITEMS, (last + 6) % NUM_ITEMS
    assert soon[near] > late[near]
    assert late[far] > soon[far]


def test_the_clock_stays_off_where_a_log_has_no_times_is_small_or_is_told_so():
    users, items, times = pauses(users=30)
    small = Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=8)
    assert small.fit(users, items, timestamps=times).fitted.network.time_encoder is None
    always = Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=8, clock=True)
    assert always.fit(users, items, timestamps=times).fitted.network.time_encoder is not None
    users, items, times = pauses()
    never = Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=8, clock=False)
    assert never.fit(users, items, timestamps=times).fitted.network.time_encoder is None


def test_the_gate_closes_where_held_out_events_are_ranked_worse_with_time(monkeypatch, tmp_path):
    monkeypatch.setattr("corerec.engines.bert4rec.fitting.time_helps", lambda network, probe: False)
    users, items, times = pauses()
    model = Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=8).fit(users, items, timestamps=times)
    assert model.fitted.network.time_encoder is None
    assert model.fitted.config.gap_unit is None
    newest = times[users == 5].max()
    assert model.recommend(5, at=newest + 1) == model.recommend(5, at=newest + 1000)
    model.save(tmp_path / "model", training_state=True)
    loaded = Bert4Rec.load(tmp_path / "model")
    assert loaded.fitted.moments is not None
    weights = {name for name, _ in loaded.fitted.network.named_parameters()}
    assert {key.split("/")[0] for key in loaded.fitted.moments} == weights


def test_batch_answers_and_kept_states_are_those_of_one_query_at_its_moment(model):
    users, _, times = pauses()
    newest = {user: times[users == user].max() for user in range(6)}
    moments = [newest[0] + 1, newest[1] + 1000, None, newest[3], newest[4] + 40, None]
    expected = []
    for user, at in enumerate(moments):
        model.fitted.states.__init__(model.fitted.config.hidden_dim)  # nothing is kept
        expected.append(model.recommend(user, 4, at=at, with_scores=True, exclude_seen=False))
    together = model.batch_recommend(list(range(6)), 4, at=moments, with_scores=True, exclude_seen=False)
    queries = [Query(user, top_k=4, at=moments[user], exclude_seen=False) for user in (0, 3)]
    mixed = model.answer([queries[0], Query(history=[1, 2]), queries[1]])
    again = [model.recommend(user, 4, at=at, with_scores=True, exclude_seen=False) for user, at in enumerate(moments)]
    for answers in (together, again):
        for one, other in zip(answers, expected, strict=True):
            assert [item for item, _ in one] == [item for item, _ in other]
            np.testing.assert_allclose([p for _, p in one], [p for _, p in other], rtol=1e-4)
    assert [mixed[0].items, mixed[2].items] == [[item for item, _ in expected[at]] for at in (0, 3)]
    soon, late = (
        model.recommend(0, 4, at=newest[0] + wait, exclude_seen=False, with_scores=True) for wait in (1, 1000)
    )
    assert soon != late


def test_a_saved_model_answers_by_the_moment_as_before(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = Bert4Rec.load(tmp_path / "model")
    at = pauses()[2].max() + 5
    one, other = (some.recommend(3, with_scores=True, at=at, exclude_seen=False) for some in (model, loaded))
    assert [item for item, _ in one] == [item for item, _ in other]
    np.testing.assert_allclose([p for _, p in one], [p for _, p in other], rtol=1e-5)
    assert loaded.fitted.config == model.fitted.config


def test_an_explanation_is_of_the_moment_asked_about(model):
    """The newest event's weight, by hand: what its being hidden takes from the log-probability at that moment."""
    users, items, times = pauses()
    own, newest = items[users == 5], times[users == 5].max()
    expected = int((own[-1] + 1) % NUM_ITEMS)
    numbers, number = model.items.encode(own), model.items.number(expected)
    weights = []
    for wait in (1, 1000):
        reasons = {reason.position: reason for reason in model.explain(expected, user_id=5, at=newest + wait)}
        ranked = model.recommend(5, NUM_ITEMS, at=newest + wait, exclude_seen=False, with_scores=True)
        hidden = timed([[*numbers[:-1], MASK]], [times[users == 5]], np.array([float(newest + wait)]))
        without = float(NetworkScorer(model.fitted.network).probabilities(hidden)[0, number])
        weights.append(reasons[len(own) - 1].weight)
        assert weights[-1] == pytest.approx(np.log(dict(ranked)[expected] / without), abs=1e-3)
    assert abs(weights[0] - weights[1]) > 0.1


def test_a_moment_that_is_no_time_or_has_no_user_is_refused(model):
    with pytest.raises(DataError, match="at= goes with user_id="):
        model.recommend(history=[1, 2], at=5)
    with pytest.raises(DataError, match="time"):
        model.recommend(5, at="soon")
    with pytest.raises(DataError, match="do not count from 1970"):
        model.recommend(5, at=np.datetime64("2020-01-01"))
    with pytest.raises(DataError, match="at has 2 values for 1 users"):
        model.batch_recommend([5], at=[1, 2])


def test_a_moment_before_the_last_event_is_that_of_the_event():
    store = timed([[1, 2], []], [[0, 50], []], np.array([20.0, 20.0]))
    assert asked_buckets(store, SCALE).tolist() == [1, 0]


def test_a_moment_long_after_any_gap_of_the_log_is_as_if_it_were_not_known(model):
    _, _, times = pauses()
    store = model.fitted.known_histories().select(np.array([5, 5]))
    answers = scores_of(model, replace(store, asked_at=np.array([times.max() + 10.0**7, np.nan])))
    assert np.array_equal(answers[0], answers[1])


def scores_of(model, store):
    return NetworkScorer(model.fitted.network).score(store).cpu().numpy()


def test_without_a_moment_each_way_to_ask_takes_the_time_of_the_last_event(model, tmp_path):
    users, items, times = pauses()
    newest = int(times[users == 5].max())
    expected = model.recommend(5, with_scores=True, at=newest)
    assert model.recommend(5, with_scores=True) == expected
    assert model.recommend(5, with_scores=True, at=newest + 1) != expected
    assert model.batch_recommend([5], with_scores=True) == [expected]
    (answer,) = model.answer([Query(5)])
    assert answer.pairs() == expected
    assert model.predict(5, expected[0][0]) == pytest.approx(expected[0][1], rel=1e-5)
    assert model.explain(expected[0][0], user_id=5) == model.explain(expected[0][0], user_id=5, at=newest)
    for histories in (None, Interactions.from_columns(users, items, timestamps=times)):
        score(model, tmp_path / "recs.parquet", users=[5] if histories is None else None, histories=histories)
        table = pd.read_parquet(tmp_path / "recs.parquet").query("user_id == 5")
        assert table["score"].tolist() == pytest.approx([probability for _, probability in expected], rel=1e-5)
