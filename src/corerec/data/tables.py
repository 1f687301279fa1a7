"""Interaction files as people have them -> checked columns: an EventTable, and from it Interactions.

    ratings.csv, events.parquet, days/*.jsonl, log.sqlite, - ...  ->  EventTable  ->  Interactions

CSV, TSV, plain text, JSON lines and RecBole's .inter (gzip and zstd, too), Parquet, DuckDB and SQLite, read by DuckDB.
Rows keep the order of the files. Ids of a text file become whole numbers where every one of them is written as one ("7"
or "7.0", but not "007"). Otherwise they stay text. Ids of other files keep their type.
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
from corerec.data.layout import WITHOUT_HEADER, Columns, find_columns
from corerec.data.sources import Source, TextFormat, open_source, quoted, run
from corerec.data.times import time_column, time_in, time_unit, unit_of
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError

OLDEST_GUESSED = 6 * 10**8  # seconds: a column of whole numbers from 1989 on is taken for times where none was named
WHOLE = r"regexp_full_match({0}, '(-?[1-9]\d*|0)(\.0+)?')"
AS_PROGRAMS_WRITE = "(contains({0}, 'e+') AND CAST(TRY_CAST({0} AS DOUBLE) AS VARCHAR) = {0})"  # 1e+16
WITHOUT_POINT = r"TRY_CAST(regexp_replace({0}, '\.0+$', '') AS BIGINT)"
AS_WHOLE = f"coalesce({WITHOUT_POINT}, TRY_CAST(TRY_CAST({{0}} AS DOUBLE) AS BIGINT))"


@dataclass(frozen=True)
class Filters:
    """Which events of a log are read; those of the file first, those that count a user's events last."""

    where: str | None = None
    """An SQL condition on the file's columns, such as "event = 'buy'"; without a header they are c1, c2 ..."""
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
    """The columns of a log, one row an event, in the order of the file.

    Attributes:
        name: of the file, or of the files.
        events: columns "user", "item" and, where there are such, "rating" and "time".
        used: what each of them is called in the file.
        unused: the other columns of the file.
        left_out: what the filters left out, in words.
        day_first: whether 05/03/2023 is the fifth of March; None decides by the column.
    """

    name: str
    events: pd.DataFrame
    used: dict[str, str]
    unused: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    day_first: bool | None = None

    def __str__(self) -> str:
        roles = ", ".join(f"{role} = {name}" for role, name in self.used.items())
        order = "" if "time" in self.used else "; no time column, so the order of the rows is the order of time"
        if self.unused and order:
            order += f" (not used: {', '.join(self.unused)})"
        kept = f" ({'; '.join(self.left_out)})" if self.left_out else ""
        return f"{self.name}: {len(self.events):,} events{kept}, {roles}{order}"

    def interactions(self) -> Interactions:
        """The log in numbers, sorted stably by (user, time). A column of ratings or times without a value is left out.

        Raises:
            DataError: a missing id; a rating or a time that is missing or does not read as one.
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
    """Read a log: rows of user, item and, where there are such columns, rating and time.

    Args:
        paths: a file, "-" for standard input, a folder or a glob of files of one kind, or several of these, which are
            read one after another.
        columns: which column holds what. Without a header they are, in order, user, item, or, when there are four,
            user, item, rating, time.
        header: whether the first line of a text file names the columns; None looks whether it does.
        delimiter, quote: how a text file is written; None looks at its first line.
        query: a SELECT for a DuckDB or SQLite file, which may be left out where it holds one table.
        explode: whether lists in a column are events one after another.
        day_first: whether 05/03/2023 is the fifth of March; None decides by the column, and warns where it cannot.
        where, since, until, min_events, max_events: see `Filters`.
    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file is empty or cannot be read as a table, a column is not to be found, a guess makes no sense,
            or the filters leave nothing.
    """
    filters = Filters(where, since, until, min_events, max_events)
    with duckdb.connect() as database, ExitStack() as stack:
        wanted = vars(columns or Columns())
        source = open_table(database, stack, paths, TextFormat(header, delimiter, quote), wanted.values(), query)
        guesses = WITHOUT_HEADER.get(len(source.names), ())
        found = find_columns(source.name, source.names, source.has_header, wanted, ("user", "item"), guesses)
        found = _without_a_false_clock(database, source, found, wanted["time"])
        events = read_columns(database, source, found, filters.where, explode)
        if not source.has_header:
            _check_guesses(source, found, wanted, events)
        unused = [
            source.shown(at) for at in range(len(source.names)) if all(at not in places for places in found.values())
        ]
        used = {role: "+".join(map(source.shown, places)) for role, places in found.items()}
        table = EventTable(source.name, events, used, tuple(unused), day_first=day_first)
    return _filtered(table, filters)


def read_titles(
    path: str | Path, item_column: str | None = None, title_column: str | None = None, header: bool | None = None
) -> dict[str, str]:
    """Item id, as text -> title, from a file of either. Without a header, the first column and the second.

    Raises:
        FileNotFoundError, DataError: as `read_events`.
    """
    with duckdb.connect() as database, ExitStack() as stack:
        wanted = {"item": item_column, "title": title_column}
        source = open_table(database, stack, path, TextFormat(header), wanted.values())
        found = find_columns(source.name, source.names, source.has_header, wanted, ("item", "title"), ("item", "title"))
        titled = read_columns(database, source, found).dropna()
        return dict(zip(titled["item"].astype(str), titled["title"].astype(str), strict=True))


def read_ids(path: str | Path, role: str, column: str | None = None) -> list[Any]:
    """The distinct ids of a table's column, in order of appearance.

    Args:
        role: "user" or "item": whose ids they are.
        column: its name or place; None guesses. A table of one column needs none.
    Raises:
        FileNotFoundError, DataError: as `read_events`.
    """
    with duckdb.connect() as database, ExitStack() as stack:
        source = open_table(database, stack, path, TextFormat(), [column])
        wanted = {role: "1" if len(source.names) == 1 else column}
        found = find_columns(source.name, source.names, source.has_header, wanted, (role,), (role,))
        table = read_columns(database, source, found)
    return table[role].dropna().drop_duplicates().tolist()


def ids_like(texts: Iterable[Any], known: Vocabulary) -> list[Any]:
    """Ids that were read elsewhere (typed by hand, or from another file) in the kind that `known` has them in.

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


# ------------------------------------------------------------------------------------------------------- reading


def open_table(
    database: duckdb.DuckDBPyConnection,
    stack: ExitStack,
    paths: str | Path | Sequence[str | Path],
    text: TextFormat,
    wanted: Iterable[str | None],
    query: str | None = None,
) -> Source:
    """A table whose rows keep the order of the file."""
    database.execute("SET enable_progress_bar = false")
    database.execute("SET preserve_insertion_order = true")
    return open_source(database, stack, paths, text, wanted, query)


def read_columns(
    database: duckdb.DuckDBPyConnection,
    source: Source,
    found: dict[str, tuple[int, ...]],
    where: str | None = None,
    explode: bool = False,
) -> pd.DataFrame:
    """The columns found, named by their roles and in their best types."""
    table, fields = source.sql, source.fields
    if where is not None:
        table, fields = _narrowed(database, source, where)
    raw = {role: _expression(source, fields, role, places, explode) for role, places in found.items()}
    chosen = ", ".join(f'{expression} AS "{role}"' for role, expression in raw.items())
    if source.is_text:
        run(database, source.name, f"CREATE TEMP TABLE events AS SELECT {chosen} FROM {table}", source.parameters)
        chosen, table, parameters = _typed(database, found), "events", []
    else:
        parameters = source.parameters
    events = run(database, source.name, f"SELECT {chosen} FROM {table}", parameters).df()
    if not len(events):
        why = f" where {where}" if where is not None else " below its header" if source.has_header else ""
        raise DataError(f"{source.name} has no rows{why}")
    return events


def _typed(database: duckdb.DuckDBPyConnection, found: dict[str, tuple[int, ...]]) -> str:
    """SQL that reads the text columns of `events` as the numbers that they all write, or as text."""
    tests, casts = {}, {}
    for role in found:
        field = quoted(role)
        if role != "title":
            whole = (
                f"({WHOLE.format(field)} OR {AS_PROGRAMS_WRITE.format(field)}) AND {AS_WHOLE.format(field)} IS NOT NULL"
            )
            tests[role, AS_WHOLE.format(field)] = f"bool_and({whole} OR {field} IS NULL)"
        if role in ("rating", "time"):
            number = f"TRY_CAST({field} AS DOUBLE)"
            tests[role, number] = f"bool_and({number} IS NOT NULL OR {field} IS NULL)"
    answers: Any = database.execute(f"SELECT {', '.join(tests.values())} FROM events").fetchone()
    for (role, cast), holds in zip(tests, answers, strict=True):
        if holds:
            casts.setdefault(role, cast)
    return ", ".join(f"{casts.get(role, quoted(role))} AS {quoted(role)}" for role in found)


def _expression(source: Source, fields: list[str], role: str, places: tuple[int, ...], explode: bool) -> str:
    """SQL that reads the column of a role in a type that pandas holds exactly."""
    if len(places) == 2:
        return f"CAST({fields[places[0]]} AS VARCHAR) || ' ' || CAST({fields[places[1]]} AS VARCHAR)"
    field, kind, shown = fields[places[0]], source.types[places[0]], source.shown(places[0])
    if kind.endswith("]"):
        if not explode:
            raise DataError(
                f"{source.name}: {shown} holds lists ({kind}); to take each as events one after another, say explode "
                "(--explode)"
            )
        field, kind = f"unnest({field})", kind[: kind.rindex("[")]
    base = kind.split("(")[0]
    if base in ("STRUCT", "MAP", "UNION") or kind.endswith("]"):
        raise DataError(
            f"{source.name}: {shown} is a {base.lower()} ({kind[:80]}), not one {role}; name another column"
        )
    if base == "BLOB":
        return f"decode({field})"
    if base == "JSON":
        return f"{field} ->> '$'"
    if base == "DECIMAL":
        scale = int(kind.rstrip(")").split(",")[1])
        return f"CAST({field} AS {'BIGINT' if scale == 0 else 'DOUBLE'})"
    if base == "TIMESTAMP WITH TIME ZONE":
        return f"make_timestamp(epoch_us({field}))"
    if role in ("user", "item", "title") and base.startswith(
        ("DATE", "TIME", "UUID", "HUGEINT", "UHUGEINT", "INTERVAL")
    ):
        return f"CAST({field} AS VARCHAR)"
    return field


def _narrowed(database: duckdb.DuckDBPyConnection, source: Source, where: str) -> tuple[str, list[str]]:
    """The table with the condition on it. Columns of a text file are compared as numbers where all are numbers."""
    if not source.is_text:
        return f"(SELECT * FROM {source.sql} WHERE ({where}))", source.fields
    raw = [f'{field} AS "_{place}"' for place, field in enumerate(source.fields)]
    names = source.names if source.has_header else source.fields
    named = [(name, field) for name, field in zip(names, source.fields, strict=True) if name.lower() in where.lower()]
    if named:
        tests = ", ".join(f"bool_and(TRY_CAST({f} AS DOUBLE) IS NOT NULL OR {f} IS NULL)" for _, f in named)
        numeric: Any = run(database, source.name, f"SELECT {tests} FROM {source.sql}", source.parameters).fetchone()
        for (name, field), is_number in zip(named, numeric, strict=True):
            raw.append(f"{f'CAST({field} AS DOUBLE)' if is_number else field} AS {quoted(name)}")
    table = f"(SELECT * FROM (SELECT {', '.join(raw)} FROM {source.sql}) WHERE ({where}))"
    return table, [f'"_{place}"' for place in range(len(source.fields))]


# ------------------------------------------------------------------------------------------------------- guesses


def _without_a_false_clock(
    database: duckdb.DuckDBPyConnection, source: Source, found: dict[str, tuple[int, ...]], asked: str | None
) -> dict[str, tuple[int, ...]]:
    """A guessed pair of date and time of day, unless the second holds no times of day: then it, alone."""
    places = found.get("time", ())
    if asked is not None or len(places) < 2:
        return found
    clock = f"CAST({source.fields[places[1]]} AS VARCHAR)"
    query = f"SELECT {clock} FROM {source.sql} WHERE {clock} IS NOT NULL LIMIT 1"
    value = run(database, source.name, query, source.parameters).fetchone()
    return found if value and ":" in value[0][:3] else found | {"time": places[1:]}


def _check_guesses(
    source: Source, found: dict[str, tuple[int, ...]], wanted: dict[str, str | None], events: pd.DataFrame
) -> None:
    """Raises:
    DataError: a file without a header was guessed at, and times stand where ids or ratings should.
    """
    for role in ("user", "item", "rating"):
        if role in found and wanted[role] is None and _look_like_times(events[role]):
            raise DataError(
                f"{source.name} has no header, and {source.shown(found[role][0])}, where the {role}s are expected, "
                f"looks like times ({events[role].iloc[0]}): say which column holds what, such as --user-column 1 "
                "--item-column 2 --time-column 3"
            )


def _look_like_times(column: Any) -> bool:
    if pd.api.types.is_integer_dtype(column.dtype):
        unit = unit_of(column.min())
        return unit is not None and unit == unit_of(column.max()) and column.min() >= OLDEST_GUESSED
    if pd.api.types.is_numeric_dtype(column.dtype):
        return False
    return bool(column.head(100).astype(str).str.fullmatch(r"\d{4}-\d\d-\d\d([T ].*)?").all())


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
