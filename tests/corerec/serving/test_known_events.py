"""The logged events that a model holds are recognised: of equal ones, as many as it holds."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data.histories import Histories
from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.vocabulary import Vocabulary
from corerec.serving import known_events
from corerec.serving.events import EventColumns
from corerec.serving.known_events import KnownEvents

EVENT = st.tuples(st.sampled_from(["ann", "bob"]), st.sampled_from(["tea", "mug"]), st.integers(0, 2))


def of_log(events) -> tuple[Histories, Vocabulary]:
    users, items, times = zip(*events, strict=True)
    log = Interactions.from_columns(list(users), list(items), timestamps=list(times))
    return Histories(log.sequences, log.users), log.items


def columns(events) -> EventColumns:
    users, items, times = zip(*events, strict=True) if events else ((), (), ())
    none = [None] * len(events)
    return EventColumns(list(range(1, len(events) + 1)), list(users), list(items), list(times), none, none)


def found(known: KnownEvents, events) -> list[bool]:
    return known.find(columns(events)).tolist()


def by_hand(held, logged) -> list[bool]:
    left, answers = Counter(held), []
    for event in logged:
        answers.append(left[event] > 0)
        left[event] -= 1
    return answers


@pytest.mark.filterwarnings("ignore:.*repeat another row")
@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(EVENT, min_size=1, max_size=8), st.lists(EVENT, max_size=8), st.integers(0, 8), st.booleans())
def test_the_first_of_equal_events_are_known_as_often_as_the_model_holds_them(held, logged, cut, collide):
    """In two calls as in one; and where all hashes are equal, by their fields."""
    with pytest.MonkeyPatch.context() as patch:
        if collide:
            patch.setattr(known_events, "_hashes", lambda fields: fields[0].astype(np.uint64))
        histories, items = of_log(held)
        known = KnownEvents(histories, items, ["ann", "bob"])
        answers = found(known, logged[:cut]) + found(known, logged[cut:])
    if not collide:
        assert answers == by_hand(held, logged)
    assert not any(answer and event not in held for answer, event in zip(answers, logged, strict=True))


def test_strangers_and_other_times_are_not_known():
    histories, items = of_log([("ann", "tea", 5), ("bob", "mug", 6)])
    known = KnownEvents(histories, items, ["ann", "bob", "eve"])
    assert found(known, [("eve", "tea", 5), ("ann", "cup", 5), ("ann", "tea", 6), ("ann", "tea", None)]) == [False] * 4
    assert found(known, [("ann", "tea", 5.75)]) == [True]  # a log of whole times rounds it down
    assert found(known, [("bob", "mug", 1e300), ("bob", "mug", math.inf)]) == [False, False]


def test_only_the_named_users_are_looked_at():
    histories, items = of_log([("ann", "tea", 5), ("bob", "mug", 6)])
    assert found(KnownEvents(histories, items, ["ann"]), [("ann", "tea", 5), ("bob", "mug", 6)]) == [True, False]


def test_a_log_of_broken_times_compares_them_whole():
    histories, items = of_log([("ann", "tea", 5.5), ("ann", "mug", 6.0)])
    known = KnownEvents(histories, items, ["ann"])
    assert found(known, [("ann", "tea", 5.5), ("ann", "tea", 5), ("ann", "mug", 6)]) == [True, False, True]


def test_a_log_without_times_compares_user_and_item():
    store = SequenceStore.from_lists([[1, 1, 2]])
    known = KnownEvents(Histories(store, Vocabulary(["ann"], "user")), Vocabulary(["tea", "mug"]), ["ann"])
    assert found(known, [("ann", "tea", 3), ("ann", "tea", None), ("ann", "tea", 9)]) == [True, True, False]


def test_a_model_without_histories_knows_none():
    known = KnownEvents(None, Vocabulary(["tea"]), ["ann"])
    assert found(known, [("ann", "tea", 1)]) == [False]
    assert found(known, []) == []
