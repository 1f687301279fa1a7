"""What trains, what validates and what tests: by hand, as properties, and on the published files."""

import datetime
import gzip
import hashlib
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout, as_time, before, by_time, hold_out_last, hold_out_period, leave_one_out
from corerec.data.vocabulary import Vocabulary
from corerec.errors import ConfigError, DataError

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
    assert lists(rest.compact()) == [[1, 2, 3, 4], [6, 7], [3], []]
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


@pytest.mark.parametrize("targets", ["next", "last", "all"])
@repeatable
@given(
    events=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12)), max_size=25),
    start=st.integers(1, 12),
    days=st.one_of(st.none(), st.integers(1, 9)),
)
def test_a_period_asks_what_a_loop_over_users_gives(targets, events, start, days):
    events = sorted([*events, (5, 0), (5, start)])  # user 5 can be asked
    items = list(range(1, len(events) + 1))
    log = Interactions.from_columns([user for user, _ in events], items, timestamps=[time for _, time in events])
    end = np.inf if days is None else start + days
    expected, newcomers = {}, 0
    for number, user in enumerate(log.users.ids.tolist(), 1):
        mine = [(time, item) for (owner, time), item in zip(events, items, strict=True) if owner == user and time < end]
        first = sum(time < start for time, _ in mine)
        here = [item for _, item in mine]
        if len(here) == first:
            continue
        at = len(here) - 1 if targets == "last" else first
        if at == 0:
            newcomers += 1
        else:
            expected[number] = (here[:at], here[at : at + 1] if targets == "next" else here[at:])
    train, asked = hold_out_period(log, start, None if days is None else end, targets=targets)
    assert questions(asked) == expected
    assert sorted(train.sequences.items) == [
        item for (_, time), item in zip(events, items, strict=True) if time < start
    ]
    assert asked.num_newcomers == newcomers


def test_the_log_before_a_moment_has_no_later_ids():
    log = Interactions.from_columns(
        ["u", "v", "u", "w", "u"], ["a", "b", "c", "d", "a"], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]
    )
    early = before(log, 3)
    assert (early.users.ids.tolist(), early.items.ids.tolist()) == (["u", "v"], ["a", "b"])
    assert lists(early.sequences) == [[1], [2]]
    assert (early.sequences.times.tolist(), early.sequences.ratings.tolist()) == ([1, 2], [1, 2])
    whole = before(log, 99)
    assert lists(whole.sequences) == lists(log.sequences)
    with pytest.raises(DataError, match=r"no event is before 1: the log goes from 1 to 5"):
        before(log, 1)


# --- moments

MAY_2024 = 1_714_521_600  # 2024-05-01 in seconds
TICKS = [1, 10**3, 10**6, 10**9]


def store_at(*times) -> SequenceStore:
    return Interactions.from_columns(["u"] * len(times), range(len(times)), timestamps=list(times)).sequences


@pytest.mark.parametrize("ticks", TICKS)
@pytest.mark.parametrize(
    "moment",
    [
        "2024-05-01",
        " 2024-05-01 00:00 ",
        "2024-05-01T02:00:00+02:00",
        "2024-05",
        datetime.date(2024, 5, 1),
        datetime.datetime(2024, 5, 1),
        pd.Timestamp("2024-05-01"),
        pd.Timestamp("2024-05-01 09:00", tz="Asia/Tokyo"),
        np.datetime64("2024-05-01"),
        np.datetime64("2024-05-01T00:00:00.000000000"),
    ],
    ids=str,
)
def test_a_date_is_a_moment_in_the_unit_of_the_log(moment, ticks):
    times = np.array([MAY_2024 - 86_400, MAY_2024 + 86_400]) * ticks
    assert as_time(moment, store_at(*times.tolist())) == MAY_2024 * ticks


@pytest.mark.parametrize("moment", [MAY_2024, np.int64(MAY_2024), float(MAY_2024), str(MAY_2024), f" {MAY_2024}.0 "])
def test_a_number_is_a_moment_as_it_is(moment):
    assert as_time(moment, store_at(MAY_2024 - 1, MAY_2024 + 1)) == MAY_2024


def test_text_of_four_digits_is_a_year_unless_the_log_has_such_times():
    assert as_time("2024", store_at(0, 4000)) == 2024
    assert as_time("2024", store_at(MAY_2024, MAY_2024 + 1)) == pd.Timestamp("2024").timestamp()


def test_a_log_of_dates_splits_by_dates_of_every_kind():
    days = pd.date_range("2024-01-01", periods=9)
    log = Interactions.from_columns(["u"] * 9, range(9), timestamps=days)
    splits = [
        by_time(log, valid, test)
        for valid, test in itertools.product(
            ["2024-01-04", days[3], days[3].to_pydatetime(), days[3].to_datetime64(), days[3].value],
            ["2024-01-07", days[6], days[6].date(), str(days[6].value)],
        )
    ]
    assert {tuple(split.valid.targets.items) for split in splits} == {(4, 5, 6)}
    assert {tuple(split.test.targets.items) for split in splits} == {(7, 8, 9)}
    assert questions(by_time(log, "2024-01-04", "2024-01-07", "2024-01-08").test) == {1: ([1, 2, 3, 4, 5, 6], [7])}


@pytest.mark.parametrize(
    "moment",
    ["yesterday", "2024-13-01", pd.NaT, float("nan"), None, np.timedelta64(3, "D"), [1], True, ""],
    ids=str,
)
def test_what_is_no_moment_is_refused(moment):
    with pytest.raises(DataError, match=r"is no moment of this log, which goes from 2024-05-01.*write a number"):
        as_time(moment, store_at(MAY_2024, MAY_2024 + 1))


def test_a_date_in_a_log_without_dates_is_refused():
    with pytest.raises(DataError, match="no moment of this log, which goes from 1 to 30: write a number"):
        as_time("2024-05-01", store_at(1, 30))


def test_an_empty_period_says_what_times_the_log_has():
    store = store_at(MAY_2024, MAY_2024 + 60)
    with pytest.raises(DataError, match=r"2024-05-01 00:00:00 to 2024-05-01 00:01:00 \(1714521600 to 1714521660 s\)"):
        hold_out_period(store, "2025-01-01")
    with pytest.raises(DataError, match=r"must start \(2024-06-01\) before it ends \(2024-05-01\)"):
        hold_out_period(store, "2024-06-01", "2024-05-01")
    with pytest.raises(ConfigError, match='"next", "last" or "all", not \'first\''):
        hold_out_period(store, MAY_2024, targets="first")


# --- ids, and other numbers


def test_a_split_of_interactions_trains_interactions_and_knows_the_ids():
    log = Interactions.from_columns(["u"] * 4, list("abcd"), timestamps=range(4))
    for split in (leave_one_out(log), by_time(log, 1, 2)):
        assert (split.train.users, split.train.items) == (log.users, log.items)
        assert (split.test.user_vocabulary, split.test.item_vocabulary) == (log.users, log.items)
    of_store = leave_one_out(log.sequences)
    assert isinstance(of_store.train, SequenceStore)
    assert of_store.test.item_vocabulary is None


def test_questions_in_other_numbers():
    log = Interactions.from_columns(["u"] * 4 + ["v"] * 3, list("abcd" + "bax"), timestamps=range(7))
    test = leave_one_out(log).test
    other = test.numbered_by(Vocabulary(["x", "c", "b"]))
    assert questions(other) == {1: ([3, 2], [0]), 2: ([3], [1])}
    assert other.history.times.tolist() == [1, 2, 4]
    assert other.targets.times.tolist() == [3, 6]
    assert test.numbered_by(log.items) is test
    assert other.select(np.array([1])).item_vocabulary is other.item_vocabulary
    with pytest.raises(DataError, match="split the Interactions"):
        leave_one_out(log.sequences).test.numbered_by(log.items)


def test_ids_of_another_kind_are_the_same_items():
    test = leave_one_out(Interactions.from_columns(["u"] * 3, [7, 8, 9])).test
    assert questions(test.numbered_by(Vocabulary(["9", "7"]))) == {1: ([2], [1])}


def test_a_sample_is_some_of_the_questions_in_their_order(cycle_log):
    test = leave_one_out(cycle_log).test
    some = test.sample(10)
    assert len(some) == 10
    assert (np.diff(some.users) > 0).all()
    assert questions(some).items() <= questions(test).items()
    assert np.array_equal(test.sample(10).users, some.users)
    assert not np.array_equal(test.sample(10, seed=1).users, some.users)
    assert test.sample(len(test)) is test


def test_a_split_of_some_users_asks_those_of_the_sample(cycle_log):
    whole, some = leave_one_out(cycle_log), leave_one_out(cycle_log, max_users=5)
    for ours, theirs in ((some.valid, whole.valid.sample(5)), (some.test, whole.test.sample(5))):
        assert ours.users.tolist() == theirs.users.tolist()
        assert ours.history.items.tolist() == theirs.history.items.tolist()
        assert ours.targets.items.tolist() == theirs.targets.items.tolist()
    assert some.train.sequences.items.tolist() == whole.train.sequences.items.tolist()


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
