"""Read a column of timestamps (numbers, dates or text) as int64 or float64, by one format for the whole column.

Numbers stay as they are. Dates, and texts of dates, become nanoseconds since 1970 UTC.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from corerec.data.columns import as_series, plain_value, shown
from corerec.data.date_formats import read_dates
from corerec.errors import DataError

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # ticks in a second
CLOCK_FROM, CLOCK_TO = 10**8, 5 * 10**9  # seconds: 1973 to 2128
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
DURATION = re.compile(r"-?P(?=[\dT])[\dDTHMSWY.]*|-?\d+ days?\b.*|-?\d+:\d{2}(:\d{2}([.,]\d+)?)?( ?[AaPp]\.?[Mm]\.?)?")
SAMPLED = 1_000
SECOND = 10**9


def time_column(values: Any, day_first: bool | None = None) -> np.ndarray:
    """Read times as int64 or float64 (rows,). Numbers stay as they are. Dates, and texts of dates, become nanoseconds
    since 1970 UTC.

    One format holds for the whole column. Dates without a zone are taken for UTC.

    Args:
        day_first: whether 05/03/2023 is the fifth of March. None decides by the whole column, and warns if the column
            leaves it open.
    Raises:
        DataError: a time is missing, infinite, a duration or a time of day. Or it does not have the column's format,
            has another unit than the other times, or is a date outside 64 bits of nanoseconds. The message names the
            first such row.
    """
    column = as_series(values, "timestamps")
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    kind = column.dtype.kind if column.dtype.kind != "O" else pd.api.types.infer_dtype(column, skipna=True)
    if isinstance(column.dtype, pd.PeriodDtype):
        column = column.dt.to_timestamp()
    if kind in ("m", "timedelta", "timedelta64", "time"):
        raise DataError(_durations(values, 0))
    if kind in ("b", "boolean", "c", "complex"):
        raise DataError(f"timestamps are of type {column.dtype}; pass numbers, dates or text that reads as either")
    if pd.api.types.is_numeric_dtype(column.dtype):
        return _one_clock(values, _numbers(values, column))
    if isinstance(column.dtype, pd.DatetimeTZDtype) or column.dtype.kind == "M":
        return _dates(values, column)
    objects = column.to_numpy(dtype=object, copy=True)
    objects[column.isna().to_numpy()] = None
    return _objects(values, objects, day_first)


def time_unit(times: np.ndarray | None) -> str | None:
    """Return the unit of times that count from 1970: "s", "ms", "us" or "ns". Return None for other times, such as row
    numbers.

    The newest time decides: it has the unit in which it lies between 1973 and 2128.
    """
    return None if times is None or not len(times) else unit_of(times.max())


def unit_of(a_time: Any) -> str | None:
    """Return the unit of one time, by the rule of `time_unit`."""
    for unit, ticks in UNITS.items():
        if CLOCK_FROM * ticks <= a_time < CLOCK_TO * ticks:
            return unit
    return None


def time_in(unit: str | None, moment: Any) -> int | float:
    """Convert a moment to the unit of a log's times. A number stays as it is; a date, or text of a date, is converted.

    >>> time_in("ms", "1990-01-01")
    631152000000

    Args:
        unit: the log's unit, from `time_unit`.
    Raises:
        DataError: the moment cannot be read as a time, or it is a date and the log's times have no known unit.
    """
    (value,) = time_column([moment]).tolist()
    is_number = isinstance(moment, int | float | np.number | Decimal) or (
        isinstance(moment, str) and NUMBER.fullmatch(moment.strip()) is not None
    )
    if is_number:
        return value
    if unit is None:
        raise DataError(f"the log's times do not count from 1970, so {moment!r} has no place among them; give a number")
    return value * UNITS[unit] // SECOND


# ------------------------------------------------------------------------------------------------------- numbers


def _numbers(values: Any, column: Any) -> np.ndarray:
    missing = np.flatnonzero(column.isna().to_numpy())
    if pd.api.types.is_integer_dtype(column.dtype):
        if len(missing):
            raise DataError(_unreadable(values, missing))
        large = pd.api.types.is_unsigned_integer_dtype(column.dtype) and len(column) and column.max() >= 2**63
        if large:
            raise DataError(_unreadable(values, np.flatnonzero((column >= 2**63).to_numpy())))
        return column.to_numpy(dtype=np.int64)  # float64 holds whole numbers only up to 2**53
    if "decimal" in str(column.dtype):
        return _plain_numbers(values, column.to_numpy(dtype=object).tolist())
    times = column.to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        raise DataError(_unreadable(values, bad))
    return times


def _plain_numbers(values: Any, numbers: list[Any]) -> np.ndarray:
    """Return Python's ints, floats and Decimals as int64 if all are whole numbers of exact types, else as float64."""
    exact = [int(n) if isinstance(n, Decimal) and n.is_finite() and n == int(n) else n for n in numbers]
    if all(type(number) is int for number in exact):
        try:
            return np.array(exact, np.int64)
        except OverflowError:
            raise DataError(_unreadable(values, [at for at, n in enumerate(exact) if abs(n) >= 2**63])) from None
    times = np.array(exact, np.float64)
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        raise DataError(_unreadable(values, bad))
    lost = [at for at, number in enumerate(exact) if type(number) is int and int(times[at]) != number]
    if lost:
        raise DataError(
            "timestamps mixes numbers with a fraction and whole numbers too large for a float "
            f"({exact[lost[0]]} at row {lost[0]}); bring all to one unit"
        )
    return times


def _one_clock(values: Any, times: np.ndarray) -> np.ndarray:
    """Return the times. Raise an error if all times, except for zeros, count from 1970, but not in the same unit."""
    if not len(times) or time_unit(times) in (None, "s"):
        return times
    rows = {unit: np.flatnonzero((times >= CLOCK_FROM * t) & (times < CLOCK_TO * t)) for unit, t in UNITS.items()}
    found = {unit: (len(at), at[0]) for unit, at in rows.items() if len(at)}
    check_one_clock(found, int(np.count_nonzero(times)), lambda row: shown(values, row))
    return times


def check_one_clock(found: dict[str, tuple[int, int]], num_nonzero: int, shown_at: Callable[[int], str]) -> None:
    """Raise an error if all times of a column count from 1970, but not in the same unit.

    A column is checked only if its largest number, as a time since 1970, is in milliseconds or finer.

    Args:
        found: unit -> how many times have this unit, and the row of the first of them. Units without times are left
            out.
        num_nonzero: the number of times that are not 0.
        shown_at: returns the value of a row, for the message.
    Raises:
        DataError: the times have two units.
    """
    if len(found) > 1 and sum(count for count, _ in found.values()) == num_nonzero:
        fewest = min(found, key=lambda unit: found[unit][0])
        count, row = found[fewest]
        others = " and ".join(unit for unit in found if unit != fewest)
        raise DataError(
            f"timestamps counts two units: {count:,} values look like {fewest}, the first ({shown_at(row)}) at row "
            f"{row}, the others like {others}; bring all to one unit"
        )


# --------------------------------------------------------------------------------------------------------- dates


def _dates(values: Any, dates: Any) -> np.ndarray:
    if getattr(dates.dt, "tz", None) is not None:
        dates = dates.dt.tz_convert("UTC").dt.tz_localize(None)
    # The conversion to nanoseconds would wrap a year 9999 round to 1815 without a word.
    bad = np.flatnonzero(~dates.between(pd.Timestamp.min, pd.Timestamp.max).to_numpy(dtype=bool))
    if len(bad):
        raise DataError(_unreadable(values, bad))
    return dates.to_numpy(dtype="datetime64[ns]").astype(np.int64)


def _objects(values: Any, objects: np.ndarray, day_first: bool | None) -> np.ndarray:
    """Read Python objects: numbers, dates or text.

    If a column has text and other types, all its values are read as text.
    """
    types = set(map(type, objects)) - {type(None)}
    if not types <= {int, float, str, dt.datetime, dt.date, pd.Timestamp, Decimal}:
        objects = np.array([plain_value(value) for value in objects] + [None], object)[:-1]
        types = set(map(type, objects)) - {type(None)}
    for row, value in enumerate(objects if any(issubclass(t, dt.timedelta | dt.time) for t in types) else ()):
        if isinstance(value, dt.timedelta | dt.time):
            raise DataError(_durations(values, row))
    if types and types <= {int, float, Decimal}:
        missing = [row for row, value in enumerate(objects) if value is None]
        if missing:
            raise DataError(_unreadable(values, missing))
        return _one_clock(values, _plain_numbers(values, objects.tolist()))
    if types and all(issubclass(kind, dt.date) for kind in types):
        dates: Any = pd.to_datetime(pd.Series(objects), errors="coerce", utc=True)
        return _dates(values, dates)
    return _texts(values, objects, day_first)


def _texts(values: Any, objects: np.ndarray, day_first: bool | None) -> np.ndarray:
    """Read text: all numbers, or all dates of one format. Each distinct text is read once."""
    as_text = [value if type(value) is str else _written(value) for value in objects]
    codes, distinct = pd.factorize(np.array([*as_text, ""], object)[:-1])
    texts = [text.strip() for text in distinct.tolist()]
    sample = texts[:: max(1, len(texts) // SAMPLED)]
    if sum(NUMBER.fullmatch(text) is not None for text in sample) * 2 >= len(sample):
        wrong: Any = [at for at, text in enumerate(texts) if NUMBER.fullmatch(text) is None]
        if not wrong:
            numbers = [int(text) if text.lstrip("+-").isdigit() else float(text) for text in texts]
            return _one_clock(values, _plain_numbers(values, numbers)[codes])
    else:
        times, wrong = read_dates(texts, day_first)
        if not len(wrong):
            return times[codes]
    durations = [at for at in wrong if DURATION.fullmatch(texts[at])]
    if durations:
        raise DataError(_durations(values, int(np.argmax(codes == durations[0]))))
    raise DataError(_unreadable(values, np.flatnonzero(np.isin(codes, wrong))))


def _written(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, dt.date) else str(value)


# -------------------------------------------------------------------------------------------------------- errors


def _unreadable(values: Any, bad: Any) -> str:
    return unreadable(len(bad), shown(values, bad[0]), bad[0])


def unreadable(count: int, first: str, row: int) -> str:
    """Return the error text for times that cannot be read: their number, the first of them as it was written, and its
    row."""
    return (
        f"timestamps has {count:,} values that are missing or do not read as a time in the format of the others "
        f"(dates: 1678 to 2261), the first ({first}) at row {row}; drop those rows, or go without timestamps"
    )


def _durations(values: Any, row: int) -> str:
    return (
        f"timestamps has durations or times of day, such as {shown(values, row)} at row {row}; join each with its "
        "date (2023-01-31 10:00:00), or pass numbers"
    )
