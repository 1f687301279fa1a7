"""Questions in ids become questions in numbers, the bad ones errors at their places."""

import warnings

import numpy as np
import pytest

from corerec.data.histories import Histories
from corerec.data.sequences import SequenceStore
from corerec.data.vocabulary import Vocabulary
from corerec.errors import ConfigError, DataError, NotFittedError, UnknownIdError, UnknownIdWarning
from corerec.queries import Query
from corerec.resolving import resolve

ITEMS = Vocabulary(["a", "b", "c", "d"])
GOOD = [
    Query("ann"),
    Query(history=["c", "?", "a"], top_k=2, exclude=["d", "?"], on_unknown="skip"),
    Query("bob", exclude_seen=False, candidates=["d", "a"]),
    Query(history=[], top_k=1, candidates=[]),
]
BAD = [
    (Query("nobody"), UnknownIdError),
    (Query(), DataError),
    (Query("ann", history=["a"]), DataError),
    (Query(history=["a", None]), DataError),
    (Query(history=["a", float("nan")]), DataError),
    (Query(history=[["a"]]), DataError),
    (Query(history="a"), DataError),
    (Query(history=5), DataError),
    (Query("ann", top_k=0), DataError),
    (Query("ann", exclude="a"), DataError),
    (Query("ann", exclude=[None]), DataError),
    (Query("ann", candidates=["a", "?"], on_unknown="raise"), UnknownIdError),
    (Query("ann", exclude=["?"], on_unknown="raise"), UnknownIdError),
    (Query(history=["a", "?"], on_unknown="raise"), UnknownIdError),
    (Query("ann", candidates=["a", 12]), UnknownIdError),  # of a type that no item has: a mistake
    (Query("ann", exclude=[12], on_unknown="skip"), UnknownIdError),
    (Query(history=[12]), UnknownIdError),
    (Query("ann", exclude=["?"], on_unknown="ignore"), ConfigError),  # pyright: ignore[reportArgumentType]
]


def no_ratings(user, min_rating, among):
    raise AssertionError("nobody asked for a rating")


@pytest.fixture
def histories():
    store = SequenceStore(np.array([1, 2, 3], np.int32), np.array([0, 2, 3]), None, np.array([5, 4, 3], np.float32))
    return Histories(store, Vocabulary(["ann", "bob"], "user"))


def rows(store):
    return [store.row(row).tolist() for row in range(len(store))]


def test_questions_become_arrays(histories):
    asked, errors, unknown = resolve(GOOD, ITEMS, histories, no_ratings, return_errors=False)
    assert asked.users.tolist() == [1, 0, 2, 0]
    assert rows(asked.histories) == [[1, 2], [3, 1], [3], []]
    assert rows(asked.excluded) == [[1, 2], [4, 3, 1], [], []]
    assert asked.top_k.tolist() == [4, 2, 4, 1]  # at most all items
    assert (asked.limited.tolist(), rows(asked.candidates)) == ([2, 3], [[4, 1], []])
    assert (errors, unknown) == ({}, [[], ["?", "?"], [], []])


@pytest.mark.parametrize("on_unknown", ["warn", "skip"])
def test_unknown_items_are_left_out_wherever_they_stand(on_unknown):
    query = Query(history=["a", "?"], exclude=["!", "b"], candidates=["$", "c"], on_unknown=on_unknown)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asked, _, unknown = resolve([query], ITEMS, None, no_ratings, return_errors=False)
    assert (rows(asked.histories), rows(asked.excluded), rows(asked.candidates)) == ([[1]], [[2, 1]], [[3]])
    assert unknown == [["?", "!", "$"]]
    assert [warning.category for warning in caught] == ([UnknownIdWarning] if on_unknown == "warn" else [])


def test_a_users_ratings_stay_with_the_history_and_a_raw_one_has_none(histories):
    asked, _, _ = resolve(GOOD, ITEMS, histories, no_ratings, return_errors=False)
    np.testing.assert_array_equal(asked.histories.ratings, np.array([5, 4, np.nan, np.nan, 3], np.float32))


@pytest.mark.parametrize(("bad", "error"), BAD)
def test_a_bad_question_is_an_error_at_its_place_and_the_others_are_understood(histories, bad, error):
    with pytest.raises(error):
        resolve([*GOOD, bad], ITEMS, histories, no_ratings, return_errors=False)
    asked, errors, _ = resolve([bad, *GOOD, bad], ITEMS, histories, no_ratings, return_errors=True)
    assert list(errors) == [0, 5]
    assert all(isinstance(found, error) for found in errors.values())
    assert asked.users.tolist() == [1, 0, 2, 0]
    assert asked.limited.tolist() == [2, 3]


def test_nothing_but_bad_questions_and_no_questions_leave_nothing(histories):
    for questions in ([], [Query()]):
        asked, errors, _ = resolve(questions, ITEMS, histories, no_ratings, return_errors=True)
        assert (len(asked), len(errors), len(asked.histories)) == (0, len(questions), 0)


def test_without_histories_only_users_are_refused():
    asked, errors, _ = resolve([Query(history=["a"]), Query("ann")], ITEMS, None, no_ratings, return_errors=True)
    assert rows(asked.histories) == [[1]]
    assert isinstance(errors[1], NotFittedError)


def test_part_of_the_questions_keeps_all_that_belongs_to_them(histories):
    asked, _, _ = resolve(GOOD, ITEMS, histories, no_ratings, return_errors=False)
    part = asked.select(np.array([1, 3]))
    assert (part.users.tolist(), part.top_k.tolist()) == ([0, 0], [2, 1])
    assert (rows(part.histories), rows(part.excluded)) == ([[3, 1], []], [[4, 3, 1], []])
    assert (part.limited.tolist(), rows(part.candidates)) == ([1], [[]])
