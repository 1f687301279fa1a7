import copy
import pickle
import subprocess
import sys
import threading
import warnings
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from sklearn.base import clone

from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.engines.bert4rec import Bert4Rec, Query
from corerec.engines.bert4rec.config import MASK, ModelConfig, TrainConfig
from corerec.engines.bert4rec.encoding import NetworkScorer, next_states
from corerec.engines.bert4rec.settings import DEFAULTS
from corerec.engines.bert4rec.training import EpochResult, StepResult, train_epochs
from corerec.errors import (
    ConfigError,
    CorerecError,
    DataError,
    DataWarning,
    DivergedError,
    NotFittedError,
    UnknownIdError,
    UnknownIdWarning,
)
from corerec.queries import Recommendations

TINY = {"epochs": 1, "hidden_dim": 8, "max_seq_len": 8}
RING = {"hidden_dim": 16, "max_seq_len": 8, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def model(cycle_log):
    return Bert4Rec(epochs=60, seed=1, **RING).fit_interactions(cycle_log)


# user 0 has seen "a" to "h"


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


def test_predict_of_an_unseen_item_is_its_add_one_probability_and_warns_once(cycle_log):
    model = Bert4Rec(**TINY).fit_interactions(cycle_log)
    with pytest.warns(UnknownIdWarning, match="not among the 12 fitted items: 'zebra'") as caught:
        alone = [model.predict("user 0", item) for item in ("zebra", "yak", "zebra")]
    assert len(caught) == 1
    with pytest.warns(UnknownIdWarning, match="2 in all"):
        batch = model.batch_predict([("user 0", "a"), ("user 0", "zebra"), ("user 1", "yak")])
    assert alone == [1 / (420 + 12 + 1)] * 3
    assert batch[1:] == alone[:2]


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


def test_pairs_that_are_no_pairs_are_refused(model):
    for wrong in (["user 0"], [("user 0", "a", 3)], [7]):
        with pytest.raises(DataError, match="pairs"):
            model.batch_predict(wrong)


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


def columns(kind):
    users, items, ratings, times = [1, 1, 2, 2, 2], ["a", "b", "b", "c", "a"], [5.0, 3, 4, 1, 2], [2, 1, 1, 2, 3]
    plain = {"user_ids": users, "item_ids": items, "ratings": ratings, "timestamps": times}
    make = {"list": list, "numpy": np.array, "pandas": pd.Series, "polars": pl.Series, "arrow": pa.array}[kind]
    return {name: make(column) for name, column in plain.items()}


@pytest.mark.parametrize("kind", ["list", "numpy", "pandas", "polars", "arrow"])
def test_any_kind_of_column_fits_to_the_same_model(kind):
    expected = Bert4Rec(**TINY).fit(**columns("list"))
    fitted = Bert4Rec(**TINY).fit(**columns(kind))
    assert fitted.history(1) == ["b", "a"]
    assert fitted.recommend(1, with_scores=True) == expected.recommend(1, with_scores=True)


def test_fit_without_timestamps_takes_row_order_and_says_so():
    with pytest.warns(DataWarning, match="timestamps"):
        model = Bert4Rec(**TINY).fit([1, 1, 2], ["x", "y", "x"])
    assert model.history(1) == ["x", "y"]


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"user_ids": [], "item_ids": []}, "empty"),
        ({"user_ids": [1, 2], "item_ids": [1]}, "differ in length"),
        ({"user_ids": [1, 2], "item_ids": [1, 2], "ratings": [1.0, float("nan")]}, "row 1"),
        ({"user_ids": [1, 2], "item_ids": [1, 2], "ratings": [float("inf"), 1]}, "row 0"),
        ({"user_ids": [1, None], "item_ids": [1, 2]}, "missing"),
        ({"user_ids": None, "item_ids": [1, 2]}, "needs user_ids"),
        ({"user_ids": [1, 2], "item_ids": [1, 2], "timestamps": ["soon", "later"]}, "soon"),
    ],
)
def test_hostile_columns_are_typed_errors(wrong, match):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        with pytest.raises(CorerecError, match=match):
            Bert4Rec(**TINY).fit(**wrong)


def test_fitting_again_forgets_what_was_learned_and_kept(cycle_log):
    model = Bert4Rec(**TINY).fit_interactions(cycle_log)
    before = model.predict("user 0", "a")
    other = Interactions.from_columns(["user 0"] * 3, ["a", "zebra", "yak"], timestamps=[1, 2, 3])
    model.fit_interactions(other)
    assert model.predict("user 0", "a") != before
    assert model.history("user 0") == ["a", "zebra", "yak"]


def test_one_item_users_and_a_one_item_catalogue_fit():
    model = Bert4Rec(**TINY).fit([1, 2, 3], ["a", "a", "a"], timestamps=[1, 1, 1])
    assert model.recommend(1) == []
    assert model.recommend(1, exclude_seen=False) == ["a"]
    assert model.predict(1, "a") == pytest.approx(1)


def test_patience_stops_and_keeps_the_best_weights(cycle_log, monkeypatch):
    scores, weights = iter([0.1, 0.3, 0.2, 0.3, 0.9]), []

    def scripted(scorer, holdout, **_):
        weights.append(scorer.network.item_bias.detach().clone())
        score = next(scores)
        return SimpleNamespace(value=lambda *_: score)

    monkeypatch.setattr("corerec.engines.bert4rec.early_stopping.evaluate", scripted)
    patient = Bert4Rec(patience=2, **{**TINY, "epochs": 5}).fit_interactions(cycle_log)
    assert len(weights) == 4  # epochs 3 and 4 brought nothing better than epoch 2
    assert patient.scorer.network.item_bias.equal(weights[1])


def test_patience_validates_on_events_it_does_not_train_on(cycle_log, monkeypatch):
    trained_on = []

    def watch(state, store, *rest):
        trained_on.append(store.num_events)
        return train_epochs(state, store, *rest)

    monkeypatch.setattr("corerec.engines.bert4rec.fitting.train_epochs", watch)
    model = Bert4Rec(patience=1, **TINY).fit_interactions(cycle_log)
    assert trained_on == [420 - 84]
    assert model.history("user 0") == list("abcdefgh")  # what it answers from is whole all the same


def test_patience_needs_something_to_validate_on():
    with pytest.raises(DataError, match="patience"):
        Bert4Rec(patience=2).fit([1, 2], ["a", "b"], timestamps=[1, 2])


def test_progress_is_the_recipe_and_one_line_an_epoch_on_a_pipe(cycle_log, capfd):
    Bert4Rec("Ring", verbose=True, **{**TINY, "epochs": 2}).fit_interactions(cycle_log)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("Ring  2 epochs, 12 steps of up to 16 windows")
    assert [line.split("  loss")[0] for line in lines[1:]] == ["Ring  epoch 1/2", "Ring  epoch 2/2"]


# ------------------------------------------------------------------------------------------- many questions together


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


def same_answers(got, expected):
    got, expected = ([getattr(one, "pairs", lambda one=one: one)() for one in answers] for answers in (got, expected))
    assert [[item for item, _ in answer] for answer in got] == [[item for item, _ in answer] for answer in expected]
    for answer, other in zip(got, expected, strict=True):
        assert [score for _, score in answer] == pytest.approx([score for _, score in other], rel=1e-4)


def test_answer_equals_recommend_one_by_one(model):
    questions = ring_questions()
    same_answers(model.answer(questions), [one_by_one(model, question) for question in questions])
    same_answers(model.answer(iter(questions[::-1])), [one_by_one(model, question) for question in questions[::-1]])
    assert model.answer([]) == []


def test_a_bad_question_spoils_no_other(model):
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


# ------------------------------------------------------------------------------------------------------- popularity


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


# -------------------------------------------------------------------------------------------------------- streaming


@pytest.fixture
def live(cycle_log):
    """An untrained model of the ring, to observe events with; users' times run 0, 1, 2, ..."""
    return Bert4Rec(**TINY).fit_interactions(cycle_log)


def everything_of(model, user):
    return (
        model.history(user),
        model.recommend(user, with_scores=True),
        model.batch_recommend([user], with_scores=True)[0],
        model.predict(user, "b"),
        model.batch_predict([(user, "b")]),
    )


def test_the_next_recommend_sees_an_observed_event(live):
    before = everything_of(live, "user 0")
    live.observe("user 0", "k")
    after = everything_of(live, "user 0")
    assert after[0] == [*"abcdefgh", "k"]
    assert all(new != old for new, old in zip(after, before, strict=True))
    same_answers([after[1], after[2]], [live.recommend(history=[*"abcdefgh", "k"], with_scores=True)] * 2)
    assert after[4] == pytest.approx([after[3]], rel=1e-5)


def test_a_new_user_appears_by_being_observed(live):
    assert live.observe_events(["new", "new"], ["b", "a"], [5, 4]) == 2
    assert live.history("new") == ["a", "b"]
    assert live.recommend("new") == live.recommend(history=["a", "b"])
    assert (len(live.users), live.num_events) == (85, 420)  # num_events were learned from
    assert "85 users" in repr(live)


def test_a_bad_event_leaves_the_model_as_it_was(live):
    before = everything_of(live, "user 0")
    for wrong in (
        lambda: live.observe_events(["user 0", "new"], ["a", "zebra"], on_unknown="raise"),
        lambda: live.observe_events(["user 0", "new"], ["a", None]),
        lambda: live.observe_events(["user 0", None], ["a", "a"]),
        lambda: live.observe_events(["user 0", "new"], ["a"]),
        lambda: live.observe("user 0", "a", timestamp=float("nan")),
        lambda: live.observe("user 0", "a", rating=float("nan")),
        lambda: live.observe(7, "a"),
    ):
        with pytest.raises((DataError, UnknownIdError)):
            wrong()
    assert everything_of(live, "user 0") == before
    with pytest.raises(UnknownIdError):
        live.recommend("new")


def test_only_a_model_with_histories_observes(live, tmp_path):
    live.save(tmp_path / "small", histories=False)
    with pytest.raises(NotFittedError, match="without histories"):
        Bert4Rec.load(tmp_path / "small").observe("user 0", "a")


def test_observing_leaves_the_log_of_fit_alone(live, cycle_log):
    live.observe_events(["user 0", "new"], ["a", "b"])
    assert (cycle_log.sequences.num_events, len(cycle_log.users)) == (420, 84)
    assert Bert4Rec(**TINY).fit_interactions(cycle_log).history("user 0") == list("abcdefgh")


@pytest.mark.parametrize("ask", ["predict", "recommend", "batch_recommend", "batch_predict"])
def test_a_state_from_before_an_observed_event_is_never_kept(live, monkeypatch, ask):
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


def test_scores_are_the_same_whoever_asked_before(live, cycle_log):
    """A state kept by a question without probabilities lacks its total, which a later question needs."""
    fresh = Bert4Rec(**TINY).fit_interactions(cycle_log)
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


def test_readers_beside_a_writer_get_answers_of_whole_histories(live):
    """A writer walks users on along the ring: whatever a reader sees is a walk, and the last answers are fresh."""
    done, wrong = threading.Event(), []
    users = [f"user {number}" for number in range(6)]

    def write():
        for step in range(8, 40):
            late = [chr(ord("a") + (number + step) % 12) for number in range(6)]
            live.observe_events([*users, f"new {step}"], [*late, "a"], [step] * 7)
        done.set()

    def read():
        while not done.is_set() and not wrong:
            for user in users:
                walk = "".join(live.history(user))
                if walk not in "abcdefghijkl" * 5:
                    wrong.append(walk)
            answers = live.answer([*map(Query, users), Query("new 39")], return_errors=True)
            wrong.extend(answer for answer in answers[:-1] if not isinstance(answer, Recommendations))
            live.batch_predict([(user, "a") for user in users])

    threads = [threading.Thread(target=work) for work in (read, read, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    fresh = [live.recommend(history=live.history(user), with_scores=True) for user in users]
    same_answers(live.answer(list(map(Query, users))), fresh)


# --------------------------------------------------------------------------------------------------------- reasons


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
    alone = model.fitted.network(torch.tensor([[*model.items.encode(list("fg")), MASK, MASK]]), torch.tensor([[3]]))
    scores = model.fitted.network.logits(alone[0, 0] * model.fitted.network.inverse_temperature)
    hidden = float(scores[1:].softmax(0)[item - 1].detach())
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


def test_a_new_process_answers_for_a_raw_history(model, tmp_path):
    model.save(tmp_path / "ring.bin")
    code = (
        "import sys; from corerec.engines.bert4rec import Bert4Rec; "
        "print(Bert4Rec.load(sys.argv[1]).recommend(history=['j', 'k', 'l'], top_k=1))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "ring.bin")], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "['a']\n"


# ------------------------------------------------------------------------------------------------------- ratings


def rated_log(users=120, items=24, events=16, seed=0):
    """Even users love even items and odd users odd ones, 2 stars apart, with noise of .3 stars."""
    random = np.random.default_rng(seed)
    chosen = np.stack([random.permutation(items)[:events] for _ in range(users)])
    alike = chosen % 2 == np.arange(users)[:, None] % 2
    stars = np.where(alike, 4.0, 2.0) + random.normal(0, 0.3, chosen.shape)
    return np.repeat(np.arange(users), events), chosen.ravel() + 100, stars.clip(1, 5).ravel()


@pytest.fixture(scope="module")
def rated():
    users, items, stars = rated_log()
    return Bert4Rec(epochs=2, hidden_dim=16, max_seq_len=16).fit(users, items, stars, timestamps=np.arange(len(users)))


def test_predict_is_on_the_scale_of_the_ratings(rated):
    even, odd = rated.predict(0, 110), rated.predict(1, 110)
    assert even == pytest.approx(4, abs=0.4)
    assert odd == pytest.approx(2, abs=0.4)
    assert min(even, odd) >= 1
    assert max(even, odd) <= 5


def test_batch_predict_equals_predict_one_by_one_on_ratings_too(rated):
    pairs = [(user, item) for user in range(0, 120, 13) for item in range(100, 124, 5)]
    assert rated.batch_predict(pairs) == pytest.approx([rated.predict(*pair) for pair in pairs])


def test_probabilities_are_still_to_be_had(rated):
    total = sum(rated.predict(3, item, kind="probability") for item in range(100, 124))
    assert total == pytest.approx(1, abs=1e-4)
    assert rated.batch_predict([(3, 100)], kind="probability") == pytest.approx(
        [rated.predict(3, 100, kind="probability")]
    )


def test_ratings_leave_the_recommendations_as_they_are(rated):
    users, items, _ = rated_log()
    unrated = Bert4Rec(epochs=2, hidden_dim=16, max_seq_len=16).fit(users, items, timestamps=np.arange(len(users)))
    asked = list(range(0, 120, 7))
    assert unrated.batch_recommend(asked, with_scores=True) == rated.batch_recommend(asked, with_scores=True)
    assert 0 < unrated.predict(0, 110) < 1


def test_an_observed_rating_moves_the_next_prediction(rated, tmp_path):
    rated.save(tmp_path / "rated.model")
    model = Bert4Rec.load(tmp_path / "rated.model")
    before = model.predict(0, 110)
    for item in (102, 104, 106, 108):
        model.observe(0, item, rating=1.0)
    assert model.predict(0, 110) < before - 0.3
    assert rated.predict(0, 110) == before


def test_a_loaded_model_predicts_the_saved_ones_ratings(rated, tmp_path):
    rated.save(tmp_path / "rated.model")
    assert Bert4Rec.load(tmp_path / "rated.model").predict(5, 117) == rated.predict(5, 117)


def test_strangers_are_taken_for_average_with_one_warning_and_wrong_types_are_not(rated):
    _, _, stars = rated_log()
    rated._warned_of_unseen = False
    with pytest.warns(UnknownIdWarning, match="fitted users: 7777 "):
        assert rated.predict(7777, 110) == pytest.approx(stars.mean(), abs=0.5)
    rated.predict(7778, 110)  # no second warning
    with pytest.warns(UnknownIdWarning, match="fitted items: 9999 "):
        assert rated.batch_predict([(0, 9999)]) == [rated.predict(0, 9999)]
    with pytest.raises(UnknownIdError, match="of type int"):
        rated.predict("0", 110)
    with pytest.raises(UnknownIdError, match="of type int"):
        rated.batch_predict([(0, "110")])


def test_min_rating_names_only_what_the_user_is_expected_to_like(rated):
    named = rated.recommend(0, top_k=24, exclude_seen=False, min_rating=3.0)
    assert sorted(named) == [item for item in range(100, 124) if rated.predict(0, item) >= 3.0]
    assert {item % 2 for item in named} == {0}
    assert rated.recommend(0, candidates=[101, 110], exclude_seen=False, min_rating=3.0) == [110]
    assert rated.recommend(history=[100], min_rating=4.9) == []


def test_ratings_asked_of_a_model_without_any_are_an_error(rated):
    users, items, _ = rated_log()
    model = Bert4Rec(epochs=1, hidden_dim=16, max_seq_len=16).fit(
        users, items, np.ones(len(users)), timestamps=np.arange(len(users))
    )
    assert 0 < model.predict(0, 110) < 1  # ratings of one value are no scale
    with pytest.raises(DataError, match="knows no ratings"):
        model.predict(0, 110, kind="rating")
    with pytest.raises(DataError, match="knows no ratings"):
        model.recommend(0, min_rating=3)
    with pytest.raises(DataError, match="kind must be"):
        rated.predict(0, 110, kind="stars")
    with pytest.raises(DataError, match="min_rating must be a finite number"):
        rated.recommend(0, min_rating=float("nan"))


# ----------------------------------------------------------------------------------------------- the public surface


def test_each_default_has_one_source():
    for config in (ModelConfig, TrainConfig):
        for field in fields(config):
            if field.name in DEFAULTS:  # the others are found at fit
                assert DEFAULTS[field.name] == field.default
    known = {field.name for config in (ModelConfig, TrainConfig) for field in fields(config)}
    assert DEFAULTS.keys() - known == {"name", "device", "verbose"}


def test_settings_can_be_read_changed_and_cloned():
    model = Bert4Rec("a name", epochs=3, hidden_dim=np.int64(8))
    assert model.get_params()["hidden_dim"] == 8
    twin = clone(model)
    assert twin.get_params() == model.get_params()
    assert model.set_params(epochs=5, hidden_dim=16) is model
    assert (model.train_config.epochs, twin.train_config.epochs) == (5, 3)
    with pytest.raises(ConfigError, match="no setting 'hiden_dim'"):
        model.set_params(hiden_dim=8)
    with pytest.raises(ConfigError, match=r"hidden_dim \(7\)"):
        model.set_params(hidden_dim=7)
    assert model.get_params()["hidden_dim"] == 16


@pytest.mark.parametrize("name", [None, "", 7])
def test_a_name_is_text(name):
    with pytest.raises(ConfigError, match="name"):
        Bert4Rec(name)


def test_repr_shows_what_differs_from_the_defaults(model):
    assert repr(Bert4Rec(epochs=3)) == "Bert4Rec(epochs=3; not fitted)"
    assert repr(Bert4Rec()) == "Bert4Rec(not fitted)"
    assert "84 users, 12 items, 420 events" in repr(model)
    assert Bert4Rec("<b>")._repr_html_().startswith("<table><caption>&lt;b&gt;")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_fitted_model_can_be_copied_to_workers(model, copied):
    twin = copied(model)
    assert twin.recommend("user 0", with_scores=True) == model.recommend("user 0", with_scores=True)
    twin.observe("user 0", "i")
    assert len(twin.history("user 0")) == len(model.history("user 0")) + 1


def test_on_event_sees_every_result_and_may_stop_the_training(cycle_log):
    seen = []

    def two_epochs(event):
        seen.append(event)
        return isinstance(event, EpochResult) and event.epoch == 2

    model = Bert4Rec(**{**TINY, "epochs": 5}).fit_interactions(cycle_log, on_event=two_epochs)
    steps = [event for event in seen if isinstance(event, StepResult)]
    assert [event.epoch for event in seen if isinstance(event, EpochResult)] == [1, 2]
    assert [step.step for step in steps] == list(range(1, len(steps) + 1))
    assert list(model.training_log["epoch"]) == [1, 2]


def test_the_training_log_is_kept_in_the_file(cycle_log, tmp_path):
    model = Bert4Rec(patience=2, **{**TINY, "epochs": 3}).fit_interactions(cycle_log)
    log = model.training_log
    assert list(log.columns) == ["epoch", "seconds", "loss", "learning_rate", "ndcg"]
    assert log["ndcg"].between(0, 1).all()
    model.save(tmp_path / "model")
    pd.testing.assert_frame_equal(Bert4Rec.load(tmp_path / "model").training_log, log)


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
    scores = states @ vectors.T + model.fitted.network.item_bias[1:].detach().numpy()
    expected = NetworkScorer(model.fitted.network).score(SequenceStore.from_lists([[1, 2], [3]]))[:, 1:]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_a_training_that_diverges_stops_with_what_to_try(cycle_log):
    model = Bert4Rec(learning_rate=1e9, **TINY)
    with pytest.raises(DivergedError, match=r"epoch 1, step \d+.*learning_rate"):
        model.set_params(epochs=50, warmup_steps=0).fit_interactions(cycle_log)
    with pytest.raises(NotFittedError):
        model.recommend("user 0")


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
