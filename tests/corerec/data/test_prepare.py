"""A log through a store is the log that is read into memory."""

import gzip
import sqlite3
import warnings

import duckdb
import pandas as pd
import pytest

from corerec.data import log_table
from corerec.data.interactions import Interactions
from corerec.data.prepare import memory_limit, prepare
from corerec.data.tables import read_events
from corerec.errors import DataError, DataWarning
from logs import as_csv, as_dates, assert_same_log, events


def no_times(folder):
    return as_csv(events()[["user_id", "item_id"]], folder / "log.csv"), {}


def text_dates(folder):
    return as_csv(as_dates(events(), "%Y-%m-%dT%H:%M:%SZ"), folder / "log.csv"), {}


def ambiguous_dates(folder):
    dates = events().assign(timestamp=lambda f: "0" + (f["timestamp"] % 9 + 1).astype(str) + "/03/2021 10:00")
    return as_csv(dates, folder / "log.csv"), {"day_first": True}


def dates_that_one_row_settles(folder):
    dates = events().assign(timestamp=lambda f: "0" + (f["timestamp"] % 9 + 1).astype(str) + "/03/2021 10:00")
    dates.loc[1999, "timestamp"] = "31/03/2021 10:00"
    return as_csv(dates, folder / "log.csv"), {}


def typed_parquet(folder):
    frame = events().assign(timestamp=lambda f: pd.to_datetime(f["timestamp"], unit="s"))
    frame.to_parquet(folder / "log.parquet")
    return folder / "log.parquet", {}


def broken_times_and_ids(folder):
    frame = events().assign(user_id=lambda f: f["user_id"] / 2, timestamp=lambda f: f["timestamp"] + 0.5)
    frame.to_parquet(folder / "log.parquet")
    return folder / "log.parquet", {}


def whole_floats_and_truth_values(folder):
    events().assign(user_id=lambda f: f["user_id"].astype(float), item_id=lambda f: f["rating"] > 1).to_parquet(
        folder / "log.parquet"
    )
    return folder / "log.parquet", {}


def two_files(folder):
    parts = [as_csv(events(seed=seed), folder / f"{seed}.csv") for seed in (1, 0)]
    return parts, {}


def without_header(folder):
    text = events().assign(item_id=lambda f: f["item_id"].str.len()).to_csv(index=False, header=False)
    with gzip.open(folder / "log.csv.gz", "wt") as file:
        file.write(text)
    return folder / "log.csv.gz", {}


def json_lines_without_ratings(folder):
    events().assign(rating=None).to_json(folder / "log.jsonl", orient="records", lines=True)
    return folder / "log.jsonl", {}


def a_duckdb_file(folder):
    frame = events()
    with duckdb.connect(folder / "log.duckdb") as database:
        database.register("frame", frame)
        database.execute("CREATE TABLE log AS SELECT * FROM frame")
    return folder / "log.duckdb", {}


def an_sqlite_query(folder):
    with sqlite3.connect(folder / "log.sqlite") as database:
        events().to_sql("rows", database, index=False)
    return folder / "log.sqlite", {"query": "SELECT user_id, item_id, timestamp FROM rows WHERE rating > 1"}


def lists(folder):
    frame = events()
    frame["at"] = frame["timestamp"]
    frame = frame.groupby("user_id", sort=False).agg({"item_id": list, "timestamp": "min"}).reset_index()
    frame.to_parquet(folder / "log.parquet")
    return folder / "log.parquet", {"explode": True}


def filtered(folder):
    return as_csv(events(), folder / "log.csv"), {"where": "rating > 1", "since": 10**9 + 10, "min_events": 8}


def few_events_left_out(folder):
    return as_csv(events(), folder / "log.csv"), {"min_events": 15, "max_events": 22}


LOGS = [
    no_times,
    text_dates,
    ambiguous_dates,
    dates_that_one_row_settles,
    typed_parquet,
    broken_times_and_ids,
    whole_floats_and_truth_values,
    two_files,
    without_header,
    json_lines_without_ratings,
    a_duckdb_file,
    an_sqlite_query,
    lists,
    filtered,
    few_events_left_out,
]


@pytest.mark.filterwarnings("ignore::corerec.errors.DataWarning")
@pytest.mark.parametrize("log", LOGS)
def test_a_log_through_a_store_is_the_log_in_memory(log, tmp_path, monkeypatch):
    monkeypatch.setattr(log_table, "VECTORS_AT_ONCE", 1)  # 2,048 rows: most logs here are one piece, two_files is two
    paths, settings = log(tmp_path)
    prepared = prepare(paths, tmp_path / "store", memory="600MB", **settings)
    stored, read = Interactions.open(tmp_path / "store"), read_events(paths, **settings).interactions()
    assert_same_log(stored, read)
    assert prepared.num_events == read.sequences.num_events


def test_repeated_rows_are_warned_of_as_in_memory(tmp_path):
    path = as_csv(events(), tmp_path / "log.csv")
    with pytest.warns(DataWarning) as in_memory:
        read_events(path).interactions()
    with pytest.warns(DataWarning) as on_disk:
        prepare(path, tmp_path / "store")
    assert [str(w.message) for w in on_disk] == [str(w.message) for w in in_memory]


def test_a_folder_of_other_files_is_not_replaced(tmp_path):
    path = as_csv(events(), tmp_path / "log.csv")
    with pytest.raises(DataError, match="holds other files"):
        prepare(path, tmp_path)
    assert path.exists()


def test_progress_is_said_in_lines_where_stderr_is_no_terminal(tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepare(as_csv(events(), tmp_path / "log.csv"), tmp_path / "store", verbose=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        *("reading", "checking", "numbering users", "numbering items", "sorting and writing"),
        "log.csv",
    ]


@pytest.mark.parametrize("memory", ["a lot", "4", "-1GB", "100MB", "4GBs"])
def test_memory_is_a_size(memory):
    with pytest.raises(DataError, match="memory must be"):
        memory_limit(memory)
