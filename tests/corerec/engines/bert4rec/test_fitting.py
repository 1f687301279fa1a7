import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from corerec.data.interactions import Interactions
from corerec.engines.bert4rec import Bert4Rec, fitting
from corerec.engines.bert4rec.training import EpochResult, StepResult
from corerec.errors import (
    CorerecError,
    DataError,
    DataWarning,
    DivergedError,
    NotFittedError,
)

TINY = {"epochs": 1, "hidden_dim": 8, "max_seq_len": 8}


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


def test_patience_needs_something_to_validate_on():
    with pytest.raises(DataError, match="patience"):
        Bert4Rec(patience=2).fit([1, 2], ["a", "b"], timestamps=[1, 2])


def test_ratings_leave_the_recommendations_as_they_are(rated, rated_log):
    users, items, _ = rated_log
    unrated = Bert4Rec(epochs=2, hidden_dim=16, max_seq_len=16).fit(users, items, timestamps=np.arange(len(users)))
    asked = list(range(0, 120, 7))
    assert unrated.batch_recommend(asked, with_scores=True) == rated.batch_recommend(asked, with_scores=True)
    assert 0 < unrated.predict(0, 110) < 1


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


def test_a_training_that_diverges_stops_with_what_to_try(cycle_log):
    model = Bert4Rec(learning_rate=1e9, **TINY)
    with pytest.raises(DivergedError, match=r"epoch 1, step \d+.*learning_rate"):
        model.set_params(epochs=50, warmup_steps=0).fit_interactions(cycle_log)
    with pytest.raises(NotFittedError):
        model.recommend("user 0")


def test_a_bar_ends_before_an_error_is_told(cycle_log, monkeypatch):
    ended = []

    def drawn(results, name):
        try:
            yield from results
        finally:
            ended.append(name)

    def fails(event):
        raise RuntimeError("mine")

    monkeypatch.setattr(fitting, "with_progress", drawn)
    model = Bert4Rec("Ring", epochs=1, hidden_dim=8, max_seq_len=8, verbose=True)
    with pytest.raises(RuntimeError, match="mine") as caught:
        model.fit_interactions(cycle_log, on_event=fails)
    assert ended == ["Ring"]
    assert caught.value.__traceback__ is not None  # which still holds the training
