"""The durable log of observed events: an SQLite database in WAL mode, with one row for each event, in order of arrival.

    append(events) -> on disk -> the model observes them -> the client is told

At the start, the model observes the logged events again, and so does every model that is loaded later. Events that the
model's file already holds are skipped. A second table of the database holds the items of /v1/catalogue
(`catalogue.py`).

Other processes may read and copy the log while a server writes: `corerec events export`, or
`sqlite3 LOG ".backup COPY"`. A plain copy of the file lacks the events that are still in LOG-wal.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from corerec.errors import DataError
from corerec.serving.catalogue import CatalogueRow, from_text, to_text

FORMAT_VERSION = 1
ROWS_AT_ONCE = 200_000
SCHEMA = """
    CREATE TABLE events (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        user_id ANY NOT NULL,
        item_id ANY NOT NULL,
        timestamp ANY,
        rating REAL,
        event_id TEXT UNIQUE
    ) STRICT
"""
CATALOGUE = """
    CREATE TABLE IF NOT EXISTS catalogue (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        item_id ANY NOT NULL UNIQUE,
        title TEXT,
        features TEXT NOT NULL
    ) STRICT
"""
COLUMNS = "number, user_id, item_id, timestamp, rating, event_id"
INSERT = (
    "INSERT INTO events (user_id, item_id, timestamp, rating, event_id) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (event_id) DO NOTHING"
)
ID_TYPES = {int, float, str}
NUMBER_TYPES = {int, float, type(None)}


class LoggedEvent(NamedTuple):
    """One event: ids as the client sent them, and the timestamp in the unit of the fitted log."""

    user_id: Any
    item_id: Any
    timestamp: float | int | None = None
    rating: float | None = None
    event_id: str | None = None


class EventColumns(NamedTuple):
    """Events of the log, oldest first, by column."""

    numbers: Sequence[int]
    """The numbers of the events, rising."""
    user_ids: Sequence[Any]
    item_ids: Sequence[Any]
    timestamps: Sequence[Any]
    ratings: Sequence[float | None]
    event_ids: Sequence[str | None]

    def __len__(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return len(self.numbers)


class EventLog:
    """The log of observed events, in order of arrival. The class is thread-safe. Other processes may read the file."""

    def __init__(self, path: str | Path | None) -> None:
        """Open an event log, or create one.

        Args:
            path: the SQLite file. None keeps the log in memory, for as long as this process lives.
        Raises:
            DataError: the file is not an event log, is damaged or truncated, has disappeared, or is open in another
                server.
        """
        self.path = None if path is None else Path(path)
        self._lock = threading.Lock()
        self._files: dict[Path, os.stat_result] = {}
        self._in_use: sqlite3.Connection | None = None
        try:
            if self.path is not None:
                self._check_place(self.path)
            self._database = self._connected()
        except BaseException:
            self._unlock()
            raise

    def __len__(self) -> int:
        """Return the number of events in the log."""
        return self._count

    def append(self, batches: Sequence[Sequence[LoggedEvent]]) -> list[list[tuple[int, LoggedEvent]]]:
        """Write batches of events in one transaction. When this method returns, the events are on disk.

        Returns:
            for each batch, its new events with their numbers. An event is not new if its event_id is in the log
            already.
        Raises:
            OSError: the events could not be written, or the file was moved or removed. No event was written.
        """
        with self._lock:
            self._check_files()
            try:
                self._database.execute("BEGIN IMMEDIATE")
                taken = []
                for batch in batches:
                    new = []
                    for event in batch:
                        cursor = self._database.execute(INSERT, event)
                        if cursor.rowcount:
                            new.append((cursor.lastrowid, event))
                    taken.append(new)
                self._database.execute("COMMIT")
            except BaseException as error:
                with contextlib.suppress(sqlite3.Error):  # a full disk may have ended the transaction already
                    if self._database.in_transaction:
                        self._database.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise OSError(f"{self.path} cannot be written: {error}") from error
                raise
            self._check_files()
            self._count += sum(map(len, taken))
            return taken

    def remove(self, numbers: Sequence[int]) -> None:
        """Delete events that turned out to be invalid, before a client was told that they were accepted.

        Raises:
            OSError: the events could not be deleted.
        """
        with self._lock:
            try:
                self._database.executemany("DELETE FROM events WHERE number = ?", [(number,) for number in numbers])
            except sqlite3.Error as error:
                raise OSError(f"{self.path} cannot be written: {error}") from error
            self._count -= len(numbers)

    def append_items(self, rows: Sequence[CatalogueRow]) -> None:
        """Write items of the catalogue, all or none. An item replaces an older row of the same id.

        Raises:
            OSError: the items could not be written, or the file was moved or removed.
        """
        with self._lock:
            self._check_files()
            try:
                self._database.execute("BEGIN IMMEDIATE")
                self._database.executemany(
                    "INSERT OR REPLACE INTO catalogue (item_id, title, features) VALUES (?, ?, ?)",
                    [(row.item_id, row.title, to_text(row.features)) for row in rows],
                )
                self._database.execute("COMMIT")
            except sqlite3.Error as error:
                with contextlib.suppress(sqlite3.Error):
                    if self._database.in_transaction:
                        self._database.execute("ROLLBACK")
                raise OSError(f"{self.path} cannot be written: {error}") from error
            self._check_files()

    def read_items(self, after: int = 0) -> tuple[list[CatalogueRow], int]:
        """Return the items of the catalogue with numbers above `after`, and the number of the last item.

        Raises:
            DataError: the file is damaged.
        """
        query = "SELECT number, item_id, title, features FROM catalogue WHERE number > ? ORDER BY number"
        with self._lock:
            try:
                rows = self._database.execute(query, (after,)).fetchall()
                items = [CatalogueRow(item_id, title, from_text(features)) for _, item_id, title, features in rows]
            except (sqlite3.Error, ValueError, TypeError) as error:
                raise _damaged(self.path, error) from None
        return items, rows[-1][0] if rows else after

    def read(self, after: int = 0) -> Iterator[EventColumns]:
        """Yield the events with numbers above `after`, in blocks of `ROWS_AT_ONCE`.

        Raises:
            DataError: the file is damaged.
        """
        while True:
            with self._lock:
                columns = read_columns(self._database, after, ROWS_AT_ONCE, self.path)
            if not columns:
                return
            yield columns
            after = columns.numbers[-1]

    def user_ids(self) -> list[Any]:
        """Return the distinct user ids of the log.

        Raises:
            DataError: the file is damaged.
        """
        with self._lock:
            try:
                return [user_id for (user_id,) in self._database.execute("SELECT DISTINCT user_id FROM events")]
            except sqlite3.Error as error:
                raise _damaged(self.path, error) from None

    def close(self) -> None:
        with self._lock:
            self._database.close()
            self._unlock()

    # --------------------------------------------------------------------------------------------------- the file

    def _check_place(self, path: Path) -> None:
        """Check that the path is free or holds an event log, and lock it until `close`."""
        if path.is_dir():
            raise DataError(f"{path} cannot be used as an event log (it is a folder); name a file in it")
        if not path.parent.is_dir():
            raise DataError(
                f"{path} cannot be used as an event log (there is no folder {path.parent}); create it first"
            )
        lock, wal = _beside(path, ".lock"), _beside(path, "-wal")
        if not path.exists():
            left = next((file for file in (wal, lock) if file.exists()), None)
            if left is not None:
                raise DataError(
                    f"{path} is gone, though a server kept events in it: bring it back, or remove {left} to begin anew"
                )
        else:
            _check_is_database(path)
        try:
            self._in_use = sqlite3.connect(lock, timeout=0, isolation_level=None, check_same_thread=False)
            self._in_use.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise DataError(f"{path} is in use by another server; give each its own --events file") from None
            raise DataError(f"{path} cannot be used as an event log ({lock}: {error}); name another file") from None
        if not path.exists():
            _begin(path)

    def _connected(self) -> sqlite3.Connection:
        try:
            database = sqlite3.connect(
                self.path or ":memory:", timeout=0.5, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise DataError(f"{self.path} cannot be used as an event log ({error}); name another file") from None
        try:
            if self.path is None:
                _create(database)
            check(database, self.path)
            database.execute(CATALOGUE)
            # FULL: a commit returns when the disk has it. NORMAL would survive kill -9, but not a power failure.
            database.execute("PRAGMA synchronous = FULL")
            (self._count,) = database.execute("SELECT count(*) FROM events").fetchone()
            return database
        except sqlite3.Error as error:
            database.close()
            raise _damaged(self.path, error) from None
        except DataError:
            database.close()
            raise

    def _check_files(self) -> None:
        """Check that the files are still in place. Events that are written to a removed file would be lost.

        Raises:
            OSError: a file was removed, replaced or cut.
        """
        if self.path is None:
            return
        for path in (self.path, _beside(self.path, "-wal")):
            known = self._files.get(path)
            try:
                now = path.stat()
            except FileNotFoundError:
                if known is None:
                    continue  # there is no WAL before the first transaction
                now = None
            is_main = path is self.path
            if known and (now is None or not os.path.samestat(now, known) or (is_main and now.st_size < known.st_size)):
                raise OSError(f"{path} was removed, replaced or cut; bring it back, or restart the server without it")
            assert now is not None
            self._files[path] = now

    def _unlock(self) -> None:
        if self._in_use is not None:
            self._in_use.close()
            self._in_use = None


def read_columns(database: sqlite3.Connection, after: int, limit: int, path: Path | None) -> EventColumns:
    """Read at most `limit` events with numbers above `after`. At the end of the log, the columns are empty.

    Raises:
        DataError: the file is damaged.
    """
    query = f"SELECT {COLUMNS} FROM events WHERE number > ? ORDER BY number LIMIT ?"
    try:
        rows = database.execute(query, (after, limit)).fetchall()
    except (sqlite3.Error, OverflowError) as error:
        raise _damaged(path, error) from None
    if not rows:
        return EventColumns((), (), (), (), (), ())
    columns = EventColumns(*zip(*rows, strict=True))
    numbers, users, items, times, ratings, names = columns
    sound = (
        numbers[0] > after
        and all(map(int.__lt__, numbers[:-1], numbers[1:]))  # else a reader might never reach the end
        and ID_TYPES.issuperset(map(type, users))
        and ID_TYPES.issuperset(map(type, items))
        and NUMBER_TYPES.issuperset(map(type, times))
        and NUMBER_TYPES.issuperset(map(type, ratings))
        and {str, type(None)}.issuperset(map(type, names))
    )
    if not sound:
        raise _damaged(path, "values that no server wrote")
    return columns


def check(database: sqlite3.Connection, path: Path | None) -> None:
    """Check that a database is an event log.

    Raises:
        DataError: the database is not an event log, has a newer version, or is damaged.
        sqlite3.Error: the database is damaged.
    """
    (version,) = database.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema")}
    if version < 1 or "events" not in tables:
        raise DataError(f"{path} cannot be used as an event log (it is another database); name another file")
    if version > FORMAT_VERSION:
        raise DataError(f"{path} was written by a newer corerec: pip install --upgrade corerec-bert4rec")
    (said,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    if said != "ok":
        raise _damaged(path, said.splitlines()[-1])


def _begin(path: Path) -> None:
    """Write an empty log to a temporary file and rename it, so that no crash can leave half a log."""
    unfinished = _beside(path, ".new")
    try:
        unfinished.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(unfinished, isolation_level=None)) as database:
            _create(database)
        os.replace(unfinished, path)
    except (sqlite3.Error, OSError) as error:
        raise DataError(f"{path} cannot be used as an event log ({error}); name another file") from None


def _create(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(SCHEMA)
    database.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


def _check_is_database(path: Path) -> None:
    """Check that a file is a SQLite database.

    Raises:
        DataError: the file is empty, or is not a SQLite database.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise DataError(f"{path} cannot be used as an event log ({error.strerror}); name another file") from None
    if not head:
        raise DataError(f"{path} is empty, where an event log is never: bring it back, or remove it to begin anew")
    if head != b"SQLite format 3\0":
        raise DataError(f"{path} cannot be used as an event log (it is no SQLite database); name another file")


def _damaged(path: Path | None, why: object) -> DataError:
    return DataError(
        f"{path} is damaged ({why}); save what can be read with `corerec events export {path} -o saved.parquet`, then "
        "move it away to begin anew, or bring back a copy"
    )


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
