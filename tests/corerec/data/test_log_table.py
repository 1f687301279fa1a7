"""What cannot be read into memory cannot be prepared, and is told in the same words."""

import pandas as pd
import pytest

from corerec.data import log_table
from corerec.data.prepare import prepare
from corerec.data.tables import read_events
from corerec.errors import DataError
from logs import as_csv, as_dates, events


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
    path = as_csv(events()[["user_id", "item_id"]], tmp_path / "log.csv")
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
