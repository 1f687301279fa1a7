import contextlib
import sqlite3

import duckdb
import pandas as pd
import pytest

from corerec.errors import DataError
from corerec.serving.event_export import as_frame, read_all, write_table
from corerec.serving.events import EventColumns, EventLog, LoggedEvent

NANOSECONDS = 1_704_067_200_000_000_000  # 2024-01-01


def columns_of(*events: LoggedEvent) -> EventColumns:
    return EventColumns(list(range(1, len(events) + 1)), *(list(column) for column in zip(*events, strict=True)))


@pytest.fixture
def path(tmp_path):
    """The log of 1,000 events."""
    log = EventLog(tmp_path / "events.sqlite")
    log.append([[LoggedEvent(n % 70, f"item {n % 9}", n) for n in range(1000)]])
    log.close()
    return tmp_path / "events.sqlite"


def test_a_column_has_the_kind_of_what_was_logged():
    frame = as_frame(columns_of(LoggedEvent(1, "a", NANOSECONDS, 4.5, "x"), LoggedEvent(2, 7, None, None, None)))
    assert frame["user_id"].tolist() == [1, 2]
    assert frame["item_id"].tolist() == ["a", "7"]  # of two kinds: text
    assert frame["timestamp"].tolist() == [pd.Timestamp("2024-01-01"), pd.NaT]
    assert frame["rating"].tolist() == [4.5, pd.NA]
    assert frame["event_id"].tolist() == ["x", pd.NA]
    assert frame["event_number"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("times", "kind"), [([5, 6], "Int64"), ([5, 6.5], "Float64"), ([NANOSECONDS, 5], "Int64"), ([None, 5], "Int64")]
)
def test_times_stay_the_numbers_that_they_are_unless_all_are_nanoseconds(times, kind):
    frame = as_frame(columns_of(*(LoggedEvent(1, 1, time) for time in times)))
    assert str(frame["timestamp"].dtype) == kind
    assert frame["timestamp"].astype(object).where(frame["timestamp"].notna(), None).tolist() == times


def test_columns_that_no_event_has_are_left_out():
    assert list(as_frame(columns_of(LoggedEvent(1, 1)))) == ["user_id", "item_id", "event_number"]


def test_the_log_of_a_running_server_is_read(tmp_path):
    log = EventLog(tmp_path / "events.sqlite")
    log.append([[LoggedEvent(1, 1), LoggedEvent(1, 2)]])
    columns, damage = read_all(tmp_path / "events.sqlite", after=1)
    assert (list(columns.numbers), list(columns.item_ids), damage) == ([2], [2], None)
    log.append([[LoggedEvent(1, 3)]])  # and is not in its way


def test_of_a_damaged_log_what_stands_on_both_sides_is_read(path):
    whole = path.read_bytes()
    middle = len(whole) // 2 // 4096 * 4096
    path.write_bytes(whole[:middle] + bytes(4096) + whole[middle + 4096 :])

    columns, damage = read_all(path)

    assert "is damaged" in str(damage)
    numbers = list(columns.numbers)
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 1
    assert numbers[-1] == 1000
    assert 500 < len(numbers) < 1000
    assert list(columns.timestamps) == [number - 1 for number in numbers]


def test_what_is_no_log_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no event log"):
        read_all(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("notes " * 100)
    with pytest.raises(DataError, match="no event of it can be read; bring back"):
        read_all(tmp_path / "notes.txt")
    with contextlib.closing(sqlite3.connect(tmp_path / "other.sqlite")) as database:
        database.execute("CREATE TABLE other (x)")
    with pytest.raises(DataError, match="is another database"):
        read_all(tmp_path / "other.sqlite")


@pytest.mark.parametrize("name", ["it's.parquet", "e.csv", "e.csv.gz"])
def test_a_table_is_written_whole_and_replaces_the_old_one(tmp_path, name):
    (tmp_path / name).write_text("old")
    write_table(columns_of(LoggedEvent(1, "a", 5), LoggedEvent(2, "b", 6)), tmp_path / name)
    table = (pd.read_parquet if name.endswith(".parquet") else pd.read_csv)(tmp_path / name)
    assert table[["user_id", "item_id"]].values.tolist() == [[1, "a"], [2, "b"]]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_cannot_be_written_leaves_the_old_table(tmp_path, monkeypatch):
    one = columns_of(LoggedEvent(1, 1))
    with pytest.raises(DataError, match=r"none of the suffixes \.parquet, \.csv"):
        write_table(one, tmp_path / "e.xlsx")
    with pytest.raises(OSError, match=r"cannot write .*absent"):
        write_table(one, tmp_path / "absent" / "e.csv")
    (tmp_path / "e.csv").write_text("old")

    def failing(columns):
        raise duckdb.IOException("disk full")

    monkeypatch.setattr("corerec.serving.event_export.as_frame", failing)
    with pytest.raises(OSError, match="disk full"):
        write_table(one, tmp_path / "e.csv")
    assert (tmp_path / "e.csv").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["e.csv"]
