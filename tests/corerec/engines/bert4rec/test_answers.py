import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec import Bert4Rec, Query
from corerec.engines.bert4rec.answers import rank_states
from corerec.engines.bert4rec.encoding import next_states
from corerec.errors import (
    UnknownIdWarning,
)
from corerec.queries import QueryBatch
from corerec.retrieval.item_index import ItemIndex

pytestmark = pytest.mark.usefixtures("kernels")  # with the private operations of PyTorch and without

TINY = {"epochs": 1, "hidden_dim": 8, "max_seq_len": 8}


def test_an_empty_history_is_answered_by_popularity():
    model = Bert4Rec(**TINY).fit([1, 1, 1, 2, 2, 3], list("abcaba"), timestamps=[1, 2, 3, 1, 2, 1])
    shares = [("a", 3 / 6), ("b", 2 / 6), ("c", 1 / 6)]
    assert model.recommend(history=[], with_scores=True) == shares
    assert model.recommend(history=[], exclude=["a"], candidates=["c", "a"], with_scores=True) == shares[2:]
    with pytest.warns(UnknownIdWarning):
        assert model.recommend(history=["x", "y"], with_scores=True) == shares


def test_a_user_without_events_is_answered_by_popularity():
    log = Interactions.from_columns([1, 1, 2], ["a", "b", "a"], timestamps=[1, 2, 1])
    empty = SequenceStore(log.sequences.items, np.array([0, 3, 3]), log.sequences.times)
    model = Bert4Rec(**TINY).fit_interactions(Interactions(empty, log.users, log.items))
    assert model.recommend(2, with_scores=True) == [("a", 2 / 3), ("b", 1 / 3)]
    assert model.predict(2, "b") == 1 / 3
    assert model.batch_predict([(2, "a"), (1, "a")]) == pytest.approx([2 / 3, model.predict(1, "a")])
    assert model.batch_recommend([1, 2], exclude_seen=False) == [model.recommend(u, exclude_seen=False) for u in (1, 2)]
    assert [answer.basis for answer in model.answer([Query(2), Query(1)])] == ["popularity", "history"]
    model.observe(2, "b")
    assert model.answer([Query(2)])[0].basis == "history"
    assert model.recommend(2, exclude_seen=False, with_scores=True) == model.recommend(
        history=["b"], exclude_seen=False, with_scores=True
    )


def test_an_answer_tells_its_basis_and_the_unknown_items(model):
    queries = [Query("user 0"), Query(history=["?", "a"]), Query(history=["?"]), Query(history=[])]
    with pytest.warns(UnknownIdWarning):
        answers = model.answer(queries)
    assert [answer.basis for answer in answers] == ["history", "history", "popularity", "popularity"]
    assert [answer.unknown_items for answer in answers] == [[], ["?"], ["?"], []]
    assert [answer.user_id for answer in answers] == ["user 0", None, None, None]


@pytest.mark.parametrize("ask", ["predict", "recommend", "batch_recommend", "batch_predict"])
def test_a_state_from_before_an_observed_event_is_never_kept(live, monkeypatch, ask, same_answers):
    """The event comes while the state is being computed: that answer may be the old one, the next must not."""
    asked = {
        "predict": lambda: live.predict("user 0", "b"),
        "recommend": lambda: live.recommend("user 0", with_scores=True),
        "batch_recommend": lambda: live.batch_recommend(["user 0"], with_scores=True)[0],
        "batch_predict": lambda: live.batch_predict([("user 0", "b")]),
    }[ask]
    events = iter("kl")

    def overtaken(network, histories):
        states = next_states(network, histories)
        for item in events:
            live.observe("user 0", item)
            live.predict("user 0", "a")  # and another reader has kept the newer state meanwhile
        return states

    monkeypatch.setattr("corerec.engines.bert4rec.encoding.next_states", overtaken)
    asked()
    fresh = live.recommend(history=live.history("user 0"), with_scores=True)
    same_answers([live.recommend("user 0", with_scores=True)], [fresh])
    assert live.history("user 0")[-2:] == ["k", "l"]


def test_scores_are_the_same_whoever_asked_before(live, same_answers):
    """A state kept by a question without probabilities lacks its total, which a later question needs."""
    fresh = copy.deepcopy(live)
    live.recommend("user 0")
    assert live.predict("user 0", "b") == pytest.approx(fresh.predict("user 0", "b"))
    live.recommend("user 1")
    same_answers([live.recommend("user 1", with_scores=True)], [fresh.recommend("user 1", with_scores=True)])
    live.recommend("user 2")
    assert live.batch_predict([("user 2", "b")]) == pytest.approx(fresh.batch_predict([("user 2", "b")]))


def test_a_kept_state_is_asked_for_only_once(live, monkeypatch):
    live.recommend("user 0")
    monkeypatch.setattr("corerec.engines.bert4rec.encoding.next_states", None)
    live.predict("user 0", "b")
    live.recommend("user 0", top_k=3)
    live.batch_recommend(["user 0", "user 0"])
    live.answer([Query("user 0")])
    live.batch_predict([("user 0", "b")])


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
