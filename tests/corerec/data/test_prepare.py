"""A log through a store is the log that is read into memory."""

import gzip
import sqlite3
import warnings
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from corerec.data import log_table
from corerec.data.interactions import Interactions
from corerec.data.layout import Columns
from corerec.data.prepare import memory_limit, prepare
from corerec.data.store import MANIFEST
from corerec.data.tables import read_events
from corerec.errors import DataError, DataWarning, UnknownIdError


def assert_same_log(found: Interactions, wanted: Interactions) -> None:
    for name in ("items", "offsets", "times", "ratings"):
        ours, theirs = getattr(found.sequences, name), getattr(wanted.sequences, name)
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            assert ours.dtype == theirs.dtype, name
            assert np.array_equal(ours, theirs), name
    for ours, theirs in ((found.users.ids, wanted.users.ids), (found.items.ids, wanted.items.ids)):
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()
        assert list(map(type, ours.tolist())) == list(map(type, theirs.tolist()))


def events(rows=2000, seed=0) -> pd.DataFrame:
    """Whole numbers as users, text as items, many equal times, not in time order."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user_id": random.integers(0, 100, rows) * 7,
            "item_id": random.choice(["a", "b", 'c"d', "ä,ö", "007"], rows),
            "rating": random.integers(1, 6, rows) / 2,
            "timestamp": random.integers(10**9, 10**9 + 50, rows),
        }
    )


def as_csv(frame, path: Path) -> Path:
    frame.to_csv(path, index=False)
    return path


def as_dates(frame, style: str):
    days = (frame["timestamp"] - 10**9) * 86_400 // 7 + 10**9
    return frame.assign(timestamp=pd.to_datetime(days, unit="s").dt.strftime(style))


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


def damaged(change):
    frame = events().astype({"user_id": object, "timestamp": object, "rating": object})
    change(frame)
    return frame


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.__setitem__("item_id", f["item_id"].where(f.index != 17)),
        lambda f: f.loc.__setitem__((5, "item_id"), " NULL "),
        lambda f: f.loc.__setitem__((9, "timestamp"), None),
        lambda f: f.loc.__setitem__((9, "timestamp"), "yesterday"),
        lambda f: f.loc.__setitem__((slice(0, 900), "timestamp"), 1_600_000_000_000),
        lambda f: f.loc.__setitem__((3, "rating"), "inf"),
        lambda f: f.loc.__setitem__((3, "rating"), "good"),
        lambda f: f.loc.__setitem__((1500, "rating"), None),
    ],
)
def test_what_memory_refuses_a_store_refuses_in_the_same_words(change, tmp_path):
    path = as_csv(damaged(change), tmp_path / "log.csv")
    with pytest.raises(DataError) as in_memory:
        read_events(path).interactions()
    with pytest.raises(DataError) as on_disk:
        prepare(path, tmp_path / "store")
    assert str(on_disk.value) == str(in_memory.value)
    assert [file.name for file in tmp_path.iterdir()] == ["log.csv"]


@pytest.mark.parametrize(
    "settings", [{"since": 5}, {"min_events": 10**6}, {"where": "user_id < 0"}, {"where": "x = 1"}]
)
def test_what_the_filters_refuse_is_said_in_the_same_words(settings, tmp_path):
    path, _ = no_times(tmp_path)
    with pytest.raises(DataError) as in_memory:
        read_events(path, **settings)
    with pytest.raises(DataError) as on_disk:
        prepare(path, tmp_path / "store", **settings)
    assert str(on_disk.value) == str(in_memory.value)


def test_a_row_of_a_later_piece_is_named_by_its_place_in_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(log_table, "VECTORS_AT_ONCE", 1)
    frame = as_dates(pd.concat([events(), events()]), "%Y-%m-%d %H:%M")
    frame.iloc[3000, 3] = "soon"
    with pytest.raises(DataError, match="at row 3000"):
        prepare(as_csv(frame, tmp_path / "log.csv"), tmp_path / "store")
    frame.iloc[2048:, 3] = "03/04/2021"  # another format from the second piece on
    with pytest.raises(DataError, match="do not read as a time in the format of the others"):
        prepare(as_csv(frame, tmp_path / "log.csv"), tmp_path / "store")


def test_repeated_rows_are_warned_of_as_in_memory(tmp_path):
    path = as_csv(events(), tmp_path / "log.csv")
    with pytest.warns(DataWarning) as in_memory:
        read_events(path).interactions()
    with pytest.warns(DataWarning) as on_disk:
        prepare(path, tmp_path / "store")
    assert [str(w.message) for w in on_disk] == [str(w.message) for w in in_memory]


@pytest.mark.filterwarnings("ignore::corerec.errors.DataWarning")
@pytest.mark.parametrize("columns", [None, Columns(time="-"), Columns(rating="-")])
def test_appending_gives_the_store_of_both_logs(columns, tmp_path):
    first = as_csv(events(seed=0), tmp_path / "1.csv")
    second = events(seed=1).assign(user_id=lambda f: f["user_id"] + 300)
    second.loc[:50, "item_id"] = "new"
    second = as_csv(second, tmp_path / "2.csv")
    prepare([first, second], tmp_path / "whole", columns)
    prepare(first, tmp_path / "grown", columns)
    before = Interactions.open(tmp_path / "grown")
    seen = before.sequences.items.copy()
    prepared = prepare(second, tmp_path / "grown", columns, append=True)
    assert_same_log(Interactions.open(tmp_path / "grown"), Interactions.open(tmp_path / "whole"))
    assert prepared.num_events == 4000
    assert np.array_equal(before.sequences.items, seen)  # who had it open goes on reading the old one
    names = sorted(file.name for file in (tmp_path / "grown").iterdir())
    assert MANIFEST in names
    assert all(".2." in name for name in names if name != MANIFEST)


@pytest.mark.filterwarnings("ignore::corerec.errors.DataWarning")
def test_a_log_of_another_kind_is_not_appended_and_the_store_stays(tmp_path):
    prepare(as_csv(events(), tmp_path / "log.csv"), tmp_path / "store")
    kept = {file.name: file.read_bytes() for file in (tmp_path / "store").iterdir()}
    others = {
        "has no times": (events().drop(columns="timestamp"), DataError),
        "counts time in ms": (events().assign(timestamp=lambda f: f["timestamp"] * 1000), DataError),
        "type": (events().assign(user_id=lambda f: f["user_id"].astype(str) + "x"), UnknownIdError),
    }
    for message, (frame, error) in others.items():
        with pytest.raises(error, match=message):
            prepare(as_csv(frame, tmp_path / "new.csv"), tmp_path / "store", append=True)
    assert {file.name: file.read_bytes() for file in (tmp_path / "store").iterdir()} == kept
    with pytest.raises(FileNotFoundError):
        prepare(tmp_path / "log.csv", tmp_path / "none", append=True)


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
