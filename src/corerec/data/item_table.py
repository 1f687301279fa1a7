"""Read a table of items from a file: a frame with a column item_id and the items' features.

    products.parquet, movies.csv, ...  ->  item_id, and one column for each feature  ->  FeatureTable

A column of a text file becomes numbers if every cell is a number, and dates if every cell is a date. It becomes lists
if every cell is a JSON list, or if a cell joins several values by "|": Action|Comedy.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from corerec.data.date_formats import read_dates
from corerec.data.item_features import ITEM_ID
from corerec.data.layout import NO_COLUMN, find_columns
from corerec.data.selection import open_table
from corerec.data.sources import Source, TextFormat, run
from corerec.data.tables import ids_like, read_columns
from corerec.data.vocabulary import Vocabulary

SEPARATOR = "|"


def read_items(path: str | Path, item_column: str | None = None, *, known: Vocabulary | None = None) -> pd.DataFrame:
    """Read the rows of a table of items: item_id, and all other columns by their names.

    Args:
        path: a file of any kind that `read_events` takes.
        item_column: the column of the ids, by name or by place from "1". If it is None, or the table has no column of
            this name, the column is guessed from usual names, such as item_id and movieId.
        known: ids of a log or a model. The table's ids are converted to their type.
    Raises:
        FileNotFoundError: there is no such file.
        DataError: the file cannot be read, or has no rows or no column of ids.
    """
    with duckdb.connect() as database, ExitStack() as stack:
        source = open_table(database, stack, path, TextFormat(), [item_column])
        place = item_place(source, item_column)
        ids = read_columns(database, source, {"item": (place,)})["item"]
        others = [at for at in range(len(source.names)) if at != place]
        fields = ", ".join(f'{source.fields[at]} AS "c{at}"' for at in others) or "1 AS c"
        frame = run(database, source.name, f"SELECT {fields} FROM {source.sql}", source.parameters).df()
        columns: dict[str, Any] = {source.names[at]: frame[f"c{at}"] for at in others}
    if source.is_text:
        columns = {name: _typed(values) for name, values in columns.items()}
    has_id = ids.notna()
    table: Any = pd.DataFrame({ITEM_ID: ids} | columns)[has_id].reset_index(drop=True)
    if known is not None:
        table[ITEM_ID] = pd.Series(ids_like(table[ITEM_ID].tolist(), known), dtype=object)
    return table


def read_groups(path: str | Path, item_column: str | None = None, group_column: str | None = None) -> dict[Any, Any]:
    """Read a dict {item id: group} from a table of items. Items without a group are left out.

    Raises:
        FileNotFoundError, DataError: for the reasons that `read_items` lists.
    """
    with duckdb.connect() as database, ExitStack() as stack:
        source = open_table(database, stack, path, TextFormat(), [item_column, group_column])
        wanted = {"item": str(item_place(source, item_column) + 1), "group": group_column}
        found = find_columns(source.name, source.names, source.has_header, wanted, ("item", "group"), ("item", "group"))
        table = read_columns(database, source, found).dropna()
    return dict(zip(table["item"].tolist(), table["group"].tolist(), strict=True))


def item_place(source: Source, item_column: str | None) -> int:
    """Return the place of the ids' column in a table of items, from 0.

    If the table has no column of this name, the name is that of a column of the log, and the column is guessed.

    Raises:
        DataError: the table has no column of ids.
    """
    is_there = item_column in source.names or (item_column or "").isdigit()
    wanted = {"item": item_column if is_there and item_column != NO_COLUMN else None}
    return find_columns(source.name, source.names, source.has_header, wanted, ("item",), ("item",))["item"][0]


def _typed(cells: pd.Series) -> pd.Series:
    """Convert a column of texts to numbers, dates or lists, if all its texts can be read so."""
    given = cells.dropna()
    texts = given.astype(str).str.strip()
    texts = texts[texts != ""]
    if not len(texts):
        return cells
    numbers: Any = pd.to_numeric(texts, errors="coerce")
    if numbers.notna().all():
        return numbers.reindex(cells.index)
    if texts.str.startswith("[").all() and texts.str.endswith("]").all():
        return texts.map(_listed).reindex(cells.index)
    if texts.str.contains(SEPARATOR, regex=False).any():
        return texts.str.split(SEPARATOR, regex=False).reindex(cells.index)
    if texts.str.match(r"\d").all():
        times, wrong = read_dates(texts.unique().tolist(), None)
        if not len(wrong):
            moments = dict(zip(texts.unique(), pd.to_datetime(times), strict=True))
            return pd.to_datetime(texts.map(moments)).reindex(cells.index)
    return texts.reindex(cells.index)


def _listed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return [part.strip(" '\"") for part in text[1:-1].split(",") if part.strip(" '\"")]
