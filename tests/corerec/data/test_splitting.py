"""What trains, what validates and what tests: by hand, as properties, and on the published files."""

import gzip
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout, by_time, hold_out_last, leave_one_out
from corerec.errors import DataError

repeatable = settings(max_examples=100, deadline=None, derandomize=True)


def lists(store: SequenceStore) -> list[list[int]]:
    return [store.row(row).tolist() for row in range(len(store))]


def questions(holdout: Holdout) -> dict[int, tuple[list[int], list[int]]]:
    """user number -> (history, targets)."""
    pairs = zip(lists(holdout.history), lists(holdout.targets), strict=True)
    return dict(zip(holdout.users.tolist(), pairs, strict=True))


# --- leave-one-out


def test_leave_one_out_by_hand(tiny):
    split = leave_one_out(tiny)
    assert lists(split.train) == [[1, 2, 3], [6], [3], []]
    assert questions(split.valid) == {1: ([1, 2, 3], [4]), 2: ([6], [7])}
    assert questions(split.test) == {1: ([1, 2, 3, 4], [5]), 2: ([6, 7], [1])}


def test_two_events_are_too_few_to_ask_about():
    split = leave_one_out(SequenceStore.from_lists([[1, 2], [3, 4, 5]]))
    assert lists(split.train) == [[1, 2], [3]]
    assert split.valid.users.tolist() == split.test.users.tolist() == [2]


@repeatable
@given(
    st.lists(st.lists(st.integers(1, 9), max_size=6), max_size=8), st.lists(st.integers(1, 9), min_size=3, max_size=5)
)
def test_leave_one_out_loses_no_event_and_asks_for_the_last_two(sequences, long_one):
    sequences = [*sequences, long_one]
    split = leave_one_out(SequenceStore.from_lists(sequences))
    asked = [user for user, sequence in enumerate(sequences, 1) if len(sequence) >= 3]
    assert list(questions(split.valid)) == list(questions(split.test)) == asked
    train, valid, test = lists(split.train), questions(split.valid), questions(split.test)
    for user, sequence in enumerate(sequences, 1):
        if user in asked:
            assert train[user - 1] + valid[user][1] + test[user][1] == sequence
            assert valid[user] == (sequence[:-2], sequence[-2:-1])
            assert test[user] == (sequence[:-1], sequence[-1:])
        else:
            assert train[user - 1] == sequence


def test_times_and_ratings_stay_with_their_events():
    store = Interactions.from_columns([1, 1, 1], [7, 8, 9], [3, 4, 5], [10, 20, 30]).sequences
    split = leave_one_out(store)
    assert split.train.times.tolist() == [10]
    assert split.valid.targets.times.tolist() == [20]
    assert split.test.targets.ratings.tolist() == [5]
    assert split.test.history.ratings.tolist() == [3, 4]


def test_a_log_of_short_histories_cannot_be_left_one_out():
    with pytest.raises(DataError, match="users with at least three events"):
        leave_one_out(SequenceStore.from_lists([[1, 2], [3], []]))


def test_hold_out_last_asks_the_rows_in_the_order_given(tiny):
    rest, question = hold_out_last(tiny, np.array([1, 0]))
    assert lists(rest) == [[1, 2, 3, 4], [6, 7], [3], []]
    assert list(questions(question).items()) == [(2, ([6, 7], [1])), (1, ([1, 2, 3, 4], [5]))]


# --- by time


def test_by_time_by_hand():
    store = Interactions.from_columns(
        ["u", "u", "u", "u", "v", "v", "w", "x", "x"],
        [1, 2, 3, 4, 1, 2, 3, 1, 4],
        timestamps=[1, 10, 19, 20, 5, 25, 30, 10, 12],
    ).sequences
    split = by_time(store, valid_from=10, test_from=20)
    assert lists(split.train) == [[1], [1], [], []]
    # w and x have no event before the period of validation, v has none inside it.
    assert questions(split.valid) == {1: ([1], [2, 3])}
    # x has no event in the period of test, w none before it.
    assert questions(split.test) == {1: ([1, 2, 3], [4]), 2: ([1], [2])}


@repeatable
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 20)), max_size=25),
    st.integers(1, 10),
    st.integers(1, 9),
)
def test_by_time_is_what_a_loop_over_users_gives(events, valid_from, days):
    test_from = valid_from + days
    # User 5 has one event in each part, so that none is empty.
    events = [*events, (5, 0), (5, valid_from), (5, test_from)]
    events = sorted(events)
    items = list(range(1, len(events) + 1))
    log = Interactions.from_columns([user for user, _ in events], items, timestamps=[time for _, time in events])
    split = by_time(log.sequences, valid_from, test_from)

    train, valid, test = [], {}, {}
    for number, user in enumerate(log.users.ids.tolist(), 1):
        mine = [(time, item) for (owner, time), item in zip(events, items, strict=True) if owner == user]
        before, until = [i for t, i in mine if t < valid_from], [i for t, i in mine if t < test_from]
        train.append(before)
        if before and len(until) > len(before):
            valid[number] = (before, until[len(before) :])
        if until and len(mine) > len(until):
            test[number] = (until, [i for _, i in mine[len(until) :]])
    assert lists(split.train) == train
    assert questions(split.valid) == valid
    assert questions(split.test) == test


def test_by_time_needs_times():
    with pytest.raises(DataError, match="needs timestamps"):
        by_time(SequenceStore.from_lists([[1, 2, 3]]), 1, 2)


@pytest.mark.parametrize(
    ("valid_from", "test_from", "message"),
    [
        (20, 10, r"valid_from \(20\) must come before test_from \(10\)"),
        (20, 20, r"valid_from \(20\) must come before test_from \(20\)"),
        (1, 3, "before and inside the validation period"),
        (2, 9, "before and inside the test period"),
    ],
)
def test_by_time_refuses_boundaries_that_leave_nothing_to_ask(valid_from, test_from, message):
    store = Interactions.from_columns([1, 1, 1], [1, 2, 3], timestamps=[1, 2, 3]).sequences
    with pytest.raises(DataError, match=message):
        by_time(store, valid_from, test_from)


# --- the split that every published figure is quoted on


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "num_users", "sha256"),
    [
        ("ml-1m-sasrec.txt.gz", 6_040, "5ceccec2eb195a123f519f51cf290ae618644a746c8ad858d672855dca3a1d3f"),
        ("beauty.txt.gz", 40_226, "181e625dc74122f5dc661e93a027b976e39845a02bb4fedaa206945bb2aec118"),
    ],
)
def test_test_targets_are_the_published_ones(data_file, name, num_users, sha256):
    with gzip.open(data_file(name), "rt") as file:
        events = np.array(file.read().split(), np.int64).reshape(-1, 2)
    log = Interactions.from_columns(events[:, 0], events[:, 1])
    test = leave_one_out(log.sequences).test
    user_ids = np.array(log.users.decode(test.users))
    item_ids = np.array(log.items.decode(test.targets.items))
    assert len(user_ids) == num_users
    lines = "".join(f"{user_ids[row]} {item_ids[row]}\n" for row in np.argsort(user_ids))
    assert hashlib.sha256(lines.encode()).hexdigest() == sha256
