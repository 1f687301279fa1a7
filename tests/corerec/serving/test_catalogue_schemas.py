import pytest
from pydantic import ValidationError

from corerec.serving.catalogue_schemas import CatalogueItem, CatalogueRequest


def item(value):
    return {"item_id": 1, "features": {"column": value}}


@pytest.mark.parametrize("value", [None, True, 3, -2.5, "tea", ["tea", "herb"], [0.5, 1, 2], []])
def test_a_feature_of_every_kind_is_taken_as_it_is(value):
    assert CatalogueItem.model_validate(item(value)).features == {"column": value}


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        1e31,
        10**400,
        "t" * 513,
        ["t" * 513],
        ["tea"] * 101,
        [0.5] * 4097,
        [float("nan")],
        ["tea", 1],
        [[1]],
        {"a": 1},
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_feature_beyond_its_bounds_is_refused(value):
    with pytest.raises(ValidationError, match="a feature is"):
        CatalogueItem.model_validate(item(value))


@pytest.mark.parametrize(
    "items",
    [
        [],
        [item(1)] * 1001,
        [{"item_id": 1}],
        [{"item_id": 1, "features": {f"column {n}": 1 for n in range(101)}}],
        [{"item_id": 1, "features": {"c" * 513: 1}}],
        [item(1) | {"price": 3}],
        [item(1) | {"title": "t" * 513}],
        [{"item_id": True, "features": {}}],
    ],
    ids=["none", "many", "no features", "many columns", "a long column", "another field", "a long title", "no id"],
)
def test_items_beyond_their_bounds_are_refused(items):
    with pytest.raises(ValidationError):
        CatalogueRequest.model_validate({"items": items})
