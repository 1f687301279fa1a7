"""The model that the server answers with. It observes logged events, and a newer model can replace it between two
requests."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from corerec.data.histories import Histories
from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec.fitted import WITHOUT_USERS
from corerec.errors import CorerecError, DataError, NotFittedError, UnknownIdError
from corerec.serving.candidates import CandidateLists
from corerec.serving.catalogue import CatalogueRow, apply_rows, features_frame, titles_of
from corerec.serving.events import EventLog, LoggedEvent
from corerec.serving.halving import take_most
from corerec.serving.known_events import KnownEvents
from corerec.serving.settings import ServerSettings
from corerec.serving.titles import TitleIndex

log = logging.getLogger(__name__)

OnUnknown = Literal["raise", "skip", "warn"]
SLOW_REPLAY_S = 10


class LimitReachedError(CorerecError):
    """The server already holds as many users, events of a user, or logged events as its settings allow."""


@dataclass(frozen=True)
class Served:
    """One model with its titles and candidate lists. A request uses the same `Served` from start to end."""

    model: Bert4Rec
    titles: TitleIndex
    candidates: CandidateLists
    num_fitted_users: int
    num_fitted_items: int
    fingerprint: str
    """The hexadecimal hash of the events that the model was fitted on. Models fitted on the same events have equal
    hashes."""


class _Logged(NamedTuple):
    """The numbers of the last event and the last item of the log that a model knows."""

    event: int
    item: int


@dataclass(frozen=True)
class EventBatch:
    """A batch of events. The server accepts all of them, or none.

    With `on_unknown="raise"`, the server refuses a batch with an unknown item. Otherwise, events of unknown items are
    only logged, for the next fit.
    """

    events: Sequence[LoggedEvent]
    on_unknown: OnUnknown = "warn"


@dataclass(frozen=True)
class Taken:
    """What the server did with a batch of posted events."""

    accepted: int
    """The number of new events, which are on disk."""
    unknown_items: list[Any]
    """The distinct items that the model does not know."""


@dataclass(frozen=True)
class Added:
    """The result of adding items to the catalogue."""

    added: int
    """The number of items that the model did not know."""
    known_items: list[Any]
    """The items that the model was fitted on. Their learned vectors are kept."""


class LiveModel:
    """Holds the model that is in service, as the attribute `now`. `observe` and `take_over` run in one thread, so no
    event is lost at a reload."""

    def __init__(
        self,
        model: Bert4Rec,
        *,
        path: str | Path | None = None,
        titles: Mapping[str, str] | None = None,
        candidate_files: Sequence[str | Path] = (),
        events: EventLog | None = None,
        settings: ServerSettings | None = None,
    ) -> None:
        """Put a model in service.

        Args:
            model: a fitted model. It observes the events of the log at once, except events that it already holds.
            path: the file that `load` reads, or None.
            titles: item id as text -> title.
            candidate_files: tables with a column of item ids. Each table becomes a list with the name of the file
                without its suffix.
            events: the log. None keeps events in memory only.
        """
        self.path = path
        self._titles = dict(titles or {})
        self._candidate_files = candidate_files
        self._events = EventLog(None) if events is None else events
        self._settings = settings or ServerSettings()
        self.now, _ = self._prepared(model)

    def load(self) -> tuple[Served, _Logged]:
        """Load the model file, and let the model observe the logged events. The result is for `take_over`.

        Raises:
            FileNotFoundError, CheckpointError: there is no such file, or it is damaged.
            DataError: a file of candidates, or the log, cannot be read.
        """
        assert self.path is not None
        return self._prepared(Bert4Rec.load(self.path, device=str(self.now.model.device)))

    def take_over(self, loaded: tuple[Served, _Logged]) -> None:
        """Put a loaded model in service, after it has observed the items and events that were logged since `load`."""
        served, last = loaded
        rows, _ = self._events.read_items(last.item)
        if rows:
            apply_rows(served.model, rows)
            every_row, _ = self._events.read_items()
            served = self._served(served.model, every_row, served.num_fitted_users, served.num_fitted_items)
        self._replay(served.model, after=last.event)
        self.now = served

    def observe(self, batches: Sequence[EventBatch]) -> list[Taken | Exception]:
        """Log batches of events, and let the model observe them. Each batch is accepted completely or not at all.

        Returns:
            the outcome of each batch, in order. The outcome of a refused batch is one of these errors:

            - UnknownIdError: an unknown item with on_unknown "raise", or an id of a type that no known id has.
            - LimitReachedError: a bound of the settings is reached.
            - DataError: a time counts another unit than the fitted log.
            - NotFittedError: the model has no histories.
            - OSError: the log cannot be written.
        """
        outcomes: list[Taken | Exception] = [Taken(0, [])] * len(batches)
        good: dict[int, list[LoggedEvent]] = {}
        for at, batch in enumerate(batches):
            try:
                good[at] = self._checked(batch, sum(map(len, good.values())))
            except CorerecError as error:
                outcomes[at] = error
        try:
            taken = self._events.append(list(good.values()))
        except OSError as error:
            log.error("the event log failed: %s", error)
            return [error if at in good else outcome for at, outcome in enumerate(outcomes)]
        for at, rows in zip(good, taken, strict=True):
            outcomes[at] = self._observed(rows)
        return outcomes

    def add_items(self, batches: Sequence[Sequence[CatalogueRow]]) -> list[Added | Exception]:
        """Log batches of items, and let the model rank them by their features. Each batch is accepted completely or not
        at all.

        Returns:
            the outcome of each batch, in order. The outcome of a refused batch is one of these errors:

            - DataError: the model has no features of items, or a value does not suit its column.
            - UnknownIdError: an id has a type that no known item's id has.
            - LimitReachedError: a bound of the settings is reached.
            - OSError: the log cannot be written.
        """
        outcomes: list[Added | Exception] = []
        for rows in batches:
            try:
                outcomes.append(self._added(rows))
            except CorerecError as error:
                outcomes.append(error)
            except OSError as error:
                log.error("the event log failed: %s", error)
                outcomes.append(error)
        return outcomes

    def _added(self, rows: Sequence[CatalogueRow]) -> Added:
        served = self.now
        model = served.model
        frame = features_frame(model, rows)
        new = {row.item_id for row in rows if not model.items.number_or_zero(row.item_id)}
        if any(map(_is_too_large, new)):
            raise UnknownIdError("ids are whole numbers of 64 bits, and one here is none")
        if len(model.items) - served.num_fitted_items + len(new) > self._settings.max_new_items:
            raise LimitReachedError(
                f"{self._settings.max_new_items:,} new items are as many as this server takes: fit again with them"
            )
        ids = [row.item_id for row in rows]
        known = list(compress(ids, (~model.fitted.is_new(model.items.encode(ids))).tolist()))
        self._events.append_items(rows)
        model.add_items(frame)
        added = [row.item_id for row in rows if row.item_id in new]
        self.now = replace(
            served,
            titles=served.titles.with_more(added, titles_of(rows) | self._titles),
            candidates=CandidateLists.read(self._candidate_files, model.items),
        )
        return Added(len(new), known)

    def close(self) -> None:
        self._events.close()

    # ------------------------------------------------------------------------------------------------ observing

    def _checked(self, batch: EventBatch, already: int) -> list[LoggedEvent]:
        """Check the events of a batch. In a log with times, give an event without a time the newest time so far, so
        that the event log records it.

        Args:
            already: the number of events that the log will hold without this batch.
        Raises:
            CorerecError: one of the errors that `observe` lists.
        """
        served, bounds = self.now, self._settings
        model, histories = served.model, histories_of(served.model)
        if histories is None:
            raise NotFittedError(WITHOUT_USERS)
        if len(self._events) + already + len(batch.events) > bounds.max_log_events:
            raise LimitReachedError(
                f"the event log holds {len(self._events):,} events and may hold {bounds.max_log_events:,}: fit again "
                "on them, and begin a new log"
            )
        new_users, counts, now, events = set(), dict[Any, int](), histories.now, []
        for event in batch.events:
            if _is_too_large(event.user_id) or _is_too_large(event.item_id):
                raise UnknownIdError(
                    f"ids are whole numbers of 64 bits, and {event.user_id} or {event.item_id} is none"
                )
            if _is_too_large(event.timestamp):
                raise DataError("a date is counted in nanoseconds, which 64 bits hold from 1678 to 2261")
            if batch.on_unknown == "raise":
                model.items.number(event.item_id)
            model.items.number_or_zero(event.item_id)  # raises at one of a foreign type
            user = histories.users.number_or_zero(event.user_id)
            if not user:
                new_users.add(event.user_id)
            counts[event.user_id] = counts.get(event.user_id, len(histories.items(user)) if user else 0) + 1
            if counts[event.user_id] > bounds.max_user_events:
                raise LimitReachedError(f"a user may have {bounds.max_user_events:,} events, and one here has as many")
            if now is not None:
                now = max(now, now if event.timestamp is None else event.timestamp)
                event = event._replace(timestamp=now if event.timestamp is None else event.timestamp)
            events.append(event)
        if len(histories.users) - served.num_fitted_users + len(new_users) > bounds.max_new_users:
            raise LimitReachedError(
                f"{bounds.max_new_users:,} new users are as many as this server takes: fit again on their events"
            )
        return events

    def _observed(self, rows: Sequence[tuple[int, LoggedEvent]]) -> Taken | Exception:
        """Let the model observe events that are in the log. If it refuses the events, delete them from the log."""
        model = self.now.model
        try:
            events = [event[:4] for _, event in rows if event.item_id in model.items]
            _observe(model, [list(column) for column in zip(*events, strict=True)])
        except CorerecError as error:
            try:
                self._events.remove([number for number, _ in rows])
            except OSError as failure:  # no harm: each start refuses them for the same reason
                log.error("events that were refused stay in the log: %s", failure)
            return error
        except Exception:  # the events are on disk, and the next start will read them, so an error would be wrong
            log.exception("events are in the log, and the model could not observe them")
        strangers = dict.fromkeys(event.item_id for _, event in rows if event.item_id not in model.items)
        return Taken(len(rows), list(strangers))

    # --------------------------------------------------------------------------------------------------- replaying

    def _prepared(self, model: Bert4Rec) -> tuple[Served, _Logged]:
        num_fitted_users = 0 if model.users is None else len(model.users)
        num_fitted_items = len(model.items)
        rows, last_item = self._events.read_items()
        taken = apply_rows(model, rows)
        if taken:
            log.info("%s ranks %s items of the catalogue", model.name, f"{taken:,}")
        if taken < len(rows):
            log.warning(
                "%s cannot rank %s items of the catalogue: it was fitted without items, or with other columns",
                model.name,
                f"{len(rows) - taken:,}",
            )
        last = self._replay(model, after=0)  # their events, too
        return self._served(model, rows, num_fitted_users, num_fitted_items), _Logged(last, last_item)

    def _served(
        self, model: Bert4Rec, rows: Sequence[CatalogueRow], num_fitted_users: int, num_fitted_items: int
    ) -> Served:
        popular = model.recommend(history=[], top_k=len(model.items), exclude_seen=False)
        titles = TitleIndex(popular, titles_of(rows) | self._titles)
        candidates = CandidateLists.read(self._candidate_files, model.items)
        return Served(model, titles, candidates, num_fitted_users, num_fitted_items, _digest(model))

    def _replay(self, model: Bert4Rec, after: int) -> int:
        """Let a model observe each logged event with a number above `after` once. Return the number of the last
        event."""
        started, taken, known, skipped = time.perf_counter(), 0, 0, 0
        known_events = (
            None
            if after or model.users is None
            else KnownEvents(histories_of(model), model.items, self._events.user_ids())
        )
        for columns in self._events.read(after):
            after = columns.numbers[-1]
            if model.users is None:
                skipped += len(columns)
                continue
            is_known = np.zeros(len(columns), bool) if known_events is None else known_events.find(columns)
            wanted = ~is_known & (model.items.encode(list(columns.item_ids)) > 0)
            rows = [list(compress(column, wanted.tolist())) for column in columns[1:5]]
            done = take_most(len(rows[0]), partial(_observe_rows, model, rows))
            known += int(is_known.sum())
            taken += done
            skipped += len(columns) - int(is_known.sum()) - done
        seconds = time.perf_counter() - started
        if known:
            log.info("%s was fitted on %s of the logged events", model.name, f"{known:,}")
        if taken:
            log.info("%s observed %s logged events in %.1f s", model.name, f"{taken:,}", seconds)
        if seconds > SLOW_REPLAY_S:
            log.warning(
                "fit again on the log (corerec events export), serve that model, and begin a new log: starts get faster"
            )
        if skipped:
            log.warning(
                "%s logged events are of items or users that %s cannot know; skipped", f"{skipped:,}", model.name
            )
        return after


def histories_of(model: Bert4Rec) -> Histories | None:
    """Return a model's histories with their times, which `Bert4Rec.history` leaves out. Return None if the model has no
    histories."""
    return model.fitted.histories


def _digest(model: Bert4Rec) -> str:
    digest = hashlib.blake2b(digest_size=8)
    digest.update(model.fingerprint.events.offsets.tobytes())
    digest.update(model.fingerprint.events.remainders.tobytes())
    return digest.hexdigest()


def _observe(model: Bert4Rec, columns: list[list[Any]]) -> None:
    """Let a model observe columns of user ids, item ids, times and ratings. Do nothing without events."""
    if columns and columns[0]:
        users, items, times, ratings = columns
        model.observe_events(users, items, _column(times), _column(ratings))


def _observe_rows(model: Bert4Rec, columns: list[list[Any]], first: int, end: int) -> None:
    _observe(model, [column[first:end] for column in columns])


def _column(values: list[Any]) -> list[Any] | None:
    return None if all(value is None for value in values) else values


def _is_too_large(number: Any) -> bool:
    """Return whether a whole number exceeds 64 bits, the limit of arrays and of SQLite."""
    return isinstance(number, int) and not -(2**63) <= number < 2**63
