"""The schemas of /v1/catalogue: the request and the answer, with the limits of every field."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, FailFast, Field, WithJsonSchema

from corerec.serving.schemas import MAX_ID_LENGTH, Answer, Id, KnownId, Request

MAX_CATALOGUE_ITEMS = 1_000
MAX_COLUMNS = 100
MAX_CATEGORIES = 100  # of one item in one column
MAX_VECTOR = 4_096
LARGEST_FEATURE = 1e30  # float32 holds it


def _checked_feature(value: Any) -> Any:
    """Accept a category, a number, a list of categories, or a vector, each of a bounded size."""
    if value is None or isinstance(value, bool) or (type(value) is str and len(value) <= MAX_ID_LENGTH):
        return value
    if isinstance(value, int | float) and -LARGEST_FEATURE <= value <= LARGEST_FEATURE:
        return value
    if type(value) is list and all(type(part) in (int, float) for part in value) and len(value) <= MAX_VECTOR:
        return [_checked_feature(part) for part in value]
    if type(value) is list and all(type(part) is str for part in value) and len(value) <= MAX_CATEGORIES:
        return [_checked_feature(part) for part in value]
    raise ValueError(
        f"a feature is null, true, false, a number, a text of {MAX_ID_LENGTH} characters at most, a list of "
        f"{MAX_CATEGORIES} texts at most, or a list of {MAX_VECTOR:,} numbers at most"
    )


_FEATURE_SCHEMA: Any = {
    "anyOf": [
        {"type": "null"},
        {"type": "boolean"},
        {"type": "number", "minimum": -LARGEST_FEATURE, "maximum": LARGEST_FEATURE},
        {"type": "string", "maxLength": MAX_ID_LENGTH},
        {
            "type": "array",
            "maxItems": MAX_VECTOR,
            "items": {"type": "number", "minimum": -LARGEST_FEATURE, "maximum": LARGEST_FEATURE},
        },
        {"type": "array", "maxItems": MAX_CATEGORIES, "items": {"type": "string", "maxLength": MAX_ID_LENGTH}},
    ]
}
Feature = Annotated[Any, BeforeValidator(_checked_feature), WithJsonSchema(_FEATURE_SCHEMA)]


class CatalogueItem(Request):
    item_id: Annotated[
        Id, Field(description="The item. If the model was fitted on events of it, the item does not change.")
    ]
    title: Annotated[str | None, Field(max_length=MAX_ID_LENGTH, description="A title that answers show.")] = None
    features: Annotated[
        dict[Annotated[str, Field(max_length=MAX_ID_LENGTH)], Feature],
        Field(
            max_length=MAX_COLUMNS,
            description="Values by the names of the columns that the model was fitted with (GET /v1/model names "
            "them): a category or a list of categories, a number, a date, or a vector. A column may be left out.",
        ),
    ]


class CatalogueRequest(Request):
    """Items that the server recommends from now on by their features. All items are added, or none. They are kept over
    a restart."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [{"item_id": 2001, "title": "New tea", "features": {"category": "tea"}}]}]
        }
    )

    items: Annotated[list[CatalogueItem], FailFast(), Field(min_length=1, max_length=MAX_CATALOGUE_ITEMS)]


class AddedItems(Answer):
    added: Annotated[int, Field(ge=0, description="The number of items that the model did not know before.")]
    known_items: Annotated[list[KnownId], Field(description="Items that the model was fitted on. They do not change.")]
