"""Items added to a running server through /v1/catalogue. Their rows are kept in the event log's database.

    POST /v1/catalogue -> checked by the model's columns -> on disk -> the model ranks them -> the client is told

The rows are added again at the start, and to every model that is loaded later. Items that the model was fitted on are
skipped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from corerec.data.item_features import ITEM_ID, FeatureColumn, FeatureTable
from corerec.engines.bert4rec import Bert4Rec
from corerec.errors import DataError
from corerec.serving.halving import take_most

log = logging.getLogger(__name__)


class CatalogueRow(NamedTuple):
    """One item: its id as the client sent it, a title for the page, and the values of its columns."""

    item_id: Any
    title: str | None
    features: Mapping[str, Any]


def columns_of(model: Bert4Rec) -> list[str]:
    """Return the names of the feature columns that the model was fitted with; none if it was fitted without items."""
    content = model.fitted.content
    return [] if content is None else [column.name for column in content.table.columns]


def features_frame(model: Bert4Rec, rows: Sequence[CatalogueRow], *, is_strict: bool = True) -> pd.DataFrame:
    """Return the rows as a table for `Bert4Rec.add_items`. The table has all feature columns of the model; a value that
    a row lacks is a missing value.

    Args:
        is_strict: whether a column that the model does not have is an error. If not, it is left out.
    Raises:
        DataError: the model was fitted without items, or a value does not suit its column.
    """
    content = model.fitted.content
    if content is None:
        raise DataError("this model knows no features of items: fit one with a table of items (corerec fit --items)")
    table: FeatureTable = content.table
    names = {column.name for column in table.columns}
    if is_strict:
        for row in rows:
            if strange := sorted(row.features.keys() - names):
                raise DataError(f"the model has no column {strange[0]!r}; its columns are {', '.join(sorted(names))}")
    frame: dict[str, Any] = {ITEM_ID: pd.Series([row.item_id for row in rows], dtype=object)}
    for column in table.columns:
        values = [_suited(column, row.item_id, row.features.get(column.name)) for row in rows]
        frame[column.name] = pd.Series(values, dtype=None if column.kind == "number" else object)
    return pd.DataFrame(frame)


def apply_rows(model: Bert4Rec, rows: Sequence[CatalogueRow]) -> int:
    """Add logged rows to a model, and return how many rows it accepted. The model may have been fitted after the rows
    were logged."""
    if not rows:
        return 0

    def add(first: int, end: int) -> None:
        model.add_items(features_frame(model, rows[first:end], is_strict=False))

    return take_most(len(rows), add)  # rows of another model's columns may be among them


def titles_of(rows: Iterable[CatalogueRow]) -> dict[str, str]:
    """Return a dict {item id as text: title} of the rows that have a title."""
    return {str(row.item_id): row.title for row in rows if row.title is not None}


def to_text(features: Mapping[str, Any]) -> str:
    return json.dumps(features, ensure_ascii=False)


def from_text(text: str) -> dict[str, Any]:
    """Read the features that `to_text` wrote.

    Raises:
        ValueError: the text was not written by a server.
    """
    features = json.loads(text)
    if not isinstance(features, dict):
        raise ValueError("features that are no object")
    return features


def _suited(column: FeatureColumn, item_id: Any, value: Any) -> Any:
    """Convert a value to the type of its column.

    Raises:
        DataError: the value does not suit the kind of the column.
    """
    if value is None:
        return None if column.kind != "number" else float("nan")
    is_list = isinstance(value, list)
    numbers = is_list and all(isinstance(part, int | float) and not isinstance(part, bool) for part in value)
    if column.kind == "vector" and numbers and len(value) == len(column.mean):
        return value
    if column.kind == "category" and not (is_list and value and numbers):
        return value
    if column.kind == "number" and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if column.kind == "number" and isinstance(value, str):
        date = pd.to_datetime(value, errors="coerce", utc=True, format="ISO8601")
        if not pd.isna(date):
            return date.timestamp()
    wanted = {
        "vector": f"a list of {len(column.mean):,} numbers",
        "category": "a text, or a list of texts",
        "number": "a number, or a date as ISO 8601 writes it",
    }[column.kind]
    raise DataError(f"the column {column.name!r} of item {item_id!r} needs {wanted}")
