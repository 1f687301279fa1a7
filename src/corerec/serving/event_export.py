"""Read the event log as a table, even while a server runs. If the log is damaged, all readable events are read."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import numpy as np
import pandas as pd

from corerec.data.times import unit_of
from corerec.errors import DataError
from corerec.files import atomic_path
from corerec.serving.events import COLUMNS, ROWS_AT_ONCE, EventColumns, check, read_columns

SALVAGED_AT_ONCE = 50
"""The most rows that a read may lose before, and after, a damaged place."""
FORMATS = {
    ".parquet": "FORMAT parquet",
    ".csv": "FORMAT csv, HEADER",
    ".csv.gz": "FORMAT csv, HEADER, COMPRESSION gzip",
}


def read_all(path: Path, after: int = 0) -> tuple[EventColumns, DataError | None]:
    """Return the events with numbers above `after`, oldest first. Also return the error of a damaged log, or None for a
    sound log.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file is not an event log, or nothing of it can be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no event log {path}")
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", timeout=5, uri=True)) as database:
            database.execute("BEGIN")  # read one state of the log, also if a server writes meanwhile
            damage = _damage(database, path)
            parts = _forward(database, path, after, is_damaged=damage is not None)
            if damage is not None:
                parts += _backward(database, parts[-1].numbers[-1] if parts else after)
                if not parts:
                    raise DataError(f"{damage}, and no event of it can be read; bring back a copy of the file")
            return _together(parts), damage
    except sqlite3.Error as error:
        raise DataError(f"{path} cannot be read as an event log ({error})") from None


def _together(parts: Sequence[EventColumns]) -> EventColumns:
    columns: list[Any] = [[value for part in parts for value in part[at]] for at in range(len(EventColumns._fields))]
    return EventColumns(*columns)


def _damage(database: sqlite3.Connection, path: Path) -> DataError | None:
    """Return the error that describes a log's damage, or None for a sound log.

    Raises:
        DataError: the file is not an event log.
    """
    try:
        check(database, path)
        return None
    except sqlite3.Error as error:
        return DataError(f"{path} is damaged ({error})")
    except DataError as error:
        if "is damaged" not in str(error):
            raise
        return DataError(str(error).partition("; save")[0])


def _forward(database: sqlite3.Connection, path: Path, after: int, is_damaged: bool) -> list[EventColumns]:
    """Return the events with numbers above `after`. If the log is damaged, return the events before the damage."""
    parts = []
    while True:
        try:
            columns = read_columns(database, after, SALVAGED_AT_ONCE if is_damaged else ROWS_AT_ONCE, path)
        except DataError:
            if is_damaged:
                return parts
            raise
        if not len(columns):
            return parts
        parts.append(columns)
        after = columns.numbers[-1]


def _backward(database: sqlite3.Connection, after: int) -> list[EventColumns]:
    """Return the events with numbers above `after` that can be read backwards from the end of the log."""
    parts: list[EventColumns] = []
    before = 2**63 - 1
    query = f"SELECT {COLUMNS} FROM events WHERE number > ? AND number < ? ORDER BY number DESC LIMIT ?"
    while True:
        try:
            rows = database.execute(query, (after, before, SALVAGED_AT_ONCE)).fetchall()[::-1]
        except (sqlite3.Error, OverflowError):
            return parts
        if not rows or not after < rows[0][0] <= rows[-1][0] < before:
            return parts
        parts.insert(0, EventColumns(*zip(*rows, strict=True)))
        before = rows[0][0]


def write_table(columns: EventColumns, path: Path) -> None:
    """Write events to a Parquet or CSV file. The file is written completely or not at all.

    Raises:
        DataError: the file has another suffix.
        OSError: the file cannot be written.
    """
    form = next((form for suffix, form in FORMATS.items() if path.name.endswith(suffix)), None)
    if form is None:
        raise DataError(f"{path} has none of the suffixes {', '.join(FORMATS)}; name one of these")
    try:
        with atomic_path(path) as unfinished, duckdb.connect() as database:
            database.register("events", as_frame(columns))
            literal = str(unfinished).replace("'", "''")
            database.execute(f"COPY (SELECT * FROM events) TO '{literal}' ({form})")
    except duckdb.Error as error:
        raise OSError(f"{path} cannot be written: {error}") from None


def as_frame(columns: EventColumns) -> pd.DataFrame:
    """Return a frame with one row for each event. The columns timestamp, rating and event_id are left out if no event
    has a value for them."""
    frame = pd.DataFrame(
        {
            "user_id": _ids(columns.user_ids),
            "item_id": _ids(columns.item_ids),
            "timestamp": _times(columns.timestamps),
            "rating": pd.Series(pd.array(list(columns.ratings), "Float64")),
            "event_id": pd.Series(pd.array(list(columns.event_ids), "string")),
            "event_number": np.array(columns.numbers, np.int64),
        }
    )
    empty = [name for name in ("timestamp", "rating", "event_id") if not frame[name].notna().to_numpy().any()]
    return frame.drop(columns=empty)


def _ids(ids: Sequence[Any]) -> pd.Series:
    """Return ids as whole numbers if all of them are whole numbers, else as text."""
    if all(type(an_id) is int for an_id in ids):
        return pd.Series(list(ids), dtype="int64")
    return pd.Series([str(an_id) for an_id in ids], dtype="string")


def _times(times: Sequence[Any]) -> pd.Series:
    """Return times as dates if they are nanoseconds since 1970, which is how dates are logged, else as numbers."""
    given = [time for time in times if time is not None]
    if not all(type(time) is int for time in given):
        return pd.Series(pd.array(list(times), "Float64"))
    whole = pd.Series(pd.array(list(times), "Int64"))
    if given and {unit_of(time) for time in given} == {"ns"}:
        return pd.Series(pd.to_datetime(whole, unit="ns"))
    return whole
