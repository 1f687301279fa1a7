"""Build the SELECT that reads a log in DuckDB: find the columns, name them by role, and choose their types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from corerec.data.layout import WITHOUT_HEADER, Columns, find_columns
from corerec.data.sources import Source, TextFormat, open_source, quoted, run
from corerec.data.times import unit_of
from corerec.errors import DataError

OLDEST_GUESSED = 6 * 10**8  # seconds: a column of whole numbers from 1989 on is taken for times where none was named
WHOLE = r"regexp_full_match({0}, '(-?[1-9]\d*|0)(\.0+)?')"
AS_PROGRAMS_WRITE = "(contains({0}, 'e+') AND CAST(TRY_CAST({0} AS DOUBLE) AS VARCHAR) = {0})"  # 1e+16
WITHOUT_POINT = r"TRY_CAST(regexp_replace({0}, '\.0+$', '') AS BIGINT)"
AS_WHOLE = f"coalesce({WITHOUT_POINT}, TRY_CAST(TRY_CAST({{0}} AS DOUBLE) AS BIGINT))"


@dataclass(frozen=True)
class Selection:
    """The SELECT that reads a log. Its columns are named by their roles (user, item, rating, time) and converted to
    numbers where possible.

    Attributes:
        name: the name of the file, or of the files.
        sql, parameters: the query for DuckDB.
        used: role -> the name of its column in the file.
        unused: the other columns of the file.
        guessed: role -> the column that was guessed for it, in a file without a header.
        empty: the error text for a log without rows.
    """

    name: str
    sql: str
    parameters: list[Any]
    used: dict[str, str]
    unused: tuple[str, ...]
    guessed: dict[str, str]
    empty: str

    def check(self, events: Mapping[str, Any] | pd.DataFrame, num_rows: int) -> None:
        """Check the values that were read.

        Args:
            events: role -> a Series of the column's values, or of a sample of them.
        Raises:
            DataError: there are no rows. Or the columns of a file without a header were guessed, and a column of ids or
                ratings holds times.
        """
        if not num_rows:
            raise DataError(self.empty)
        for role, shown in self.guessed.items():
            if _look_like_times(events[role]):
                raise DataError(
                    f"{self.name} has no header, and {shown}, where the {role}s are expected, looks like times "
                    f"({events[role].iloc[0]}): say which column holds what, such as --user-column 1 --item-column 2 "
                    "--time-column 3"
                )


def select_events(
    database: duckdb.DuckDBPyConnection,
    stack: ExitStack,
    paths: str | Path | Sequence[str | Path],
    columns: Columns | None,
    text: TextFormat,
    query: str | None,
    explode: bool,
    where: str | None,
) -> Selection:
    """Find a log's columns and their types. A text file is first read completely into a temporary table of `database`.

    The arguments and errors are the same as in `read_events`. `stack` closes temporary files after the log is read.
    """
    wanted = vars(columns or Columns())
    source = open_table(database, stack, paths, text, wanted.values(), query)
    guesses = WITHOUT_HEADER.get(len(source.names), ())
    found = find_columns(source.name, source.names, source.has_header, wanted, ("user", "item"), guesses)
    found = _without_a_false_clock(database, source, found, wanted["time"])
    sql, parameters, empty = select_columns(database, source, found, where, explode)
    places = range(len(source.names))
    guessed = (role for role in ("user", "item", "rating") if role in found and wanted[role] is None)
    return Selection(
        source.name,
        sql,
        parameters,
        {role: "+".join(map(source.shown, places)) for role, places in found.items()},
        tuple(source.shown(at) for at in places if all(at not in used for used in found.values())),
        {} if source.has_header else {role: source.shown(found[role][0]) for role in guessed},
        empty,
    )


def open_table(
    database: duckdb.DuckDBPyConnection,
    stack: ExitStack,
    paths: str | Path | Sequence[str | Path],
    text: TextFormat,
    wanted: Iterable[str | None],
    query: str | None = None,
) -> Source:
    """Call `open_source` with rows in the order of the files, and progress that is measured but not drawn."""
    database.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
    database.execute("SET preserve_insertion_order = true")
    return open_source(database, stack, paths, text, wanted, query)


def select_columns(
    database: duckdb.DuckDBPyConnection,
    source: Source,
    found: dict[str, tuple[int, ...]],
    where: str | None,
    explode: bool,
) -> tuple[str, list[Any], str]:
    """Return the SELECT of the given columns, its parameters, and the error text for an empty result."""
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
    why = f" where {where}" if where is not None else " below its header" if source.has_header else ""
    return f"SELECT {chosen} FROM {table}", parameters, f"{source.name} has no rows{why}"


def _typed(database: duckdb.DuckDBPyConnection, found: dict[str, tuple[int, ...]]) -> str:
    """Return SQL that reads each text column of `events` as numbers if all its texts are numbers, else as text."""
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
    """Return SQL that reads the column of a role in a type that pandas holds exactly."""
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
    """Apply the condition `where` to the table. A text column compares as numbers if all its values are numbers."""
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
    """Return the guessed columns of date and time of day. If the second column does not hold times of day, it is the
    only column of times."""
    places = found.get("time", ())
    if asked is not None or len(places) < 2:
        return found
    clock = f"CAST({source.fields[places[1]]} AS VARCHAR)"
    query = f"SELECT {clock} FROM {source.sql} WHERE {clock} IS NOT NULL LIMIT 1"
    value = run(database, source.name, query, source.parameters).fetchone()
    return found if value and ":" in value[0][:3] else found | {"time": places[1:]}


def _look_like_times(column: Any) -> bool:
    if pd.api.types.is_integer_dtype(column.dtype):
        unit = unit_of(column.min())
        return unit is not None and unit == unit_of(column.max()) and column.min() >= OLDEST_GUESSED
    if pd.api.types.is_numeric_dtype(column.dtype):
        return False
    return bool(column.head(100).astype(str).str.fullmatch(r"\d{4}-\d\d-\d\d([T ].*)?").all())
