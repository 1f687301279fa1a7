"""Open a log as tables that DuckDB reads: files of any kind, folders, globs, standard input, and databases.

Standard input and pipes cannot be read twice, so they are written to a temporary file first.
"""

from __future__ import annotations

import csv
import glob
import gzip
import re
import shutil
import sqlite3
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from corerec.data.layout import has_header
from corerec.data.store import is_store
from corerec.errors import DataError

STDIN = "-"
DELIMITERS = ("::", "\t", ",", ";", "|", " ")
LONGEST_LINE = 2**21  # bytes, DuckDB's own bound
LINES_LOOKED_AT = 50
SERVER_TABLES = ["catalogue", "events"]  # of an event log of `corerec serve`
MAGIC = {b"PAR1": "parquet", b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"SQLite format 3\0": "sqlite"}


@dataclass(frozen=True)
class TextFormat:
    """The format of a text file. None means that the first lines decide."""

    header: bool | None = None
    """Whether the first line names the columns."""
    delimiter: str | None = None
    """The delimiter between two cells: up to four characters."""
    quote: str | None = None
    """The quote around a cell that holds a delimiter; "" for none."""


@dataclass(frozen=True)
class Source:
    """A table that DuckDB can read: `SELECT ... FROM sql`, with the parameters."""

    name: str
    sql: str
    parameters: list[Any]
    names: list[str]
    fields: list[str]
    """The SQL name of each column."""
    types: list[str]
    """DuckDB's type of each column."""
    has_header: bool
    is_text: bool
    """Whether all columns are VARCHAR, as the file has no types."""

    def shown(self, column: int) -> str:
        return self.names[column] if self.has_header else f"column {self.names[column]}"


def open_source(
    database: duckdb.DuckDBPyConnection,
    stack: ExitStack,
    paths: str | Path | Sequence[str | Path],
    text: TextFormat,
    wanted: Iterable[str | None],
    query: str | None = None,
) -> Source:
    """Inspect the files of a log, and decide how DuckDB reads them.

    Args:
        stack: closes temporary files after the log is read.
        wanted: names of the columns that the caller asks for. If the first line has one of these names, the line is a
            header.
        query: the SELECT that reads a database file.
    Raises:
        FileNotFoundError: there is no such file.
        DataError: a file is empty or cannot be read as a table, or the files are of several kinds.
    """
    files = _files([paths] if isinstance(paths, str | Path) else list(paths), stack)
    name = files[0].name if len(files) == 1 else f"{len(files)} files ({files[0].name} ... {files[-1].name})"
    kinds = {file: _kind(file) for file in files}
    kind = kinds[files[0]]
    odd = next((file for file in files if kinds[file] != kind), None)
    if odd is not None:
        raise DataError(f"{files[0]} is {kind} and {odd} is {kinds[odd]}: read files of one kind together")
    if kind == "sqlite":
        return _open_sqlite(database, name, files, query)
    if kind == "duckdb":
        if len(files) > 1:
            raise DataError(f"{files[0]} and {files[1]} are DuckDB files, of which one can be read at a time")
        return _open_duckdb(database, files[0], query)
    if query is not None:
        raise DataError(f"{files[0]} is no database (DuckDB or SQLite), which a query reads; filter its rows instead")
    if kind == "parquet":
        return _described(database, name, "read_parquet(?, union_by_name = true)", [list(map(literally, files))])
    first, blank_lines = _first_lines(database, files[0], kind)
    if first[0].lstrip().startswith(("{", "[{")):
        sql = "read_json(?, maximum_object_size = 67108864, sample_size = -1, union_by_name = true, compression = ?)"
        compression = {"text": "none"}.get(kind, kind)
        return _described(database, name, sql, [list(map(literally, files)), compression])
    return _open_text(database, name, files, kind, first, blank_lines, text, set(wanted))


def literally(path: Path) -> str:
    """Escape DuckDB's wildcards in a path."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


def quoted(name: str) -> str:
    """Quote a name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def run(
    database: duckdb.DuckDBPyConnection, name: str | Path, query: str, parameters: list[Any]
) -> duckdb.DuckDBPyConnection:
    """Run a query.

    Raises:
        DataError: DuckDB cannot run the query.
    """
    try:
        return database.execute(query, parameters)
    except duckdb.Error as error:
        # DuckDB goes on with its own options, which are of no use here.
        said = str(error).split("\nPossible")[0].split("\n\n")[0].split("\n  file =")[0]
        hint = "; save it as UTF-8 first: iconv -f latin1 -t utf-8" if "utf-8" in said.lower() else ""
        raise DataError(f"{name} cannot be read as a table: {' | '.join(said.splitlines())}{hint}") from None


# --------------------------------------------------------------------------------------------------------- files


def _files(paths: list[str | Path], stack: ExitStack) -> list[Path]:
    """Return all files: those in folders and globs, sorted by name, and a temporary file for each pipe."""
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if str(given) == STDIN:
            found.append(_spooled(sys.stdin.buffer, "standard input", stack))
        elif is_store(path):
            raise DataError(
                f"{path} is a store, not a file of events: name it alone where a log is read (Interactions.open)"
            )
        elif path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and not _is_hidden(file, path))
            if not inside:
                raise DataError(f"{path} is a folder without files; name a file, or a folder of files")
            found += inside
        elif path.exists():
            is_file = stat.S_ISREG(path.stat().st_mode)
            if is_file:
                found.append(path)
            else:
                with path.open("rb") as pipe:
                    found.append(_spooled(pipe, path.name, stack))
        else:
            inside = sorted(Path(file) for file in glob.glob(str(given), recursive=True) if Path(file).is_file())
            if not inside:
                raise FileNotFoundError(f"there is no file {path}")
            found += inside
    if not found:
        raise DataError("no file was named")
    return found


def _is_hidden(file: Path, folder: Path) -> bool:
    """Return whether a file is hidden, such as Spark's _SUCCESS and .part-0.crc."""
    return any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)


def _spooled(pipe: Any, name: str, stack: ExitStack) -> Path:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="corerec-")))
    copy = folder / name
    with copy.open("wb") as file:
        shutil.copyfileobj(pipe, file, 2**20)
    return copy


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise DataError(f"{path} is empty")
    if start[8:12] == b"DUCK":
        return "duckdb"
    return next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), "text")


def _described(database: duckdb.DuckDBPyConnection, name: str, sql: str, parameters: list[Any]) -> Source:
    rows = run(database, name, f"DESCRIBE SELECT * FROM {sql}", parameters).fetchall()
    names, types = [row[0] for row in rows], [row[1] for row in rows]
    return Source(name, sql, parameters, names, list(map(quoted, names)), types, has_header=True, is_text=False)


# ----------------------------------------------------------------------------------------------------- databases


def _open_duckdb(database: duckdb.DuckDBPyConnection, path: Path, query: str | None) -> Source:
    run(database, path, f"ATTACH '{str(path).replace(chr(39), chr(39) * 2)}' AS source (READ_ONLY)", [])
    tables = run(
        database, path, "SELECT table_name FROM duckdb_tables() WHERE database_name = 'source' ORDER BY 1", []
    ).fetchall()
    query = query or f"SELECT * FROM {_only_table(path, tables)}"
    run(database, path, "USE source", [])
    return _described(database, path.name, f"({query.rstrip().rstrip(';')})", [])


def _open_sqlite(database: duckdb.DuckDBPyConnection, name: str, files: list[Path], query: str | None) -> Source:
    """Read the rows of all files. In event logs of several servers, events with the same event_id count once."""
    names: list[str] = []
    rows: list[tuple[Any, ...]] = []
    are_logs = query is None
    for path in files:
        try:
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
                tables = connection.execute(
                    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY 1"
                ).fetchall()
                cursor = connection.execute(query or f"SELECT * FROM {_only_table(path, tables)}")
                own = [column[0] for column in cursor.description]
                rows += cursor.fetchall()
        except sqlite3.Error as error:
            raise DataError(f"{path} cannot be read as a table: {error}") from None
        if names and own != names:
            raise DataError(f"{path} has the columns {', '.join(own)}, and {files[0]} has {', '.join(names)}")
        names, are_logs = own, are_logs and [table for (table,) in tables] == SERVER_TABLES
    if not rows:
        raise DataError(f"{name} has no rows for that query" if query else f"{name} has no rows")
    columns = zip(names, zip(*rows, strict=True), strict=True)
    frame = pd.DataFrame({column: _uniform(cells) for column, cells in columns})
    if are_logs and len(files) > 1:
        frame = frame[frame["event_id"].isna() | ~frame["event_id"].duplicated()]
    database.register("sqlite_rows", frame)
    return _described(database, name, "sqlite_rows", [])


def _uniform(column: Sequence[Any]) -> pd.Series:
    """Convert a column of SQLite, where each cell has its own type, to one type. If the types differ, the type is
    text."""
    types = set(map(type, column)) - {type(None)}
    if types <= {int} or types <= {int, float}:
        return pd.Series(column, dtype="Int64" if types <= {int} else "float64")
    return pd.Series([None if value is None else str(value) for value in column], dtype=object)


def _only_table(path: Path, tables: list[Any]) -> str:
    """Return the only table of a database, or the events' table of a server's log."""
    names = sorted(name for (name,) in tables)
    if names == SERVER_TABLES:
        return "events"
    if len(names) != 1:
        listed = ", ".join(names) or "none"
        raise DataError(f'{path} has the tables {listed}; say what to read, such as --query "SELECT * FROM events"')
    return quoted(tables[0][0])


# ---------------------------------------------------------------------------------------------------------- text


def _open_text(
    database: duckdb.DuckDBPyConnection,
    name: str,
    files: list[Path],
    kind: str,
    lines: list[str],
    blank_lines: int,
    text: TextFormat,
    wanted: set[str | None],
) -> Source:
    path = files[0]
    suffixes = {suffix.lower() for suffix in path.suffixes}
    usual = "," if ".csv" in suffixes else "\t"
    first = lines[0]
    delimiter = text.delimiter or next((sign for sign in (usual, *DELIMITERS) if sign in first), usual)
    delimiter = delimiter.replace("\\t", "\t")
    quote = ("" if delimiter in (" ", "::") else '"') if text.quote is None else text.quote
    rows = [_cells(path, line, delimiter, quote) for line in lines]
    header = text.header
    if header is None:
        header = has_header(path, rows, wanted, is_csv=bool({".csv", ".tsv"} & suffixes))
    cells = rows[0]
    fields = [f"c{place}" for place in range(1, len(cells) + 1)]
    names = cells if header else [str(place) for place in range(1, len(cells) + 1)]
    struct = ", ".join(f"'{field}': 'VARCHAR'" for field in fields)
    skips = [blank_lines + header]
    for other in files[1:]:
        more, blank = _first_lines(database, other, kind)
        if header and _cells(other, more[0], delimiter, quote) != cells:
            raise DataError(f"{other} begins with other columns than {path}: {more[0][:200]}")
        skips.append(blank + header)
    # Nothing is left to DuckDB's sniffer: it would make 7 of an id "007".
    options = (
        f"delim = ?, quote = ?, escape = ?, skip = ?, compression = ?, columns = {{{struct}}}, "
        "auto_detect = false, header = false"
    )
    compression = {"text": "none"}.get(kind, kind)
    parts, parameters = [], []
    for skip, group in groupby(zip(skips, files, strict=True), key=lambda pair: pair[0]):
        parts.append(f"SELECT * FROM read_csv(?, {options})")
        parameters += [[literally(file) for _, file in group], delimiter, quote, quote, skip, compression]
    sql = f"({' UNION ALL '.join(parts)})"
    types = ["VARCHAR"] * len(cells)
    return Source(name, sql, parameters, names, fields, types, has_header=header, is_text=True)


def _cells(path: Path, line: str, delimiter: str, quote: str) -> list[str]:
    if not quote or len(delimiter) > 1:
        row = line.split(delimiter)
    else:
        try:
            row = next(csv.reader([line], delimiter=delimiter, quotechar=quote))
        except csv.Error as error:
            raise DataError(f"{path} cannot be read as a table: its first line has a {error}") from None
    return [cell.strip() for cell in row]


def _first_lines(database: duckdb.DuckDBPyConnection, path: Path, kind: str) -> tuple[list[str], int]:
    """Return the first lines that are not blank, and the number of blank lines before them."""
    lines: list[str] = []
    blank_lines = 0
    for line in _lines(database, path, kind):
        if "\0" in line:
            raise DataError(f"{path} is neither text nor Parquet: name a CSV, TSV, Parquet, JSON or text file")
        if text := line.strip("\r\n"):
            lines.append(text)
            if len(lines) == LINES_LOOKED_AT:
                break
        elif not lines:
            blank_lines += 1
    if not lines:
        raise DataError(f"{path} has no rows")
    return lines, blank_lines


def _lines(database: duckdb.DuckDBPyConnection, path: Path, kind: str) -> Iterable[str]:
    if kind == "zstd":
        with tempfile.TemporaryDirectory(prefix="corerec-") as folder:
            start = Path(folder, "start")
            query = (
                "COPY (SELECT * FROM read_csv(?, columns = {'line': 'VARCHAR'}, delim = '\x1f', quote = '', "
                f"escape = '', header = false, auto_detect = false, compression = 'zstd') LIMIT {2 * LINES_LOOKED_AT}) "
                f"TO '{start}' (HEADER false, QUOTE '', ESCAPE '', DELIMITER '\x1f')"
            )
            run(database, path, query, [literally(path)])
            yield from start.read_text("utf-8-sig").split("\n")
        return
    try:
        with gzip.open(path, "rb") if kind == "gzip" else path.open("rb") as file:
            encoding = "utf-8-sig"
            while line := file.readline(LONGEST_LINE):
                yield line.decode(encoding, errors="replace")
                encoding = "utf-8"
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}); copy it again") from None
