"""Read dates as people write them (31/01/2023 5:06 PM, Jan 31, 2023) as nanoseconds UTC, one format for a whole column.

Texts of the same shape, such as "00/00/0000 00:00" with any digits, are read together. A regular expression finds the
fields of the first text of a shape. All other texts of this shape have their fields at the same byte positions.
"""

from __future__ import annotations

import datetime as dt
import re
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd

from corerec.errors import DataWarning

ZONES = {  # hours from UTC
    "Z": 0, "UTC": 0, "GMT": 0, "UT": 0, "WET": 0, "WEST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3, "MSK": 3,
    "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7, "JST": 9, "KST": 9,
}  # fmt: skip
MONTHS = ("january february march april may june july august september october november december").split()  # noqa: SIM905
MONTH_OF = {name[:length]: at for at, name in enumerate(MONTHS, 1) for length in (3, 4, len(name))}
SECOND = 10**9

CLOCK = r"(?P<hour>\d{1,2})[:.](?P<minute>\d{2})(?:[:.](?P<second>\d{2})(?:[.,:](?P<fraction>\d{1,9}))?)?"
CLOCK += r"(?: ?(?P<half>[AaPp])\.?[Mm]\.?)?"
ZONE = r"(?: ?(?P<zone>(?:UTC|GMT)?[+-]\d{1,2}(?::?\d{2})?|[A-Za-z]{1,5}|[A-Z][A-Za-z]+(?:/[A-Za-z_]+)+)(?: ?\(.*\))?)?"
REST = rf"(?:(?:[T ,:]| at )+{CLOCK}{ZONE})?"
DAY, NAME, YEAR = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?", r"(?P<name>[A-Za-z]{3,9})\.?", r"(?P<year>\d{4}|\d{2})"
WEEKDAY = r"(?:[A-Za-z]{2,9}\.?,? +)?"
FORMATS = [
    re.compile(pattern, re.ASCII)
    for pattern in (
        rf"(?P<year>\d{{4}})(?P<sep>[-/. ])(?P<month>\d{{1,2}})(?P=sep)(?P<day>\d{{1,2}}){REST}",
        rf"(?P<first>\d{{1,2}})(?P<sep>[-/. ])(?P<other>\d{{1,2}})(?P=sep){YEAR}{REST}",
        rf"{WEEKDAY}{DAY}[-/. ]+{NAME},?[-/. ]+'?{YEAR}{REST}",
        rf"{WEEKDAY}{NAME}[-/. ]+{DAY},?[-/. ]+{YEAR}{REST}",
        rf"(?P<year>\d{{4}})[-/. ]+{NAME}[-/. ]+{DAY}{REST}",
        rf"{WEEKDAY}{NAME} +{DAY} +{CLOCK}{ZONE} (?P<year>\d{{4}})",
    )
]
NUMBERS = ("year", "month", "day", "first", "other", "hour", "minute", "second")
CLASSES = np.arange(256, dtype=np.uint8)  # of a byte: digits and letters are alike, but for the T between date and time
CLASSES[[*b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSUVWXYZ"]] = ord("a")
CLASSES[[*b"0123456789"]] = ord("0")


class _Fields(NamedTuple):
    """The fields of the texts: int64 (texts,) for each number, 0 where a text does not have it."""

    numbers: dict[str, np.ndarray]
    fraction: np.ndarray  # nanoseconds
    half: np.ndarray  # bytes: b"a", b"P" ...
    zone: np.ndarray  # bytes
    sep: str
    unread: np.ndarray  # bool: texts of another format


class _Reading(NamedTuple):
    """The result of reading the dates with one order of day, month and year."""

    name: str
    days: np.ndarray  # datetime64[D]
    wrong: np.ndarray  # bool: there is no such day


def read_dates(texts: Sequence[str], day_first: bool | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read texts as int64 (texts,) nanoseconds since 1970 UTC.

    Dates without a zone are taken for UTC. Years of two digits are 1969 to 2068.

    Args:
        day_first: whether 05/03/2023 is the fifth of March. None takes the order by which all dates can be read. If
            several orders can read all dates, it gives a `DataWarning`.
    Returns:
        the times, and the indices of the texts that do not have the format of the majority.
    """
    fields = _cut(texts)
    if fields is not None and not fields.unread.any():
        return _assemble(fields, texts, day_first)
    iso: Any = pd.to_datetime(pd.Series(texts, dtype=object), errors="coerce", utc=True, format="ISO8601")
    iso = iso.dt.tz_localize(None)
    good = iso.between(pd.Timestamp.min, pd.Timestamp.max).to_numpy(dtype=bool)
    good = good & [text[:1].isdigit() for text in texts]  # pandas reads "now" and "today" as dates
    unread = ~good if fields is None or (~good).sum() <= fields.unread.sum() else fields.unread
    return iso.to_numpy(dtype="datetime64[ns]").astype(np.int64), np.flatnonzero(unread)


def _cut(texts: Sequence[str]) -> _Fields | None:
    """Cut the texts into fields by the most frequent format. Return None if no text has a known format."""
    try:
        raw = np.array(texts, dtype=np.bytes_)
    except UnicodeEncodeError:
        raw = np.array([text if text.isascii() else "?" for text in texts], dtype=np.bytes_)
    width = raw.dtype.itemsize
    matrix = raw.view(np.uint8).reshape(len(raw), width)
    classes = CLASSES[matrix]
    if (classes == classes[0]).all():
        rows_of = [np.arange(len(raw))]
    else:
        _, shape_of = np.unique(classes.view(f"S{width}").ravel(), return_inverse=True)
        ends = np.cumsum(np.bincount(shape_of))
        rows_of = np.split(np.argsort(shape_of, kind="stable"), ends[:-1])
    examples = [bytes(raw[rows[0]]).decode() for rows in rows_of]
    matches = [[pattern.fullmatch(example) for example in examples] for pattern in FORMATS]
    fits = [sum(len(rows) for rows, m in zip(rows_of, each, strict=True) if m) for each in matches]
    if not any(fits):
        return None
    chosen = int(np.argmax(fits))
    has = FORMATS[chosen].groupindex
    numbers = {name: np.zeros(len(raw), np.int64) for name in NUMBERS if name in has or name == "month"}
    fraction, unread = np.zeros(len(raw), np.int64), np.zeros(len(raw), bool)
    half, zone = np.zeros(len(raw), "S1"), np.zeros(len(raw), "S40")
    sep = ""
    for rows, match in zip(rows_of, matches[chosen], strict=True):
        if match is None:
            unread[rows] = True
            continue

        def text(name: str, rows: np.ndarray = rows, match: re.Match = match) -> np.ndarray:
            return (
                np.ascontiguousarray(matrix[rows, match.start(name) : match.end(name)])
                .view(f"S{match.end(name) - match.start(name)}")
                .ravel()
            )

        def number(name: str, rows: np.ndarray = rows, match: re.Match = match) -> np.ndarray:
            digits = matrix[rows, match.start(name) : match.end(name)].astype(np.int64) - ord("0")
            return digits @ 10 ** np.arange(digits.shape[1])[::-1]

        written = {name for name, value in match.groupdict().items() if value}
        for name in written & numbers.keys():
            numbers[name][rows] = number(name)
        if "fraction" in written:
            fraction[rows] = number("fraction") * 10 ** (9 - len(match["fraction"]))
        if "name" in written:
            names, name_of = np.unique(text("name"), return_inverse=True)
            numbers["month"][rows] = np.array([MONTH_OF.get(each.decode().lower(), 0) for each in names])[name_of]
        for name, column in (("half", half), ("zone", zone)):
            if name in written:
                column[rows] = text(name)
        sep = match["sep"] if "sep" in written else sep
    return _Fields(numbers, fraction, half, zone, sep, unread)


def _assemble(fields: _Fields, texts: Sequence[str], day_first: bool | None) -> tuple[np.ndarray, np.ndarray]:
    of = fields.numbers
    if "first" in of:
        reading = _settle(of["first"], of["other"], of["year"], fields.sep, texts, day_first)
    else:
        reading = _days("", _whole_years(of["year"]), of["month"], of["day"])
    is_late, has_half = (fields.half == b"p") | (fields.half == b"P"), fields.half != b""
    strange = has_half & ~is_late & (fields.half != b"a") & (fields.half != b"A")
    hour = of["hour"]
    strange |= (hour > 23) | (of["minute"] > 59) | (of["second"] > 60)
    hour = np.where(has_half & (hour <= 12), hour % 12 + 12 * is_late, hour)  # 13:05 PM is 13:05
    wall = ((reading.days.astype(np.int64) * 24 + hour) * 60 + of["minute"]) * 60 + of["second"]
    shift, unknown = _shifts(fields.zone, wall)
    seconds = wall - shift
    wrong = reading.wrong | strange | unknown | (np.abs(seconds) >= 2**63 // SECOND)
    return seconds * SECOND + fields.fraction, np.flatnonzero(wrong)


def _whole_years(years: np.ndarray) -> np.ndarray:
    """Return the years with all four digits: two digits mean 1969 to 2068, as in POSIX."""
    return np.where(years < 69, years + 2000, np.where(years < 100, years + 1900, years))


def _days(name: str, year: np.ndarray, month: np.ndarray, day: np.ndarray) -> _Reading:
    months = ((year - 1970) * 12 + np.clip(month, 1, 12) - 1).astype("datetime64[M]")
    first = months.astype("datetime64[D]")
    lengths = ((months + 1).astype("datetime64[D]") - first).astype(np.int64)
    return _Reading(name, first + (day - 1), (month < 1) | (month > 12) | (day < 1) | (day > lengths))


def _settle(
    first: np.ndarray, other: np.ndarray, last: np.ndarray, sep: str, texts: Sequence[str], day_first: bool | None
) -> _Reading:
    """Return the reading by the order of day, month and year that reads all dates. Warn if several orders can read all
    dates."""
    years = _whole_years(last)
    readings = [_days("month first", years, first, other), _days("day first", years, other, first)]
    if day_first or (day_first is None and sep == "."):
        readings.reverse()
    if day_first is not None:
        return readings[0]
    if last.max() < 100:
        readings.append(_days("year first", _whole_years(first), other, last))
    possible = [reading for reading in readings if not reading.wrong.any()]
    if not possible:
        return min(readings, key=lambda reading: reading.wrong.sum())
    tomorrow = np.datetime64(int(time.time()) // 86_400 + 1, "D")
    chosen = next((reading for reading in possible if reading.days.max() <= tomorrow), possible[0])
    for reading in possible:
        if (reading.days != chosen.days).any():
            at = int(np.argmax(reading.days != chosen.days))
            warnings.warn(
                f"the dates read both {chosen.name} and {reading.name}; taken as {chosen.name}: {texts[at]!r} is "
                f"{chosen.days[at]}, not {reading.days[at]}; if that is wrong, say which it is (day_first, "
                "--day-first, --month-first) or write them year first: 2023-03-05",
                DataWarning,
                stacklevel=2,
            )
            break
    return chosen


def _shifts(zones: np.ndarray, wall: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the seconds east of UTC, int64 (texts,), and a mask of the unknown zones, bool (texts,)."""
    shifts, unknown = np.zeros(len(zones), np.int64), np.zeros(len(zones), bool)
    if (zones == zones[0]).all():
        names, zone_of = zones[:1], np.zeros(len(zones), np.int64)
    else:
        names, zone_of = np.unique(zones, return_inverse=True)
    for at, raw in enumerate(names):
        zone, here = raw.decode(), zone_of == at
        offset = re.fullmatch(r"(?:UTC|GMT)?([+-])(\d{1,2}):?(\d{2})?", zone)
        if zone == "":
            continue
        if zone.upper() in ZONES:
            shifts[here] = ZONES[zone.upper()] * 3600
        elif offset:
            seconds = int(offset[2]) * 3600 + int(offset[3] or 0) * 60
            shifts[here] = -seconds if offset[1] == "-" else seconds
        elif "/" in zone:
            try:
                known = ZoneInfo(zone)
            except (ZoneInfoNotFoundError, ValueError):
                unknown |= here
                continue
            hours, hour_of = np.unique(wall[here] // 3600, return_inverse=True)
            starts = (dt.datetime(1970, 1, 1, tzinfo=known) + dt.timedelta(hours=int(hour)) for hour in hours)
            offsets = [int((start.utcoffset() or dt.timedelta()).total_seconds()) for start in starts]
            shifts[here] = np.array(offsets)[hour_of]
        else:
            unknown |= here
    return shifts, unknown
