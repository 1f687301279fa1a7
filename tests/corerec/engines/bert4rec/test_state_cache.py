import threading

import numpy as np
import pytest

from corerec.engines.bert4rec.state_cache import StateCache


def keep(cache, users, num_events=1, log_normalizers=0.0, value=None):
    """States of width 2 that hold the user's number, or a value."""
    users = np.array(users)
    states = np.repeat((users if value is None else np.full(len(users), value))[:, None], 2, axis=1).astype(np.float32)
    cache.keep(users, np.full(len(users), num_events), states, np.full(len(users), log_normalizers))


def kept(cache, user, num_events=1):
    """The value of a user's state, and its log total; None where none is kept."""
    found = cache.get(user, num_events)
    return None if found is None else (found[0].tolist(), found[1])


def test_forgets_the_longest_unused():
    cache = StateCache(2, capacity=2)
    keep(cache, [1, 2])
    assert kept(cache, 1) == ([1, 1], 0)
    keep(cache, [3])
    assert [kept(cache, user) for user in (1, 2, 3)] == [([1, 1], 0), None, ([3, 3], 0)]
    cache.get_many(np.array([1]), np.array([1]))
    keep(cache, [4])
    assert [kept(cache, user) for user in (1, 3, 4)] == [([1, 1], 0), None, ([4, 4], 0)]


def test_of_more_than_there_is_room_for_the_last_are_kept():
    cache = StateCache(2, capacity=3)
    keep(cache, [8, 9])
    keep(cache, range(1, 6))
    assert [user for user in range(10) if kept(cache, user)] == [3, 4, 5]
    assert kept(cache, 4) == ([4, 4], 0)


@pytest.mark.parametrize("seed", range(3))
def test_does_as_a_dictionary_does_that_is_cut_at_its_old_end(seed):
    random, cache, expected = np.random.default_rng(seed), StateCache(2, capacity=20), {}
    for step in range(300):
        users = np.unique(random.integers(0, 40, random.integers(1, 9)))
        if step % 2:
            keep(cache, users, value=step)
            others = [(user, value) for user, value in expected.items() if user not in users]
            expected = dict([*others, *((user, step) for user in users.tolist() if user)][-20:])
        else:
            found, states, _ = cache.get_many(users, np.ones_like(users))
            assert users[found].tolist() == [user for user in users.tolist() if user in expected]
            assert states[:, 0].tolist() == [expected[user] for user in users[found].tolist()]
            expected.update({user: expected.pop(user) for user in users[found].tolist()})


def test_a_state_is_only_that_of_a_history_of_as_many_events():
    cache = StateCache(2)
    keep(cache, [7], num_events=4, value=1)
    assert kept(cache, 7, 5) is None
    keep(cache, [7], num_events=5, value=2)
    keep(cache, [7], num_events=4, value=1)  # by a thread that was overtaken
    assert (kept(cache, 7, 5), kept(cache, 7, 4)) == (([2, 2], 0), None)
    keep(cache, [7], num_events=5, value=3, log_normalizers=np.nan)  # by one who wanted no probability
    assert kept(cache, 7, 5) == ([2, 2], 0)


def test_a_total_learned_later_is_kept_with_its_state():
    cache = StateCache(2)
    keep(cache, [7], log_normalizers=np.nan)
    assert np.isnan(kept(cache, 7)[1])
    keep(cache, [7], log_normalizers=5.0)
    assert kept(cache, 7) == ([7, 7], 5)


def test_nobodys_state_is_not_kept():
    cache = StateCache(2)
    keep(cache, [0, 0])
    assert kept(cache, 0) is None
    found, *_ = cache.get_many(np.array([0, 3]), np.array([1, 1]))
    assert len(found) == 0


def test_what_is_asked_for_does_not_change_with_the_cache():
    cache = StateCache(2, capacity=1)
    keep(cache, [1])
    state, _ = cache.get(1, 1)
    _, (many,), _ = cache.get_many(np.array([1]), np.array([1]))
    keep(cache, [2])
    assert state.tolist() == many.tolist() == [1, 1]


def test_threads_never_see_a_state_of_another_user():
    cache, wrong = StateCache(2, capacity=50), []

    def work(seed):
        random = np.random.default_rng(seed)
        for _ in range(300):
            users = np.unique(random.integers(1, 100, 20))
            keep(cache, users)
            found, states, _ = cache.get_many(users, np.ones_like(users))
            if not (states[:, 0] == users[found]).all():
                wrong.append(users)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
