"""Convert any one-dimensional list, array, series or tensor to a pandas Series, and ratings to checked float32."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from corerec.errors import DataError

MISSING_TEXTS = {"", "nan", "null", "none", "<na>", "nat", "\\n"}  # in lower case, without spaces around


def as_series(values: Any, name: str) -> pd.Series:
    """Convert a column to a Series that keeps the column's type. Masked entries become None; polars columns need no
    pyarrow.

    Args:
        values: list, tuple, NumPy array (masked or not), pandas or polars series, Arrow array, tensor or any iterable.
        name: what the column is called in error messages.
    Raises:
        DataError: `values` is one single value, or has more than one dimension.
    """
    if isinstance(values, str | bytes):
        raise DataError(f"{name} is one {type(values).__name__} ({values!r}); pass a list of ids")
    if hasattr(values, "detach"):  # torch, on any device
        values = values.detach().cpu()
        values = values.numpy() if values.dtype.itemsize != 2 or not values.is_floating_point() else values.float()
    if isinstance(values, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(values)
        values = values.data
        if mask.any():
            values = values.astype(object)
            values[mask] = None
    if isinstance(values, pd.Series | pd.Index):
        return pd.Series(values).reset_index(drop=True) if isinstance(values, pd.Index) else values
    if hasattr(values, "__array__"):  # NumPy, polars, Arrow
        array = np.asarray(values)
        if array.ndim != 1:
            raise DataError(f"{name} has {array.ndim} dimensions; pass one flat column")
        return pd.Series(array)
    if hasattr(values, "to_pylist"):
        values = values.to_pylist()
    elif getattr(values, "ndim", 1) != 1:
        raise DataError(f"{name} has {values.ndim} dimensions; pass one flat column")
    elif not isinstance(values, Iterable):
        raise DataError(f"{name} is a {type(values).__name__}; pass a list, an array or a table's column of ids")
    given = list(values)
    types = set(map(type, given))
    if types == {float}:
        return pd.Series(np.array(given))
    if type(np.ma.masked) in types:
        given = [None if value is np.ma.masked else value for value in given]
    # One object per element: NumPy would turn [1, "a"] into two strings and [(1, 2)] into a matrix.
    objects = np.empty(len(given), dtype=object)
    objects[:] = given
    column = pd.Series(objects, dtype=object)
    if any(issubclass(kind, str) for kind in types):
        return column  # of Python's own texts, which pandas would copy, or refuse where they are no Unicode
    inferred = column.infer_objects()
    # [2**53 + 1, 0.5] stays two objects: as floats the first would be another number.
    return inferred if inferred.dtype.kind in "iubMm" else column


def plain_value(value: Any) -> Any:
    """Return a NumPy scalar or a tensor of one value as a Python value, and a masked value as None."""
    if value is np.ma.masked:
        return None
    if isinstance(value, np.generic) or (hasattr(value, "item") and getattr(value, "ndim", None) == 0):
        return value.item()
    return value


def column_length(column: Any, name: str) -> int:
    """Return the number of a column's values.

    Raises:
        DataError: `column` is a single value, not a column.
    """
    try:
        return len(column)
    except TypeError:
        raise DataError(f"{name} is a {type(column).__name__}; pass a list, an array or a table's column") from None


def rating_column(values: Any) -> np.ndarray:
    """Return ratings as float32 (rows,), all finite.

    Raises:
        DataError: a value is not a number, is missing, or is infinite as a float32. The message names its row.
    """
    column: Any = as_series(values, "ratings")
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind.startswith(("date", "time")):
        raise DataError(f"ratings are of type {kind}, not numbers; if they are times, pass timestamps=")
    if column.dtype == object:
        column = column.map(plain_value)
    if not pd.api.types.is_numeric_dtype(column.dtype):
        column = pd.to_numeric(column, errors="coerce")
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and told so below
        if isinstance(column.dtype, np.dtype):
            numbers = column.to_numpy().astype(np.float32)
        else:
            numbers = column.to_numpy(dtype=np.float64, na_value=np.nan).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise DataError(unusable_ratings(len(bad), shown(values, bad[0]), bad[0]))
    return numbers


def unusable_ratings(count: int, first: str, row: int) -> str:
    """Return the error text for ratings that are not numbers: their count, and the first one with its row."""
    return (
        f"ratings has {count:,} values that are not finite numbers, the first ({first}) at row {row}; drop those rows, "
        "or fit without ratings"
    )


def shown(values: Any, row: int) -> str:
    """Return the value of a row, as the caller passed it, for an error message."""
    return repr(plain_value(values.iloc[row] if isinstance(values, pd.Series) else values[int(row)]))
