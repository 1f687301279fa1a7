"""Convert a table of items to numeric features: codes for categories and numbers, and dense vectors.

n items, K codes an item at most, T values of all vector columns together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from corerec.errors import DataError

MOST_KNOTS = 64  # distinct numbers that get a code each; of more, quantiles do
QUANTILE_KNOTS = 33
FEWEST_ITEMS = 2  # a category of a single item gives no information about other items
KINDS = ("category", "number", "vector")
ITEM_ID = "item_id"


@dataclass(frozen=True)
class ItemFeatures:
    """The features of n items as arrays of numbers.

    Attributes:
        codes: int32 (n, K), each item's codes, 0 where an item has fewer than K.
        weights: float32 (n, K), the weight of each code; 0 for code 0.
        dense: float32 (n, T), the values of all vector columns.
    """

    codes: np.ndarray
    weights: np.ndarray
    dense: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True)
class FeatureColumn:
    """The rule that turns one column of features into numbers.

    All fields are plain values, so that a file can hold the rule.
    """

    name: str
    kind: str
    categories: tuple[Any, ...] = ()
    """For a "category" column: the categories with a code, in the order of their codes."""
    knots: tuple[float, ...] = ()
    """For a "number" column: rising values. A number between two of these values divides its weight between their two
    codes."""
    mean: tuple[float, ...] = ()
    """For a "vector" column: the mean vector, which has the length of the column's vectors."""
    scale: float = 1.0

    def __str__(self) -> str:
        what = {
            "category": f"{len(self.categories):,} categories",
            "number": "numbers",
            "vector": f"vectors of {len(self.mean):,} values",
        }
        return f"{self.name} ({what[self.kind]})"

    @property
    def num_codes(self) -> int:
        return len(self.categories) + len(self.knots)


@dataclass(frozen=True)
class FeatureTable:
    """The feature columns of the first table of items: the kind, the categories and the range of each column. Later
    tables are converted by the same rules.

    Columns may hold categories (text, truth values, or lists of these), numbers, dates, or vectors (lists of numbers of
    one length, such as embeddings of texts). A missing value gives no code. A category that the first table did not
    have gives no code either.

        genres ["Action", "Comedy"], year 1995  ->  codes of the two genres, and of the two years nearest to 1995
    """

    columns: tuple[FeatureColumn, ...]

    @classmethod
    def of(cls, frame: Any) -> FeatureTable:
        """Decide how each column is read.

        Raises:
            DataError: the table has no column of features, or a column mixes kinds of values or lengths of vectors.
        """
        columns = tuple(_column(str(name), frame[name]) for name in frame.columns if name != ITEM_ID)
        kept = tuple(column for column in columns if column.num_codes or column.mean)
        if not kept:
            raise DataError(
                "items has no column that tells items apart; besides item_id give categories, numbers or vectors"
            )
        return cls(kept)

    @classmethod
    def from_plain(cls, columns: list[Mapping[str, Any]]) -> FeatureTable:
        """Build the table from the result of `to_plain`, which may have been written to JSON and read again."""
        read = [
            FeatureColumn(**cast(Any, {k: tuple(v) if isinstance(v, list) else v for k, v in column.items()}))
            for column in columns
        ]
        if not read or any(column.kind not in KINDS for column in read):
            raise ValueError("columns of items of no known kind")
        return cls(tuple(read))

    def __str__(self) -> str:
        return ", ".join(map(str, self.columns))

    def to_plain(self) -> list[dict[str, Any]]:
        return [asdict(column) for column in self.columns]

    @property
    def num_codes(self) -> int:
        return sum(column.num_codes for column in self.columns)

    @property
    def dense_dim(self) -> int:
        return sum(len(column.mean) for column in self.columns)

    def read(self, frame: Any) -> ItemFeatures:
        """Read the features of a table's rows.

        Raises:
            DataError: a column is missing, or holds values of another kind than the same column of the first table.
        """
        if missing := [column.name for column in self.columns if column.name not in frame.columns]:
            raise DataError(f"items lacks the column {missing[0]!r}, which the model was fitted with")
        rows: list[np.ndarray] = []
        codes: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        dense, first = [np.zeros((len(frame), 0), np.float32)], 1
        for column in self.columns:
            values = frame[column.name]
            if column.kind == "vector":
                dense.append(_dense(column, values))
                continue
            at, code, weight = (_category_codes if column.kind == "category" else _number_codes)(column, values)
            rows.append(at)
            codes.append(code + first)
            weights.append(weight)
            first += column.num_codes
        if not rows:
            empty = np.zeros((len(frame), 1))
            return ItemFeatures(empty.astype(np.int32), empty.astype(np.float32), np.concatenate(dense, 1))
        row, code, weight = map(np.concatenate, (rows, codes, weights))
        order = np.argsort(row, kind="stable")
        row, code, weight = row[order], code[order], weight[order]
        counts = np.bincount(row, minlength=len(frame))
        place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        shape = len(frame), max(1, int(counts.max(initial=1)))
        all_codes, all_weights = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        all_codes[row, place], all_weights[row, place] = code, weight
        return ItemFeatures(all_codes, all_weights, np.concatenate(dense, 1))


def items_frame(items: Any) -> pd.DataFrame:
    """Return a table with a column item_id. The given frame must have this column, or an index of this name.

    Raises:
        DataError: `items` is not a table, lacks the ids, or names an item twice.
    """
    if hasattr(items, "to_pandas"):  # polars, Arrow
        items = items.to_pandas()
    if not isinstance(items, pd.DataFrame):
        raise DataError(f"items is a {type(items).__name__}; pass a table with a column item_id and one row an item")
    frame: Any = items if ITEM_ID in items.columns else items.rename_axis(ITEM_ID).reset_index()
    twice = frame[ITEM_ID].duplicated()
    if twice.any():
        raise DataError(f"items names {frame[ITEM_ID][twice].iloc[0]!r} twice; give each item one row")
    return frame.reset_index(drop=True)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray | set | frozenset)


def _is_missing(value: Any) -> bool:
    return value is None or (not _is_list(value) and bool(pd.isna(value)))


def _plain(value: Any) -> str | int | float | bool:
    """Return a category as a value that a file can hold."""
    plain = value.item() if isinstance(value, np.generic) else value
    return plain if isinstance(plain, str | int | float | bool) else str(plain)


def _column(name: str, values: pd.Series) -> FeatureColumn:
    if pd.api.types.is_datetime64_any_dtype(values) or (
        pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    ):
        return _number_column(name, values)
    given = [value for value in values if not _is_missing(value)]
    lists = [value for value in given if _is_list(value)]
    if lists and len(lists) < len(given):
        raise DataError(f"the column {name!r} of items holds lists and single values; give one kind")
    if lists and all(isinstance(part, int | float | np.number) for value in lists for part in value):
        vectors = [np.asarray(list(value), np.float64) for value in lists if len(value)]
        if len({len(vector) for vector in vectors}) > 1:
            raise DataError(f"the column {name!r} of items holds vectors of several lengths; give them one length")
        if vectors:
            matrix = np.stack(vectors)
            spread = float(np.linalg.norm(matrix - matrix.mean(0), axis=1).mean())
            return FeatureColumn(name, "vector", mean=tuple(matrix.mean(0).tolist()), scale=spread or 1.0)
    counts: dict[Any, int] = {}
    for value in given:
        for part in set(value) if _is_list(value) else (value,):
            plain = _plain(part)
            counts[plain] = counts.get(plain, 0) + 1
    kept = sorted((category for category, count in counts.items() if count >= FEWEST_ITEMS), key=lambda c: str(c))
    return FeatureColumn(name, "category", categories=tuple(kept))


def _number_column(name: str, values: pd.Series) -> FeatureColumn:
    numbers = _numbers(values)
    distinct = np.unique(numbers[np.isfinite(numbers)])
    if len(distinct) > MOST_KNOTS:
        known = numbers[np.isfinite(numbers)]
        distinct = np.unique(np.quantile(known, np.linspace(0, 1, QUANTILE_KNOTS)))
    return FeatureColumn(name, "number", knots=tuple(distinct.tolist()) if len(distinct) > 1 else ())


def _numbers(values: pd.Series) -> np.ndarray:
    if pd.api.types.is_datetime64_any_dtype(values):
        seconds = (pd.to_datetime(values, utc=True) - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
        return seconds.to_numpy(np.float64, na_value=np.nan)
    numbers: Any = pd.to_numeric(values, errors="coerce")
    return numbers.to_numpy(np.float64, na_value=np.nan)


def _category_codes(column: FeatureColumn, values: pd.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the row, code (from 0) and weight of each known category. A list's weights form a vector of length 1."""
    code_of = {category: code for code, category in enumerate(column.categories)}
    rows: list[int] = []
    codes: list[int] = []
    for row, value in enumerate(values):
        if _is_missing(value):
            continue
        for part in set(value) if _is_list(value) else (value,):
            code = code_of.get(_plain(part))
            if code is not None:
                rows.append(row)
                codes.append(code)
    at = np.array(rows, np.int64)
    counts = np.bincount(at, minlength=len(values))
    return at, np.array(codes, np.int64), (1 / np.sqrt(counts[at])).astype(np.float32)


def _number_codes(column: FeatureColumn, values: pd.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the row, code and weight of the two knots around each number (linear, and constant beyond the ends)."""
    numbers, knots = _numbers(values), np.array(column.knots)
    known = np.flatnonzero(np.isfinite(numbers))
    inside = np.clip(numbers[known], knots[0], knots[-1])
    left = np.clip(np.searchsorted(knots, inside, side="right") - 1, 0, len(knots) - 2)
    share = (inside - knots[left]) / (knots[left + 1] - knots[left])
    rows, codes = np.concatenate([known, known]), np.concatenate([left, left + 1])
    weights = np.concatenate([1 - share, share]).astype(np.float32)
    counts = weights > 0
    return rows[counts], codes[counts], weights[counts]


def _dense(column: FeatureColumn, values: pd.Series) -> np.ndarray:
    matrix = np.zeros((len(values), len(column.mean)), np.float32)
    for row, value in enumerate(values):
        if _is_missing(value) or not len(value):
            continue
        if len(value) != len(column.mean):
            raise DataError(
                f"{column.name!r} has {len(value):,} values at row {row}; the fitted vectors had {len(column.mean):,}"
            )
        matrix[row] = (np.asarray(list(value), np.float64) - column.mean) / column.scale
    if not np.isfinite(matrix).all():
        raise DataError(
            f"the vectors of {column.name!r} are not all finite; leave a vector out (None) where it is not known"
        )
    return matrix
