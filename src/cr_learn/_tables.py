"""Parse the bytes of a MovieLens file into checked rows. If a line is wrong, the error names the file and the line."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cr_learn._archive import RawFile
from cr_learn.errors import DatasetCorruptError

RATING_COLUMNS = ("user_id", "movie_id", "rating", "timestamp")
USER_COLUMNS = ("user_id", "gender", "age", "occupation", "zip_code")
MOVIE_COLUMNS = ("movie_id", "title", "genres")


def parse_ratings(raw: RawFile, separator: bytes) -> pd.DataFrame:
    """Parse lines of user, movie, rating and timestamp to int64 columns, in the order of the file.

        b"1::1193::5::978300760\\n"  ->  user_id 1, movie_id 1193, rating 5, timestamp 978300760

    Raises:
        DatasetCorruptError: a line is not four whole numbers, a rating is outside 1..5, or the file was cut short.
    """
    # pandas reads a one-byte separator in C; "::" would fall to its Python parser: 7 s, not 0.3, for ML-1M.
    content = raw.content if separator == b"\t" else raw.content.replace(separator, b"\t")
    try:
        rows = pd.read_csv(
            io.BytesIO(content), sep="\t", header=None, dtype=np.int64, engine="c", quoting=csv.QUOTE_NONE
        )
        if rows.shape[1] != len(RATING_COLUMNS):
            raise ValueError(f"{rows.shape[1]} columns")
    except (ValueError, OverflowError) as error:
        raise _first_bad_rating(raw, separator, error) from error
    rows.columns = pd.Index(RATING_COLUMNS)

    bad = np.flatnonzero(~rows["rating"].between(1, 5).to_numpy())
    if len(bad):
        line = _nth_line_with_text(raw.content, int(bad[0]))
        raise DatasetCorruptError(f"{raw.path}, line {line}: rating {rows['rating'].iloc[bad[0]]} is not in 1..5")
    # A cut inside the last number leaves a line that parses. It shows as a file without a last line end whose last
    # timestamp has fewer digits than any other; a file that merely lacks the line end passes.
    times = rows["timestamp"].to_numpy()
    if not raw.content.endswith(b"\n") and len(times) > 1 and len(str(times[-1])) < len(str(times[:-1].min())):
        line = raw.content.count(b"\n") + 1
        raise DatasetCorruptError(f"{raw.path}, line {line}: the file ends inside the timestamp {times[-1]}")
    return rows


def parse_text(raw: RawFile, separator: str, columns: Sequence[str], integers: set[str]) -> pd.DataFrame:
    """Parse lines of text (Latin-1, as in GroupLens's files) to columns of str, or int64 for those in `integers`.

        b"1::Toy Story (1995)::Comedy\\n"  ->  movie_id 1, title "Toy Story (1995)", genres "Comedy"

    Raises:
        DatasetCorruptError: the file is empty, a line has a wrong number of fields, or a value is not a whole number.
    """
    rows = []
    # Not splitlines(): it would also cut titles at the Latin-1 characters U+0085 and U+001C..U+001E.
    for number, line in enumerate(raw.content.decode("latin-1").split("\n"), 1):
        if not line.strip():
            continue
        fields = line.rstrip("\r").split(separator)
        if len(fields) != len(columns):
            raise DatasetCorruptError(
                f"{raw.path}, line {number}: {len(fields)} fields separated by {separator!r}, not {len(columns)}: "
                f"{line[:80]!r}"
            )
        for column, field in zip(columns, fields, strict=True):
            if column in integers and not (field.isascii() and field.isdigit()):
                raise DatasetCorruptError(f"{raw.path}, line {number}: {column} {field!r} is not a whole number")
        rows.append(fields)
    if not rows:
        raise DatasetCorruptError(f"{raw.path} is empty")
    table = dict(zip(columns, zip(*rows, strict=True), strict=True))
    return pd.DataFrame(
        {
            column: np.array(fields, dtype=np.int64) if column in integers else list(fields)
            for column, fields in table.items()
        }
    )


def _first_bad_rating(raw: RawFile, separator: bytes, error: Exception) -> DatasetCorruptError:
    """Return the error for a file that could not be parsed. It names the first bad line, which takes longer to find
    than parsing."""
    if not raw.content.strip():
        return DatasetCorruptError(f"{raw.path} is empty")
    for number, line in enumerate(raw.content.split(b"\n"), 1):
        fields = line.rstrip(b"\r").split(separator)
        if line.strip() and not (len(fields) == len(RATING_COLUMNS) and all(field.isdigit() for field in fields)):
            return DatasetCorruptError(
                f"{raw.path}, line {number}: not user, movie, rating and timestamp separated by "
                f"{separator.decode()!r}: {line[:80].decode('latin-1')!r}"
            )
    return DatasetCorruptError(f"{raw.path}: {error}")


def _nth_line_with_text(content: bytes, row: int) -> int:
    """Return the 1-based number of the line that holds the 0-based `row`. Blank lines are not rows."""
    return [number for number, line in enumerate(content.split(b"\n"), 1) if line.strip()][row]
