"""What was observed lands where its time says, all of it or nothing, and readers beside a writer see whole rows."""

import datetime as dt
import threading

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data import histories as module
from corerec.data.histories import Histories
from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError, UnknownIdError


@pytest.fixture
def timed():
    """ann did 1, 2, 3 at the times 10, 20, 20; bob did 4 at 15."""
    store = SequenceStore(
        np.array([1, 2, 3, 4], np.int32),
        np.array([0, 3, 4]),
        np.array([10, 20, 20, 15]),
        np.arange(4, dtype=np.float32),
    )
    return Histories(store, Vocabulary(["ann", "bob"], "user"))


@pytest.fixture
def untimed():
    return Histories(SequenceStore.from_lists([[1, 2, 3], [4]]), Vocabulary(["ann", "bob"], "user"))


def items_of(histories, user_id):
    return histories.items(histories.users.number(user_id)).tolist()


def times_of(histories, user_id):
    return histories.select(np.array([histories.users.number(user_id)])).times.tolist()


def everything(histories):
    users, store = histories.snapshot()
    columns = (store.items, store.offsets, store.times, store.ratings)
    return users.ids.tolist(), [None if column is None else column.tolist() for column in columns]


# ------------------------------------------------------------------------------------------------------ time order


def test_a_late_event_lands_in_time_order(timed):
    timed.append(["ann", "ann"], np.array([7, 8]), [15, 5])
    assert items_of(timed, "ann") == [8, 1, 7, 2, 3]
    assert times_of(timed, "ann") == [5, 10, 15, 20, 20]


def test_events_of_one_time_stay_in_the_order_they_came(timed):
    timed.append(["ann"] * 3, np.array([7, 8, 9]), [20, 10, 20])
    timed.append(["ann"], np.array([6]), [20])
    assert items_of(timed, "ann") == [1, 8, 2, 3, 7, 9, 6]


def test_an_event_without_a_time_happens_now(timed):
    timed.append(["bob"], np.array([7]))
    timed.append(["bob", "bob", "bob"], np.array([8, 9, 6]), [18, None, 30])
    timed.append(["bob"], np.array([5]))
    assert items_of(timed, "bob") == [4, 8, 7, 9, 6, 5]
    assert times_of(timed, "bob") == [15, 18, 20, 20, 30, 30]  # 20: the newest time of anyone's


def test_a_log_without_times_takes_events_in_the_order_they_come(untimed):
    untimed.append(["ann", "ann"], np.array([7, 8]), [2, 1])
    assert items_of(untimed, "ann") == [1, 2, 3, 7, 8]
    assert untimed.select(np.array([1])).times is None


def test_a_broken_time_in_a_log_of_whole_ones_is_rounded_down(timed):
    timed.append(["bob", "bob"], np.array([7, 8]), [15.9, 16.2])
    assert times_of(timed, "bob") == [15, 15, 16]


@pytest.mark.parametrize("times", [[1.5, 0.5], np.array([1.5, 0.5]), pd.Series([1.5, 0.5], index=[9, 9])])
def test_broken_times_stay_as_they_are_in_a_log_of_broken_ones(times):
    log = Interactions.from_columns(["ann"], ["a"], timestamps=[1.25])
    histories = Histories(log.sequences, log.users)
    histories.append(["ann", "ann"], np.array([1, 1]), times)
    assert times_of(histories, "ann") == [0.5, 1.25, 1.5]


@pytest.mark.parametrize(
    "time", ["2024-05-02", dt.datetime(2024, 5, 2), pd.Timestamp("2024-05-02"), np.datetime64("2024-05-02")]
)
def test_a_log_of_dates_takes_any_kind_of_date(time):
    log = Interactions.from_columns(["ann", "ann"], ["a", "b"], timestamps=["2024-05-01", "2024-05-03"])
    histories = Histories(log.sequences, log.users)
    histories.append(["ann", "ann"], np.array([1, 1]), [time, None])
    assert times_of(histories, "ann") == [pd.Timestamp(2024, 5, day).value for day in (1, 2, 3, 3)]


@pytest.mark.parametrize(
    ("fitted", "observed"), [("2024-05-01", 1_714_600_000), (1_714_600_000, "2024-05-01"), (1.7e9, dt.date(2024, 5, 1))]
)
def test_a_time_in_another_unit_than_the_logs_is_refused(fitted, observed):
    log = Interactions.from_columns(["ann"], ["a"], timestamps=[fitted])
    histories = Histories(log.sequences, log.users)
    with pytest.raises(DataError, match=r"at row 1, .* the log's own unit"):
        histories.append(["ann", "ann"], np.array([1, 1]), [None, observed])
    assert items_of(histories, "ann") == [1]


# ------------------------------------------------------------------------------------------------ users and ratings


def test_new_users_appear_by_being_observed(timed):
    timed.append(["eve", "ann", "eve"], np.array([5, 6, 7]), [3, 30, 2])
    assert timed.users.ids.tolist() == ["ann", "bob", "eve"]
    assert (items_of(timed, "eve"), items_of(timed, "ann"), items_of(timed, "bob")) == ([7, 5], [1, 2, 3, 6], [4])
    assert [row.tolist() for row in map(timed.select(np.array([3, 2, 3])).row, range(3))] == [[7, 5], [4], [7, 5]]


def test_what_was_fitted_stays_as_it_was(timed):
    store, users = timed.snapshot()[1], Vocabulary(["ann", "bob"], "user")
    before = store.items.copy()
    histories = Histories(store, users)
    histories.append(["ann", "eve"], np.array([9, 9]))
    assert (len(users), len(store), store.items.tolist()) == (2, 2, before.tolist())


def test_a_missing_rating_is_nan_where_the_log_has_ratings(timed):
    timed.append(["bob"] * 3, np.array([5, 6, 7]), None, [4, None, 2.5])
    timed.append(["bob"], np.array([8]))
    ratings = timed.select(np.array([2])).ratings
    np.testing.assert_array_equal(ratings, np.array([3, 4, np.nan, 2.5, np.nan], np.float32))


def test_ratings_are_not_kept_where_the_log_had_none(untimed):
    untimed.append(["bob"], np.array([5]), None, [4])
    assert untimed.select(np.array([2])).ratings is None


@pytest.mark.parametrize("make", [list, tuple, np.array, pd.Series, pl.Series])
def test_any_kind_of_column_is_taken(timed, make):
    assert timed.append(make(["bob", "eve"]), np.array([5, 6]), make([14, 16]), make([1.0, 2.0])) == 2
    assert (items_of(timed, "bob"), items_of(timed, "eve")) == ([5, 4], [6])


# --------------------------------------------------------------------------------------------------- all or nothing


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        ({"user_ids": ["ann", "eve", None]}, DataError, "missing"),
        ({"user_ids": ["ann", "eve", 7]}, UnknownIdError, "of type str, this one is int"),
        ({"user_ids": ["ann", "eve", ["x"]]}, DataError, "hashable"),
        ({"user_ids": ["ann", "eve"]}, DataError, "user_ids has 2 values and item_ids 3"),
        ({"user_ids": "ann"}, DataError, "pass a list"),
        ({"timestamps": [99, 1]}, DataError, "user_ids has 3 values and timestamps 2"),
        ({"timestamps": [99, 1, float("nan")]}, DataError, "row 2"),
        ({"timestamps": [99, None, float("inf")]}, DataError, "row 2"),
        ({"timestamps": [99, 1, 10**20]}, DataError, "row 2"),
        ({"timestamps": [99, None, "soon"]}, DataError, "'soon'"),
        ({"timestamps": 99}, DataError, "pass a list"),
        ({"ratings": [1, None, float("nan")]}, DataError, "row 2"),
        ({"ratings": [1, "good", 2]}, DataError, "row 1"),
        ({"ratings": [1, None, 1e39]}, DataError, "row 2"),
        ({"ratings": [1]}, DataError, "ratings 1"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_bad_event_takes_nothing_of_its_batch(timed, wrong, error, match):
    good = {"user_ids": ["ann", "eve", "zoe"], "timestamps": [99, 1, 2], "ratings": [1, 2, 3]}
    before = everything(timed)
    with pytest.raises(error, match=match):
        timed.append(**{"items": np.array([1, 2, 3]), **good, **wrong})
    assert everything(timed) == before
    timed.append(["ann"], np.array([5]))
    assert times_of(timed, "ann")[-1] == 20  # nor is the refused 99 the time that "now" is


def test_nothing_observed_changes_nothing(timed):
    before = everything(timed)
    assert timed.append([], np.zeros(0, np.int64)) == 0
    assert everything(timed) == before


# ------------------------------------------------------------------------------------------------ any order, any size

events = st.tuples(st.integers(0, 5), st.integers(1, 9), st.one_of(st.none(), st.integers(0, 12)))


@given(batches=st.lists(st.lists(events, max_size=6), max_size=12), fewest=st.sampled_from([1, 3, 1024]))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_any_batches_leave_what_one_stable_sort_would(batches, fewest):
    kept = module.FEWEST_ROWS_TO_FOLD
    module.FEWEST_ROWS_TO_FOLD = fewest  # so that rows are folded into the store at any moment
    try:
        store = SequenceStore(np.array([1, 2, 3], np.int32), np.array([0, 2, 3]), np.array([4, 6, 5]))
        histories = Histories(store, Vocabulary([0, 1], "user"))
        rows = {0: [(4, 1), (6, 2)], 1: [(5, 3)]}
        newest = 6
        for batch in batches:
            if batch:
                users, items, times = zip(*batch, strict=True)
                histories.append(list(users), np.array(items), list(times))
            for user, item, time in batch:
                time = newest if time is None else time
                newest = max(newest, time)
                rows[user] = sorted([*rows.get(user, []), (time, item)], key=lambda event: event[0])
        numbers = np.array([histories.users.number(user) for user in rows])
        chosen = histories.select(numbers)
        assert [chosen.row(at).tolist() for at in range(len(rows))] == [[item for _, item in r] for r in rows.values()]
        assert chosen.times.tolist() == [time for row in rows.values() for time, _ in row]
        assert [histories.items(number).tolist() for number in numbers] == [
            [item for _, item in row] for row in rows.values()
        ]
        assert len(histories.users) == len(rows)
    finally:
        module.FEWEST_ROWS_TO_FOLD = kept


def test_one_event_does_not_copy_the_store(timed, monkeypatch):
    def never(*_):
        raise AssertionError("the store was copied")

    monkeypatch.setattr(SequenceStore, "select", never)
    monkeypatch.setattr(SequenceStore, "ranges", never)
    for _ in range(100):
        timed.append(["ann", "eve"], np.array([5, 6]))
    assert len(items_of(timed, "ann")) == 103


def test_many_changed_rows_are_folded_into_a_new_store(monkeypatch):
    monkeypatch.setattr(module, "FEWEST_ROWS_TO_FOLD", 10)
    store = SequenceStore.from_lists([[user] for user in range(1, 41)])
    histories = Histories(store, Vocabulary(range(1, 41), "user"))
    for user in range(1, 100):
        histories.append([user], np.array([user]))
        assert len(histories._view.rows) <= 25
    assert [items_of(histories, user) for user in (1, 40, 41, 99)] == [[1, 1], [40, 40], [41], [99]]


# ----------------------------------------------------------------------------------------------------------- threads


def test_readers_beside_a_writer_see_whole_histories(monkeypatch):
    """Items are their own times and come in any order: a torn or half-written row would not be sorted."""
    monkeypatch.setattr(module, "FEWEST_ROWS_TO_FOLD", 3)
    users, per_user = 8, 150
    store = SequenceStore(np.ones(users, np.int32), np.arange(users + 1), np.ones(users, np.int64))
    histories = Histories(store, Vocabulary(range(users), "user"))
    done, wrong = threading.Event(), []

    def write():
        random = np.random.default_rng(0)
        for item in random.permutation(np.arange(2, per_user)):
            who = random.permutation(users + 4)  # four of them new
            histories.append(who.tolist(), np.full(len(who), item), np.full(len(who), item))
        done.set()

    def read():
        lengths = np.zeros(users, np.int64)
        while not done.is_set() and not wrong:
            seen = histories.select(np.arange(1, users + 1))
            rows = np.repeat(np.arange(users), seen.lengths)
            ahead = (np.diff(seen.items) > 0) | (np.diff(rows) > 0)
            if not (ahead.all() and (seen.items == seen.times).all() and (seen.lengths >= lengths).all()):
                wrong.append(seen)
            lengths = seen.lengths
            for user_id in histories.users.ids.tolist():  # whoever is known has a history
                if (np.diff(histories.items(histories.users.number(user_id))) <= 0).any():
                    wrong.append(user_id)
            users_now, store_now = histories.snapshot()
            if len(users_now) != len(store_now) or len(set(store_now.lengths[:users].tolist())) > 1:
                wrong.append(store_now)

    threads = [threading.Thread(target=work) for work in (read, read, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert histories.snapshot()[1].num_events == users * (per_user - 1) + 4 * (per_user - 2)


def test_whoever_finds_a_new_user_finds_the_history(timed, monkeypatch):
    add_all, found = timed.users.add_all, []

    def watched(user_ids):
        first = len(timed.users) + 1
        found.extend(timed.items(first + at).tolist() for at in range(len(user_ids)))  # before they can be known
        return add_all(user_ids)

    monkeypatch.setattr(timed.users, "add_all", watched)
    timed.append(["eve", "zoe", "eve"], np.array([5, 6, 7]))
    assert found == [[5, 7], [6]]


def test_a_snapshot_is_of_one_moment(timed, monkeypatch):
    timed.append(["ann", "eve"], np.array([5, 6]), None, [4, 2])
    before, select = everything(timed), module._View.select

    def overtaken(view, at):
        monkeypatch.setattr(module._View, "select", select)
        timed.append(["ann", "eve", "bob", "zoe"], np.array([7, 7, 7, 7]), None, [1, 1, 1, 1])
        return select(view, at)

    monkeypatch.setattr(module._View, "select", overtaken)
    assert everything(timed) == before
    assert everything(timed) != before


# ------------------------------------------------------------------------------------------------ one clock


@pytest.mark.parametrize(
    ("log", "observed"),
    [
        ([1_600_000_000, 1_600_000_500], 1_600_000_600_000),  # seconds, then milliseconds
        ([1_600_000_000_000], 1_600_000_001),
        ([1_600_000_000_000], 1_600_000_001_000_000_000),
        ([1_600_000_000], 12_345),  # a step
        ([1, 2, 3], 1_600_000_000),
        ([1.6e9], 1.6e12),
        ([1_600_000_000], 16_000_000_010),  # ten times as late: 100-nanosecond ticks and their like
    ],
)
def test_a_time_of_another_unit_is_refused_and_does_not_become_now(log, observed):
    fitted = Interactions.from_columns(["ann"] * len(log), list(range(len(log))), timestamps=log)
    histories = Histories(fitted.sequences, fitted.users)
    with pytest.raises(DataError, match=r"the log's times are from .* times .*; give times in the log's own unit"):
        histories.append(["ann"], np.array([1]), [observed])
    histories.append(["ann"], np.array([1]))
    assert times_of(histories, "ann")[-1] == log[-1]


@pytest.mark.parametrize(
    ("log", "observed"), [([1_600_000_000], 1_000_000_000), ([1_600_000_000], 2_000_000_000), ([1, 2], 90), ([5e-3], 7)]
)
def test_late_and_later_times_of_the_same_clock_are_taken(log, observed):
    fitted = Interactions.from_columns(["ann"] * len(log), list(range(len(log))), timestamps=log)
    histories = Histories(fitted.sequences, fitted.users)
    histories.append(["ann"], np.array([1]), [observed])
    assert observed in times_of(histories, "ann")


def test_an_id_that_no_file_can_hold_is_refused_and_nothing_of_the_call_is_kept(timed):
    before = everything(timed)
    for wrong in ("\udc80", "nan", ""):
        with pytest.raises(DataError, match="user_ids has"):
            timed.append([wrong], np.array([1]))
    assert everything(timed) == before
    timed.append(["eve"], np.array([2]))
    assert items_of(timed, "eve") == [2]


@pytest.mark.parametrize("has_times", [True, False])
def test_many_users_events_at_once_are_what_they_are_one_by_one(timed, untimed, has_times, monkeypatch):
    together, alone = (timed, Histories(*reversed(timed.snapshot()))) if has_times else (
        untimed, Histories(*reversed(untimed.snapshot()))
    )  # fmt: skip
    draw = np.random.default_rng(0)
    users = ["ann", "bob", *(f"user {n}" for n in draw.integers(0, 40, 198))]
    items, times = draw.integers(1, 5, 200), draw.integers(0, 30, 200)
    monkeypatch.setattr(module, "FEWEST_ROWS_TO_FOLD", 4)

    ratings = draw.integers(1, 6, 200)
    together.append(users, items, times, ratings)
    monkeypatch.setattr(module, "FEWEST_ROWS_TO_FOLD", 10**6)
    for user, item, time, rating in zip(users, items, times, ratings, strict=True):
        alone.append([user], np.array([item]), np.array([time]), np.array([rating]))

    assert everything(together) == everything(alone)
    assert not together._view.rows
