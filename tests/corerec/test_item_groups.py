import numpy as np
import pytest

from corerec.data.sequences import SequenceStore
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError
from corerec.item_groups import ItemGroups, SeenRule, repeatable_mask, split_repeatable

ITEMS = Vocabulary(["milk", "cream", "kettle", "toaster", "pen"])
GROUPS = {"milk": "dairy", "cream": "dairy", "kettle": "kitchen", "toaster": "kitchen", "pen": None, "new": "dairy"}


def rows(store: SequenceStore) -> list[list[int]]:
    return [sorted(store.row(at).tolist()) for at in range(len(store))]


def test_groups_are_numbered_and_strangers_left_out():
    groups = ItemGroups.of(GROUPS, ITEMS)
    assert groups.numbers.tolist() == [0, 1, 1, 2, 2, 0]
    assert dict(groups.names) == {"dairy": 1, "kitchen": 2}


def test_a_history_excludes_its_items_their_groups_or_nothing():
    histories = SequenceStore.from_lists([[1, 5], [], [3, 4, 3]])
    groups = ItemGroups.of(GROUPS, ITEMS)

    assert rows(SeenRule("group", groups).excluded(histories)) == [[1, 2, 5], [], [3, 4]]
    assert (
        rows(SeenRule(True).excluded(histories))
        == rows(SeenRule("item").excluded(histories))
        == [[1, 5], [], [3, 3, 4]]
    )
    assert rows(SeenRule(False).excluded(histories)) == [[], [], []]


def test_what_is_repeatable_excludes_neither_itself_nor_its_group():
    histories = SequenceStore.from_lists([[1, 3], [4]])
    groups = ItemGroups.of(GROUPS, ITEMS)
    ids, numbers = split_repeatable(["dairy", "kettle"], groups)
    assert (ids, numbers) == (["kettle"], [1])
    mask = repeatable_mask(np.array([3]), numbers, groups, 5)

    assert rows(SeenRule(True, groups, mask).excluded(histories)) == [[], [4]]
    assert rows(SeenRule("group", groups, mask).excluded(histories)) == [[], [4]]


@pytest.mark.parametrize(
    ("groups", "message"),
    [({"tea": "drink"}, "names no item that the model knows, such as 'tea'"), ({}, "names no item"), ([1], "a list")],
)
def test_groups_of_nothing_known_are_refused(groups, message):
    with pytest.raises(DataError, match=message):
        ItemGroups.of(groups, ITEMS)


def test_a_rule_that_is_none_is_refused():
    with pytest.raises(DataError, match="exclude_seen must be"):
        SeenRule("always")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="needs groups"):
        SeenRule("group")
