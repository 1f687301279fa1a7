import math

import numpy as np
import pandas as pd
import polars as pl
import pytest

from corerec.data.sequences import SequenceStore
from corerec.data.vocabulary import Vocabulary
from corerec.errors import ConfigError, CorerecError, UnknownIdError
from corerec.queries import QueryBatch, Recommendations, as_list, empty_rows, known_numbers, recommendations_frame


def test_questions_alike_but_for_their_histories():
    store = SequenceStore.from_lists([[1], [2, 3]])
    asked = QueryBatch.of(store, empty_rows(2), 4)
    assert (asked.users.tolist(), asked.top_k.tolist(), asked.excluded.lengths.tolist()) == ([0, 0], [4, 4], [0, 0])


@pytest.mark.parametrize("make", [list, tuple, np.array, pd.Series, pl.Series, iter])
def test_any_collection_of_ids_is_listed_as_plain_objects(make):
    ids = list(as_list(make([3, 1]), "history"))
    assert (ids, {type(an_id) for an_id in ids}) == ([3, 1], {int})


@pytest.mark.parametrize("wrong", ["a", b"a", 5, None])
def test_what_is_no_list_of_ids_is_named(wrong):
    with pytest.raises(CorerecError, match="exclude is one"):
        as_list(wrong, "exclude")


def test_part_of_a_batch_keeps_all_that_belongs_to_its_queries():
    lists = SequenceStore.from_lists
    limited, candidates = np.array([1, 3]), lists([[4, 1], [2]])
    batch = QueryBatch(
        np.array([7, 0, 8, 0]), lists([[1], [3, 1], [2], []]), lists([[], [4], [], []]), np.arange(1, 5), limited,
        candidates,
    )  # fmt: skip
    part = batch.select(np.array([1, 2]))
    assert (part.users.tolist(), part.top_k.tolist()) == ([0, 8], [2, 3])
    assert [part.histories.row(row).tolist() for row in range(2)] == [[3, 1], [2]]
    assert [part.excluded.row(row).tolist() for row in range(2)] == [[4], []]
    assert (part.limited.tolist(), part.candidates.row(0).tolist(), len(part.candidates)) == ([0], [4, 1], 1)


def test_answers_become_one_table_with_ranks_from_1():
    answers = [
        Recommendations(["a", "b"], [0.5, 0.25], "history", user_id="ann"),
        Recommendations([], [], "history", user_id="bob"),
        Recommendations(["c"], [math.nan], "popularity"),
    ]
    frame = recommendations_frame(answers)
    assert frame["user_id"].tolist()[:2] == ["ann", "ann"]
    assert pd.isna(frame["user_id"][2])
    assert frame[["item_id", "rank"]].values.tolist() == [["a", 1], ["b", 2], ["c", 1]]
    assert frame["score"].isna().tolist() == [False, False, True]
    assert list(recommendations_frame([]).columns) == ["user_id", "item_id", "rank", "score"]


def test_what_is_unknown_is_met_as_asked():
    known = Vocabulary(["a", "b"])
    with pytest.raises(UnknownIdError, match="'x'"):
        known_numbers(["a", "x"], known, "raise")
    numbers, strangers = known_numbers(["b", "x", "a", "y"], known, "skip")
    assert (numbers.tolist(), strangers) == ([2, 1], ["x", "y"])
    with pytest.raises(ConfigError, match="on_unknown"):
        known_numbers(["a"], known, "maybe")  # pyright: ignore[reportArgumentType]
    for on_unknown in ("skip", "warn"):
        with pytest.raises(UnknownIdError, match="this one is int"):
            known_numbers(["a", 7], known, on_unknown)
