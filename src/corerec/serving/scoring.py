"""The computations in the server's threads: many recommendations at once, and other requests one at a time."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from corerec.engines.bert4rec import Bert4Rec, Query
from corerec.engines.bert4rec.explain import Reason, event_weights, how_often_followed
from corerec.errors import CorerecError
from corerec.queries import Recommendations
from corerec.serving.live import Served

log = logging.getLogger(__name__)
REASONS = 3
EXPLAINED = 50  # newest events: older ones were among the first three reasons once in thirty, at four times the cost


@dataclass(frozen=True)
class Ask:
    """A query, and the model that answers it."""

    served: Served
    query: Query


def answer_all(asks: Sequence[Ask]) -> list[Recommendations | Exception]:
    """Return for each query its answer, or the error that it raised, in the order of the queries.

    Queries to the same model are scored together. Just after a reload, there may be queries to two models.
    """
    answers: list[Any] = [None] * len(asks)
    for served in {id(ask.served): ask.served for ask in asks}.values():
        places = [at for at, ask in enumerate(asks) if ask.served is served]
        queries = [asks[at].query for at in places]
        try:
            replies = served.model.answer(queries, return_errors=True)
        except Exception as error:
            # One bad request must not make the other requests of its batch fail.
            log.exception("a batch failed; its queries are asked one by one")
            replies = [error] if len(queries) == 1 else [_alone(served, query) for query in queries]
        for at, reply in zip(places, replies, strict=True):
            answers[at] = reply
    return answers


def _alone(served: Served, query: Query) -> Recommendations | Exception:
    try:
        return served.model.answer([query])[0]
    except Exception as error:
        return error


def do_all(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run each job, and return its result or the CorerecError that it raised, in the order of the jobs."""
    results = []
    for job in jobs:
        try:
            results.append(job())
        except CorerecError as error:
            results.append(error)
    return results


def reasons_for(
    model: Bert4Rec,
    item_ids: Sequence[Any],
    user_id: Any = None,
    history: Sequence[Any] | None = None,
    at: Any = None,
) -> list[list[Reason]]:
    """Explain each item by at most three events, the event with the largest effect first. Of equal effects, the newer
    event's comes first."""
    times, asked_at = None, math.nan
    if history is None:
        known = model.fitted.known_histories()
        row = known.select(known.users.encode([user_id])).asked_at_moments(np.array([known.moment(at)]))
        if row.asked_at is not None:
            asked_at = float(row.asked_at[0])
        events, times = model.items.decode(row.items), row.times
    else:
        events = list(history)
    if not events:
        return [[] for _ in item_ids]
    numbers, asked = model.items.encode(events), model.items.encode(list(item_ids))
    transitions = model.fitted.transitions
    weights = event_weights(
        model.fitted.network, numbers, asked, transitions=transitions, newest=EXPLAINED, times=times, asked_at=asked_at
    )
    followed = how_often_followed(transitions, numbers, asked)
    newest = int(np.flatnonzero(numbers)[-1]) if numbers.any() else -1
    # All rows at once: a thousand sorted one by one take longer than the network does.
    newest_first = np.nan_to_num(weights[:, ::-1], nan=-1.0)
    best = np.argsort(-newest_first, axis=1, kind="stable")[:, :REASONS]
    values = np.take_along_axis(newest_first, best, axis=1)
    places = (len(events) - 1 - best).tolist()
    return [
        [
            Reason(at, events[at], weight, often if at == newest else None)
            for at, weight in zip(row, row_weights, strict=True)
            if weight > 0
        ]
        for row, row_weights, often in zip(places, values.tolist(), followed, strict=True)
    ]
