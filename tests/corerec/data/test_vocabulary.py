"""Ids go in as any hashable of any column type, and come back as the Python objects they were."""

import threading
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.data import vocabulary
from corerec.data.columns import MISSING_TEXTS
from corerec.data.vocabulary import SortedIds, Vocabulary
from corerec.errors import DataError, UnknownIdError

INT_COLUMNS = {
    "list": [30, 10, 30],
    "tuple": (30, 10, 30),
    "list of NumPy ints": [np.int64(30), np.int64(10), np.int64(30)],
    "numpy int8": np.array([30, 10, 30], np.int8),
    "numpy uint64": np.array([30, 10, 30], np.uint64),
    "numpy object": np.array([30, 10, 30], object),
    "torch": torch.tensor([30, 10, 30]),
    "pandas int64, any index": pd.Series([30, 10, 30], index=[7, 7, 5]),
    "pandas Int64": pd.Series([30, 10, 30], dtype="Int64"),
    "pandas category": pd.Series([30, 10, 30], dtype="category"),
    "pandas arrow": pd.Series([30, 10, 30], dtype="int64[pyarrow]"),
    "pandas index": pd.Index([30, 10, 30]),
    "polars": pl.Series([30, 10, 30]),
    "polars UInt8": pl.Series([30, 10, 30], dtype=pl.UInt8),
    "arrow": pa.array([30, 10, 30]),
    "arrow chunks": pa.chunked_array([[30, 10], [30]]),
}
STR_COLUMNS = {
    "list": ["b", "a", "b"],
    "list of NumPy strings": [np.str_("b"), np.str_("a"), np.str_("b")],
    "numpy": np.array(["b", "a", "b"]),
    "numpy object": np.array(["b", "a", "b"], object),
    "pandas": pd.Series(["b", "a", "b"], index=[7, 7, 5]),
    "pandas object": pd.Series(["b", "a", "b"], dtype=object),
    "pandas string": pd.Series(["b", "a", "b"], dtype="string"),
    "pandas category": pd.Series(["b", "a", "b"], dtype="category"),
    "polars": pl.Series(["b", "a", "b"]),
    "polars categorical": pl.Series(["b", "a", "b"], dtype=pl.Categorical),
    "arrow": pa.array(["b", "a", "b"]),
    "arrow chunks": pa.chunked_array([["b", "a"], ["b"]]),
    "arrow dictionary": pa.array(["b", "a", "b"]).dictionary_encode(),
}
OBJECT_COLUMNS = {
    "int and text": [1, "1", 1],
    "bool": [True, False, True],
    "floats": [1.5, 2.5, 1.5],
    "int and float": [2**53 + 1, 0.5, 2**53],
    "ints beyond 64 bits": [2**70, -(2**70), 1],
    "text that differs behind a NUL": ["a\0b", "a\0c", "a"],
    "text that looks like numbers": ["007", "+7", "1e3", " 7", "7 "],
    "text in two Unicode forms": ["caf\u00e9", "cafe\u0301"],
}
SAME_VALUE = {
    "whole floats": [10.0, 20.0, 10],
    "a float column": np.array([10.0, 20.0, 10.0]),
    "a pandas float column": pd.Series([10.0, 20.0, 10.0], index=[5, 5, 5]),
    "pandas Float64": pd.Series([10, 20, 10], dtype="Float64"),
    "Decimals": [Decimal("10.00"), Decimal("20"), Decimal("1E+1")],
    "Arrow Decimals": pa.array([Decimal("10.00"), Decimal("20.00"), Decimal("10.00")]),
    "polars Decimals": pl.Series([Decimal("10.00"), Decimal("20.00"), Decimal("10.00")]),
    "categories of two types": pd.Series([10, 20, 10.0], dtype=pd.CategoricalDtype([10.0, 20])),
    "tensors in a list": [torch.tensor(10), torch.tensor(20), torch.tensor(10.0)],
    "a tensor that needs a gradient": torch.tensor([10.0, 20.0, 10.0], requires_grad=True),
    "arrays of no dimension": [np.array(10), np.array(20.0), 10],
    "a masked array without masked entries": np.ma.array([10, 20, 10], mask=False),
}

repeatable = settings(max_examples=150, deadline=None, derandomize=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
scalar_ids = st.one_of(
    st.integers(),
    texts.filter(lambda text: text.strip().lower() not in MISSING_TEXTS),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)


def in_order(column: list) -> list:
    """The distinct values in order of appearance, by plain Python."""
    return list(dict.fromkeys(column))


@pytest.mark.parametrize("column", INT_COLUMNS.values(), ids=INT_COLUMNS)
def test_ids_of_any_integer_column_come_back_as_int(column):
    vocabulary, numbers = Vocabulary.fit(column)
    assert numbers.tolist() == [1, 2, 1]
    assert numbers.dtype == np.int32
    decoded = vocabulary.decode(numbers)
    assert decoded == [30, 10, 30]
    assert {type(an_id) for an_id in decoded} == {int}
    assert vocabulary.encode(column).tolist() == [1, 2, 1]


@pytest.mark.parametrize("column", STR_COLUMNS.values(), ids=STR_COLUMNS)
def test_ids_of_any_text_column_come_back_as_str(column):
    vocabulary, numbers = Vocabulary.fit(column)
    assert numbers.tolist() == [1, 2, 1]
    decoded = vocabulary.decode(numbers)
    assert decoded == ["b", "a", "b"]
    assert {type(an_id) for an_id in decoded} <= {str, np.str_}
    assert vocabulary.encode(column).tolist() == [1, 2, 1]


@pytest.mark.parametrize("column", OBJECT_COLUMNS.values(), ids=OBJECT_COLUMNS)
def test_other_ids_come_back_as_the_objects_they_were(column):
    vocabulary, numbers = Vocabulary.fit(column)
    assert vocabulary.decode(numbers) == column
    assert [type(an_id) for an_id in vocabulary.decode(numbers)] == [type(an_id) for an_id in column]
    assert len(vocabulary) == len(in_order(column))


@pytest.mark.parametrize("column", SAME_VALUE.values(), ids=SAME_VALUE)
def test_ids_of_equal_value_are_one_id(column):
    vocabulary, numbers = Vocabulary.fit(column)
    assert numbers.tolist() == [1, 2, 1]
    assert vocabulary.ids.tolist() == [10, 20]
    assert {type(an_id) for an_id in vocabulary.ids.tolist()} == {int}
    assert Vocabulary([20, 10]).encode(column).tolist() == [2, 1, 2]
    assert Vocabulary(["20", "10"]).encode(column).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "an_id", [10, 10.0, np.int8(10), np.float32(10), Decimal("10.00"), torch.tensor(10), np.array(10)]
)
def test_one_id_is_asked_for_by_its_value(an_id):
    vocabulary = Vocabulary([7, 10])
    assert an_id in vocabulary
    assert vocabulary.number(an_id) == vocabulary.number_or_zero(an_id) == vocabulary.add(an_id) == 2
    assert vocabulary.is_alike(an_id)


def test_whole_numbers_that_javascript_rounds_are_known_by_their_text_too():
    large = [9007199254740992, 9007199254740993, 9007199254740994, 7]
    vocabulary = Vocabulary(large)
    assert vocabulary.encode([str(an_id) for an_id in large]).tolist() == [1, 2, 3, 0]
    assert vocabulary.encode(np.array(["9007199254740993", "7"], object)).tolist() == [2, 0]
    assert vocabulary.number("9007199254740993") == 2
    assert "9007199254740995" not in vocabulary
    assert vocabulary.add("9007199254740995") == 5
    assert vocabulary.ids.tolist() == [*large, 9007199254740995]
    assert "9007199254740993" not in Vocabulary(["a", 9007199254740993])  # there it could be a text's


def test_unsigned_ids_beyond_int64_keep_their_value():
    vocabulary, numbers = Vocabulary.fit(np.array([2**63 + 1, 5], np.uint64))
    assert vocabulary.decode(numbers) == [2**63 + 1, 5]


def test_numbers_follow_the_order_of_appearance_from_1():
    vocabulary, numbers = Vocabulary.fit(["c", "a", "c", "b"])
    assert numbers.tolist() == [1, 2, 1, 3]
    assert vocabulary.ids.tolist() == ["c", "a", "b"]
    assert [vocabulary.number(an_id) for an_id in "cab"] == [1, 2, 3]


def test_ids_that_python_calls_equal_are_one_id():
    vocabulary, numbers = Vocabulary.fit([1, "a", 1.0, True])
    assert numbers.tolist() == [1, 2, 1, 1]
    assert vocabulary.number(1.0) == vocabulary.number(True) == vocabulary.number(np.int64(1)) == 1


def test_text_and_number_are_two_ids():
    vocabulary = Vocabulary([1, 2])
    assert vocabulary.encode(["1", "2"]).tolist() == [0, 0]
    assert "1" not in vocabulary
    assert 1 in vocabulary


@repeatable
@given(st.lists(scalar_ids, min_size=1, max_size=12))
def test_every_id_goes_to_its_number_and_back(column):
    vocabulary, numbers = Vocabulary.fit(column)
    distinct = in_order(column)
    assert vocabulary.decode(numbers) == column
    assert numbers.tolist() == [distinct.index(an_id) + 1 for an_id in column]
    assert [vocabulary.number(an_id) for an_id in column] == numbers.tolist()
    assert vocabulary.encode(column).tolist() == numbers.tolist()
    assert vocabulary.require(column).tolist() == numbers.tolist()
    assert all(an_id in vocabulary for an_id in column)


@repeatable
@given(st.lists(st.integers(), min_size=1, max_size=8), st.lists(st.integers() | st.text(max_size=2), max_size=8))
def test_encode_gives_0_for_exactly_the_unknown_ids(known, asked):
    vocabulary, _ = Vocabulary.fit(known)
    distinct = in_order(known)
    asked = [*asked, known[-1]]
    assert vocabulary.encode(asked).tolist() == [distinct.index(i) + 1 if i in distinct else 0 for i in asked]


def test_encode_of_nothing_is_nothing():
    assert Vocabulary([1, 2]).encode([]).tolist() == []
    assert Vocabulary(["a"]).encode(np.array([])).dtype == np.int64


def test_an_unknown_item_is_named_with_the_next_step():
    items = Vocabulary([10, 20, 30])
    with pytest.raises(UnknownIdError, match=r"^item 17 is not among the 3 fitted items; fit again with events of it"):
        items.number(17)
    with pytest.raises(UnknownIdError, match=r"^item 17 is not among"):
        items.require(np.array([10, 17, 18]))


def test_an_unknown_user_is_named_and_led_to_recommend_by_history():
    users = Vocabulary(["ann"], kind="user")
    with pytest.raises(UnknownIdError, match=r"^user 'bob' is not among the 1 fitted users; pass history=\[item ids\]"):
        users.number("bob")


def test_an_unknown_id_of_another_type_says_so():
    with pytest.raises(UnknownIdError, match=r"fitted ids are of type int, this one is str"):
        Vocabulary([10, 20]).number("10")
    with pytest.raises(
        UnknownIdError, match=r"^item \(5, 6\) is not among .*fitted ids are of type int/str, this one is"
    ):
        Vocabulary([10, "a"]).require([(5, 6)])


def test_a_list_for_one_id_is_refused():
    with pytest.raises(DataError, match=r"item id \[1\] is not hashable; pass one id"):
        Vocabulary([1]).number([1])


def test_a_table_is_not_a_column():
    with pytest.raises(DataError, match="user_ids has 2 dimensions; pass one flat column"):
        Vocabulary.fit(np.ones((2, 2), int), "user")
    with pytest.raises(DataError, match="has 2 dimensions"):
        Vocabulary.fit(pd.DataFrame({"user_id": [1, 2]}))
    with pytest.raises(DataError, match="has 0 dimensions"):
        Vocabulary.fit(np.array(3))


@pytest.mark.parametrize(("ids", "named"), [([1, 2, 1], "1"), (["a", "b", "b"], "'b'"), ([1.5, 1.5], "1.5")])
def test_an_id_that_stands_twice_is_refused(ids, named):
    with pytest.raises(DataError, match=f"^item id {named} stands twice in the vocabulary"):
        Vocabulary(ids)


def test_membership_of_anything_is_an_answer_not_an_error():
    vocabulary = Vocabulary([1, 2])
    assert [an_id in vocabulary for an_id in (1, 3, "1", [1], (1, [2]))] == [True, False, False, False, False]


def test_an_id_is_alike_if_some_id_has_its_type():
    vocabulary = Vocabulary([1, 2])
    assert [vocabulary.is_alike(an_id) for an_id in (7, np.int32(7), "7", 7.0, 7.5)] == [True, True, False, True, False]


# --- ids that come later


@pytest.mark.parametrize("fitted", [[10, 20], ["a", "b"], [1, "a", 1.5]])
def test_an_added_id_is_known_everywhere(fitted):
    vocabulary, next_number = Vocabulary(fitted), len(fitted) + 1
    new = {int: 30, str: "c"}[type(fitted[0])]
    assert [vocabulary.add(an_id) for an_id in (new, fitted[1], new)] == [next_number, 2, next_number]
    assert vocabulary.ids.tolist() == [*fitted, new]
    assert new in vocabulary
    column = np.empty(3, object)
    column[:] = [new, "?", fitted[0]]
    assert vocabulary.encode(column).tolist() == vocabulary.encode(column.tolist()).tolist() == [len(vocabulary), 0, 1]
    assert vocabulary.decode([len(vocabulary)]) == [new]


def test_added_whole_numbers_leave_an_integer_vocabulary():
    vocabulary = Vocabulary(np.array([10, 20]))
    for an_id in (np.int32(30), 40):
        vocabulary.add(an_id)
    assert vocabulary.ids.dtype == np.int64
    assert vocabulary.encode(np.array([40, 50, 30, 20])).tolist() == [4, 0, 3, 2]
    assert vocabulary.add(2**70) == 5
    assert vocabulary.ids.tolist() == [10, 20, 30, 40, 2**70]


@pytest.mark.parametrize(
    ("an_id", "error"), [("10", UnknownIdError), (None, UnknownIdError), (np.nan, DataError), ([1], DataError)]
)
def test_what_is_no_id_or_of_a_foreign_type_is_not_added(an_id, error):
    vocabulary = Vocabulary([10, 20.5])
    with pytest.raises(error):
        vocabulary.add(an_id)
    assert vocabulary.ids.tolist() == [10, 20.5]


def test_a_copy_grows_alone():
    vocabulary = Vocabulary(["a"])
    vocabulary.add("b")
    twin = vocabulary.copy()
    assert (twin.add("c"), vocabulary.add("d")) == (3, 3)
    assert (vocabulary.ids.tolist(), twin.ids.tolist()) == (["a", "b", "d"], ["a", "b", "c"])
    assert (vocabulary.encode(["c", "d"]).tolist(), twin.encode(["c", "d"]).tolist()) == ([0, 3], [3, 0])


@repeatable
@given(st.lists(scalar_ids, min_size=1, max_size=8), st.lists(scalar_ids, max_size=8), st.lists(scalar_ids, max_size=8))
def test_a_list_is_numbered_as_a_column(known, later, asked):
    vocabulary, _ = Vocabulary.fit(known)
    for an_id in later:
        if vocabulary.is_alike(an_id):
            vocabulary.add(an_id)
    asked = [*asked, *known, *later]
    column = np.empty(len(asked), object)
    column[:] = asked
    assert vocabulary.encode(asked).tolist() == vocabulary.encode(column).tolist()


def test_readers_beside_a_writer_find_every_id_they_are_told_of():
    vocabulary, told, missed = Vocabulary(range(100)), [], []
    done = threading.Event()

    def write():
        for an_id in range(100, 3000):
            told.append(vocabulary.add(an_id))
        done.set()

    def read():
        while not done.is_set():
            upto = len(told)
            if vocabulary.number(99 + upto) != 100 + upto or vocabulary.ids[99 + upto] != 99 + upto:
                missed.append(upto)

    threads = [threading.Thread(target=work) for work in (read, read, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missed == []
    assert vocabulary.ids.tolist() == list(range(3000))


def test_a_vocabulary_lists_its_ids_in_the_order_of_their_numbers():
    items = Vocabulary(["b", "a", "c", "d"])
    assert list(items) == ["b", "a", "c", "d"]
    assert repr(items) == "Vocabulary(4 items: 'b', 'a', 'c', ...)"
    assert repr(Vocabulary([7], "user")) == "Vocabulary(1 users: 7)"
    assert list(Vocabulary([], "user")) == []


def test_ids_of_another_vocabulary_follow_and_known_ones_keep_their_numbers():
    items = Vocabulary([10, 20])
    grown, numbers = items.with_ids(Vocabulary([30, 20, 40]))
    assert grown.ids.tolist() == [10, 20, 30, 40]
    assert grown.ids.dtype == np.int64
    assert numbers.tolist() == [3, 2, 4]
    assert len(items) == 2
    items.add(50)
    assert items.with_ids(Vocabulary([60]))[0].ids.tolist() == [10, 20, 50, 60]


def test_ids_of_a_foreign_type_do_not_follow():
    with pytest.raises(UnknownIdError, match="of type int"):
        Vocabulary([10]).with_ids(Vocabulary(["ann"]))


def test_long_numbers_that_travelled_as_text_follow_as_numbers():
    grown, numbers = Vocabulary([10]).with_ids(Vocabulary([str(2**60), str(2**60 + 1)]))
    assert grown.ids.tolist() == [10, 2**60, 2**60 + 1]
    assert numbers.tolist() == [2, 3]


@pytest.mark.parametrize("ids", [[10, 20, 30, 40], [30, 10, 2**62, -7]])
def test_large_vocabularies_of_whole_numbers_answer_as_small_ones_do(ids, monkeypatch):
    small = Vocabulary(ids)
    monkeypatch.setattr(vocabulary, "LARGE", 2)
    large = Vocabulary(ids)
    assert isinstance(large._index, SortedIds)
    asked = [*ids, 11, -(2**63), 2**70, 30.0, 30.5, True, "30", str(2**62)]
    for known in (small, large, large.copy()):
        known.add(77)
        known.add_all([5, 6])
    for twin in (large, large.copy()):
        assert twin.encode(asked).tolist() == small.encode(asked).tolist()
        assert twin.encode(np.array([*ids, 77, 12])).tolist() == small.encode(np.array([*ids, 77, 12])).tolist()
        assert [an_id in twin for an_id in asked] == [an_id in small for an_id in asked]
        assert [twin.number(an_id) for an_id in (*ids, 77)] == [1, 2, 3, 4, 5]
        assert twin.ids.tolist() == small.ids.tolist()
    with pytest.raises(UnknownIdError):
        large.number(12)
    with pytest.raises(DataError, match="not hashable"):
        large.number([1])  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="30 stands twice"):
        Vocabulary([30, 10, 30])
