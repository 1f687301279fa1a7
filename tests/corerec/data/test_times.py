"""One format holds for a whole column of times; units are recognised; what could be read two ways is said."""

import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest

from corerec.data.interactions import Interactions
from corerec.data.times import time_column, time_in, unit_of
from corerec.errors import DataError

# --- formats


# --- durations


@pytest.mark.parametrize(
    "times",
    [
        ["10:00:00", "11:00:00"],
        ["9:15 AM", "10:15 PM"],
        ["1 days 02:00:00", "2 days"],
        ["PT5M", "P1DT2H"],
        [dt.timedelta(1)],
        [dt.time(10, 0)],
        np.array([5], "timedelta64[s]"),
        pd.Series(pd.to_timedelta(["1h"])),
        pl.Series([dt.timedelta(1)]),
        pl.Series([dt.time(10, 0)]),
    ],
    ids=str,
)
def test_durations_and_times_of_day_are_no_times(times):
    with pytest.raises(
        DataError, match=r"has durations or times of day, such as .* at row \d; join each with its date"
    ):
        time_column(times)


def test_truth_values_are_no_times():
    with pytest.raises(DataError, match="pass numbers, dates or text"):
        time_column([True, False])


# --- numbers and units


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize(
    "kind", [list, np.array, lambda n: list(map(str, n)), lambda n: list(map(Decimal, n)), pl.Series]
)
def test_units_are_recognised_and_kept(unit, kind):
    ticks = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    times = [1_600_000_000 * ticks + 1, 1_600_000_000 * ticks]
    store = Interactions.from_columns([1, 1], [1, 2], timestamps=kind(times)).sequences
    assert store.time_unit == unit
    assert store.times.tolist() == times[::-1]
    assert store.times.dtype == np.int64


def test_dates_count_nanoseconds_and_steps_count_nothing():
    assert Interactions.from_columns([1], [1], timestamps=["2023-01-31"]).sequences.time_unit == "ns"
    assert Interactions.from_columns([1], [1], timestamps=[7]).sequences.time_unit is None
    assert Interactions.from_columns([1], [1]).sequences.time_unit is None
    assert unit_of(20230131100500) is None  # a date written as a number


@pytest.mark.parametrize(
    "times", [[1_600_000_000, 1_600_000_000_000, 1_600_000_001], ["1600000000", "1600000000000", "1600000001"]]
)
def test_two_units_in_one_column_are_refused(times):
    with pytest.raises(DataError, match=r"counts two units: 1 values look like ms, the first .* at row 1, .* like s"):
        time_column(times)


def test_whole_numbers_never_go_through_floats():
    large = 2**53 + 1
    for times in ([large], [str(large)], [Decimal(large)], pd.Series([large], dtype="Int64"), pl.Series([large])):
        assert time_column(times).tolist() == [large]
    with pytest.raises(DataError, match=f"mixes numbers with a fraction .*{large}"):
        time_column([0.5, large])
    with pytest.raises(DataError, match="at row 0"):
        time_column(np.array([2**63], np.uint64))


def test_masked_times_are_missing():
    with pytest.raises(DataError, match=r"1 values that are missing .* at row 1"):
        time_column(np.ma.array([1, 2], mask=[False, True]))


@pytest.mark.parametrize(
    ("unit", "moment", "value"),
    [("s", "2023-01-31", 1675123200), ("ms", dt.date(2023, 1, 31), 1675123200000), ("s", 5, 5), ("s", "5", 5),
     ("ns", pd.Timestamp("2023-01-31"), 1675123200 * 10**9), (None, 7.5, 7.5)],
)  # fmt: skip
def test_a_moment_is_put_into_the_unit_of_a_log(unit, moment, value):
    assert time_in(unit, moment) == value


def test_a_date_has_no_place_among_steps():
    with pytest.raises(DataError, match="do not count from 1970"):
        time_in(None, "2023-01-31")


# --- speed
