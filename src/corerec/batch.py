"""Batch recommendation: score a whole table of users and write the rows to a file.

    corerec.batch.score("shop.model", "recs.parquet", top_k=20, verbose=True)

The table has a row for each recommendation: user_id, item_id, rank (from 1) and score, the probability over the whole
catalogue. Ids have the same type as in the fitted log. Besides the model, scoring takes at most 1 GB of memory, for any
number of users: at most USERS_AT_ONCE users are in memory at a time. Finished rows are in temporary files beside the
output until the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import duckdb
import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from corerec.data.histories import Histories
from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.vocabulary import Vocabulary
from corerec.engines.bert4rec.answering import Embeddings
from corerec.engines.bert4rec.batch_answers import BatchRules, RuleOptions, answer_batch
from corerec.engines.bert4rec.fitted import FittedModel
from corerec.engines.bert4rec.recommender import Bert4Rec
from corerec.errors import DataError
from corerec.files import atomic_path, check_writable
from corerec.queries import SKIPPED, OnUnknown, numbers_or_zero, warn_of_unknown

USERS_AT_ONCE = 1024
PARTS = 64  # at least, of fewer users, so that shards of a small table have work, too
DATABASE_MEMORY = "256MB"
LINE_EVERY_S = 10.0  # seconds between two progress lines in a pipe
FORMATS = {
    ".parquet": "FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880",
    ".csv": "FORMAT csv, HEADER",
    ".jsonl": "FORMAT json",
}


@dataclass(frozen=True)
class Scored:
    """The result of `score`."""

    path: Path
    num_users: int
    num_rows: int
    seconds: float

    def __str__(self) -> str:
        pace = self.num_users / self.seconds if self.seconds else 0.0
        return (
            f"{self.path}: {self.num_rows:,} recommendations for {self.num_users:,} users in {self.seconds:.1f} s "
            f"({pace:,.0f} users/s)"
        )


def score(
    model: Bert4Rec | str | os.PathLike[str],
    output: str | os.PathLike[str],
    top_k: int = 10,
    *,
    users: Any = None,
    histories: Interactions | None = None,
    at: Any = None,
    shard: tuple[int, int] = (0, 1),
    device: str = "auto",
    verbose: bool = False,
    **rules: Unpack[RuleOptions],
) -> Scored:
    """Recommend items to many users and write the rows to a file. The file is written completely or not at all.

    Args:
        model: a model, or the file of one.
        output: the file to write: .parquet, .csv or .jsonl.
        top_k: the most items for each user.
        users: ids of known users, who are scored in this order. None takes all users of the model.
        histories: a log (`read_events(path).interactions()`) to score instead of users. The events of each of its users
            are a history. `on_unknown` says how items that the model never saw are treated. A log takes about 60 bytes
            of memory for each event.
        at: the time of all queries: a number in the unit of the log's times, or a date. None means the time of
            each user's last event.
        shard: (i, n): split the users, in their order, into n parts, and score part i, counted from 0. The rows of all
            n parts, in order, equal the rows of a single run, bit for bit.
        device: the device to load a model file to.
        verbose: show progress on stderr: a bar in a terminal, a line every ten seconds elsewhere.
        rules: exclude_seen, exclude, candidates, min_rating, on_unknown, diversity, max_per_group, groups and
            repeatable, as in `Bert4Rec.recommend`.
    Raises:
        DataError: the output has another suffix, users and histories are both given, or the shard is out of range. Or
            `Bert4Rec.recommend` would raise a DataError.
        UnknownIdError: a user was never seen.
        NotFittedError: the model has no users, and no histories are given.
        OSError: the file cannot be written.
    """
    output = Path(output)
    check_output(output)
    check_shard(shard)
    if users is not None and histories is not None:
        raise DataError("score takes users of the model or histories of others, one of the two")
    check_writable(output, inputs=() if isinstance(model, Bert4Rec) else [model])
    if not isinstance(model, Bert4Rec):
        model = Bert4Rec.load(model, device=device)
    fitted = model.fitted
    settings = BatchRules.of(fitted, top_k, **rules)
    if histories is None:
        known = fitted.known_histories()
        moment = known.moment(at)
        numbers = np.arange(1, len(known.users) + 1) if users is None else known.users.require(users)
        source: _Users | _Log = _Users(known.users, numbers, known.select)
    else:
        source = _Log.of(histories, fitted, rules.get("on_unknown", "warn"))
        moment = Histories(source.store, histories.users).moment(at)
    started = time.perf_counter()
    num_users, num_rows = 0, 0
    parts = _parts(len(source), *shard)
    with atomic_path(output) as unfinished, _RowTable(unfinished, source.ids, fitted.items) as table:
        with _progress(sum(end - first for first, end in parts), verbose) as advance:
            for first, end in parts:
                user_ids, rows = source.part(first, end)
                numbers, scores = _answers(fitted, rows.asked_at_moments(np.array([moment])), settings)
                num_rows += table.add(user_ids, numbers, scores)
                num_users += end - first
                advance(end - first)
        table.write()
    return Scored(output, num_users, num_rows, time.perf_counter() - started)


def write_embeddings(embeddings: Embeddings, output: str | os.PathLike[str]) -> None:
    """Write item vectors as a table of item_id and vector, a list of float32. The file is written completely or not at
    all.

    Args:
        output: the file to write: .parquet, .csv or .jsonl.
    Raises:
        DataError: the output has another suffix.
        OSError: the file cannot be written.
    """
    output = Path(output)
    check_output(output)
    ids = Vocabulary(embeddings.ids).ids
    columns = {f"v{at}": embeddings.vectors[:, at] for at in range(embeddings.vectors.shape[1])}
    frame = pd.DataFrame({"item_id": _texts(ids) if _kind(ids) == "VARCHAR" else ids, **columns})
    with atomic_path(output) as unfinished, duckdb.connect() as database:
        database.register("frame", frame)
        query = f"SELECT item_id, [{', '.join(columns)}] AS vector FROM frame"
        database.execute(f"COPY ({query}) TO '{_literal(unfinished)}' ({FORMATS[output.suffix.lower()]})")


def check_output(output: Path) -> None:
    """Check that a file of this suffix can be written.

    Raises:
        DataError: the suffix is another one.
    """
    if output.suffix.lower() not in FORMATS:
        raise DataError(f"cannot write {output}: its name must end with {', '.join(FORMATS)}")


def check_shard(shard: tuple[int, int]) -> None:
    """Check that a shard is (i, n) with i in 0 .. n - 1.

    Raises:
        DataError: the shard has another form, or is out of range.
    """
    at, count = shard
    if count < 1 or not 0 <= at < count:
        raise DataError(f"shard {at}/{count} is none: shards of {count} are 0/{count} to {count - 1}/{count}")


def _parts(count: int, shard: int, num_shards: int) -> list[tuple[int, int]]:
    """Return a list of (first, end): the users first .. end - 1 are scored together. The parts do not depend on the
    shards, so neither do the answers."""
    size = max(1, min(USERS_AT_ONCE, -(-count // PARTS)))
    num_parts = -(-count // size)
    mine = range(shard * num_parts // num_shards, (shard + 1) * num_parts // num_shards)
    return [(part * size, min(count, (part + 1) * size)) for part in mine]


def _answers(model: FittedModel, histories: SequenceStore, rules: BatchRules) -> tuple[np.ndarray, np.ndarray]:
    """Return item numbers and probabilities, (B, k). States are not cached, because each user is scored only once."""
    found = answer_batch(model, histories, rules)
    return found.numbers, found.probabilities


@dataclass(frozen=True)
class _Users:
    """The users of a model that are to be scored, given by their numbers."""

    vocabulary: Vocabulary
    numbers: np.ndarray
    select: Any

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def ids(self) -> np.ndarray:
        return self.vocabulary.ids

    def part(self, first: int, end: int) -> tuple[np.ndarray, SequenceStore]:
        some = self.numbers[first:end]
        return self.ids[some - 1], self.select(some)


@dataclass(frozen=True)
class _Log:
    """The users of a log that the model was not fitted on, with their histories in the model's item numbers.

    Items that the model never saw have number 0.
    """

    ids: np.ndarray
    store: SequenceStore
    number_of: np.ndarray

    @classmethod
    def of(cls, log: Interactions, model: FittedModel, on_unknown: OnUnknown) -> _Log:
        numbers, unknown = numbers_or_zero(log.items.ids, model.items, on_unknown)
        if unknown and on_unknown == "warn":
            warn_of_unknown(unknown, model.items, SKIPPED, stacklevel=4)
        store = log.sequences
        if model.histories is not None and store.time_unit != model.histories.time_unit:
            store = replace(store, times=None)  # these times have another unit than the times of the training
        return cls(log.users.ids, store, np.concatenate([[0], numbers]))

    def __len__(self) -> int:
        return len(self.store)

    def part(self, first: int, end: int) -> tuple[np.ndarray, SequenceStore]:
        rows = self.store.select(np.arange(first, end))
        numbers = self.number_of[rows.items]
        offsets = np.concatenate([[0], np.cumsum(numbers > 0)])[rows.offsets]
        ratings = None if rows.ratings is None else rows.ratings[numbers > 0]
        times = None if rows.times is None else rows.times[numbers > 0]
        known = SequenceStore(numbers[numbers > 0].astype(np.int32), offsets, times, ratings)
        return self.ids[first:end], known.asked_at_newest()


class _RowTable:
    """The table of the rows written so far. Up to DATABASE_MEMORY of it is in memory, and the rest in files beside the
    output."""

    def __init__(self, output: Path, user_ids: np.ndarray, items: Vocabulary) -> None:
        self.output, self.items = output, items
        self._columns = f"user_id {_kind(user_ids)}, item_id {_kind(items.ids)}, rank INTEGER, score FLOAT"
        self._is_text = [_kind(ids) == "VARCHAR" for ids in (user_ids, items.ids)]

    def __enter__(self) -> _RowTable:
        self._database = duckdb.connect()  # in memory, and beyond its limit in files of the temporary directory
        self._database.execute(f"SET memory_limit = '{DATABASE_MEMORY}'; SET enable_progress_bar = false")
        self._database.execute(f"SET threads = 1; SET temp_directory = '{_literal(self.output.parent)}'")
        self._database.execute(f"CREATE TABLE rows ({self._columns})")
        return self

    def __exit__(self, *_: Any) -> None:
        self._database.close()

    def add(self, user_ids: np.ndarray, numbers: np.ndarray, scores: np.ndarray) -> int:
        """Add rows for (B, k) item numbers, 0 where a row has ended. Return the number of rows."""
        at, place = np.nonzero(numbers)
        users, items = user_ids[at], self.items.ids[numbers[at, place] - 1]
        frame = pd.DataFrame(
            {
                "user_id": _texts(users) if self._is_text[0] else users,
                "item_id": _texts(items) if self._is_text[1] else items,
                "rank": (place + 1).astype(np.int32),
                "score": scores[at, place].astype(np.float32),
            }
        )
        self._database.register("frame", frame)
        self._database.execute("INSERT INTO rows SELECT * FROM frame")
        self._database.unregister("frame")
        return len(frame)

    def write(self) -> None:
        form = FORMATS[self.output.suffix.lower()]
        self._database.execute(f"COPY rows TO '{_literal(self.output)}' ({form})")


def _kind(ids: np.ndarray) -> str:
    if ids.dtype == np.int64:
        return "BIGINT"
    return "DOUBLE" if len(ids) and all(type(an_id) in (int, float) for an_id in ids.tolist()) else "VARCHAR"


def _texts(ids: np.ndarray) -> pd.Series:
    return pd.Series([str(an_id) for an_id in ids.tolist()], dtype=object)


def _literal(path: Path) -> str:
    return str(path).replace("'", "''")


@contextmanager
def _progress(total: int, verbose: bool) -> Iterator[Any]:
    """Yield a function that draws the progress. Call it with the number of users that were scored."""
    console = Console(stderr=True)
    if not verbose:
        yield lambda count: None
    elif console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("users"), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bars:
            bar = bars.add_task("", total=total)
            yield lambda count: bars.advance(bar, count)
    else:
        started = said = time.perf_counter()
        done = 0

        def advance(count: int) -> None:
            nonlocal done, said
            done += count
            now = time.perf_counter()
            if now - said >= LINE_EVERY_S:
                said = now
                left = (total - done) * (now - started) / done
                text = f"{done:,} of {total:,} users, {done / (now - started):,.0f} a second, {left:,.0f} s left"
                console.print(text, highlight=False, soft_wrap=True)

        yield advance
