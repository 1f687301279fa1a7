"""Raw columns -> sequences: stable time order, honest errors, and the CSR operations against plain Python."""

import datetime as dt
import warnings
from collections import defaultdict

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.times import time_column
from corerec.errors import DataError, DataWarning

repeatable = settings(max_examples=100, deadline=None, derandomize=True)
sequence_lists = st.lists(st.lists(st.integers(1, 9), max_size=6), max_size=6)


def lists(store: SequenceStore) -> list[list[int]]:
    return [store.row(row).tolist() for row in range(len(store))]


def decoded(log: Interactions) -> dict:
    """user id -> item ids, oldest first."""
    return dict(zip(log.users.ids.tolist(), [log.items.decode(row) for row in lists(log.sequences)], strict=True))


def order_of(timestamps) -> list[int]:
    """The order of the rows of one user, by these times."""
    log = Interactions.from_columns([0] * len(timestamps), list(range(len(timestamps))), timestamps=timestamps)
    return decoded(log)[0]


# --- order


def test_events_are_sorted_by_user_and_time():
    log = Interactions.from_columns(["u", "v", "u", "u"], ["a", "b", "c", "d"], [1, 2, 3, 4], [30, 5, 10, 20])
    assert decoded(log) == {"u": ["c", "d", "a"], "v": ["b"]}
    assert log.sequences.times.tolist() == [10, 20, 30, 5]
    assert log.sequences.ratings.tolist() == [3, 4, 1, 2]
    assert log.sequences.offsets.tolist() == [0, 3, 4]


def test_the_store_is_int32_items_int64_offsets_float32_ratings():
    store = Interactions.from_columns([1], [2], [3], [4]).sequences
    assert [a.dtype for a in (store.items, store.offsets, store.times, store.ratings)] == [
        np.int32,
        np.int64,
        np.int64,
        np.float32,
    ]


def test_without_timestamps_the_order_of_rows_is_the_order_of_time():
    log = Interactions.from_columns(["u", "v", "u", "v"], ["c", "b", "a", "a"])
    assert decoded(log) == {"u": ["c", "a"], "v": ["b", "a"]}
    assert log.sequences.times is None
    assert log.sequences.ratings is None


@repeatable
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40))
@pytest.mark.filterwarnings("ignore:.*repeat another row:corerec.errors.DataWarning")
def test_equal_times_keep_the_order_of_rows(rows):
    user_ids, item_ids, times = (list(column) for column in zip(*rows, strict=True))
    log = Interactions.from_columns(user_ids, item_ids, timestamps=times)
    expected = defaultdict(list)
    for user, item, _ in sorted(rows, key=lambda row: row[2]):  # Python's sort is stable
        expected[user].append(item)
    assert decoded(log) == expected
    assert list(decoded(log)) == list(dict.fromkeys(user_ids))


# --- times


@pytest.mark.parametrize(
    "times",
    [
        [30, 10, 20],
        [-1, -30, -2],
        [2**60 + 2, 2**60, 2**60 + 1],
        [0.3, 0.1, 0.2],
        ["30", "9", "20"],
        ["3e1", "1.5", "20"],
        [30, "9", 20.5],
        np.array([30, 10, 20], np.uint8),
        pd.Series([30, 10, 20], dtype="Int64", index=[4, 4, 9]),
        torch.tensor([30, 10, 20]),
        [dt.datetime(2020, 3, 1), dt.datetime(2020, 1, 1), dt.datetime(2020, 2, 1)],
        [dt.date(2020, 3, 1), dt.date(2020, 1, 1), dt.date(2020, 2, 1)],
        np.array(["2020-03", "2020-01", "2020-02"], "datetime64[s]"),
        pd.to_datetime(pd.Series(["2020-03-01", "2020-01-01", "2020-02-01"])).dt.tz_localize("Europe/Paris"),
        pl.Series([dt.datetime(2020, 3, 1), dt.datetime(2020, 1, 1), dt.datetime(2020, 2, 1)]),
        pa.chunked_array([[dt.datetime(2020, 3, 1), dt.datetime(2020, 1, 1)], [dt.datetime(2020, 2, 1)]]),
        ["2020-03-01", "2020-01-01", "2020-02-01"],
        pd.Series(["2020-03-01", "2020-01-01", "2020-02-01"], dtype="category"),
        ["2020-01-01T12:00+00:00", "2020-01-01T12:00+02:00", "2020-01-01T12:00+01:00"],
    ],
    ids=str,
)
def test_times_of_any_kind_put_the_rows_in_order(times):
    assert order_of(times) == [1, 2, 0]


def test_whole_times_keep_every_digit():
    assert time_column([2**60 + 1, 2**60]).tolist() == [2**60 + 1, 2**60]
    assert time_column([1.5, 1.0]).tolist() == [1.5, 1.0]


@pytest.mark.parametrize(
    "moment",
    [
        dt.datetime(1970, 1, 1, 0, 0, 1),
        dt.datetime(1970, 1, 1, 2, 0, 1, tzinfo=dt.timezone(dt.timedelta(hours=2))),
        "1970-01-01T00:00:01",
        "1970-01-01 02:00:01+02:00",
        np.datetime64(1, "s"),
        pd.Timestamp("1970-01-01 01:00:01", tz="Europe/Paris"),
    ],
    ids=repr,
)
def test_dates_become_nanoseconds_utc(moment):
    assert time_column([moment]).tolist() == [10**9]


@pytest.mark.parametrize(
    ("times", "shown", "row"),
    [
        ([1.0, float("nan"), 2.0], "nan", 1),
        ([1, 2, float("inf")], "inf", 2),
        ([1, None, 2], "None", 1),
        (["2020-01-01", "soon", "later"], "'soon'", 1),
        (["2020-01-01", None, "2020-01-02"], "None", 1),
        (["2020-01-01", "2020-01-02", "12"], "'12'", 2),
        (["1", "2", "soon"], "'soon'", 2),
        (["1", "", "3"], "''", 1),
        (["1", "inf", "3"], "'inf'", 1),
        ([dt.datetime(2020, 1, 1), pd.NaT, dt.datetime(2020, 1, 2)], "NaT", 1),
        ([dt.datetime(2020, 1, 1), dt.datetime(9999, 12, 31), dt.datetime(2020, 1, 2)], "datetime.*9999", 1),
        (["2020-01-01", "1500-01-01", "2020-01-01"], "'1500-01-01'", 1),
        (pd.Series([1, None, 2], dtype="Int64", index=[7, 8, 9]), "<NA>", 1),
        (pl.Series([1, None, 2]), "None", 1),
        (pa.array([1, None, 2]), ".*None.*", 1),
    ],
    ids=str,
)
def test_a_time_that_is_none_is_refused_and_its_row_named(times, shown, row):
    with pytest.raises(
        DataError, match=rf"^timestamps has \d values that .*the first \({shown}.*\) at row {row}; drop"
    ):
        Interactions.from_columns([1, 2, 3], [1, 2, 3], timestamps=times)


# --- ratings


# --- columns


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(DataError, match="user_ids has 3, item_ids has 3, ratings has 2; each row needs one"):
        Interactions.from_columns([1, 2, 3], [1, 2, 3], [5, 5])


def test_an_empty_log_is_refused():
    with pytest.raises(DataError, match="the log is empty"):
        Interactions.from_columns([], [])


def test_users_without_items_are_refused():
    with pytest.raises(DataError, match="fit needs user_ids and item_ids"):
        Interactions.from_columns([1, 2], None)


def test_a_column_without_a_length_is_refused():
    with pytest.raises(DataError, match="item_ids is a generator"):
        Interactions.from_columns([1, 2], (item for item in [1, 2]))


@pytest.mark.parametrize("name", ["user_ids", "item_ids", "ratings", "timestamps"])
@pytest.mark.parametrize("table", [np.ones((2, 1)), pd.DataFrame({"a": [1, 2]}), pl.DataFrame({"a": [1, 2]})])
def test_a_table_is_not_a_column(name, table):
    columns = {"user_ids": [1, 2], "item_ids": [1, 2]} | {name: table}
    with pytest.raises(DataError, match=f"{name} has 2 dimensions; pass one flat column"):
        Interactions.from_columns(**columns)


def as_columns(kind, frame):
    return {
        "list": lambda: {name: frame[name].tolist() for name in frame},
        "numpy": lambda: {name: frame[name].to_numpy() for name in frame},
        "pandas": lambda: {name: frame[name].set_axis(range(9, 3, -1)) for name in frame},
        "polars": lambda: {name: pl.Series(frame[name].tolist()) for name in frame},
        "arrow": lambda: {
            name: pa.chunked_array([frame[name].tolist()[:2], frame[name].tolist()[2:]]) for name in frame
        },
    }[kind]()


@pytest.mark.parametrize("kind", ["list", "numpy", "pandas", "polars", "arrow"])
def test_every_column_type_gives_the_same_store(kind):
    frame = pd.DataFrame(
        {
            "user_ids": ["v", "u", "v", "u", "w", "v"],
            "item_ids": [5, 7, 5, 9, 7, 7],
            "ratings": [1.0, 2.5, 3.0, 4.0, 5.0, 0.5],
            "timestamps": [30, 20, 10, 20, 5, 10],
        }
    )
    log = Interactions.from_columns(**as_columns(kind, frame))
    assert decoded(log) == {"v": [5, 7, 5], "u": [7, 9], "w": [7]}
    assert log.sequences.times.tolist() == [10, 10, 30, 20, 20, 5]
    assert log.sequences.ratings.tolist() == [3.0, 0.5, 1.0, 2.5, 4.0, 5.0]
    assert {type(item) for item in log.items.decode(log.sequences.items)} == {int}


def test_rows_that_repeat_are_kept_with_one_warning():
    with pytest.warns(
        DataWarning, match="^2 of 5 rows repeat another row's user, item and time; they are kept"
    ) as seen:
        log = Interactions.from_columns([1, 1, 1, 1, 2], ["a", "a", "a", "a", "a"], timestamps=[5, 5, 5, 6, 5])
    assert len(seen) == 1
    assert decoded(log) == {1: ["a"] * 4, 2: ["a"]}


def test_an_item_met_again_at_another_time_is_no_repeat():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log = Interactions.from_columns([1, 1, 1], ["a", "b", "a"], timestamps=[1, 2, 3])
    assert decoded(log) == {1: ["a", "b", "a"]}


# --- the store


# --- order, repeats and crowds, against plain Python


@repeatable
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0, 1, 2, 10**18])), min_size=1, max_size=40
    )
)
def test_repeats_are_counted_wherever_they_stand_among_equal_times(rows):
    users, items, times = (list(column) for column in zip(*rows, strict=True))
    repeats = len(rows) - len(set(rows))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        log = Interactions.from_columns(users, items, timestamps=times)
    assert [str(warning.message).split()[0] for warning in caught] == ([f"{repeats:,}"] if repeats else [])
    expected = sorted(range(len(rows)), key=lambda row: (users.index(users[row]), times[row], row))
    assert log.sequences.times.tolist() == [times[row] for row in expected]
    assert log.items.decode(log.sequences.items) == [items[row] for row in expected]


def test_a_user_with_implausibly_many_events_is_named_with_the_count():
    users = ["bot"] * 5_000 + [f"user {row // 4}" for row in range(400)]
    with pytest.warns(
        DataWarning, match="1 users have implausibly many events: user 'bot' has 5,000, the median user 4"
    ):
        Interactions.from_columns(users, list(range(len(users))))
