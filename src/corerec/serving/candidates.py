"""Named lists of candidates on the server, such as the items in stock. A request can name a list instead of item
ids."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from corerec.data.tables import ids_like
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError

log = logging.getLogger(__name__)

ITEM_COLUMNS = ("item_id", "itemid", "item", "movie_id", "movieid", "product_id", "productid", "id")


class CandidateLists:
    """Lists of item ids by name. A list contains each item of its file that the model knows once, in the file's
    order."""

    def __init__(self, lists: dict[str, list[Any]]) -> None:
        self._lists = lists

    @classmethod
    def read(cls, files: Sequence[str | Path], items: Vocabulary) -> CandidateLists:
        """Read one list from each file. The list has the name of the file without its suffix. Unknown items are left
        out.

        Raises:
            FileNotFoundError: there is no such file.
            DataError: a file cannot be read, or two files give the same name.
        """
        lists: dict[str, list[Any]] = {}
        for path in map(Path, files):
            if path.stem in lists:
                raise DataError(f"two files of candidates are called {path.stem}; rename one")
            ids = list(dict.fromkeys(ids_like(read_item_ids(path), items)))
            known = [item_id for item_id in ids if item_id in items]
            lists[path.stem] = known
            log.info("candidates %s: %s of %s items are known", path.stem, f"{len(known):,}", f"{len(ids):,}")
        return cls(lists)

    @property
    def names(self) -> list[str]:
        return sorted(self._lists)

    def find(self, name: str) -> list[Any] | None:
        """Return the ids of a list, or None if no list has this name."""
        return self._lists.get(name)


def read_item_ids(path: Path) -> list[str]:
    """Read the item ids of a table as text: its column item_id (or item, product_id, movieId ...), or its only column.

    Raises:
        FileNotFoundError, DataError: for the reasons that `CandidateLists.read` lists.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file of candidates {path}")
    try:
        if path.suffix == ".parquet":
            with duckdb.connect() as database:
                table = database.execute("SELECT * FROM read_parquet(?)", [str(path)])
                names = [column[0] for column in table.description or ()]
                rows = [[None if cell is None else str(cell) for cell in row] for row in table.fetchall()]
        else:
            with path.open(newline="", encoding="utf-8-sig") as file:
                text = file.read()
            delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
            rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if row]
            names = [name.strip() for name in rows[0]] if rows else []
            if any(name.lower() in ITEM_COLUMNS for name in names):
                rows = rows[1:]
    except (OSError, UnicodeDecodeError, csv.Error, duckdb.Error) as error:
        raise DataError(f"{path} cannot be read as a table of candidates ({error})") from None
    plain = [name.lower() for name in names]
    at = next((plain.index(name) for name in ITEM_COLUMNS if name in plain), 0 if len(names) == 1 else None)
    if at is None:
        raise DataError(f"cannot tell which column of {path} holds the items ({', '.join(names)}): call it item_id")
    return [cell.strip() for row in rows if at < len(row) and (cell := row[at])]
