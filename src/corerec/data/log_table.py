"""Check, filter and number the events of a log in a DuckDB table, and write them to a store's files, sorted.

This module applies the rules of `ids.py`, `times.py`, `columns.py` and `tables.py` in SQL, or to a chunk of rows at a
time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from corerec.data.columns import MISSING_TEXTS, rating_column, unusable_ratings
from corerec.data.ids import check_savable, id_column, missing_ids
from corerec.data.selection import Selection
from corerec.data.store import StoreWriter
from corerec.data.tables import Filters
from corerec.data.times import CLOCK_FROM, CLOCK_TO, UNITS, check_one_clock, time_column, time_in, unit_of, unreadable
from corerec.errors import DataError

VECTORS_AT_ONCE = 128  # of 2,048 rows each, on their way from DuckDB
WHOLE_TYPES = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
BROKEN_TYPES = {"FLOAT", "DOUBLE"}
ROW = re.compile(r"at row (\d+)")
DATE_PART = r"regexp_extract(time, '^\s*\d{1,4}[-/. ]\d{1,2}[-/. ]\d{1,4}')"


class LogTable:
    """The table `log` of a database, with columns user, item and, if the file has them, rating and time.

    The table's rowid gives the order of the rows.
    """

    def __init__(
        self, database: duckdb.DuckDBPyConnection, name: str, types: dict[str, str], day_first: bool | None
    ) -> None:
        self._database, self._name, self._types, self._day_first = database, name, types, day_first
        self._keys: dict[str, str] = {}
        self.left_out: list[str] = []
        self.num_events = 0

    @classmethod
    def read(cls, database: duckdb.DuckDBPyConnection, chosen: Selection, day_first: bool | None) -> LogTable:
        database.execute(f"CREATE TABLE sorting.main.log AS {chosen.sql}", chosen.parameters)
        database.execute("USE sorting.main")
        database.execute("DROP TABLE IF EXISTS temp.events")
        types = {row[0]: row[1].split("(")[0] for row in database.execute("DESCRIBE log").fetchall()}
        log = cls(database, chosen.name, types, day_first)
        log._count()
        chosen.check({role: log._sample(role) for role in chosen.guessed} if log.num_events else {}, log.num_events)
        for role in ("rating", "time"):
            if role in types and not log._one(f"SELECT count(*) FROM log WHERE NOT ({log._missing(role)})"):
                del types[role]
        return log

    def filter(self, filters: Filters) -> None:
        """Delete the events that the filters exclude, check times and ratings, and convert times to int64 or
        float64."""
        has_bounds = filters.since is not None or filters.until is not None
        if filters.where is not None:
            self.left_out.append(f"where {filters.where}")
        if has_bounds:
            if "time" not in self._types:
                raise DataError(
                    f"{self._name} has no times, so it has none since or until one; name its column of times"
                )
            self._read_times()
            self._keep_period(filters)
        self._keep_users(filters)
        self._count()
        if not self.num_events:
            raise DataError(f"no event of {self._name} is left ({'; '.join(self.left_out)})")
        if not has_bounds and "time" in self._types:
            self._read_times()
        if "rating" in self._types:
            self._check_ratings()

    def number(self, role: str, writer: StoreWriter) -> int:
        """Number the ids of a role (user or item) by first appearance and write them. For users, write the offsets of
        their events, too."""
        name = f"{role}_ids"
        missing, first = self._row(f"SELECT count(*), min(rowid) FROM log WHERE {self._missing(role)}")
        if missing:
            raise DataError(missing_ids(name, missing, first))
        key, kind = self._id_key(role)
        self._keys[role] = key
        self._database.execute(
            f"CREATE TABLE {name} AS SELECT id, count, first FROM (SELECT {key} AS id, count(*) AS count, "
            "min(rowid) AS first FROM log GROUP BY ALL) ORDER BY first"
        )
        total, ends = 0, 0
        with ExitStack() as stack:
            ids = stack.enter_context(writer.array(name, kind))
            offsets = None
            if role == "user":
                offsets = stack.enter_context(writer.array("offsets", "int64"))
                offsets.write(np.zeros(1, np.int64))
            for chunk in self._chunks(f"SELECT id, count, first FROM {name}"):
                ids.write(chunk["id"].to_numpy() if kind == "int64" else self._checked(role, chunk))
                if offsets is not None:
                    stops = ends + np.cumsum(chunk["count"].to_numpy(np.int64))
                    offsets.write(stops)
                    ends = stops[-1]
                total += len(chunk)
        return total

    def write(self, writer: StoreWriter, advance: Callable[[float], None]) -> None:
        """Write the events, sorted by user, time and row."""
        columns = {"items": ("CAST(items.rowid + 1 AS INTEGER)", "int32")}
        if "time" in self._types:
            columns["times"] = ("log.time", "int64" if self._types["time"] == "BIGINT" else "float64")
        if "rating" in self._types:
            columns["ratings"] = ("CAST(log.rating AS FLOAT)", "float32")
        chosen = ", ".join(f"{expression} AS {name}" for name, (expression, _) in columns.items())
        order = "users.rowid, log.time, log.rowid" if "times" in columns else "users.rowid, log.rowid"
        user, item = (self._keys[role].replace(f'"{role}"', f'log."{role}"') for role in ("user", "item"))
        query = (
            f"SELECT {chosen} FROM log JOIN user_ids AS users ON users.id = {user} "
            f"JOIN item_ids AS items ON items.id = {item} ORDER BY {order}"
        )
        written = 0
        with ExitStack() as stack:
            files = {name: stack.enter_context(writer.array(name, kind)) for name, (_, kind) in columns.items()}
            for chunk in self._chunks(query):
                for name, file in files.items():
                    file.write(chunk[name].to_numpy())
                written += len(chunk)
                advance(written / self.num_events)
        assert written == self.num_events

    # ---------------------------------------------------------------------------------------------------- columns

    def _read_times(self) -> None:
        """Convert the times to a BIGINT or DOUBLE column, by the rules of `time_column`."""
        kind = self._types["time"]
        if kind in WHOLE_TYPES | BROKEN_TYPES:
            self._check_numbers("time", unreadable)
            self._types["time"] = "DOUBLE" if kind in BROKEN_TYPES else "BIGINT"
            if kind != self._types["time"]:
                self._database.execute(f"ALTER TABLE log ALTER time TYPE {self._types['time']}")
        else:
            self._convert_times(kind)
        if self._types["time"] == "BIGINT":
            self._check_clock()

    def _convert_times(self, kind: str) -> None:
        day_first, anchor = self._day_first, pd.Series([], dtype=object)
        if kind == "VARCHAR":
            if day_first is None:
                day_first = self._settled_day_first()
            # A chunk must have the format of the whole column, so the column's first text is read with every chunk.
            anchor = pd.Series([self._row("SELECT time FROM log LIMIT 1")[0]], dtype=object)
        cursor, rows, made = self._database.cursor(), 0, None
        for chunk in self._chunks("SELECT time FROM log"):
            column = chunk["time"]
            if len(anchor):
                column = pd.concat([column.astype(object), anchor], ignore_index=True)
            try:
                times = time_column(column, day_first)[: len(chunk)]
            except DataError as error:
                raise DataError(_moved(error, rows)) from None
            sql_type = "BIGINT" if times.dtype == np.int64 else "DOUBLE"
            if made is None:
                cursor.execute(f"CREATE TABLE sorting.main.moments (time {sql_type})")
            elif made != sql_type:
                raise DataError("timestamps are whole numbers in some rows and not in others; bring all to one form")
            made = sql_type
            piece = pd.DataFrame({"time": times})
            cursor.register("piece", piece)
            cursor.execute("INSERT INTO sorting.main.moments SELECT time FROM piece")
            cursor.unregister("piece")
            rows += len(chunk)
        assert made is not None
        others = ", ".join(f'log."{role}"' for role in self._types if role != "time")
        self._database.execute(
            f"CREATE TABLE timed AS SELECT {others}, moments.time FROM log POSITIONAL JOIN moments; "
            "DROP TABLE log; DROP TABLE moments; ALTER TABLE timed RENAME TO log"
        )
        self._types["time"] = made

    def _settled_day_first(self) -> bool | None:
        """Decide whether 05/03/2023 has the day first. All distinct days of the log decide, which are few, not a chunk
        of its rows."""
        days = [row[0] for row in self._database.execute(f"SELECT DISTINCT {DATE_PART} FROM log").fetchall()]
        days = sorted(day for day in days if day)
        if not days or re.match(r"\s*\d{4}", days[0]):
            return None
        try:
            chosen = time_column(pd.Series(days, dtype=object))
        except DataError:
            return None  # said with its row when the rows are read
        for day_first in (True, False):
            try:
                if np.array_equal(chosen, time_column(pd.Series(days, dtype=object), day_first)):
                    return day_first
            except DataError:
                continue
        return None

    def _check_clock(self) -> None:
        """Check that all times have the same unit.

        Raises:
            DataError: the times have two units, by the rule of `time_column`.
        """
        if unit_of(self._one("SELECT max(time) FROM log")) in (None, "s"):
            return
        found = {}
        for unit, ticks in UNITS.items():
            bounds = f"time >= {CLOCK_FROM * ticks} AND time < {CLOCK_TO * ticks}"
            count, row = self._row(f"SELECT count(*), min(rowid) FROM log WHERE {bounds}")
            if count:
                found[unit] = count, row
        num_nonzero = self._one("SELECT count(*) FROM log WHERE time <> 0")
        check_one_clock(found, num_nonzero, lambda row: repr(self._one(f"SELECT time FROM log WHERE rowid = {row}")))

    def _check_ratings(self) -> None:
        if self._types["rating"] in WHOLE_TYPES | BROKEN_TYPES:
            self._check_numbers("rating", unusable_ratings)
            return
        rows = 0
        for chunk in self._chunks("SELECT rating FROM log"):
            try:
                rating_column(chunk["rating"])
            except DataError as error:
                raise DataError(_moved(error, rows)) from None
            rows += len(chunk)

    def _check_numbers(self, role: str, message: Callable[[int, str, int], str]) -> None:
        as_float = f"CAST({role} AS {'FLOAT' if role == 'rating' else 'DOUBLE'})"
        bad = f"{role} IS NULL OR NOT isfinite(TRY_{as_float})"
        count, row = self._row(f"SELECT count(*), min(rowid) FROM log WHERE {bad}")
        if count:
            (value,) = self._row(f"SELECT {role} FROM log WHERE rowid = {row}")
            missing = "<NA>" if self._types[role] in WHOLE_TYPES else "nan"  # as pandas shows them
            raise DataError(message(count, missing if value is None else repr(value), row))

    def _id_key(self, role: str) -> tuple[str, str]:
        """Return the SQL that reads the role's ids by value, and the type of their array."""
        kind, field = self._types[role], f'"{role}"'
        if kind in WHOLE_TYPES:
            return f"CAST({field} AS BIGINT)", "int64"
        if kind in BROKEN_TYPES:
            whole = f"{field} = trunc({field}) AND abs({field}) < 9223372036854775808"
            if self._one(f"SELECT bool_and({whole}) FROM log"):
                return f"CAST({field} AS BIGINT)", "int64"
            return f"CAST({field} AS DOUBLE) + 0.0", "json"  # -0.0 is 0.0
        return field, "json"

    def _checked(self, role: str, chunk: pd.DataFrame) -> list[Any]:
        """Return the distinct ids of a chunk, as they are written to JSON.

        Raises:
            DataError: `Vocabulary.fit` refuses an id.
        """
        ids = id_column(chunk["id"], f"{role}_ids").tolist()
        missing = [at for at, an_id in enumerate(ids) if type(an_id) is str and an_id.strip().lower() in MISSING_TEXTS]
        if missing:
            rows = chunk.iloc[missing]
            said = f", written as {', '.join(repr(ids[at]) for at in missing[:3])}"
            raise DataError(missing_ids(f"{role}_ids", int(rows["count"].sum()), int(rows["first"].min()), said))
        try:
            check_savable(ids, f"{role}_ids")
        except DataError as error:
            first = chunk["first"].tolist()
            raise DataError(ROW.sub(lambda found: f"at row {first[int(found[1])]}", str(error))) from None
        return ids

    # ---------------------------------------------------------------------------------------------------- filters

    def _keep_period(self, filters: Filters) -> None:
        unit = unit_of(self._row("SELECT max(time) FROM log")[0])
        if filters.since is not None:
            self._database.execute(f"DELETE FROM log WHERE NOT time >= {time_in(unit, filters.since)!r}")
            self.left_out.append(f"since {filters.since}")
        if filters.until is not None:
            self._database.execute(f"DELETE FROM log WHERE NOT time < {time_in(unit, filters.until)!r}")
            self.left_out.append(f"until {filters.until}")

    def _keep_users(self, filters: Filters) -> None:
        if filters.min_events is None and filters.max_events is None:
            return
        self._database.execute('CREATE TEMP TABLE sizes AS SELECT "user", count(*) AS n FROM log GROUP BY "user"')
        bounds = [f"n < {int(filters.min_events)}"] if filters.min_events is not None else []
        bounds += [f"n > {int(filters.max_events)}"] if filters.max_events is not None else []
        outside = " OR ".join(bounds)
        left_out, users = self._row(f"SELECT count(*) FILTER (WHERE {outside}), count(*) FROM sizes")
        self._database.execute(f'DELETE FROM log WHERE "user" IN (SELECT "user" FROM sizes WHERE {outside})')
        if self._one(f'SELECT count(*) FROM sizes WHERE "user" IS NULL AND ({outside})'):
            self._database.execute('DELETE FROM log WHERE "user" IS NULL')
        self._database.execute("DROP TABLE sizes")
        said = f"{filters.min_events or 1:,} to {filters.max_events or 'any number of'} events"
        self.left_out.append(f"{left_out:,} of {users:,} users left out, not of {said}")

    # ---------------------------------------------------------------------------------------------------- queries

    def _missing(self, role: str) -> str:
        is_nan = f' OR isnan("{role}")' if self._types[role] in BROKEN_TYPES else ""
        return f'"{role}" IS NULL{is_nan}'

    def _sample(self, role: str) -> pd.Series:
        """Return values that show what a column holds: the first values, or the smallest and largest of whole
        numbers."""
        if self._types[role] in WHOLE_TYPES:
            return pd.Series(self._row(f'SELECT min("{role}"), max("{role}") FROM log'), dtype=np.int64)
        frame: Any = self._database.execute(f'SELECT "{role}" FROM log LIMIT 100').df()
        return frame[role]

    def _count(self) -> None:
        self.num_events = self._one("SELECT count(*) FROM log")

    def _row(self, query: str) -> Any:
        return self._database.execute(query).fetchone()

    def _one(self, query: str) -> Any:
        return self._row(query)[0]

    def _chunks(self, query: str) -> Iterator[pd.DataFrame]:
        """Yield the rows of a query in chunks, as DuckDB makes them."""
        cursor = self._database.cursor()
        cursor.execute("USE sorting.main")
        result = cursor.execute(query)
        while len(chunk := result.fetch_df_chunk(VECTORS_AT_ONCE)):
            yield chunk


def _moved(error: DataError, rows: int) -> str:
    """Return the text of an error about a chunk of rows, with the row counted from the log's first."""
    return ROW.sub(lambda found: f"at row {int(found[1]) + rows}", str(error), count=1)
