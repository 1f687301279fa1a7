"""What people pass as a column (list, array, series) -> checked NumPy arrays of ids, ratings or times."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from corerec.errors import DataError

PLAIN = {int, str, bool}  # ids that are neither missing nor unhashable, whatever their value


def id_column(values: Any, name: str) -> np.ndarray:
    """Ids as one flat array: int64 when all are whole numbers that fit, else objects of their own Python types.

    Args:
        values: list, tuple, NumPy array, pandas or polars series, Arrow array or any iterable of hashable ids.
        name: what the column is called in error messages.
    Raises:
        DataError: not one-dimensional, an id missing (None, NaN, NaT), or an id that is not hashable.
    """
    column = _as_series(values, name)
    missing = np.flatnonzero(column.isna().to_numpy())
    if len(missing):
        raise DataError(f"{name} has {len(missing):,} missing ids, the first at row {missing[0]}; drop those rows")
    if pd.api.types.is_bool_dtype(column.dtype):
        return column.to_numpy(dtype=object)
    if pd.api.types.is_integer_dtype(column.dtype) and (
        not pd.api.types.is_unsigned_integer_dtype(column.dtype) or column.empty or column.max() < 2**63
    ):
        return column.to_numpy(dtype=np.int64)
    objects = column.astype(object).to_numpy(dtype=object)
    if not isinstance(column.dtype, pd.StringDtype):
        try:
            for an_id in objects:
                hash(an_id)
        except TypeError as error:
            raise DataError(f"{name} has an id that is not hashable ({error}); use text or numbers") from None
    return objects


def _as_series(values: Any, name: str) -> pd.Series:
    if isinstance(values, pd.Series):
        return values
    if isinstance(values, str | bytes):
        raise DataError(f"{name} is one {type(values).__name__} ({values!r}); pass a list of ids")
    if hasattr(values, "__array__"):  # NumPy, polars, Arrow, torch
        values = np.asarray(values)
        if values.ndim != 1:
            raise DataError(f"{name} has {values.ndim} dimensions; pass one flat column")
    elif hasattr(values, "to_pylist"):
        values = values.to_pylist()
    elif isinstance(values, Iterable):
        values = list(values)
    else:
        raise DataError(f"{name} is a {type(values).__name__}; pass a list, an array or a table's column of ids")
    if isinstance(values, list):
        # One object per element: NumPy would turn [1, "a"] into two strings and [(1, 2)] into a matrix.
        objects = np.empty(len(values), dtype=object)
        objects[:] = values
        column = pd.Series(objects)
        inferred = column.infer_objects()
        # [2**53 + 1, 0.5] stays two objects: as floats the first would be another number.
        return column if pd.api.types.is_float_dtype(inferred.dtype) else inferred
    return pd.Series(values)


def column_length(column: Any, name: str) -> int:
    """The number of a column's values.

    Raises:
        DataError: it is no column but a single value.
    """
    try:
        return len(column)
    except TypeError:
        raise DataError(f"{name} is a {type(column).__name__}; pass a list, an array or a table's column") from None


def rating_column(values: Any) -> np.ndarray:
    """float32 (rows,) finite ratings.

    Raises:
        DataError: a value is not a number, missing, or infinite as a float32; the first such row is named.
    """
    column: Any = _plain_series(values, "ratings")
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind.startswith(("date", "time")):
        raise DataError(f"ratings are of type {kind}, not numbers; if they are times, pass timestamps=")
    column = pd.to_numeric(column, errors="coerce")
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and told so below
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise DataError(
            f"ratings has {len(bad):,} values that are not finite numbers, the first ({_shown(values, bad[0])}) "
            f"at row {bad[0]}; drop those rows, or fit without ratings"
        )
    return numbers


def time_column(values: Any) -> np.ndarray:
    """int64 or float64 (rows,): numbers as they are, dates (and text that parses as dates) as nanoseconds UTC.

    Raises:
        DataError: a time is missing, infinite, does not parse, or is a date that nanoseconds in 64 bits do not reach;
            the first such row is named.
    """
    column = _plain_series(values, "timestamps")
    kind = pd.api.types.infer_dtype(column, skipna=True)
    numbers: Any = None if kind.startswith("date") else pd.to_numeric(column, errors="coerce")
    if numbers is not None and numbers.isna().sum() == column.isna().sum():
        times = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
        bad = np.flatnonzero(~np.isfinite(times))
        if not len(bad) and pd.api.types.is_integer_dtype(numbers.dtype) and times.max() < 2**63:
            times = numbers.to_numpy(dtype=np.int64)  # float64 holds whole numbers only up to 2**53
    else:
        dates: Any = pd.to_datetime(column, errors="coerce", utc=True, format="mixed" if kind == "string" else None)
        dates = dates.dt.tz_localize(None)
        # The conversion to nanoseconds would wrap a year 9999 round to 1815 without a word.
        bad = np.flatnonzero(~dates.between(pd.Timestamp.min, pd.Timestamp.max))
        times = dates.to_numpy(dtype="datetime64[ns]").astype(np.int64)
        if numbers is not None and numbers.isna().sum() < len(bad):
            bad = np.flatnonzero(numbers.isna())  # most rows are numeric text: name the row that is not
    if len(bad):
        raise DataError(
            f"timestamps has {len(bad):,} values that are missing or do not read as a time (dates: 1678 to 2261), the "
            f"first ({_shown(values, bad[0])}) at row {bad[0]}; drop those rows, or fit without timestamps"
        )
    return times


def _plain_series(values: Any, name: str) -> pd.Series:
    if hasattr(values, "to_pandas"):  # polars, Arrow
        values = values.to_pandas()
    if getattr(values, "ndim", 1) != 1:
        raise DataError(f"{name} has {values.ndim} dimensions; pass one flat column")
    if isinstance(values, pd.Series | pd.Index):
        return pd.Series(values).reset_index(drop=True)
    return pd.Series(np.asarray(values) if hasattr(values, "__array__") else list(values))  # torch has __array__


def _shown(values: Any, row: int) -> str:
    return repr(values.iloc[row] if isinstance(values, pd.Series) else values[int(row)])
