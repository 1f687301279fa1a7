"""Interaction files as people have them (CSV, TSV, Parquet, plain text; gzipped or not), read through DuckDB.

    ratings.csv, user_events.parquet, "user item" lines ...  ->  EventTable  ->  Interactions

Rows keep the order of the file. Ids of a text file become whole numbers where every one of them reads back the same
("7", but not "007"), and stay text otherwise; those of a Parquet file keep their kind.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from corerec.data.ids import text_to_id
from corerec.data.interactions import Interactions
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError

NO_COLUMN = "-"
USUAL_NAMES = {  # in lower case and without what is neither letter nor digit, the likeliest first
    "user": "userid user uid useridx userindex customerid customer visitorid reviewerid memberid clientid accountid "
    "sessionid session",
    "item": "itemid item iid itemidx itemindex movieid movie productid product parentasin asin sku trackid track "
    "songid song artistid artist bookid isbn articleid businessid videoid gameid listingid",
    "rating": "rating ratings stars overall score",
    "time": "timestamp time datetime date eventtime createdat unixreviewtime ts",
    "title": "title name itemtitle itemname movietitle moviename productname",
}
WITHOUT_HEADER = {2: ("user", "item"), 3: ("user", "item"), 4: ("user", "item", "rating", "time")}
DELIMITERS = ("\t", ",", ";", "|", " ")
LONGEST_LINE = 2**21  # bytes, DuckDB's own bound


@dataclass(frozen=True)
class Columns:
    """Which column holds what: its name, or its place counted from "1"; None guesses, NO_COLUMN goes without."""

    user: str | None = None
    item: str | None = None
    rating: str | None = None
    time: str | None = None


@dataclass(frozen=True)
class EventTable:
    """The columns of a log, one row an event, in the order of the file.

    Attributes:
        events: columns "user", "item" and, where there are such, "rating" and "time".
        used: what each of them is called in the file.
        unused: the other columns of the file.
    """

    path: Path
    events: pd.DataFrame
    used: dict[str, str]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        roles = ", ".join(f"{role} = {name}" for role, name in self.used.items())
        order = "" if "time" in self.used else "; no time column, so the order of the rows is the order of time"
        if self.unused and order:
            order += f" (not used: {', '.join(self.unused)})"
        return f"{self.path.name}: {len(self.events):,} events, {roles}{order}"

    def interactions(self) -> Interactions:
        """The log in numbers, sorted stably by (user, time).

        Raises:
            DataError: a missing id; a rating or a time that is missing or does not read as one.
        """
        events: Any = self.events
        return Interactions.from_columns(events["user"], events["item"], events.get("rating"), events.get("time"))


def read_events(path: str | Path, columns: Columns | None = None, header: bool | None = None) -> EventTable:
    """Read a log: rows of user, item and, where there are such columns, rating and time.

    Args:
        columns: which column holds what. Without a header they are, in order, user, item, or, when there are four,
            user, item, rating, time.
        header: whether the first line of a text file names the columns; None looks whether it does.
    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file is empty or cannot be read as a table, or a column is not to be found.
    """
    with duckdb.connect() as database:
        wanted = vars(columns or Columns())
        source = _open(database, Path(path), header, wanted.values())
        found = _find(source, wanted, WITHOUT_HEADER.get(len(source.names), ()), needed=("user", "item"))
        events = _read(database, source, found)
        unused = [source.shown(place) for place in range(len(source.names)) if place not in found.values()]
        used = {role: source.shown(place) for role, place in found.items()}
        return EventTable(source.path, events, used, tuple(unused))


def read_titles(
    path: str | Path, item_column: str | None = None, title_column: str | None = None, header: bool | None = None
) -> dict[str, str]:
    """Item id, as text -> title, from a file of either. Without a header, the first column and the second.

    Raises:
        FileNotFoundError, DataError: as `read_events`.
    """
    with duckdb.connect() as database:
        wanted = {"item": item_column, "title": title_column}
        source = _open(database, Path(path), header, wanted.values())
        found = _find(source, wanted, ("item", "title"), needed=("item", "title"))
        titled = _read(database, source, found).dropna()
        return dict(zip(titled["item"].astype(str), titled["title"].astype(str), strict=True))


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


# ------------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class _Source:
    """A file that DuckDB can read: `sql` is its table, `parameters` go with it."""

    path: Path
    sql: str
    parameters: list[Any]
    names: list[str]
    fields: list[str]
    """The SQL name of each column."""
    texts: set[int]
    """Columns that are text on purpose, not for want of types."""
    has_header: bool
    is_typed: bool

    def shown(self, column: int) -> str:
        return self.names[column] if self.has_header else f"column {self.names[column]}"


def _open(
    database: duckdb.DuckDBPyConnection, path: Path, header: bool | None, wanted: Iterable[str | None]
) -> _Source:
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file in it")
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise DataError(f"{path} is empty")
    database.execute("SET enable_progress_bar = false")
    database.execute("SET preserve_insertion_order = true")
    if start == b"PAR1":
        return _open_parquet(database, path)
    return _open_text(path, header, is_gzip=start[:2] == b"\x1f\x8b", wanted=set(wanted))


def _open_parquet(database: duckdb.DuckDBPyConnection, path: Path) -> _Source:
    sql, parameters = "read_parquet(?)", [_literally(path)]
    described = _execute(database, path, f"DESCRIBE SELECT * FROM {sql}", parameters).fetchall()
    names, types = [row[0] for row in described], [row[1] for row in described]
    fields = ['"' + name.replace('"', '""') + '"' for name in names]
    texts = {place for place, kind in enumerate(types) if kind == "VARCHAR"}
    return _Source(path, sql, parameters, names, fields, texts, has_header=True, is_typed=True)


def _open_text(path: Path, header: bool | None, is_gzip: bool, wanted: set[str | None]) -> _Source:
    first, blank_lines = _first_line(path, is_gzip)
    usual = "," if ".csv" in path.suffixes else "\t"
    delimiter = next((sign for sign in (usual, *DELIMITERS) if sign in first), usual)
    quote = "" if delimiter == " " else '"'
    try:
        row = next(csv.reader([first], delimiter=delimiter)) if quote else first.split(delimiter)
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table: its first line has a {error}") from None
    cells = [cell.strip() for cell in row]
    if header is None:
        header = _names_columns(cells, wanted, is_csv=bool({".csv", ".tsv"} & set(path.suffixes)))
    fields = [f"c{place}" for place in range(1, len(cells) + 1)]
    names = cells if header else [str(place) for place in range(1, len(cells) + 1)]
    struct = ", ".join(f"'{field}': 'VARCHAR'" for field in fields)
    # Nothing is left to DuckDB's sniffer: it would make 7 of an id "007".
    sql = (
        f"read_csv(?, delim = ?, quote = ?, escape = ?, skip = ?, compression = ?, columns = {{{struct}}}, "
        "auto_detect = false, header = false)"
    )
    compression = "gzip" if is_gzip else "none"
    parameters = [_literally(path), delimiter, quote, quote, blank_lines + header, compression]
    return _Source(path, sql, parameters, names, fields, set(), has_header=header, is_typed=False)


def _first_line(path: Path, is_gzip: bool) -> tuple[str, int]:
    """The first line that is not blank, and how many are before it."""
    try:
        with gzip.open(path, "rb") if is_gzip else path.open("rb") as file:
            blank_lines = 0
            while line := file.readline(LONGEST_LINE):
                if b"\0" in line:
                    raise DataError(f"{path} is neither text nor Parquet: name a CSV, TSV, Parquet or text file")
                if text := line.decode("utf-8-sig", errors="replace").strip("\r\n"):
                    return text, blank_lines
                blank_lines += 1
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}); copy it again") from None
    raise DataError(f"{path} has no rows")


def _names_columns(cells: Sequence[str], wanted: set[str | None], is_csv: bool) -> bool:
    """Does a first line name columns? A line with a number in it does not; else it must look like names somehow."""
    if wanted & set(cells):
        return True
    if any(re.fullmatch(r"[-+]?\d+([.,]\d+)?", cell) for cell in cells):
        return False
    usual = {name for names in USUAL_NAMES.values() for name in names.split()}
    return is_csv or any(_plain(cell) in usual for cell in cells)


def _find(
    source: _Source, wanted: dict[str, str | None], without_header: Sequence[str], needed: Sequence[str]
) -> dict[str, int]:
    """Role -> the place, from 0, of its column; roles without one are left out.

    Args:
        without_header: the roles of the columns, in order, of a file that names none.
        needed: roles that must be found.
    """
    names, found = source.names, {}
    if len(names) < len(needed):
        raise DataError(f"{source.path} has one column only ({names[0]}); it needs one for each {' and '.join(needed)}")
    for role, name in wanted.items():
        if name in names:
            found[role] = names.index(name)
        elif name is not None and name.isdigit() and 1 <= int(name) <= len(names):
            found[role] = int(name) - 1
        elif name not in (None, NO_COLUMN):
            raise DataError(f"{source.path} has no column {name!r}; its columns are {_listed(names)}")
        elif name is None and source.has_header:
            plain = [_plain(column) for column in names]
            found |= next(({role: plain.index(usual)} for usual in USUAL_NAMES[role].split() if usual in plain), {})
        elif name is None and role in without_header[: len(names)]:
            found[role] = without_header.index(role)
        if role in needed and role not in found:
            raise DataError(
                f"cannot tell which column of {source.path} holds the {role}s; its columns are {_listed(names)}: "
                f"name one with --{role}-column"
            )
    return found


def _read(database: duckdb.DuckDBPyConnection, source: _Source, found: dict[str, int]) -> pd.DataFrame:
    """The columns found, named by their roles and in their best types."""
    raw = {
        role: f"CAST({source.fields[place]} AS VARCHAR)" if role in ("user", "item", "title") else source.fields[place]
        for role, place in found.items()
    }
    chosen = ", ".join(f'{field} AS "{role}"' for role, field in raw.items())
    query = f"CREATE TEMP TABLE events AS SELECT {chosen} FROM {source.sql}"
    _execute(database, source.path, query, source.parameters)
    tested = {  # role -> the types to try, in this order
        role: [] if role == "title" or place in source.texts else ["BIGINT"]
        for role, place in found.items()
        if role in ("user", "item", "title")
    }
    if not source.is_typed:
        tested |= {role: ["BIGINT", "DOUBLE"] for role in ("rating", "time") if role in found}
    tests = {(role, kind): _all_are(role, kind) for role, kinds in tested.items() for kind in kinds}
    answers = database.execute(f"SELECT count(*), {', '.join(tests.values()) or 'NULL'} FROM events").fetchone()
    assert answers is not None
    if answers[0] == 0:
        raise DataError(f"{source.path} has no rows" + (" below its header" if source.has_header else ""))
    fits = [key for key, fit in zip(tests, answers[1:], strict=False) if fit]
    kinds = {role: next((kind for named, kind in fits if named == role), None) for role in found}
    casts = (f'CAST("{role}" AS {kind}) AS "{role}"' if kind else f'"{role}"' for role, kind in kinds.items())
    return database.execute(f"SELECT {', '.join(casts)} FROM events").df()


def _all_are(role: str, kind: str) -> str:
    """SQL: does every value that is there read as this type? A whole number has to read back as it was written."""
    cast = f'TRY_CAST("{role}" AS {kind})'
    test = f'CAST({cast} AS VARCHAR) = "{role}"' if kind == "BIGINT" else f"{cast} = {cast}"
    return f'bool_and(coalesce({test}, "{role}" IS NULL))'


def _execute(
    database: duckdb.DuckDBPyConnection, path: Path, query: str, parameters: list[Any]
) -> duckdb.DuckDBPyConnection:
    try:
        return database.execute(query, parameters)
    except duckdb.Error as error:
        # DuckDB goes on with its own options, which are of no use here.
        said = str(error).split("\nPossible")[0].split("\n\n")[0].split("\n  file =")[0]
        hint = "; save it as UTF-8 first: iconv -f latin1 -t utf-8" if "utf-8" in said.lower() else ""
        raise DataError(f"{path} cannot be read as a table: {' | '.join(said.splitlines())}{hint}") from None


def _literally(path: Path) -> str:
    """The path with DuckDB's wildcards made plain characters."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


def _plain(name: str) -> str:
    """ "User-ID" and RecBole's "user_id:token" -> "userid"."""
    return re.sub(r"[^a-z0-9]", "", name.split(":")[0].lower())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
