import pytest

from corerec.errors import DataError
from corerec.serving.halving import take_most


@pytest.mark.parametrize("bad", [set(), {0}, {6}, {2, 3}, set(range(7))], ids=repr)
def test_all_rows_but_the_bad_ones_are_taken_once_and_in_order(bad):
    taken = []

    def take(first, end):
        if bad & set(range(first, end)):
            raise DataError("a bad row")
        taken.extend(range(first, end))

    assert take_most(7, take) == 7 - len(bad)
    assert taken == [row for row in range(7) if row not in bad]


def test_good_rows_are_taken_at_once():
    calls = []
    assert take_most(1000, lambda *rows: calls.append(rows)) == 1000
    assert calls == [(0, 1000)]


def test_no_rows_are_no_trouble():
    assert take_most(0, lambda first, end: None) == 0


def test_an_error_of_another_kind_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        take_most(3, lambda first, end: 1 / 0)
