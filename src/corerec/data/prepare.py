"""Out-of-core preparation: DuckDB sorts a log of any size in bounded memory, and writes it as a store.

    prepare("days/*.parquet", "shop.store", memory="4GB")

The log is read by the rules of `read_events` and `Interactions.from_columns`, so a store holds the same values. Ids are
numbered by first appearance, and events are sorted by user, time and place in the log. Data that exceeds the memory
limit goes to temporary files beside the store.
"""

from __future__ import annotations

import errno
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from corerec.data.append import append_store
from corerec.data.interactions import Interactions
from corerec.data.layout import Columns
from corerec.data.log_table import LogTable
from corerec.data.selection import select_events
from corerec.data.sources import TextFormat
from corerec.data.store import StoreWriter, check_output, write_store
from corerec.data.tables import Filters, described
from corerec.errors import DataError
from corerec.files import AnyPath
from corerec.machine import available_cpus

SMALLEST_MEMORY = 512 * 10**6
OWN_MEMORY = 280 * 10**6  # Python, pandas and the rows on their way from DuckDB to the files
DATABASE_SHARE = 0.8  # of the rest: DuckDB goes over its limit by up to a fifth
MEMORY_A_THREAD = 250 * 10**6
LOOK_EVERY_S, LINE_EVERY_S = 0.5, 10.0  # the latter in a pipe
SIZES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True)
class Prepared:
    """The result of `prepare`: the store's path and size, and the seconds that it took."""

    path: Path
    num_users: int
    num_items: int
    num_events: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.num_users:,} users, {self.num_items:,} items, {self.num_events:,} events, prepared in "
            f"{self.seconds:.1f} s"
        )


def prepare(
    paths: str | Path | Sequence[str | Path],
    store: AnyPath,
    columns: Columns | None = None,
    header: bool | None = None,
    *,
    append: bool = False,
    memory: str | int = "4GB",
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
    verbose: bool = False,
) -> Prepared:
    """Write a log as a store, which `Interactions.open` maps into memory. The store is written completely or not at
    all.

    Args:
        paths, columns, header, delimiter, quote, query, explode, day_first, where, since, until, min_events,
            max_events: the arguments of `read_events`.
        store: the folder to write. An existing store is replaced.
        append: add the log to the existing store, as if both logs had been read together. Filters and day_first apply
            only to the new log.
        memory: the most memory to use, as bytes or as text such as "4GB"; at least 512MB. With many millions of users
            and items, their ids need memory in addition.
        verbose: show progress on stderr.
    Raises:
        FileNotFoundError: there is no such file, or no store to append to.
        DataError: `read_events` or `Interactions.from_columns` refuses the log, or the memory is too little.
        OSError: the store cannot be written.
    """
    started, limit = time.perf_counter(), memory_limit(memory)
    folder = Path(store)
    base = Interactions.open(folder) if append else None
    check_output(folder)
    filters = Filters(where, since, until, min_events, max_events)
    with write_store(folder) as writer, ExitStack() as stack:
        progress = _Progress(verbose)
        target = writer if base is None else StoreWriter(_new(writer.scratch / "part"), writer.scratch, 1)
        database = stack.enter_context(_database(writer.scratch, limit))
        with _plain_errors(memory), progress.stage("reading", database):
            text = TextFormat(header, delimiter, quote)
            chosen = select_events(database, stack, paths, columns, text, query, explode, where)
            log = LogTable.read(database, chosen, day_first)
        with _plain_errors(memory):
            with progress.stage("checking", database):
                log.filter(filters)
            counts = {}
            for role in ("user", "item"):
                with progress.stage(f"numbering {role}s", database):
                    counts[role] = log.number(role, target)
            with progress.stage("sorting and writing", database) as advance:
                log.write(target, advance)
        source = described(chosen.name, log.num_events, chosen.used, chosen.unused, log.left_out)
        manifest = target.finish(counts["user"], counts["item"], log.num_events, source)
        stack.close()
        if base is not None:
            with progress.stage("merging", None) as advance:
                manifest = append_store(base, Interactions.open(target.folder), writer, source, advance)
    written = Interactions.open(folder, verify=False)
    written.warn_of_oddities()
    if verbose:
        progress.say(manifest.source)
    seconds = time.perf_counter() - started
    return Prepared(folder, manifest.num_users, manifest.num_items, manifest.num_events, seconds)


def memory_limit(memory: str | int) -> int:
    """Convert a size to bytes. A size is a number of bytes, or text.

    >>> memory_limit("4GB"), memory_limit("1.5 GiB")
    (4000000000, 1610612736)

    Raises:
        DataError: the value cannot be read as a size, or is too small.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", str(memory).upper())
    if found is None or found[2] not in SIZES:
        raise DataError(f"memory must be a size such as 4GB or 800MB, not {memory!r}")
    limit = int(float(found[1]) * SIZES[found[2]])
    if limit < SMALLEST_MEMORY:
        raise DataError(f"memory must be {SMALLEST_MEMORY // 10**6} MB or more, not {memory}")
    return limit


@contextmanager
def _database(scratch: Path, limit: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an empty database in a file. The database keeps to a memory limit, and writes further data to a folder
    beside that file."""
    share = int((limit - OWN_MEMORY) * DATABASE_SHARE)
    with duckdb.connect(scratch / "sorting.duckdb") as database:
        database.execute(
            f"SET memory_limit = '{share // 10**6}MB'; SET temp_directory = '{_literal(scratch / 'spill')}'"
        )
        threads = min(available_cpus().count, max(1, share // MEMORY_A_THREAD))
        database.execute(f"SET threads = {threads}")
        yield database


def _literal(path: Path) -> str:
    return str(path).replace("'", "''")


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


@contextmanager
def _plain_errors(memory: str | int) -> Iterator[None]:
    """Reword DuckDB's errors for the user."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise DataError(f"{memory} of memory are too little for this log; give it more (memory, --memory)") from None
    except duckdb.InterruptException:
        raise KeyboardInterrupt from None
    except duckdb.Error as error:
        said = str(error)
        if "No space left" in said:
            raise OSError(errno.ENOSPC, "the disk is full; make room, or name a store elsewhere") from None
        raise DataError(f"the log cannot be prepared: {said.splitlines()[0]}") from None


class _Progress:
    """Shows the stages of the work on stderr: a bar on a terminal; elsewhere a line per stage, and a line every ten
    seconds."""

    def __init__(self, verbose: bool) -> None:
        self._console = Console(stderr=True, quiet=not verbose)

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, database: duckdb.DuckDBPyConnection | None) -> Iterator[Callable[[float], None]]:
        """Yield a function to call with the share of the stage that is done, from 0 to 1.

        Until the first call, the progress of DuckDB's query is shown.
        """
        started, done = time.perf_counter(), 0.0
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        is_terminal = self._console.is_terminal and not self._console.quiet
        with Progress(*columns, console=self._console, transient=True, disable=not is_terminal) as bars:
            bar, ended = bars.add_task(name, total=None), threading.Event()

            def advance(share: float) -> None:
                nonlocal done
                done = share

            def watch() -> None:
                said, share = started, 0.0
                while not ended.wait(LOOK_EVERY_S):
                    asked = database.query_progress() / 100 if database is not None and not done else 0.0
                    share = max(share, done, asked)
                    if share:
                        bars.update(bar, completed=share, total=1.0)
                    if not is_terminal and time.perf_counter() - said >= LINE_EVERY_S:
                        said = time.perf_counter()
                        self.say(f"{name}: {share:.0%}, {said - started:.0f} s")

            watcher = threading.Thread(target=watch, daemon=True)
            watcher.start()
            try:
                yield advance
            finally:
                ended.set()
                watcher.join()
        self.say(f"{name}: {time.perf_counter() - started:.1f} s")
