"""Logs from folders, globs, pipes, JSON, RecBole's files and databases are read as one table in one order."""

import io
import os
import sqlite3
import subprocess
import sys
import threading
from decimal import Decimal

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corerec.data.layout import Columns
from corerec.data.tables import read_events
from corerec.errors import DataError
from corerec.serving.events import EventLog, LoggedEvent

ROWS = [("ann", 10, 3), ("bob", 11, 1), ("ann", 12, 2)]
TEXT = "user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in ROWS)


def rows(table) -> list[tuple]:
    return list(table.events[["user", "item", "time"]].itertuples(index=False, name=None))


def test_several_files_a_folder_and_a_glob_are_read_one_after_another(tmp_path):
    header, *lines = TEXT.splitlines(keepends=True)
    for name, line in zip(("day=1/b.csv", "day=2/a.csv", "day=3/c.csv"), lines, strict=True):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(header + line)
    (tmp_path / "_SUCCESS").write_text("")
    files = sorted(tmp_path.glob("*/*.csv"))

    for paths in (files, [*map(str, files)], tmp_path, str(tmp_path / "*" / "*.csv")):
        table = read_events(paths)
        assert rows(table) == ROWS
        assert table.name == "3 files (b.csv ... c.csv)"
    assert rows(read_events(files[::-1])) == ROWS[::-1]


def test_files_that_differ_are_not_read_together(tmp_path):
    (tmp_path / "a.csv").write_text(TEXT)
    (tmp_path / "b.csv").write_text("item_id,user_id,timestamp\n1,2,3\n")
    with pytest.raises(DataError, match=r"b.csv begins with other columns than .*a.csv"):
        read_events(tmp_path)
    pd.DataFrame({"user": [1], "item": [2]}).to_parquet(tmp_path / "b.csv")
    with pytest.raises(DataError, match=r"a.csv is text and .*b.csv is parquet"):
        read_events(tmp_path)


def test_a_folder_of_parquet_parts_is_one_log(tmp_path):
    for part, (user, item, time) in enumerate(ROWS):
        frame = pd.DataFrame({"user_id": [user], "item_id": [item], "timestamp": [time]})
        frame.to_parquet(tmp_path / f"part-{part}.parquet")
    assert rows(read_events(tmp_path)) == ROWS


def test_standard_input_is_read_once(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    assert rows(read_events("-")) == ROWS


def test_a_pipe_is_read_once(tmp_path):
    pipe = tmp_path / "log.csv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(TEXT))
    writer.start()
    assert rows(read_events(pipe)) == ROWS
    writer.join()


def test_json_lines_keep_the_kinds_of_ids(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"user_id": "7", "item_id": 10, "timestamp": 3}\n{"user_id": "007", "item_id": 11, "timestamp": 1}\n'
    )
    assert rows(read_events(path)) == [("7", 10, 3), ("007", 11, 1)]


def test_recboles_files_are_understood(tmp_path):
    path = tmp_path / "log.inter"
    path.write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\ta\t4.5\t100.0\n8\tb\t3\t50.0\n")
    assert rows(read_events(path)) == [(7, "a", 100), (8, "b", 50)]


def test_zstd_is_read(tmp_path):
    path = tmp_path / "log.csv.zst"
    plain = tmp_path / "plain.csv"
    plain.write_text(TEXT)
    duckdb.sql(f"COPY (SELECT * FROM '{plain}') TO '{path}' (COMPRESSION zstd, HEADER)")
    assert rows(read_events(path)) == ROWS


def test_databases_are_read_by_a_query_or_by_their_only_table(tmp_path):
    lite, duck = tmp_path / "log.sqlite", tmp_path / "log.db"
    frame = pd.DataFrame(ROWS, columns=["user_id", "item_id", "timestamp"])
    with sqlite3.connect(lite) as connection:
        frame.to_sql("events", connection, index=False)
    connection.close()
    with duckdb.connect(str(duck)) as connection:
        connection.execute("CREATE TABLE events AS SELECT * FROM frame")
    for path in (lite, duck):
        assert rows(read_events(path)) == ROWS
        table = read_events(path, query="SELECT user_id AS who, item_id, timestamp FROM events WHERE item_id > 10;",
                            columns=Columns(user="who"))  # fmt: skip
        assert rows(table) == ROWS[1:]
        assert rows(read_events(path, where="user_id = 'bob'")) == ROWS[1:2]
        with pytest.raises(DataError, match="cannot be read as a table"):
            read_events(path, query="SELECT nothing FROM nowhere")
    with sqlite3.connect(lite) as connection:
        connection.execute("CREATE TABLE users (id)")
    connection.close()
    with pytest.raises(DataError, match=r'has the tables events, users; say what to read, such as --query "SELECT'):
        read_events(lite)
    (tmp_path / "log.csv").write_text(TEXT)
    with pytest.raises(DataError, match="is no database"):
        read_events(tmp_path / "log.csv", query="SELECT 1")


def sqlite_file(path, frame):
    with sqlite3.connect(path) as connection:
        frame.to_sql("events", connection, index=False)
    connection.close()
    return path


def test_several_sqlite_files_are_read_one_after_another(tmp_path):
    frame = pd.DataFrame(ROWS, columns=["user_id", "item_id", "timestamp"])
    for name, part in (("a", frame[:1]), ("b", frame[:0]), ("c", frame[1:])):
        sqlite_file(tmp_path / f"events-{name}.sqlite", part)
    assert rows(read_events(tmp_path / "events-*.sqlite")) == ROWS
    assert rows(read_events(sorted(tmp_path.iterdir()), query="SELECT * FROM events")) == ROWS
    with pytest.raises(DataError, match=r"events-b\.sqlite has no rows"):
        read_events(tmp_path / "events-b.sqlite")
    other = sqlite_file(tmp_path / "other.sqlite", frame.rename(columns={"item_id": "sku"}))
    with pytest.raises(DataError, match=r"other\.sqlite has the columns user_id, sku, timestamp, and .*events-a"):
        read_events([tmp_path / "events-a.sqlite", other])


def test_an_event_that_two_servers_logged_counts_once(tmp_path):
    logged = {
        "a": [LoggedEvent("ann", 1, 5.0, event_id="x"), LoggedEvent("ann", 1, 6.0)],
        "b": [LoggedEvent("ann", 1, 7.0, event_id="x"), LoggedEvent("ann", 1, 6.0), LoggedEvent("ann", 2, 8.0)],
    }
    for name, events in logged.items():
        log = EventLog(tmp_path / f"{name}.sqlite")
        log.append([events])
        log.close()
    read = read_events(tmp_path / "*.sqlite").events
    assert list(zip(read["item"], read["time"], strict=True)) == [(1, 5), (1, 6), (1, 6), (2, 8)]


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([10.0, 11.0]),
        pa.array([Decimal("10.00"), Decimal("11.00")], pa.decimal128(10, 2)),
        pa.array([10, 11], pa.uint64()),
        pa.array([10, 11], pa.int8()),
    ],
    ids=str,
)
def test_ids_of_any_number_type_are_whole_numbers(tmp_path, ids):
    pq.write_table(pa.table({"user_id": ["a", "b"], "item_id": ids}), tmp_path / "log.parquet")
    log = read_events(tmp_path / "log.parquet").interactions()
    assert log.items.ids.tolist() == [10, 11]
    assert {type(an_id) for an_id in log.items.ids.tolist()} == {int}


@pytest.mark.parametrize(
    ("texts", "ids"),
    [
        (["10.0", "11.0"], [10, 11]),
        (["10", "11.00"], [10, 11]),
        (["1e+16", "12"], [10**16, 12]),
        (["9007199254740993.0", "9007199254740992"], [9007199254740993, 9007199254740992]),
        (["1e3", "12"], ["1e3", "12"]),
        (["10.5", "11.0"], ["10.5", "11.0"]),
        (["+10", "11"], ["+10", "11"]),
        (["010", "11"], ["010", "11"]),
        (["-0", "11"], ["-0", "11"]),
    ],
)
def test_whole_numbers_of_a_text_file_are_whole_numbers_and_nothing_else_is(tmp_path, texts, ids):
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id\n" + "".join(f"u,{text}\n" for text in texts))
    assert read_events(path).interactions().items.ids.tolist() == ids


def test_lists_are_exploded_in_their_order_when_asked_for_else_refused_by_name(tmp_path):
    path = tmp_path / "log.parquet"
    table = {"user_id": ["a", "b"], "item_id": [[3, 1, 2], [5]], "timestamp": [[1, 2, 3], [4]]}
    pq.write_table(pa.table(table), path)
    with pytest.raises(DataError, match=r"item_id holds lists .*--explode"):
        read_events(path)
    assert rows(read_events(path, explode=True)) == [("a", 3, 1), ("a", 1, 2), ("a", 2, 3), ("b", 5, 4)]
    pq.write_table(pa.table({"user_id": ["a"], "item_id": [{"sku": 1}]}), path)
    with pytest.raises(DataError, match="item_id is a struct"):
        read_events(path)


def test_a_shell_pipe_is_read_by_the_command_line(tmp_path, python):
    model = tmp_path / "m"
    settings = ["--epochs", "1", "--hidden-dim", "8", "--max-seq-len", "4", "--quiet"]
    command = [*python, "-m", "corerec", "fit", "-", "-o", str(model), *settings]
    done = subprocess.run(command, input=TEXT, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert model.exists()
