"""What a fingerprint recognises: every trained event, in any order and among other rows, and nothing else."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data import fingerprint
from corerec.data.fingerprint import EventFingerprint, HashSet, id_hashes, seen_answers
from corerec.data.interactions import Interactions
from corerec.data.sequences import SequenceStore
from corerec.data.splitting import Holdout, before, hold_out_last, hold_out_period, leave_one_out
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError

repeatable = settings(max_examples=60, deadline=None, derandomize=True)
Rows = list[tuple]


def log_of(rows: Rows) -> Interactions:
    """(user, item) rows, in the order of time."""
    users, items = zip(*rows, strict=True)
    return Interactions.from_columns(list(users), list(items), timestamps=range(len(rows)))


def random_rows(count: int, users: int = 40, items: int = 15, seed: int = 0) -> Rows:
    random = np.random.default_rng(seed)
    return list(zip(random.integers(0, users, count).tolist(), random.integers(0, items, count).tolist(), strict=True))


@repeatable
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4)), min_size=1, max_size=30),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=9),
)
def test_an_event_is_known_up_to_the_times_it_happened(rows, asked):
    log, happened = log_of(rows), Counter(rows)
    users, items = (dict(zip(v.ids.tolist(), id_hashes(v)[1:], strict=True)) for v in (log.users, log.items))
    strangers = id_hashes(Vocabulary(["stranger"]))[1]
    known = EventFingerprint.of(log).knows(
        np.array([users.get(user, strangers) for user, _, _ in asked]),
        np.array([items.get(item, strangers) for _, item, _ in asked]),
        np.array([occurrence for _, _, occurrence in asked]),
    )
    assert known.tolist() == [happened[user, item] >= occurrence for user, item, occurrence in asked]


def test_the_order_of_the_rows_does_not_matter():
    rows = random_rows(500)
    one, other = (EventFingerprint.of(log_of(order)) for order in (rows, rows[::-1]))
    assert np.array_equal(one.events.offsets, other.events.offsets)
    assert np.array_equal(one.events.remainders, other.events.remainders)


def test_blocks_do_not_matter(monkeypatch):
    log = log_of(random_rows(500))
    whole, split = EventFingerprint.of(log), leave_one_out(log)
    counts = seen_answers(whole, split.test)
    monkeypatch.setattr(fingerprint, "EVENTS_AT_ONCE", 32)
    blocks = EventFingerprint.of(log)
    assert np.array_equal(whole.events.remainders, blocks.events.remainders)
    assert np.array_equal(whole.windows.remainders, blocks.windows.remainders)
    assert np.array_equal(seen_answers(whole, split.test), counts)


def test_an_event_takes_less_than_ten_bytes():
    log = log_of(random_rows(50_000, users=3000, items=900))
    tensors = EventFingerprint.of(log).tensors()
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) < 10 * log.sequences.num_events


def test_it_is_computed_with_fourteen_bytes_an_event(monkeypatch):
    log = log_of(random_rows(100_000, users=3000, items=900))
    monkeypatch.setattr(fingerprint, "EVENTS_AT_ONCE", 2**10)
    tracemalloc.start()
    try:
        EventFingerprint.of(log)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 14 * log.sequences.num_events


def test_no_stranger_is_known():
    log = log_of(random_rows(50_000, users=3000, items=900))
    others = id_hashes(Vocabulary(np.arange(10**6, 10**6 + 200_000)))[1:]
    known = EventFingerprint.of(log).knows(others, id_hashes(log.items)[np.arange(200_000) % 900 + 1], np.ones(200_000))
    assert known.sum() == 0  # by chance one would be in a thousand such tests


def test_the_hashes_are_those_of_files_written_before():
    ids = id_hashes(Vocabulary(["ann", "é", "007", "7"]))
    assert [f"{value:016x}" for value in ids.tolist()[1:]] == [
        "a5f323bf6adf3a8d",
        "2f19f3ef8bbf1acb",
        "bd81ecfc21802a49",
        "63cbe1e459320dd7",
    ]
    assert id_hashes(Vocabulary([7]))[1] == ids[4]
    log = Interactions.from_columns(["ann", "ann", "ann"], [7, 9, 7])
    assert EventFingerprint.of(log).events.remainders.tolist() == [140966659, 2325539374, 3786814985]


@pytest.mark.parametrize("ids", [[3, -4, 2**62], ["3", "-4", str(2**62)], [3.0, "-4", str(2**62)]])
def test_ids_of_another_kind_are_the_same(ids):
    assert np.array_equal(id_hashes(Vocabulary(ids)), id_hashes(Vocabulary([3, -4, 2**62])))


def test_tensors_read_back():
    one = EventFingerprint.of(log_of(random_rows(500)))
    other = EventFingerprint.of_tensors(one.tensors())
    for part, read in ((one.events, other.events), (one.windows, other.windows)):
        assert np.array_equal(part.offsets, read.offsets)
        assert np.array_equal(part.remainders, read.remainders)
    assert other.num_events == 500


@pytest.mark.parametrize(
    "offsets",
    [[0], [0, 2, 3, 3], [0, 2], [1, 3], [0, 3, 1, 2, 3], []],
    ids=["no bucket", "three buckets", "too few", "not from 0", "falling", "nothing"],
)
def test_tensors_that_do_not_fit_are_refused(offsets):
    with pytest.raises(ValueError, match="a fingerprint"):
        HashSet.of_tensors({"offsets": torch.tensor(offsets), "remainders": torch.zeros(3, dtype=torch.int32)})


# --- answers that were seen. Each log is split as an evaluation would split it; the model was trained on another.

ROWS = random_rows(600)
LOG = log_of(ROWS)


def renamed(rows: Rows) -> Rows:
    return [(f"new {user}", item) for user, item in rows]


def test_users_with_new_ids_are_recognised_by_their_newest_items():
    wide = random_rows(600, items=200)
    questions = leave_one_out(log_of(renamed(wide))).test
    assert (seen_answers(EventFingerprint.of(log_of(wide)), questions) == 1)[questions.history.lengths >= 4].all()
    fewer = leave_one_out(log_of(renamed(wide[100:]))).test
    assert (seen_answers(EventFingerprint.of(log_of(wide)), fewer) == 1)[fewer.history.lengths >= 4].all()


def test_users_with_new_ids_whose_answers_were_held_out_are_not_accused():
    trained = leave_one_out(log_of(random_rows(600, items=200))).train
    assert not seen_answers(
        EventFingerprint.of(trained), leave_one_out(log_of(renamed(random_rows(600, items=200)))).test
    ).any()


def test_a_few_equal_windows_of_new_users_are_chance():
    same, others = [("u", item) for item in range(5)], random_rows(400, items=200)
    questions = leave_one_out(log_of([("v", item) for item in range(5)] + renamed(others))).test
    assert not seen_answers(EventFingerprint.of(log_of([*same, *random_rows(400, seed=5)])), questions).any()


def test_users_who_do_the_same_as_others_are_not_accused():
    rows = [(user, item) for item in range(6) for user in range(20)]
    split = leave_one_out(log_of([*rows, *(("u", item) for item in range(8))]))
    assert not seen_answers(EventFingerprint.of(split.train), split.test).any()


def test_what_was_held_out_was_not_seen():
    split = leave_one_out(LOG)
    trained = EventFingerprint.of(split.train)
    assert not seen_answers(trained, split.test).any()
    assert not seen_answers(trained, split.valid).any()


def shuffled(rows: Rows) -> Rows:
    return [rows[at] for at in np.random.default_rng(1).permutation(len(rows))]


@pytest.mark.parametrize(
    "trained_on",
    [
        pytest.param(ROWS, id="the same log"),
        pytest.param(ROWS[::-1], id="rows in reverse"),
        pytest.param(shuffled(ROWS), id="rows shuffled"),
        pytest.param([*ROWS, *random_rows(300, users=80, items=30, seed=2)], id="rows more"),
        pytest.param([*random_rows(300, seed=2), *ROWS], id="older rows more"),
        pytest.param([*ROWS, *ROWS], id="every row twice"),
        pytest.param([(str(user), str(item)) for user, item in ROWS], id="ids as text"),
    ],
)
def test_every_answer_is_recognised_in(trained_on):
    trained = EventFingerprint.of(log_of(trained_on))
    split = leave_one_out(LOG)
    assert (seen_answers(trained, split.test) == 1).all()
    assert (seen_answers(trained, split.valid) == 1).all()


def test_answers_are_recognised_when_the_evaluated_log_has_fewer_rows():
    trained = EventFingerprint.of(LOG)
    for rows in (ROWS[:400], ROWS[200:], ROWS[::2], [row for row in ROWS if row[1] > 5]):
        split = leave_one_out(log_of(rows))
        assert (seen_answers(trained, split.test) == 1).all()


def test_only_the_answers_that_were_trained_on_are_counted():
    split = leave_one_out(LOG)
    half = split.test.users % 2 == 0
    rest, _ = hold_out_last(LOG, split.test.users[~half] - 1)
    assert np.array_equal(seen_answers(EventFingerprint.of(rest), split.test), half.astype(int))


def test_a_repeat_was_seen_only_if_trained_on_as_often():
    log = log_of([("u", 1), ("u", 2), ("u", 1), ("u", 1)])  # the answer is the third event with item 1
    test = leave_one_out(log).test
    assert seen_answers(EventFingerprint.of(log_of([("u", 1), ("u", 2), ("u", 1)])), test).tolist() == [0]
    assert seen_answers(EventFingerprint.of(log), test).tolist() == [1]


def test_a_period_counts_each_answer_and_each_repeat():
    log = log_of([("u", 1), ("u", 2), ("u", 1), ("u", 3), ("v", 1), ("v", 2)])
    _, questions = hold_out_period(log, 1)
    assert questions.users.tolist() == [1]
    assert seen_answers(EventFingerprint.of(before(log, 1)), questions).tolist() == [0]
    assert seen_answers(EventFingerprint.of(before(log, 3)), questions).tolist() == [2]
    assert seen_answers(EventFingerprint.of(log), questions).tolist() == [3]


def test_an_item_that_a_model_has_no_number_for_was_not_seen():
    questions = leave_one_out(log_of([("u", 1), ("u", 2), ("u", 3)])).test
    others = questions.numbered_by(Vocabulary([1, 2]))
    assert seen_answers(EventFingerprint.of(log_of([("u", 0), ("u", 3)])), others).tolist() == [0]


def test_numbers_without_ids_cannot_be_recognised():
    store = SequenceStore.from_lists([[1]])
    with pytest.raises(DataError, match="split the Interactions"):
        seen_answers(EventFingerprint.of(LOG), Holdout(store, store, np.array([1])))
