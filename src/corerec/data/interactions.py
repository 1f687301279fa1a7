"""Raw columns, checked and stably sorted by (user, time) -> SequenceStore: every user's sequence in flat arrays."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from corerec.data.columns import column_length, rating_column, time_column
from corerec.data.sequences import SequenceStore
from corerec.data.vocabulary import Vocabulary
from corerec.errors import DataError, DataWarning


@dataclass(frozen=True)
class Interactions:
    """A log in numbers, with the vocabularies that lead back to its ids."""

    sequences: SequenceStore
    users: Vocabulary
    items: Vocabulary

    @classmethod
    def from_columns(
        cls,
        user_ids: Any,
        item_ids: Any,
        ratings: Any = None,
        timestamps: Any = None,
    ) -> Interactions:
        """Check a log's columns, number its ids, and sort its events stably by (user, time).

        Rows of equal time keep the order they came in. Without timestamps the order of rows is the order of time.
        An item that a user meets again is a new event; rows that repeat another in user, item and time are kept too,
        with one warning.

        Args:
            user_ids, item_ids: hashable ids: lists, NumPy, pandas, polars or Arrow columns of one length.
            ratings: finite numbers, or None.
            timestamps: whole or broken numbers in any unit, dates, or text that parses as either; or None.
        Raises:
            DataError: no rows; lengths differ; a missing id; a rating or time that is missing or not finite.
        """
        columns = {"user_ids": user_ids, "item_ids": item_ids, "ratings": ratings, "timestamps": timestamps}
        lengths = {name: column_length(column, name) for name, column in columns.items() if column is not None}
        if len(lengths) < len(columns) and (user_ids is None or item_ids is None):
            raise DataError("fit needs user_ids and item_ids, one of each for every event")
        if len(set(lengths.values())) > 1:
            raise DataError(
                "columns differ in length: "
                + ", ".join(f"{name} has {length:,}" for name, length in lengths.items())
                + "; each row needs one value of each"
            )
        if lengths["user_ids"] == 0:
            raise DataError("the log is empty: it needs at least one (user, item) row")
        users, rows = Vocabulary.fit(user_ids, "user")
        items, numbers = Vocabulary.fit(item_ids, "item")
        times = None if timestamps is None else time_column(timestamps)
        values = None if ratings is None else rating_column(ratings)
        # lexsort is stable: ML-1M has many equal timestamps, and file order must decide between them.
        order = np.argsort(rows, kind="stable") if times is None else np.lexsort((times, rows))
        sorted_rows, sorted_items = rows[order], numbers[order].astype(np.int32)
        offsets = np.searchsorted(sorted_rows, np.arange(1, len(users) + 2))
        if times is not None:
            times = times[order]
            _warn_of_repeats(sorted_rows, sorted_items, times)
        store = SequenceStore(sorted_items, offsets, times, None if values is None else values[order])
        return cls(store, users, items)


def _warn_of_repeats(rows: np.ndarray, items: np.ndarray, times: np.ndarray) -> None:
    repeats = int(pd.DataFrame({"row": rows, "item": items, "time": times}).duplicated().sum())
    if repeats:
        warnings.warn(
            f"{repeats:,} of {len(rows):,} rows repeat another row's user, item and time; they are kept as events: "
            "drop them before fit if they are an accident of logging",
            DataWarning,
            stacklevel=4,
        )
