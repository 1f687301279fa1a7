"""Normalise ids by value. Only this module decides which ids of columns, files and requests are the same.

10, 10.0, Decimal("10.00") and NumPy's or a tensor's 10 are one id; "10" is another, and "007" is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from corerec.data.columns import MISSING_TEXTS, as_series, plain_value
from corerec.errors import DataError

PLAIN = {int, str, bool}  # ids that are neither missing nor unhashable, whatever their value
SAVABLE = (int, str, float, bool)
LARGEST_EXACT = 2**53 - 1  # the largest whole number that JavaScript holds exactly
WHOLE_TEXT = re.compile(r"(-?[1-9]\d*|0)(\.0+)?")
ROWS_AT_ONCE = 100_000


def canonical_id(an_id: Any) -> Any:
    """Normalise an id: a whole float or Decimal becomes an int, and a NumPy scalar or 1-value tensor a Python value."""
    kind = type(an_id)
    if kind in PLAIN:
        return an_id
    an_id = plain_value(an_id)
    if isinstance(an_id, float):
        return int(an_id) if an_id.is_integer() else an_id
    if isinstance(an_id, Decimal) and an_id.is_finite() and an_id == an_id.to_integral_value():
        return int(an_id)
    return str(an_id) if isinstance(an_id, str) else an_id


def whole_number(text: str) -> int | None:
    """Parse a whole number in the form that Python prints, such as "7", "-7", "7.0" or "1e+16".

    Any other text gives None, such as "007", "+7" or "1e3".
    """
    match = WHOLE_TEXT.fullmatch(text)
    if match:
        return int(match[1])
    if "e+" in text:
        try:
            value = float(text)
        except ValueError:
            return None
        return int(value) if value.is_integer() and repr(value) == text else None
    return None


def text_to_id(text: str) -> int | str:
    """Convert an id that was typed or read as text to the type that the column of a text file would have."""
    number = whole_number(text)
    return text if number is None else number


def exact_in_javascript(an_id: Any) -> Any:
    """Return the id as JSON should carry it: as text if it is a whole number that JavaScript would round."""
    return str(an_id) if type(an_id) is int and abs(an_id) > LARGEST_EXACT else an_id


def id_column(values: Any, name: str) -> np.ndarray:
    """Return ids as one flat array: int64 when all are whole numbers that fit, else objects of their Python types.

    Args:
        values: list, tuple, NumPy array, pandas or polars series, Arrow array, tensor or any iterable of ids.
        name: what the column is called in error messages.
    Raises:
        DataError: the column has more than one dimension, or an id is missing (None, NaN, NaT, masked) or not hashable.
    """
    column = as_series(values, name)
    whole = _whole_numbers(column)
    if whole is not None:
        return whole
    missing = np.flatnonzero(column.isna().to_numpy())
    if len(missing):
        raise DataError(missing_ids(name, len(missing), missing[0]))
    objects = column.to_numpy(dtype=object)
    types = set(map(type, objects))
    if not types <= PLAIN:
        plain = np.empty(len(objects), dtype=object)
        plain[:] = [canonical_id(an_id) for an_id in objects]
        objects, types = plain, set(map(type, plain))
        missing = [row for row, an_id in enumerate(objects) if an_id is None] if type(None) in types else []
        if missing:
            raise DataError(missing_ids(name, len(missing), missing[0]))
    if not types <= {int, str, bool, float}:
        try:
            for an_id in objects:
                hash(an_id)
        except TypeError as error:
            raise DataError(f"{name} has an id that is not hashable ({error}); use text or numbers") from None
    if types == {int}:
        try:
            return objects.astype(np.int64)
        except OverflowError:  # a whole number beyond 64 bits
            pass
    return objects


def number_ids(values: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct ids of a column in order of appearance.

    Text and categories are numbered without a Python object for each row.

    Returns:
        the numbers, int32 (rows,), from 0; and the distinct ids, as `id_column` gives them.
    Raises:
        DataError: `id_column` refuses the column, or an id cannot be saved. Such an id is neither text nor a finite
            number, or is text that means "missing" (NaN, NULL, None or empty), or is not valid Unicode.
    """
    column = as_series(values, name)
    if isinstance(column.dtype, pd.CategoricalDtype | pd.StringDtype) or pd.api.types.is_string_dtype(column.dtype):
        as_objects = column.dtype == object
        if as_objects and _needs_objects(column):
            ids = id_column(column, name)
        elif as_objects:
            ids = column.to_numpy()
        else:
            ids = column
    else:
        ids = id_column(column, name)
    codes, distinct = _factorize(ids)
    missing = np.flatnonzero(codes < 0)
    if len(missing):
        raise DataError(missing_ids(name, len(missing), missing[0]))
    if not isinstance(ids, np.ndarray):
        by_value = id_column(distinct, name)
        merged, distinct = _factorize(by_value)  # categories 10 and 10.0 are one id
        if len(distinct) < len(by_value):
            codes = merged[codes]
    codes = codes.astype(np.int32)
    if distinct.dtype == object:
        _check_savable(codes, distinct, name)
    return codes, distinct


def check_savable(ids: Any, name: str) -> None:
    """Check that a file can hold the ids.

    Raises:
        DataError: an id cannot be saved, for a reason that `number_ids` lists.
    """
    ids = id_column(ids, name)
    if ids.dtype == object:
        _check_savable(np.arange(len(ids)), ids, name)


def _whole_numbers(column: pd.Series) -> np.ndarray | None:
    """Return int64 (rows,) where all values are whole numbers of a numeric type.

    None means that each value must be checked.
    """
    dtype = column.dtype
    if pd.api.types.is_bool_dtype(dtype) or not pd.api.types.is_numeric_dtype(dtype) or column.hasnans:
        return None
    if pd.api.types.is_integer_dtype(dtype):
        fits = not pd.api.types.is_unsigned_integer_dtype(dtype) or column.empty or column.max() < 2**63
        return column.to_numpy(dtype=np.int64) if fits else None
    if not pd.api.types.is_float_dtype(dtype) or "decimal" in str(dtype):
        return None
    numbers = column.to_numpy(dtype=np.float64)
    with np.errstate(invalid="ignore"):
        whole = numbers.astype(np.int64)
    return whole if bool(((whole == numbers) & (np.abs(numbers) < 2.0**63)).all()) and len(numbers) else None


def _needs_objects(column: pd.Series) -> bool:
    """Return whether a column of objects holds anything but Python's own text."""
    return not set(map(type, column.to_numpy())) <= {str}


def _factorize(ids: Any) -> tuple[np.ndarray, Any]:
    if isinstance(ids, np.ndarray) and ids.dtype == object and _has_nul(ids):
        # pandas compares such texts as C does, up to the NUL, so ids that differ behind it would be one.
        number_of: dict[Any, int] = {}
        codes = np.fromiter((number_of.setdefault(an_id, len(number_of)) for an_id in ids), np.int64, len(ids))
        distinct = np.empty(len(number_of), dtype=object)
        distinct[:] = list(number_of)
        return codes, distinct
    return pd.factorize(ids)


def _has_nul(ids: np.ndarray) -> bool:
    for start in range(0, len(ids), ROWS_AT_ONCE):
        try:
            if "\0" in "".join(ids[start : start + ROWS_AT_ONCE]):
                return True
        except TypeError:  # not all are text: pandas then compares as Python does
            return False
    return False


def _check_savable(codes: np.ndarray, distinct: np.ndarray, name: str) -> None:
    """Raise an error for an id that cannot be written to a file, or that would be read from the file as missing."""
    missing = [
        at for at, an_id in enumerate(distinct) if isinstance(an_id, str) and an_id.strip().lower() in MISSING_TEXTS
    ]
    if missing:
        rows = np.flatnonzero(np.isin(codes, missing))
        said = f", written as {', '.join(repr(distinct[at]) for at in missing[:3])}"
        raise DataError(missing_ids(name, len(rows), rows[0], said))
    for at, an_id in enumerate(distinct):
        problem = _unsavable(an_id)
        if problem:
            row = int(np.argmax(codes == at))
            raise DataError(f"{name} has {an_id!r} at row {row}, {problem}; use text or numbers as ids")


def _unsavable(an_id: Any) -> str:
    if isinstance(an_id, str):
        if not an_id.isascii():
            try:
                an_id.encode()
            except UnicodeEncodeError:
                return "a text that is not valid Unicode"
        return ""
    if not isinstance(an_id, SAVABLE):
        return f"of type {type(an_id).__name__}, which a model file cannot hold"
    return "which is not finite" if isinstance(an_id, float) and not np.isfinite(an_id) else ""


def missing_ids(name: str, count: int, row: Any, said: str = "") -> str:
    """Return the error text for missing ids: how many there are, the first one's row, and how they are written."""
    return f"{name} has {count:,} missing ids, the first at row {row}{said}; drop those rows"


def distinct_types(ids: Iterable[Any]) -> set[str]:
    """Return the names of the ids' types."""
    return {kind.__name__ for kind in set(map(type, ids))}
