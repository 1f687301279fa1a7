"""The model in service: what it observes is logged first, and a newer model takes its place between two requests."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corerec.engines.bert4rec import Bert4Rec
from corerec.errors import CorerecError, DataError, UnknownIdError
from corerec.serving.events import EventLog, LoggedEvent
from corerec.serving.titles import TitleIndex

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """One model with the catalogue that belongs to it; a request keeps to the one it began with."""

    model: Bert4Rec
    catalogue: TitleIndex


class LiveModel:
    """Answers come from `now`. `observe` and `take_over` belong to one thread: no event falls between two models."""

    def __init__(
        self,
        model: Bert4Rec,
        *,
        path: str | Path | None = None,
        titles: Mapping[str, str] | None = None,
        events: EventLog | None = None,
    ) -> None:
        """Args:
        model: fitted; observes the events of the log at once.
        path: the file that `load` reads; None where there is none to read.
        titles: of the items, by their ids as text.
        events: the log; None keeps events in memory only.
        """
        self.path = path
        self._titles = titles or {}
        self._events = events or EventLog(None)
        self.now, _ = self._prepared(model)

    def load(self) -> tuple[Served, int]:
        """The model of the file as it is now, with the log's events; for `take_over`.

        Raises:
            FileNotFoundError, CheckpointError: there is no such file, or it is damaged.
        """
        assert self.path is not None
        return self._prepared(Bert4Rec.load(self.path, device=str(self.now.model.device)))

    def take_over(self, loaded: tuple[Served, int]) -> None:
        """Make a loaded model the one in service, once it has observed what was logged since."""
        served, last = loaded
        self._replay(served.model, after=last)
        self.now = served

    def observe(self, batches: Sequence[Sequence[LoggedEvent]]) -> list[int | Exception]:
        """Log batches of events, each whole or not at all, and let the model observe them.

        Returns:
            for each batch the number of events that were new, or why none was taken: UnknownIdError for an item, or a
            type of user id, that the model does not know; DataError for a time by another clock than the fitted log's;
            NotFittedError for a model without histories; OSError where the log cannot be written.
        """
        model = self.now.model
        outcomes: list[int | Exception] = [0] * len(batches)
        good = []
        for at, batch in enumerate(batches):
            try:
                for event in batch:
                    model.items.number(event.item_id)
                    if _is_too_large(event.user_id):
                        raise UnknownIdError(f"user ids are whole numbers of 64 bits, and {event.user_id} is none")
                    if _is_too_large(event.timestamp):
                        raise DataError("a date is counted in nanoseconds, which 64 bits hold from 1678 to 2261")
                good.append(at)
            except CorerecError as error:
                outcomes[at] = error
        try:
            taken = self._events.append([batches[at] for at in good])
        except OSError as error:
            log.error("the event log failed: %s", error)
            return [error if at in good else outcome for at, outcome in enumerate(outcomes)]
        for at, rows in zip(good, taken, strict=True):
            try:
                _observe(model, [event for _, event in rows])
                outcomes[at] = len(rows)
            except CorerecError as error:
                self._events.remove([number for number, _ in rows])
                outcomes[at] = error
        return outcomes

    def close(self) -> None:
        self._events.close()

    def _prepared(self, model: Bert4Rec) -> tuple[Served, int]:
        last = self._replay(model, after=0)
        popular = model.recommend(history=[], top_k=len(model.items), exclude_seen=False)
        return Served(model, TitleIndex(popular, self._titles)), last

    def _replay(self, model: Bert4Rec, after: int) -> int:
        """Let a model observe the logged events behind number `after`; the number of the last."""
        taken = skipped = 0
        for rows in self._events.read(after):
            after = rows[-1][0]
            known = [event for _, event in rows if event.item_id in model.items]
            try:
                _observe(model, known)
                taken += len(known)
            except CorerecError:  # another model's events are among them
                for event in known:
                    try:
                        _observe(model, [event])
                        taken += 1
                    except CorerecError:
                        continue
            skipped += len(rows)
        skipped -= taken
        if taken or skipped:
            log.info("%s observed %s logged events again", model.name, f"{taken:,}")
        if skipped:
            log.warning(
                "%s logged events are of items or users that %s cannot know; skipped", f"{skipped:,}", model.name
            )
        return after


def _is_too_large(number: Any) -> bool:
    """For a column of whole numbers, here and in SQLite."""
    return isinstance(number, int) and not -(2**63) <= number < 2**63


def _observe(model: Bert4Rec, events: Sequence[LoggedEvent]) -> None:
    if not events:
        return
    users, items, times, ratings, _ = zip(*events, strict=True)
    model.observe_events(list(users), list(items), _column(times), _column(ratings))


def _column(values: Sequence[Any]) -> list[Any] | None:
    return None if all(value is None for value in values) else list(values)
