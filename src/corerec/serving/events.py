"""The durable log of observed events: SQLite in WAL mode, one row an event in the order of arrival.

    append(events) -> on disk -> the model observes them -> the client is told

At start, and by every model that is loaded later, the whole log is observed again. A model that was fitted on newer
data may hold some of those events already, and then has them twice: give it a new file.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from corerec.errors import DataError

FORMAT_VERSION = 1
ROWS_AT_ONCE = 10_000
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


class LoggedEvent(NamedTuple):
    """Ids as the client sent them; `timestamp` in the unit of the fitted log."""

    user_id: Any
    item_id: Any
    timestamp: float | int | None = None
    rating: float | None = None
    event_id: str | None = None


class EventLog:
    """What was observed, in the order of arrival. Thread-safe."""

    def __init__(self, path: str | Path | None) -> None:
        """Open the log, or begin one.

        Args:
            path: the SQLite file; None keeps the log in memory, where it lasts as long as this process.
        Raises:
            DataError: the file is no event log of ours, or another server has it open.
        """
        self.path = path
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(
                path or ":memory:", timeout=0.5, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise DataError(f"{path} cannot be used as an event log ({error}); name another file") from None
        try:
            self._open()
        except sqlite3.Error as error:
            self.close()
            if "locked" in str(error):
                raise DataError(f"{path} is in use by another server; give each its own --events file") from None
            raise DataError(f"{path} cannot be used as an event log ({error}); name another file") from None
        except DataError:
            self.close()
            raise

    def _open(self) -> None:
        run = self._database.execute
        # A second server on the same log would not see what the first one observes: it has to keep out.
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("BEGIN IMMEDIATE")
        version = run("PRAGMA user_version").fetchone()[0]
        tables = [name for (name,) in run("SELECT name FROM sqlite_schema")]
        if version > FORMAT_VERSION:
            raise DataError(f"{self.path} was written by a newer corerec: pip install --upgrade corerec-bert4rec")
        if (version == 0 and tables) or (version > 0 and "events" not in tables):
            raise DataError(f"{self.path} cannot be used as an event log (it is another database); name another file")
        if version == 0:
            run(SCHEMA)
            run(f"PRAGMA user_version = {FORMAT_VERSION}")
        run("COMMIT")
        run("PRAGMA journal_mode = WAL")
        # FULL: a commit returns when the disk has it. NORMAL would survive kill -9, but not a power failure.
        run("PRAGMA synchronous = FULL")

    def append(self, batches: Sequence[Sequence[LoggedEvent]]) -> list[list[tuple[int, LoggedEvent]]]:
        """Write batches down in one transaction, which is on disk when this returns.

        Returns:
            of each batch the events that are new, with their numbers; not those whose event_id the log has already.
        Raises:
            OSError: they could not be written; none was.
        """
        insert = "INSERT INTO events (user_id, item_id, timestamp, rating, event_id) VALUES (?, ?, ?, ?, ?)"
        with self._lock:
            try:
                self._database.execute("BEGIN")
                taken = []
                for batch in batches:
                    new = []
                    for event in batch:
                        cursor = self._database.execute(insert + " ON CONFLICT (event_id) DO NOTHING", event)
                        if cursor.rowcount:
                            new.append((cursor.lastrowid, event))
                    taken.append(new)
                self._database.execute("COMMIT")
                return taken
            except BaseException as error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise OSError(f"{self.path} cannot be written: {error}") from error
                raise

    def remove(self, numbers: Sequence[int]) -> None:
        """Take out events that turned out to be unacceptable, before anybody was told they were taken."""
        with self._lock:
            self._database.executemany("DELETE FROM events WHERE number = ?", [(number,) for number in numbers])

    def read(self, after: int = 0) -> Iterator[list[tuple[int, LoggedEvent]]]:
        """The events behind number `after` with their numbers, some thousands at a time."""
        query = (
            "SELECT number, user_id, item_id, timestamp, rating, event_id FROM events WHERE number > ? "
            "ORDER BY number LIMIT ?"
        )
        while True:
            with self._lock:
                rows = self._database.execute(query, (after, ROWS_AT_ONCE)).fetchall()
            if not rows:
                return
            yield [(number, LoggedEvent(*rest)) for number, *rest in rows]
            after = rows[-1][0]

    def close(self) -> None:
        with self._lock:
            self._database.close()
