from collections import Counter

import numpy as np
import pytest

from corerec.data.interactions import Interactions
from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec.merging import MergedLog, _known_again, merge

L = 4  # max_seq_len


def merged(rows, is_new):
    """A log of rows of item numbers, each with 0 for an old event and 1 for a new one."""
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    log = Interactions.from_columns(users, np.concatenate(rows))
    return MergedLog(log, np.concatenate(is_new).astype(bool))


def rows_of(part):
    return [part.row(row).tolist() for row in range(len(part))]


def test_of_equal_events_as_many_are_known_as_there_are():
    rows, items, times = np.zeros(5, int), np.array([1, 1, 1, 2, 2]), np.zeros(5, int)
    is_new = np.array([False, True, True, True, True])
    assert _known_again(rows, items, times, is_new).tolist() == [False, True, False, False, False]


def test_the_newest_event_of_a_tenth_of_the_users_with_new_ones_is_held_out():
    log = merged([[1, 2, 3]] * 20 + [[1, 2]] * 20, [[0, 0, 1]] * 20 + [[0, 0]] * 20)
    rest, queries = log.without_newest(seed=0)
    assert len(queries) == 2
    assert (queries.users <= 20).all()  # nobody without new events is asked
    assert queries.targets.items.tolist() == [3, 3]
    assert rest.sequences.num_events == len(rest.is_new) == 98
    assert rest.is_new.sum() == 18
    assert (rest.sequences.lengths[queries.users - 1] == 2).all()


def test_each_row_trains_from_the_events_right_before_the_first_new_one():
    log = merged([[1, 2, 3, 4, 5, 6, 7], [1, 2]], [[0, 0, 0, 0, 0, 1, 1], [0, 0]])
    part = log.training_part(L, replay=0.0, random=np.random.default_rng(0))
    assert rows_of(part) == [[3, 4, 5, 6, 7]]


@pytest.mark.parametrize("replay", [0.3, 1.0])
def test_a_share_of_the_old_events_is_replayed_in_windows(replay):
    rows = [list(range(1, 11))] * 50
    log = merged([*rows, [1, 2]], [[0] * 10] * 50 + [[1, 1]])
    part = log.training_part(L, replay, np.random.default_rng(0))
    assert rows_of(part)[0] == [1, 2]
    replayed = rows_of(part)[1:]
    assert all(len(row) <= L and row == list(range(row[0], row[-1] + 1)) for row in replayed)
    assert 500 * replay - L < sum(len(row) for row in replayed) <= 500 * replay


def test_old_events_before_new_ones_count_as_replayed():
    rows = [list(range(1, 11))] * 50
    log = merged([*rows, *[[1, 2, 3, 4]] * 20], [[0] * 10] * 50 + [[0, 0, 0, 1]] * 20)
    part = log.training_part(L, 0.3, np.random.default_rng(0))
    assert rows_of(part)[:20] == [[1, 2, 3, 4]] * 20  # 60 of the 560 old events
    assert 0.3 * 560 - 60 - L < sum(len(row) for row in rows_of(part)[20:]) <= 0.3 * 560 - 60
    assert len(log.training_part(L, 0.1, np.random.default_rng(0))) == 20


@pytest.mark.parametrize("events_at_once", [1, 7, 10**6])
@pytest.mark.parametrize("has_ratings", [False, True])
def test_users_are_merged_in_blocks_as_by_a_loop_over_the_events(events_at_once, has_ratings, monkeypatch):
    monkeypatch.setattr("corerec.engines.bert4rec.merging.EVENTS_AT_ONCE", events_at_once)
    random = np.random.default_rng(0)

    def rows(count, first_user, first_time):
        columns = random.integers(first_user, first_user + 20, count), random.integers(1, 9, count)
        times = np.sort(random.integers(first_time, first_time + 30, count))
        return list(zip(*(column.tolist() for column in columns), times.tolist(), strict=True))

    old, more = rows(120, 0, 1000), rows(60, 10, 1020)
    given = old[::3] + more  # the new log tells a part of the old events again

    def log_of(events, rated):
        users, items, times = zip(*events, strict=True)
        return Interactions.from_columns(users, items, range(len(events)) if rated else None, times)

    model = Bert4Rec(epochs=1, hidden_dim=8, max_seq_len=4).fit_interactions(log_of(old, rated=False))
    whole = merge(model.fitted, log_of(given, has_ratings))
    left, expected = Counter(old), {}
    for event in sorted(given, key=lambda event: event[2]):
        left[event] -= 1
        if left[event] < 0:
            expected.setdefault(event[0], []).append((event[2], 1, event[1]))
    store, found = whole.sequences, {}
    for row, user in enumerate(whole.log.users.ids.tolist()):
        at = np.arange(store.offsets[row], store.offsets[row + 1])
        items = whole.log.items.decode(store.items[at])
        found[user] = list(zip(store.times[at].tolist(), whole.is_new[at].astype(int).tolist(), items, strict=True))
        assert found[user] == sorted(found[user], key=lambda event: event[0])
    news = {user: sorted(event for event in events if event[1]) for user, events in found.items()}
    assert {user: events for user, events in news.items() if events} == {
        user: sorted(events) for user, events in expected.items()
    }
    olds = Counter((user, item, time) for user, events in found.items() for time, is_new, item in events if not is_new)
    assert olds == Counter(old)
    assert (store.ratings is not None) == has_ratings
    if store.ratings is not None:  # the old log has none
        assert np.array_equal(np.isnan(store.ratings), ~whole.is_new)
