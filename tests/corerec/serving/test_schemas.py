"""How ids travel in JSON."""

import json

from corerec.serving.schemas import Item


def test_whole_numbers_that_javascript_rounds_travel_as_text():
    for an_id, sent in (
        (9007199254740991, 9007199254740991),
        (9007199254740993, "9007199254740993"),
        ("7", "7"),
        (1.5, 1.5),
    ):
        assert json.loads(Item(item_id=an_id, title=None).model_dump_json())["item_id"] == sent
