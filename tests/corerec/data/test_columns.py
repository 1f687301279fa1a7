import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from corerec.data.ids import id_column
from corerec.data.interactions import Interactions
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError


@pytest.mark.parametrize(
    "ratings",
    [
        [3, 1.5],
        ["3", "1.5"],
        np.array([3, 1.5], np.float16),
        pd.Series([3, 1.5], index=[9, 9]),
        pl.Series([3.0, 1.5]),
        pa.array([3, 1.5]),
        torch.tensor([3, 1.5]),
    ],
    ids=str,
)
def test_ratings_may_be_any_column_of_numbers(ratings):
    assert Interactions.from_columns([1, 1], [1, 2], ratings).sequences.ratings.tolist() == [3.0, 1.5]


@pytest.mark.parametrize(
    ("ratings", "shown", "row"),
    [
        ([1, None, 2], "None", 1),
        ([1, 2, float("nan")], "nan", 2),
        ([float("-inf"), 2, 3], "-inf", 0),
        (["3", "good", "bad"], "'good'", 1),
        ([1, 2, 1e300], "1e\\+300", 2),
        (pd.Series([1, None, 2], dtype="Int64", index=[7, 8, 9]), "<NA>", 1),
        (pl.Series([1, None, 2]), "None", 1),
    ],
    ids=str,
)
def test_a_rating_that_is_no_number_is_refused_and_its_row_named(ratings, shown, row):
    with pytest.raises(DataError, match=rf"^ratings has \d values .*the first \({shown}\) at row {row}; drop"):
        Interactions.from_columns([1, 2, 3], [1, 2, 3], ratings)


def test_dates_in_the_place_of_ratings_are_refused():
    with pytest.raises(DataError, match="pass timestamps="):
        Interactions.from_columns([1, 2], [1, 2], [dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 2)])


@pytest.mark.parametrize("text", ["abc", b"abc"])
def test_a_bare_string_is_not_a_list_of_letters(text):
    with pytest.raises(DataError, match=r"item_ids is one (str|bytes) \(b?'abc'\); pass a list of ids"):
        Vocabulary.fit(text)


def test_a_single_number_is_not_a_column():
    with pytest.raises(DataError, match="x is a int; pass a list"):
        id_column(5, "x")
