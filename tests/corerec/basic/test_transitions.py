import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.basic.popularity import Popularity
from corerec.basic.transitions import (
    MAX_SUCCESSORS,
    LastItemMarkov,
    TransitionModel,
    count_transitions,
    leave_one_out_fit,
)
from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore, last_items
from corerec.data.splitting import leave_one_out
from corerec.engines.bert4rec import Bert4Rec, Query
from corerec.engines.bert4rec.answers import rank_states
from corerec.engines.bert4rec.encoding import NetworkScorer
from corerec.evaluation.evaluate import evaluate
from corerec.queries import QueryBatch
from corerec.retrieval.item_index import ItemIndex
from cr_learn import sample
from scorer_contract import PROMISES

V = 6
LOG = [[1, 2, 1, 3], [1, 2], [], [4], [5, 5]]  # of 6 items; nothing follows 3, 4 or 6


DISCOUNTS = {1: 0.6, 2: 1.1}


def of_log():
    counted = TransitionModel.of(SequenceStore.from_lists(LOG), V)
    return replace(counted, discounts=np.array([0.6, 1.1, 1.4]), concentration=np.array([0.5, 0.7]))


@pytest.fixture
def transitions():
    return of_log()


@pytest.fixture(scope="module")
def model():
    """12 users over 30 items; the weights are far from where training starts, so that each of them counts."""
    random = np.random.default_rng(0)
    users = np.arange(180) % 12
    items = np.concatenate([random.permutation(30), random.integers(0, 20, 150)])  # most of 20..29 end no history
    model = Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=8)
    model.fit_interactions(Interactions.from_columns(users, items, timestamps=np.arange(180)))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in model.scorer.network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.device)
    return model


def all_probabilities(model, **question):
    """{item id: probability} of the whole catalogue, as recommend has them."""
    return dict(model.recommend(top_k=len(model.items), exclude_seen=False, with_scores=True, **question))


# ----------------------------------------------------------------------------------------------------------- counting


def test_counts_are_how_often_an_item_followed_directly(transitions):
    last, items = np.array([1, 1, 2, 5, 1, 2, 3, 4, 0]), np.array([2, 3, 1, 5, 1, 3, 1, 1, 2])
    assert transitions.count(last, items).tolist() == [2, 1, 1, 1, 0, 0, 0, 0, 0]
    assert transitions.count(1, 2) == 2
    assert transitions.offsets.tolist() == [0, 0, 2, 3, 3, 3, 4, 4]
    assert transitions.totals.tolist() == [0, 3, 1, 0, 0, 1, 0]
    kinds = [getattr(transitions, name).dtype for name in ("offsets", "items", "counts", "totals")]
    assert kinds == [np.int64, np.int32, np.int32, np.int64]


def test_the_last_event_of_one_user_is_not_followed_by_the_first_of_the_next():
    transitions = TransitionModel.of(SequenceStore.from_lists([[1, 2], [3, 4]]), 4)
    assert transitions.count(2, 3) == 0


def test_counts_of_a_log_in_parts_are_those_of_it_all(monkeypatch):
    random = np.random.default_rng(0)
    store = SequenceStore.from_lists([random.integers(1, 20, n) for n in random.integers(0, 30, 60)])
    at_once, whole = count_transitions(store, 19), TransitionModel.of(store, 19)
    monkeypatch.setattr("corerec.basic.transitions.EVENTS_AT_ONCE", 50)
    monkeypatch.setattr("corerec.basic.transitions.TRANSITIONS_AT_ONCE", 70)
    for ours, theirs in zip(count_transitions(store, 19), at_once, strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
    for name, values in vars(TransitionModel.of(store, 19)).items():
        assert np.array_equal(values, getattr(whole, name)), name


def test_counts_are_those_of_a_loop_over_the_events():
    random = np.random.default_rng(0)
    sequences = [random.integers(1, 6, n).tolist() for n in random.integers(0, 9, 50)]
    looped = Counter(pair for sequence in sequences for pair in pairwise(sequence))
    offsets, items, counts = count_transitions(SequenceStore.from_lists(sequences), 6)
    last = np.repeat(np.arange(7), np.diff(offsets))
    assert dict(zip(zip(last.tolist(), items.tolist(), strict=True), counts.tolist(), strict=True)) == looped
    assert [*zip(last.tolist(), items.tolist(), strict=True)] == sorted(looped)


def test_only_the_most_frequent_followers_are_kept_and_of_equals_the_lower():
    lists = [[1, item] for item in range(2, MAX_SUCCESSORS + 10)] + [[1, MAX_SUCCESSORS + 9]] * 2
    transitions = TransitionModel.of(SequenceStore.from_lists(lists[::-1]), MAX_SUCCESSORS + 9)
    assert transitions.items.tolist() == [*range(2, MAX_SUCCESSORS + 1), MAX_SUCCESSORS + 9]
    assert transitions.counts.tolist() == [*[1] * 63, 3]
    assert transitions.totals[1] == MAX_SUCCESSORS + 10  # those that were not kept are still counted


def walks(share, seed=0):
    """800 walks of 4 steps over 400 items: the items' fixed successors so often, random items otherwise."""
    random = np.random.default_rng(seed)
    successor, rows = random.permutation(400), [random.integers(0, 400, 800)]
    for _ in range(4):
        rows.append(np.where(random.random(800) < share, successor[rows[-1]], random.integers(0, 400, 800)))
    return SequenceStore(np.stack(rows, axis=1).ravel().astype(np.int32) + 1, np.arange(801) * 5)


@pytest.mark.parametrize(("share", "error"), [(0.0, 0.005), (0.2, 0.03), (0.9, 0.1)])
def test_smoothed_counts_come_true_in_another_part_of_the_log(share, error):
    """Foreseen by popularity and the transitions alone; the walks that are asked about were not counted."""
    store, asked = walks(share), walks(share).select(np.arange(400, 800))
    transitions = TransitionModel.of(store.select(np.arange(400)), 400)
    at = np.setdiff1d(np.arange(asked.num_events), asked.offsets[:-1])
    last, items = asked.items[at - 1].astype(np.int64), np.arange(1, 401)
    said = transitions.blended(1 / 400, 1, last[:, None], items)
    np.testing.assert_allclose(said.sum(1), 1, rtol=1e-6)
    best = said.argmax(1)
    hits = items[best] == asked.items[at]
    assert said.max(1).mean() == pytest.approx(hits.mean(), abs=error)


@given(counts=st.lists(st.integers(1, 6), min_size=1))
@settings(max_examples=20, deadline=None)
def test_what_is_left_of_a_count_is_never_negative_and_never_falls_as_it_rises(counts):
    pairs = np.array(counts, int)
    offsets = np.array([0, 0] + [len(pairs)] * len(pairs))  # all follow item 1
    discounts, log_theta = leave_one_out_fit(offsets, np.arange(len(pairs)) + 1, pairs)
    left = np.arange(1, 4) - discounts
    assert 0 <= left[0] <= left[1] <= left[2] <= 3
    assert np.isfinite(log_theta)


def test_the_weight_falls_with_the_concentration_and_is_0_without_followers(transitions):
    weights = transitions.weights(np.array([1, 4, 200, 0, 3]), np.array([1, 2, 5, 0, 4]))
    assert weights.tolist() == pytest.approx([weight_by_hand(1, 1), weight_by_hand(4, 2), weight_by_hand(200, 5), 0, 0])
    assert transitions.weights(5, 2) == pytest.approx(weight_by_hand(5, 2))
    assert transitions.weights(5, 2) < weights[1] < transitions.weights(1, 2) < 1


def test_an_accident_weighs_little_and_a_habit_much():
    """After most items came two others, once each; after item 1 item 2, once; after item 5 nearly always item 3."""
    random = np.random.default_rng(0)
    accidents = [[item, other] for item in range(10, 300) for other in random.integers(10, 300, 2)]
    log = [*accidents, [1, 2], *[[5, 3]] * 40, [5, 4]]
    transitions = TransitionModel.of(SequenceStore.from_lists(log), 300)
    assert transitions.blended(0.001, 3, 1, 2) < 0.03
    assert transitions.blended(0.001, 3, 5, 3) > 0.8


def weight_by_hand(num_events, last):
    after = Counter(b for row in LOG for a, b in pairwise(row) if a == last)
    theta = math.exp(0.5 + 0.7 * (math.log(num_events) - 2))
    return sum(count - DISCOUNTS[count] for count in after.values()) / (after.total() + theta)


def test_rows_padded_to_one_width_end_in_zeros(transitions):
    numbers, discounted = transitions.pad()
    assert numbers.tolist() == [[0, 0], [2, 3], [1, 0], [0, 0], [0, 0], [5, 0], [0, 0]]
    np.testing.assert_allclose(discounted[:3], [[0, 0], [0.9, 0.4], [0.4, 0]], rtol=1e-6)
    assert TransitionModel.none(np.zeros(V + 1, int)).pad()[0].shape == (V + 1, 0)


# ----------------------------------------------------------------------------------------------------------- blending


def blended_by_hand(scores, history):
    """Plain Python: probabilities of numbers 1..V from the network's scores of them, for `LOG`."""
    total = sum(map(math.exp, scores))
    last = history[-1] if history else 0
    after = Counter(b for row in LOG for a, b in pairwise(row) if a == last)
    weight = weight_by_hand(len(history), last) if after else 0
    mass = sum(count - DISCOUNTS[count] for count in after.values())
    return [
        (1 - weight) * math.exp(score) / total
        + (weight * (after[item] - DISCOUNTS[after[item]]) / mass if after[item] else 0)
        for item, score in enumerate(scores, 1)
    ]


HISTORIES = [[1], [3, 1], [], [6, 4, 2, 5], [1, 4], [2]]


def test_scores_and_pairs_are_blended_alike(transitions):
    scores = torch.randn(len(HISTORIES), V + 1, generator=torch.Generator().manual_seed(0))
    store = SequenceStore.from_lists(HISTORIES)
    expected = [blended_by_hand(row[1:], history) for row, history in zip(scores.tolist(), HISTORIES, strict=True)]
    of_pairs = transitions.blended(
        scores[:, 1:].softmax(1).cpu().numpy(), store.lengths[:, None], last_items(store)[:, None], np.arange(1, V + 1)
    )
    of_scores = transitions.blend_(scores.clone(), store)[:, 1:].softmax(1)
    np.testing.assert_allclose(of_pairs, expected, rtol=1e-5)
    np.testing.assert_allclose(of_scores, expected, rtol=1e-5)


few_items = st.lists(st.integers(1, V), max_size=4)
wishes = st.tuples(
    few_items,
    few_items,
    st.one_of(st.none(), few_items),
    st.integers(1, V + 3),
    st.lists(st.integers(0, 3), min_size=V, max_size=V),
)


@given(asked_for=st.lists(wishes, max_size=7), known=st.booleans(), with_normalizers=st.booleans())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_the_blended_best_are_those_of_a_plain_sort_of_all_items(asked_for, known, with_normalizers):
    """Each question has its own scores: its state is a row of the unit matrix, its scores a column of the weights."""
    states = torch.eye(max(1, len(asked_for)))[: len(asked_for)]
    columns = [torch.tensor([9.0, *scores]) for *_, scores in asked_for] or [torch.zeros(V + 1)]
    limited = [at for at, (_, _, candidates, *_) in enumerate(asked_for) if candidates is not None]
    asked = QueryBatch(
        users=np.zeros(len(asked_for), np.int64),
        histories=SequenceStore.from_lists([history for history, *_ in asked_for]),
        excluded=SequenceStore.from_lists([excluded for _, excluded, *_ in asked_for]),
        top_k=np.array([top_k for *_, top_k, _ in asked_for], np.int64),
        limited=np.array(limited, np.int64),
        candidates=SequenceStore.from_lists([asked_for[at][2] for at in limited]),
    )
    totals = np.array([math.log(sum(map(math.exp, scores))) for *_, scores in asked_for], np.float32)
    given = totals if known else np.full(len(asked_for), np.nan, np.float32)
    table = ItemIndex(torch.stack(columns, dim=1), torch.zeros(V + 1))
    transitions = of_log()
    best = rank_states(table, states, asked, given, with_normalizers=with_normalizers, transitions=transitions)
    for row, (history, excluded, candidates, top_k, scores) in enumerate(asked_for):
        probabilities = [math.nan, *blended_by_hand(scores, history)]
        named = [n for n in range(1, V + 1) if n not in excluded and (candidates is None or n in candidates)]
        expected = sorted(named, key=lambda number: (-probabilities[number], number))[:top_k]
        numbers = best.numbers[row]
        assert numbers[numbers > 0].tolist() == expected
        if known or with_normalizers or (history and history[-1] in (1, 2, 5)):
            assert best.log_normalizers[row] == pytest.approx(totals[row], rel=1e-5)
            found = best.probabilities[row][: len(expected)].tolist()
            assert found == pytest.approx([probabilities[number] for number in expected], rel=1e-5)
        else:  # nobody asked for it, and ranking needed it not
            assert np.isnan(best.log_normalizers[row])


# ---------------------------------------------------------------------------------------------------------- the model


def test_what_always_followed_an_item_comes_first_after_it():
    """Weights of an untrained network say nothing, counts do: five users each went from a0 to b0, from a1 to b1, ..."""
    pairs = [(f"a{n}", f"b{n}") for n in range(20)] * 5
    log = Interactions.from_columns(np.repeat(np.arange(100), 2), [item for pair in pairs for item in pair])
    model = Bert4Rec(epochs=1, learning_rate=1e-9, hidden_dim=8).fit_interactions(log)
    for n in range(20):
        ((item, probability),) = model.recommend(history=[f"a{n}"], top_k=1, with_scores=True)
        assert item == f"b{n}"
        assert 0.5 < probability < 0.99


@pytest.mark.parametrize("user", [0, 5, 11])
def test_probabilities_sum_to_1_and_are_those_of_predict_and_of_the_scorer(model, user):
    reply = all_probabilities(model, user_id=user)
    items = list(reply)
    assert sum(reply.values()) == pytest.approx(1, abs=1e-5)
    assert [model.predict(user, item) for item in items] == pytest.approx(list(reply.values()), rel=1e-4)
    assert model.batch_predict([(user, item) for item in items]) == pytest.approx(list(reply.values()), rel=1e-4)
    history = SequenceStore.from_lists([model.items.require(model.history(user))])
    scored = model.scorer.score(history)[0, 1:].softmax(0).cpu().numpy()
    np.testing.assert_allclose(scored[model.items.require(items) - 1], list(reply.values()), rtol=1e-4)
    alone = NetworkScorer(model.scorer.network).score(history)[0, 1:].softmax(0).cpu().numpy()
    assert np.abs(alone - scored).max() > 0.005


def test_a_history_that_is_cut_counts_as_many_events_as_are_left(model):
    whole = SequenceStore.from_lists([model.items.require(model.history(user)) for user in range(12)])
    for length in (1, 3):
        scores = model.scorer.score(whole.last(length))[:, 1:].softmax(1).cpu().numpy()
        for user in range(12):
            reply = all_probabilities(model, history=model.history(user)[-length:])
            np.testing.assert_allclose(scores[user][model.items.require(list(reply)) - 1], list(reply.values()), 1e-4)


def test_exclusions_candidates_and_company_change_no_probability(model):
    questions = [
        Query(user_id=3, top_k=5),
        Query(user_id=4, top_k=40, exclude_seen=False),
        Query(user_id=3, candidates=list(range(0, 30, 2)), exclude_seen=False),
        Query(history=[], top_k=3),
        Query(history=[1, 2], exclude=[3, 4, 5], top_k=30),
        Query(history=[29]),
    ]
    together = model.answer(questions)
    backwards = model.answer(questions[::-1])[::-1]
    for question, reply, again in zip(questions, together, backwards, strict=True):
        alone = model.answer([question])[0]
        assert list(reply) == list(alone) == list(again)
        whole = all_probabilities(model, user_id=question.user_id, history=question.history)
        seen = question.history if question.user_id is None else model.history(question.user_id)
        exclusions = {*(seen if question.exclude_seen else ()), *question.exclude}
        allowed = set(whole if question.candidates is None else question.candidates) - exclusions
        expected = [item for item in whole if item in allowed][: question.top_k]
        assert list(reply) == expected
        assert reply.scores == pytest.approx([whole[item] for item in expected], rel=1e-4)


def test_without_followers_the_network_answers_alone():
    log = Interactions.from_columns(np.arange(12), np.arange(12) % 5, timestamps=np.arange(12))
    model = Bert4Rec(epochs=1, hidden_dim=8).fit_interactions(log)
    store = SequenceStore.from_lists([[2], [1, 3], []])
    assert torch.equal(model.scorer.score(store), NetworkScorer(model.scorer.network).score(store))
    expected = NetworkScorer(model.scorer.network).score(store)[0, 1:].softmax(0).cpu()
    reply = all_probabilities(model, history=[model.items.ids[1]])
    np.testing.assert_allclose(expected[model.items.require(list(reply)) - 1], list(reply.values()), rtol=1e-5)


def test_observed_events_are_followed_but_not_counted():
    again = Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=8)
    again.fit(["ann", "ann", "bob"], [1, 2, 3], timestamps=[1, 2, 3])
    again.observe_events(["bob", "eve", "eve"], [1, 1, 3])
    assert again.predict("bob", 2) == pytest.approx(all_probabilities(again, history=[3, 1])[2], rel=1e-5)
    assert (again.scorer.transitions.count(1, 2), again.scorer.transitions.count(1, 3)) == (1, 0)


def test_events_held_out_to_validate_on_are_counted(cycle_log):
    patient = Bert4Rec(epochs=1, hidden_dim=8, patience=1).fit_interactions(cycle_log)
    expected = TransitionModel.of(cycle_log.sequences, len(cycle_log.items))
    np.testing.assert_array_equal(patient.scorer.transitions.counts, expected.counts)


# ------------------------------------------------------------------------------------------------------------ on disk


@pytest.mark.parametrize("histories", [True, False])
def test_a_loaded_model_blends_as_the_saved_one(model, tmp_path, histories):
    model.save(tmp_path / "model", histories=histories)
    loaded = Bert4Rec.load(tmp_path / "model")
    assert all_probabilities(loaded, history=[7]) == all_probabilities(model, history=[7])
    assert loaded.scorer.transitions.items.tolist() == model.scorer.transitions.items.tolist()


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: tensors.pop("items"),
        lambda tensors: tensors.update({"shares": tensors["items"]}),
        lambda tensors: tensors["items"].fill_(31),
        lambda tensors: tensors.update({"counts": tensors["counts"][1:]}),
        lambda tensors: tensors.update({"counts": tensors["counts"].long()}),
        lambda tensors: tensors["totals"].zero_(),
        lambda tensors: tensors["discounts"].fill_(4),
        lambda tensors: tensors["concentration"].fill_(math.nan),
        lambda tensors: tensors["offsets"][3:5].copy_(torch.tensor([9, 2])),
    ],
)
def test_transitions_that_do_not_fit_are_refused(transitions, damage):
    tensors = {name: tensor.clone() for name, tensor in transitions.tensors().items()}
    same = TransitionModel.of_tensors(tensors, transitions.item_counts)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in same.tensors().items())
    damage(tensors)
    with pytest.raises((ValueError, KeyError), match=r"transitions|discounts|concentration|offsets"):
        TransitionModel.of_tensors(tensors, transitions.item_counts)


# ----------------------------------------------------------------------------------- LastItemMarkov, the baseline

# Items 1, 2, 3 have 3, 2 and 2 events, item 4 none; 1 -> 2 twice, 1 -> 3 and 2 -> 3 once.
TRAIN = SequenceStore.from_lists([[1, 2, 3], [1, 2], [], [1, 3]])
POPULAR = [0, 3 / 7, 2 / 7, 2 / 7, 0]


@pytest.mark.parametrize("promise", PROMISES)
def test_markov_keeps_what_every_scorer_promises(promise):
    promise(LastItemMarkov(TRAIN, num_items=4))


def test_markov_by_hand():
    scores = LastItemMarkov(TRAIN, num_items=4).score(SequenceStore.from_lists([[1], [2]]))
    assert scores[0].tolist() == pytest.approx([0, (3 / 7) / 4, (2 + 2 / 7) / 4, (1 + 2 / 7) / 4, 0])
    assert scores[1].tolist() == pytest.approx([0, (3 / 7) / 2, (2 / 7) / 2, (1 + 2 / 7) / 2, 0])


def test_markov_looks_at_the_last_item_only():
    markov = LastItemMarkov(TRAIN, num_items=4)
    assert torch.equal(
        markov.score(SequenceStore.from_lists([[2, 3, 1]])), markov.score(SequenceStore.from_lists([[1]]))
    )


@pytest.mark.parametrize("history", [[], [4], [3], [0]], ids=["empty", "never met", "never followed", "unknown"])
def test_markov_falls_back_on_popularity(history):
    assert LastItemMarkov(TRAIN, num_items=4).score(SequenceStore.from_lists([history]))[0].tolist() == pytest.approx(
        POPULAR
    )


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

    scores = LastItemMarkov(SequenceStore.from_lists(train), num_items=6).score(SequenceStore.from_lists(histories))
    np.testing.assert_allclose(scores, [expected(history) for history in histories], atol=1e-6)


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
