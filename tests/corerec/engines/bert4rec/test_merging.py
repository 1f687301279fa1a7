import numpy as np
import pytest

from corerec.data.interactions import Interactions
from corerec.engines.bert4rec.merging import MergedLog, _known_again

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
