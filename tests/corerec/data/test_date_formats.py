import time

import numpy as np
import pandas as pd
import pytest

from corerec.data.interactions import Interactions
from corerec.data.times import time_column
from corerec.errors import DataError, DataWarning


@pytest.mark.parametrize(
    "text",
    [
        "2023-01-31 10:05:00",
        "2023-01-31T10:05Z",
        "2023-01-31T10:05:00.000000000+00:00",
        "2023/1/31 10:05",
        "2023.01.31 10:05:00",
        "20230131T100500Z",
        "2023-01-31 10:05:00 UTC",
        "2023-01-31 11:05:00 CET",
        "2023-01-31 05:05:00 EST",
        "2023-01-31 11:05:00 Europe/Paris",
        "2023-01-31 15:35:00+05:30",
        "2023-01-31 10:05 AM",
        "01/31/2023 10:05:00",
        "1/31/2023 10:05 a.m.",
        "31/01/2023 10:05",
        "31.01.2023 10:05:00",
        "31-01-2023 10:05:00",
        "31/1/2023 10.05",
        "31 Jan 2023 10:05",
        "31-Jan-2023 10:05:00",
        "31-JAN-23 10:05:00",
        "Jan 31, 2023 10:05:00 AM",
        "January 31 2023 10:05:00",
        "31st January 2023, 10:05",
        "2023 Jan 31 10:05",
        "31/Jan/2023:10:05:00 +0000",
        "Tue, 31 Jan 2023 10:05:00 GMT",
        "Tue Jan 31 10:05:00 2023",
        "Tue Jan 31 10:05:00 +0000 2023",
        "Tue Jan 31 2023 11:05:00 GMT+0100 (Central European Standard Time)",
        " 2023-01-31 10:05:00 ",
    ],
)
def test_dates_read_as_people_write_them(text):
    assert moments([text, text]) == [MOMENT, MOMENT]


def test_noon_and_midnight_of_a_twelve_hour_clock():
    texts = ["1/31/2023 12:00 AM", "1/31/2023 12:30 PM", "1/31/2023 1:00 PM", "1/31/2023 11:59 am"]
    assert [moment[11:16] for moment in moments(texts)] == ["00:00", "12:30", "13:00", "11:59"]


def test_one_row_decides_the_order_of_day_and_month_for_all():
    log = Interactions.from_columns([1] * 3, list("abc"), None, ["15/02/2023", "05/03/2023", "04/04/2023"])
    assert log.items.decode(log.sequences.row(0)) == ["a", "b", "c"]
    assert moments(["02/15/2023", "03/05/2023"]) == ["2023-02-15T00:00:00", "2023-03-05T00:00:00"]


@pytest.mark.parametrize(
    ("text", "taken", "other"),
    [
        ("05/03/2023", "month first", "day first"),
        ("05-03-2023 10:00", "month first", "day first"),
        ("05.03.2023", "day first", "month first"),
        ("23/01/31", "year first", "day first"),  # 31 January, rather than the year 2031
    ],
)
def test_an_order_that_the_column_leaves_open_is_said(text, taken, other):
    with pytest.warns(
        DataWarning, match=f"read both {taken} and {other}; taken as {taken}: '{text}' is 20.*--day-first"
    ):
        time_column([text, text])


def test_the_order_can_be_said():
    assert moments(["05/03/2023"], day_first=True) == ["2023-03-05T00:00:00"]
    assert moments(["05/03/2023"], day_first=False) == ["2023-05-03T00:00:00"]
    with pytest.raises(DataError, match="'15/03/2023'"):
        time_column(["15/03/2023"], day_first=False)


def test_no_warning_where_both_orders_give_the_same_days():
    assert moments(["05/05/2023", "06/06/2023"]) == ["2023-05-05T00:00:00", "2023-06-06T00:00:00"]


@pytest.mark.parametrize(
    ("texts", "shown", "row"),
    [
        (["15/02/2023", "02/15/2023", "03/16/2023"], "'15/02/2023'", 0),
        (["2023-05-01", "05/03/2023"], "'05/03/2023'", 1),
        (["29/02/2024", "29/02/2023"], "'29/02/2023'", 1),
        (["2023-01-31 24:30", "2023-01-31 23:30", "2023-01-31 23:30"], "'2023-01-31 24:30'", 0),
        (["31 Jan 2023", "31 Foo 2023"], "'31 Foo 2023'", 1),
        (["2023-01-31 10:00 XYZ"], "'2023-01-31 10:00 XYZ'", 0),
        (["now"], "'now'", 0),
        (["2023-01-31", "null"], "'null'", 1),
        (["0000-00-00 00:00:00"], "'0000", 0),
    ],
)
def test_a_row_of_another_format_is_named(texts, shown, row):
    with pytest.raises(DataError, match=rf"^timestamps has 1 values .* \({shown}.*\) at row {row}; drop"):
        time_column(texts)


def test_zone_names_in_summer_and_winter_follow_the_zone():
    texts = ["2023-01-31 12:00 Europe/Paris", "2023-07-31 12:00 Europe/Paris"]
    assert [moment[11:13] for moment in moments(texts)] == ["11", "10"]


def test_dates_of_any_format_take_at_most_three_times_as_long_as_iso():
    dates = pd.Series(pd.to_datetime(np.random.default_rng(0).integers(10**9, 1.7e9, 50_000), unit="s"))
    iso = dates.dt.strftime("%Y-%m-%d %H:%M:%S")

    def seconds(texts: list[str]) -> float:
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            time_column(texts)
            best = min(best, time.process_time() - start)
        return best

    budget = 3 * seconds(iso.tolist())
    assert seconds(dates.dt.strftime("%m/%d/%Y %H:%M:%S").tolist()) < budget
    assert seconds((iso + " UTC").tolist()) < budget
    assert seconds(dates.dt.strftime("%d %b %Y %I:%M:%S %p").tolist()) < budget


MOMENT = "2023-01-31T10:05:00"  # what each text of SAME says


def moments(texts, **options) -> list[str]:
    return [str(np.datetime64(int(value), "ns").astype("datetime64[s]")) for value in time_column(texts, **options)]
