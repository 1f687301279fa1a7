import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec.training import train_epochs
from corerec.errors import CorerecError, DataError, DataWarning, NotFittedError, UnknownIdError, UnknownItemWarning
from corerec.interactions import Interactions

TINY = {"epochs": 1, "hidden_dim": 8, "max_seq_len": 8}
RING = {"hidden_dim": 16, "max_seq_len": 8, "dropout": 0.0, "batch_size": 8, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def model(cycle_log):
    return Bert4Rec(epochs=60, **RING).fit_interactions(cycle_log)


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
    assert model.recommend("user 0", top_k=1, exclude=["i", "not an item"]) != ["i"]
    assert set(model.recommend("user 0", candidates=["i", "k", "a"])) == {"i", "k"}
    with pytest.raises(UnknownIdError, match="'z'"):
        model.recommend("user 0", candidates=["i", "z"])


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
    with pytest.warns(UnknownItemWarning, match=r"'x', 'y' \(2 in all\); they are skipped") as caught:
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
    with pytest.warns(UnknownItemWarning, match="not among the 12 fitted items: 'zebra'") as caught:
        alone = [model.predict("user 0", item) for item in ("zebra", "yak", "zebra")]
    assert len(caught) == 1
    with pytest.warns(UnknownItemWarning, match="2 in all"):
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

    def scripted(scorer, holdout):
        weights.append(scorer.network.item_bias.detach().clone())
        score = next(scores)
        return SimpleNamespace(value=lambda *_: score)

    monkeypatch.setattr("corerec.engines.bert4rec.recommender.evaluate", scripted)
    patient = Bert4Rec(patience=2, **{**TINY, "epochs": 5}).fit_interactions(cycle_log)
    assert len(weights) == 4  # epochs 3 and 4 brought nothing better than epoch 2
    assert patient.scorer.network.item_bias.equal(weights[1])


def test_patience_validates_on_events_it_does_not_train_on(cycle_log, monkeypatch):
    trained_on = []

    def watch(network, store, config):
        trained_on.append(store.num_events)
        return train_epochs(network, store, config)

    monkeypatch.setattr("corerec.engines.bert4rec.recommender.train_epochs", watch)
    model = Bert4Rec(patience=1, **TINY).fit_interactions(cycle_log)
    assert trained_on == [420 - 84]
    assert model.history("user 0") == list("abcdefgh")  # what it answers from is whole all the same


def test_patience_needs_something_to_validate_on():
    with pytest.raises(DataError, match="patience"):
        Bert4Rec(patience=2).fit([1, 2], ["a", "b"], timestamps=[1, 2])


def test_progress_is_one_line_an_epoch_on_a_pipe(cycle_log, capfd):
    Bert4Rec("Ring", verbose=True, **{**TINY, "epochs": 2}).fit_interactions(cycle_log)
    lines = capfd.readouterr().err.splitlines()
    assert [line.split("  loss")[0] for line in lines] == ["Ring  epoch 1/2", "Ring  epoch 2/2"]


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
