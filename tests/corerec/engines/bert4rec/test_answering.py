from typing import Any

import numpy as np
import pytest
import torch

from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec import Bert4Rec, Query
from corerec.engines.bert4rec.config import MASK
from corerec.engines.bert4rec.encoding import NetworkScorer
from corerec.errors import (
    ConfigError,
    DataError,
    NotFittedError,
    UnknownIdError,
    UnknownIdWarning,
)
from corerec.queries import Recommendations

pytestmark = pytest.mark.usefixtures("kernels")  # with the private operations of PyTorch and without


def test_recommends_what_comes_next(model):
    assert model.recommend("user 0", top_k=1) == ["i"]
    assert model.recommend(history=["k", "l", "a"], top_k=1) == ["b"]


def test_recommendations_are_sorted_by_their_probabilities(model):
    answer = model.recommend("user 0", top_k=12, exclude_seen=False, with_scores=True)
    scores = [score for _, score in answer]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-5)
    assert [model.predict("user 0", item) for item, _ in answer] == pytest.approx(scores, rel=1e-4)


def test_seen_items_stay_out_unless_asked_for(model):
    assert set(model.recommend("user 0", top_k=12)) == set("ijkl")
    assert set(model.recommend("user 0", top_k=12, exclude_seen=False)) == set("abcdefghijkl")
    assert set(model.recommend(history=list("abc"), top_k=12)) == set("defghijkl")


def test_exclude_and_candidates_narrow_the_answer(model):
    assert model.recommend("user 0", top_k=1, exclude=["i"]) != ["i"]
    assert set(model.recommend("user 0", candidates=["i", "k", "a"])) == {"i", "k"}


@pytest.mark.parametrize("where", ["exclude", "candidates", "history"])
def test_unknown_items_are_left_out_with_one_warning_and_ids_of_a_foreign_type_are_refused(model, where):
    whom: dict[str, Any] = {} if where == "history" else {"user_id": "user 0"}
    with pytest.warns(UnknownIdWarning, match=r"'not an item' \(1 in all\); they are skipped"):
        answer = model.recommend(**whom, **{where: ["i", "not an item"]})
    assert answer == model.recommend(**whom, **{where: ["i"]})
    with pytest.raises(UnknownIdError, match=r"item 12 .*fitted ids are of type str, this one is int"):
        model.recommend(**whom, **{where: ["i", 12]})


def test_batch_calls_equal_single_calls_user_by_user(model, cycle_log):
    users = cycle_log.users.ids.tolist()[::7]
    assert model.batch_recommend(users, top_k=5) == [model.recommend(user, top_k=5) for user in users]
    pairs = [(user, item) for user in users for item in "adgj"]
    single = [model.predict(*pair) for pair in pairs]
    assert model.batch_predict(pairs) == pytest.approx(single, rel=1e-4)
    assert model.batch_predict([]) == []
    assert model.batch_recommend([]) == []


def test_a_user_is_a_history(model):
    assert model.recommend(history=list("abcdefgh")) == model.recommend("user 0")
    assert model.history("user 0") == list("abcdefgh")


def test_fills_blanks_in_the_middle_from_both_sides(model):
    assert model.fill_in(["c", "d", None, "f", "g"], top_k=1) == [["e"]]
    assert model.fill_in([None, "b", "c", "d", None], top_k=1) == [["a"], ["e"]]


def test_fills_blanks_of_a_history_longer_than_the_window(model):
    ring = list("abcdefghijkl") * 2
    holes = [item if place not in (3, 20) else None for place, item in enumerate(ring)]
    assert model.fill_in(holes, top_k=1, exclude_seen=False) == [["d"], ["i"]]


def test_fill_in_without_a_blank_and_recommend_with_one_say_which_to_use(model):
    with pytest.raises(DataError, match="None"):
        model.fill_in(["a", "b"])
    with pytest.raises(DataError, match="fill_in"):
        model.recommend(history=["a", None])


def test_similar_items_leave_out_the_item_itself(model):
    answer = model.similar_items("a", top_k=20, with_scores=True)
    assert {item for item, _ in answer} == set("bcdefghijkl")
    assert all(-1.001 <= cosine <= 1.001 for _, cosine in answer)


def test_an_empty_history_asks_what_anyone_would_start_with(model):
    assert len(model.recommend(history=[], top_k=12)) == 12


def test_unknown_items_in_a_history_are_skipped_with_one_warning(model):
    with pytest.warns(UnknownIdWarning, match=r"'x', 'y' \(2 in all\); they are skipped") as caught:
        answer = model.recommend(history=["x", "a", "y", "b"])
    assert len(caught) == 1
    assert answer == model.recommend(history=["a", "b"])


def test_unknown_users_get_a_typed_error_that_says_what_to_do(model):
    for ask in (
        lambda: model.predict("nobody", "a"),
        lambda: model.recommend("nobody"),
        lambda: model.batch_recommend(["user 1", "nobody"]),
        lambda: model.batch_predict([("nobody", "a")]),
    ):
        with pytest.raises(UnknownIdError, match=r"'nobody' is not among the 84 fitted users; pass history="):
            ask()


def test_unknown_items_elsewhere_are_typed_errors(model):
    with pytest.raises(UnknownIdError, match="zebra"):
        model.similar_items("zebra")
    for ask in (
        lambda: model.similar_items(5),
        lambda: model.predict("user 0", 5),
        lambda: model.batch_predict([("user 0", "a"), ("user 0", 5)]),
    ):
        with pytest.raises(UnknownIdError, match="of type str, this one is int"):
            ask()


@pytest.mark.parametrize("top_k", [0, -1, 2.5, "3", True])
def test_top_k_below_one_is_refused_everywhere(model, top_k):
    for ask in (
        lambda: model.recommend("user 0", top_k=top_k),
        lambda: model.batch_recommend(["user 0"], top_k=top_k),
        lambda: model.fill_in(["a", None], top_k=top_k),
        lambda: model.similar_items("a", top_k=top_k),
    ):
        with pytest.raises(DataError, match="top_k"):
            ask()


@pytest.mark.parametrize("top_k", [13, np.int32(100), 10**30])
def test_more_than_there_is_gives_all_there_is(model, top_k):
    assert len(model.recommend("user 0", top_k=top_k, exclude_seen=False)) == 12
    assert len(model.recommend(history=[], top_k=top_k)) == 12
    assert len(model.recommend(history=["a"], candidates=["c", "b"], top_k=top_k)) == 2
    assert len(model.batch_recommend(["user 0"], top_k=top_k)[0]) == 4
    assert len(model.fill_in(["a", None], top_k=top_k)[0]) == 11
    assert len(model.similar_items("a", top_k=top_k)) == 11


def test_recommend_needs_exactly_one_of_user_and_history(model):
    for arguments in ({}, {"user_id": "user 0", "history": ["a"]}):
        with pytest.raises(DataError, match="either"):
            model.recommend(**arguments)


def test_nothing_is_answered_before_fit():
    unfitted = Bert4Rec()
    for ask in (
        lambda: unfitted.predict(1, 2),
        lambda: unfitted.batch_predict([(1, 2)]),
        lambda: unfitted.recommend(1),
        lambda: unfitted.fill_in([1, None]),
        lambda: unfitted.similar_items(1),
        lambda: unfitted.save("model"),
    ):
        with pytest.raises(NotFittedError, match="fit"):
            ask()


def ring_questions():
    return [
        Query("user 0", top_k=5),
        Query(history=["k", "l", "a"], top_k=3, exclude=["b"]),
        Query("user 3", exclude_seen=False, candidates=list("abc")),
        Query(history=[], top_k=12),
        Query("user 0", top_k=12, exclude=["i"]),
        Query(history=list("abcdefghijkl") * 2, exclude_seen=False, top_k=1),
        Query("user 1", candidates=list("lk"), top_k=1),
        Query(history=["b"], candidates=list("abc"), top_k=2),
        Query("user 2", candidates=[]),
    ]


def one_by_one(model, question):
    asked = {name: value for name, value in vars(question).items() if name != "on_unknown"}
    return model.recommend(**asked, with_scores=True)


def test_answer_equals_recommend_one_by_one(model, same_answers):
    questions = ring_questions()
    same_answers(model.answer(questions), [one_by_one(model, question) for question in questions])
    same_answers(model.answer(iter(questions[::-1])), [one_by_one(model, question) for question in questions[::-1]])
    assert model.answer([]) == []


def test_a_bad_question_spoils_no_other(model, same_answers):
    good, bad = ring_questions(), [Query("nobody"), Query(history=["a", None])]
    answers = model.answer([bad[0], *good, bad[1]], return_errors=True)
    assert [type(answer) for answer in answers] == [UnknownIdError, *[Recommendations] * len(good), DataError]
    same_answers(answers[1:-1], model.answer(good))
    with pytest.raises(UnknownIdError, match="nobody"):
        model.answer([*good, bad[0]])


def test_unknown_items_of_many_questions_are_one_warning_at_the_callers_line(model):
    with pytest.warns(UnknownIdWarning, match=r"'x', 'y', 'z' \(3 in all\)") as caught:
        model.answer([Query(history=["x", "a"]), Query(history=["y", "z"])])
    with pytest.warns(UnknownIdWarning) as also:
        model.recommend(history=["x"])
    with pytest.warns(UnknownIdWarning) as too:
        model.fill_in(["x", None])
    assert [warning.filename for warning in (*caught, *also, *too)] == [__file__] * 3


def test_the_reasons_for_an_item_are_events_of_the_history(model):
    reasons = model.explain("i", user_id="user 0")
    assert sorted(reason.position for reason in reasons)[-1] == 7
    assert all(reason.item_id == "abcdefgh"[reason.position] for reason in reasons)
    assert reasons[0].item_id == "h"  # the ring's last step says what comes next
    assert model.explain("i", history=list("abcdefgh"), top=2) == reasons[:2]


def test_reasons_sum_up_what_followed_the_newest_event(model):
    reasons = {reason.item_id: reason for reason in model.explain("i", history=list("fgh"))}
    transitions = model.fitted.transitions
    last, item = model.items.number("h"), model.items.number("i")
    assert reasons["h"].followed == (transitions.count(last, item), transitions.totals[last])
    assert reasons["h"].followed.times > 5
    assert reasons["f"].followed is reasons["g"].followed is None
    assert [reason.followed for reason in model.explain("c", history=["h"])] == [None]  # which never followed h
    # Without the newest event the network alone answers, and with it the transition has its part in the probability.
    known = dict(model.recommend(history=list("fgh"), top_k=12, exclude_seen=False, with_scores=True))["i"]
    asked = torch.tensor([[*model.items.encode(list("fg")), MASK, MASK]]), torch.tensor([[3]])
    alone = model.fitted.network(*(tensor.to(model.device) for tensor in asked))
    temperature = model.fitted.network.inverse_temperatures(torch.tensor(3))  # the hidden event counts
    scores = model.fitted.network.logits(alone[0, 0] * temperature)
    shifted = scores.detach().clone()
    shifted[model.items.encode(list("fg"))] += model.fitted.network.repeat_bias
    hidden = float(shifted[1:].softmax(0)[item - 1])
    assert reasons["h"].weight == pytest.approx(np.log(known / hidden), abs=1e-4)


def test_positions_of_reasons_count_skipped_items_too(model):
    with pytest.warns(UnknownIdWarning, match="skipped"):
        reasons = model.explain("d", history=["a", "?", "b", "c"])
    assert {reason.position: reason.item_id for reason in reasons} == {0: "a", 2: "b", 3: "c"}
    assert model.explain("d", history=[]) == []
    for wrong, error in (
        ({}, DataError),
        ({"history": ["a"], "top": 0}, DataError),
        ({"user_id": "x"}, UnknownIdError),
    ):
        with pytest.raises(error):
            model.explain("d", **wrong)
    with pytest.raises(UnknownIdError):
        model.explain("zebra", history=["a"])


def test_recommendations_as_a_table(model):
    frame = model.recommend("user 0", top_k=3, as_frame=True)
    assert list(frame.columns) == ["user_id", "item_id", "rank", "score"]
    assert list(zip(frame["item_id"], frame["score"], strict=True)) == model.recommend("user 0", 3, with_scores=True)
    many = model.batch_recommend(["user 1", "user 0"], top_k=3, as_frame=True)
    assert many["user_id"].tolist() == ["user 1"] * 3 + ["user 0"] * 3
    assert many["rank"].tolist() == [1, 2, 3, 1, 2, 3]


def test_vectors_score_as_the_model_does(model):
    ids, vectors = model.item_embeddings()
    assert (ids, vectors.shape) == (model.items.ids.tolist(), (12, 16))
    states = model.embed([["a", "b"], ["c"]]).vectors
    scores = states @ vectors.T + model.fitted.network.item_bias[1:].detach().cpu().numpy()
    scores[[0, 0, 1], [0, 1, 2]] += float(model.fitted.network.repeat_bias)  # a, b and c are in the histories
    expected = NetworkScorer(model.fitted.network).score(SequenceStore.from_lists([[1, 2], [3]]))[:, 1:].cpu()
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_unknown_items_have_one_meaning_everywhere(live):
    calls = [
        lambda how: live.recommend("user 0", candidates=["i", "zebra"], on_unknown=how),
        lambda how: live.recommend("user 0", exclude=["zebra"], on_unknown=how),
        lambda how: live.recommend(history=["a", "zebra"], on_unknown=how),
        lambda how: live.fill_in(["a", None, "zebra"], on_unknown=how),
        lambda how: live.explain("b", history=["a", "zebra"], on_unknown=how),
        lambda how: live.embed([["a", "zebra"]], on_unknown=how),
        lambda how: live.observe_events(["user 0", "user 0"], ["i", "zebra"], [90, 91], on_unknown=how),
    ]
    for call in calls:
        with pytest.raises(UnknownIdError, match="zebra"):
            call("raise")
        with pytest.raises(ConfigError, match="on_unknown"):
            call("maybe")
        with pytest.warns(UnknownIdWarning, match="zebra") as caught:
            call("warn")
        assert [warning.filename for warning in caught] == [__file__]
        call("skip")
    assert live.recommend("user 0", candidates=["j", "zebra"], on_unknown="skip") == ["j"]
    assert live.history("user 0")[-2:] == ["i", "i"]  # of the two calls that took the known event
