import datetime as dt
import uuid
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data.ids import (
    canonical_id,
    distinct_types,
    exact_in_javascript,
    id_column,
    number_ids,
    text_to_id,
    whole_number,
)
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError

repeatable = settings(max_examples=100, deadline=None, derandomize=True)
UNSAVABLE = {
    "UUIDs": [uuid.UUID(int=1)],
    "broken Decimals": [Decimal("1.5")],
    "bytes": [b"a"],
    "a NumPy column of bytes": np.array([b"a"]),
    "tuples": [(1, 2)],
    "dates": [dt.date(2020, 1, 1)],
    "a column of dates": pd.to_datetime(pd.Series(["2020-01-01"])),
    "infinity": [float("inf")],
    "a lone surrogate": ["\udc80"],
}


@pytest.mark.parametrize("column", UNSAVABLE.values(), ids=UNSAVABLE)
def test_ids_that_a_file_could_not_hold_are_refused_before_the_training(column):
    with pytest.raises(DataError, match=r"^user_ids has .* at row 0, .*; use text or numbers as ids"):
        Vocabulary.fit(column, "user")


@pytest.mark.parametrize("text", ["", " ", "nan", "NaN", "NULL", "null", "None", "<NA>", "NaT", "\\N"])
@pytest.mark.parametrize("kind", [list, "category", "string", pl.Series, pa.array])
def test_text_that_means_missing_is_refused_with_a_count(text, kind):
    texts = ["a", text, "b", text]
    column = pd.Series(texts, dtype=kind) if isinstance(kind, str) else kind(texts)
    with pytest.raises(
        DataError, match=r"^item_ids has 2 missing ids, the first at row 1, written as '.*'; drop those rows"
    ):
        Vocabulary.fit(column)


def test_masked_entries_are_missing():
    for column in (np.ma.array([1, 2, 3], mask=[0, 1, 0]), [1, np.ma.masked, 3]):
        with pytest.raises(DataError, match="item_ids has 1 missing ids, the first at row 1"):
            Vocabulary.fit(column)


MISSING = {
    "None among ints": [1, None],
    "None among text": ["a", None],
    "NaN": np.array([1.0, np.nan]),
    "NaT": [dt.datetime(2020, 1, 1), pd.NaT],
    "pandas Int64": pd.Series([1, None], dtype="Int64", index=[5, 9]),
    "pandas category": pd.Series(["a", None], dtype="category"),
    "polars int": pl.Series([1, None]),
    "polars text": pl.Series(["a", None]),
    "arrow": pa.array([1, None]),
    "arrow chunks": pa.chunked_array([["a"], [None]]),
}


@pytest.mark.parametrize("column", MISSING.values(), ids=MISSING)
def test_a_missing_id_is_refused_and_its_row_named(column):
    with pytest.raises(DataError, match=r"^item_ids has 1 missing ids, the first at row 1; drop"):
        Vocabulary.fit(column)


@pytest.mark.parametrize("column", [[[1], [2]], [[1, 2], [3]], ["a", {}], pa.array([[1, 2]])])
def test_an_id_that_is_not_hashable_is_refused(column):
    with pytest.raises(DataError, match="not hashable"):
        Vocabulary.fit(column)
    with pytest.raises(DataError, match="not hashable"):
        Vocabulary(column)
    with pytest.raises(DataError, match="not hashable"):
        Vocabulary([1, "a"]).encode(column)


@pytest.mark.parametrize(
    ("given", "an_id"),
    [
        (7, 7),
        (7.0, 7),
        (7.5, 7.5),
        (Decimal("7.00"), 7),
        (Decimal("7.5"), Decimal("7.5")),
        (np.int8(7), 7),
        (np.float32(7), 7),
        (np.str_("7"), "7"),
        (torch.tensor(7), 7),
        (True, True),
        (None, None),
        (np.ma.masked, None),
    ],
    ids=repr,
)
def test_an_id_is_its_value_in_python_s_own_type(given, an_id):
    canonical = canonical_id(given)
    assert (canonical, type(canonical)) == (an_id, type(an_id))


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), ("-7", -7), ("0", 0), ("7.0", 7), ("7.00", 7), ("1e+16", 10**16), ("9" * 30, int("9" * 30))],
)
def test_a_text_that_a_program_writes_for_a_whole_number_is_that_number(text, number):
    assert whole_number(text) == text_to_id(text) == number


@pytest.mark.parametrize("text", ["007", "+7", "1e3", "1e16", "7.5", "-0", "", " 7", "e+", "1e+999", "٣"])
def test_any_other_text_stays_text(text):
    assert whole_number(text) is None
    assert text_to_id(text) == text


@pytest.mark.parametrize(
    ("an_id", "sent"),
    [(2**53 - 1, 2**53 - 1), (2**53, str(2**53)), (-(2**53), str(-(2**53))), (2.5, 2.5), ("a", "a"), (True, True)],
)
def test_a_whole_number_that_javascript_would_round_travels_as_text(an_id, sent):
    assert exact_in_javascript(an_id) == sent


@repeatable
@given(st.lists(st.integers(-5, 5) | st.text("ab\0", max_size=3), min_size=1, max_size=12))
def test_ids_are_numbered_in_order_of_appearance_as_a_dictionary_would(ids):
    ids = [an_id for an_id in ids if an_id != ""] or ["a"]
    numbers, distinct = number_ids(ids, "x")
    expected = list(dict.fromkeys(ids))
    assert distinct.tolist() == expected
    assert numbers.tolist() == [expected.index(an_id) for an_id in ids]
    assert numbers.dtype == np.int32


def test_a_column_of_whole_numbers_is_int64_and_any_other_holds_objects():
    assert id_column([3, 1], "x").dtype == id_column(np.array([3.0, 1.0]), "x").dtype == np.int64
    for column in ([3, 2**70], [3, "a"], [1.5, 2.0]):
        assert id_column(column, "x").dtype == object


def test_the_types_of_ids_are_named():
    assert distinct_types([1, "a", 2]) == {"int", "str"}
