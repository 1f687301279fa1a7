"""Read files of interactions into checked columns (an EventTable), and make Interactions from them.

    ratings.csv, events.parquet, days/*.jsonl, log.sqlite, - ...  ->  EventTable  ->  Interactions

DuckDB reads CSV, TSV, plain text, JSON lines and RecBole's .inter (also as gzip and zstd), Parquet, DuckDB and SQLite.
Rows keep the order of the files. Ids of a text file become whole numbers if all of them are written as one ("7" or
"7.0", but not "007"). Otherwise they stay text. Ids of other files keep their type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from corerec.data.ids import text_to_id
from corerec.data.interactions import Interactions
from corerec.data.layout import Columns, find_columns
from corerec.data.selection import open_table, select_columns, select_events
from corerec.data.sources import Source, TextFormat, run
from corerec.data.times import time_column, time_in, time_unit
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError


@dataclass(frozen=True)
class Filters:
    """Filters for the events of a log. `where` is applied first; `min_events` and `max_events` are applied last."""

    where: str | None = None
    """An SQL condition on the file's columns, such as "event = 'buy'"; without a header, the columns are named c1, c2
    ..."""
    since: Any = None
    """Events from this time on: a date, or a number in the log's unit."""
    until: Any = None
    """Events before this time."""
    min_events: int | None = None
    """Leave out users with fewer events."""
    max_events: int | None = None
    """Leave out users with more events, such as bots."""


@dataclass(frozen=True)
class EventTable:
    """The columns of a log, with one row for each event, in the order of the file.

    Attributes:
        name: the name of the file, or of the files.
        events: columns "user", "item" and, if the file has them, "rating" and "time".
        used: role -> the name of its column in the file.
        unused: the other columns of the file.
        left_out: a description in words of what each filter left out.
        day_first: whether 05/03/2023 is the fifth of March. None decides by the column.
    """

    name: str
    events: pd.DataFrame
    used: dict[str, str]
    unused: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    day_first: bool | None = None

    def __str__(self) -> str:
        return described(self.name, len(self.events), self.used, self.unused, self.left_out)

    def interactions(self) -> Interactions:
        """Number the log and sort it stably by (user, time). A rating or time column without any value is left out.

        Raises:
            DataError: an id, a rating or a time is missing or cannot be read.
        """
        events: Any = self.events
        ratings, times = (
            events[role] if role in events and events[role].notna().any() else None for role in ("rating", "time")
        )
        return Interactions.from_columns(events["user"], events["item"], ratings, times, day_first=self.day_first)


def read_events(
    paths: str | Path | Sequence[str | Path],
    columns: Columns | None = None,
    header: bool | None = None,
    *,
    delimiter: str | None = None,
    quote: str | None = None,
    query: str | None = None,
    explode: bool = False,
    day_first: bool | None = None,
    where: str | None = None,
    since: Any = None,
    until: Any = None,
    min_events: int | None = None,
    max_events: int | None = None,
) -> EventTable:
    """Read a log: rows of user, item and, if there are such columns, rating and time.

    Args:
        paths: a file, "-" for standard input, a folder or a glob of files of one kind, or a list of these, which are
            read one after another.
        columns: the column of each role. In a file without a header, the columns are user and item, or, if there are
            four, user, item, rating and time.
        header: whether the first line of a text file names the columns. None decides by that line.
        delimiter, quote: the delimiter and quote of a text file. None decides by its first line.
        query: a SELECT for a DuckDB or SQLite file. A file with a single table needs no query.
        explode: whether a list in a column is read as events one after another.
        day_first: whether 05/03/2023 is the fifth of March. None decides by the whole column, and warns if the column
            leaves it open.
        where, since, until, min_events, max_events: see `Filters`.
    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file is empty or cannot be read as a table, a column is not found, a guessed column has wrong
            values, or the filters leave no event.
    """
    filters = Filters(where, since, until, min_events, max_events)
    with duckdb.connect() as database, ExitStack() as stack:
        chosen = select_events(
            database, stack, paths, columns, TextFormat(header, delimiter, quote), query, explode, where
        )
        events = run(database, chosen.name, chosen.sql, chosen.parameters).df()
        chosen.check(events, len(events))
        table = EventTable(chosen.name, events, chosen.used, chosen.unused, day_first=day_first)
    return _filtered(table, filters)


def described(name: str, num_events: int, used: dict[str, str], unused: Sequence[str], left_out: Sequence[str]) -> str:
    """Describe what was read, in one line for people."""
    roles = ", ".join(f"{role} = {column}" for role, column in used.items())
    order = "" if "time" in used else "; no time column, so the order of the rows is the order of time"
    if unused and order:
        order += f" (not used: {', '.join(unused)})"
    kept = f" ({'; '.join(left_out)})" if left_out else ""
    return f"{name}: {num_events:,} events{kept}, {roles}{order}"


def read_titles(
    path: str | Path, item_column: str | None = None, title_column: str | None = None, header: bool | None = None
) -> dict[str, str]:
    """Read a dict {item id as text: title} from a file. In a file without a header, the first column has the ids and
    the second the titles.

    Raises:
        FileNotFoundError, DataError: for the reasons that `read_events` lists.
    """
    with duckdb.connect() as database, ExitStack() as stack:
        wanted = {"item": item_column, "title": title_column}
        source = open_table(database, stack, path, TextFormat(header), wanted.values())
        found = find_columns(source.name, source.names, source.has_header, wanted, ("item", "title"), ("item", "title"))
        titled = read_columns(database, source, found).dropna()
        return dict(zip(titled["item"].astype(str), titled["title"].astype(str), strict=True))


def read_ids(path: str | Path, role: str, column: str | None = None) -> list[Any]:
    """Read the distinct ids of a table's column, in order of appearance.

    Args:
        role: "user" or "item", the kind of the ids.
        column: the column's name or place. With None, the column is guessed, or is the only column of the table.
    Raises:
        FileNotFoundError, DataError: for the reasons that `read_events` lists.
    """
    with duckdb.connect() as database, ExitStack() as stack:
        source = open_table(database, stack, path, TextFormat(), [column])
        wanted = {role: "1" if len(source.names) == 1 else column}
        found = find_columns(source.name, source.names, source.has_header, wanted, (role,), (role,))
        table = read_columns(database, source, found)
    return table[role].dropna().drop_duplicates().tolist()


def ids_like(texts: Iterable[Any], known: Vocabulary) -> list[Any]:
    """Convert ids that were typed by hand, or read from another file, to the type of the ids that `known` has.

    >>> ids_like(["12", "x"], Vocabulary([12, 13]))
    [12, 'x']
    >>> ids_like([12], Vocabulary(["12", "x"]))
    ['12']
    """
    given = list(texts)
    if known.ids.dtype == np.int64:
        return [text_to_id(an_id) if isinstance(an_id, str) else an_id for an_id in given]
    by_text = {str(an_id): an_id for an_id in known.ids.tolist()}
    return [an_id if an_id in known else by_text.get(str(an_id), an_id) for an_id in given]


def read_columns(
    database: duckdb.DuckDBPyConnection, source: Source, found: dict[str, tuple[int, ...]]
) -> pd.DataFrame:
    """Read the given columns, name them by their roles, and convert them to numbers where possible.

    Raises:
        DataError: the table has no rows.
    """
    sql, parameters, empty = select_columns(database, source, found, None, False)
    events = run(database, source.name, sql, parameters).df()
    if not len(events):
        raise DataError(empty)
    return events


# ------------------------------------------------------------------------------------------------------- filters


def _filtered(table: EventTable, filters: Filters) -> EventTable:
    events: Any = table.events
    said: list[str] = []
    if filters.where is not None:
        said.append(f"where {filters.where}")
    if filters.since is not None or filters.until is not None:
        if "time" not in events:
            raise DataError(f"{table.name} has no times, so it has none since or until one; name its column of times")
        times = time_column(events["time"], table.day_first)
        unit, kept = time_unit(times), np.ones(len(times), bool)
        if filters.since is not None:
            kept &= times >= time_in(unit, filters.since)
            said.append(f"since {filters.since}")
        if filters.until is not None:
            kept &= times < time_in(unit, filters.until)
            said.append(f"until {filters.until}")
        events = events.assign(time=times)[kept].reset_index(drop=True)
    if filters.min_events is not None or filters.max_events is not None:
        users, distinct = pd.factorize(events["user"], use_na_sentinel=False)
        counts = np.bincount(users, minlength=len(distinct))
        kept_users = (counts >= (filters.min_events or 0)) & (counts <= (filters.max_events or counts.max(initial=0)))
        events = events[kept_users[users]].reset_index(drop=True)
        bounds = f"{filters.min_events or 1:,} to {filters.max_events or 'any number of'} events"
        said.append(f"{(~kept_users).sum():,} of {len(distinct):,} users left out, not of {bounds}")
    if not len(events):
        raise DataError(f"no event of {table.name} is left ({'; '.join(said)})")
    return replace(table, events=events, left_out=tuple(said))
