"""Find the columns of a table by headers, usual names, and guesses that are checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from corerec.errors import DataError

NO_COLUMN = "-"
USUAL_NAMES = {  # in lower case and without what is neither letter nor digit, the likeliest first
    "user": "userid user uid useridx userindex customerid customer visitorid reviewerid memberid clientid accountid "
    "sessionid session",
    "item": "itemid item iid itemidx itemindex movieid movie productid product parentasin asin sku trackid track "
    "songid song artistid artist bookid isbn articleid businessid videoid gameid listingid",
    "rating": "rating ratings stars overall score",
    "time": "timestamp time datetime date eventtime createdat unixreviewtime ts",
    "title": "title name itemtitle itemname movietitle moviename productname",
    "group": "category categoryid group groupid genre department brand class type",
}
DATE_NAMES, CLOCK_NAMES = ("date", "day", "eventdate"), ("time", "timeofday", "hour", "clock", "eventtime")
WITHOUT_HEADER = {2: ("user", "item"), 3: ("user", "item"), 4: ("user", "item", "rating", "time")}
NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?")
RECBOLE = re.compile(r"[^:]+:(token|float)(_seq)?")


@dataclass(frozen=True)
class Columns:
    """The column of each role: its name, or its place counted from "1". None guesses; NO_COLUMN means no column.

    A date and a time of day in two columns are joined by the name "date+time".
    """

    user: str | None = None
    item: str | None = None
    rating: str | None = None
    time: str | None = None


def plain(name: str) -> str:
    """Reduce a column's name to letters and digits: "User-ID" and RecBole's "user_id:token" become "userid"."""
    return re.sub(r"[^a-z0-9]", "", name.split(":")[0].lower())


def has_header(path: Path, rows: Sequence[Sequence[str]], wanted: set[str | None], is_csv: bool) -> bool:
    """Return whether the first line names the columns.

    It names them if it has a wanted or usual name, or if it has no number but later lines do. A first line with a
    number does not name them.

    Raises:
        DataError: the CSV file holds text alone, so its first line could be either, and `header` was not given.
    """
    first, rest = rows[0], rows[1:]
    named = {part for name in wanted if name for part in name.split("+")}
    if {name for name in named if not name.isdigit()} & set(first):
        return True
    usual = {name for names in USUAL_NAMES.values() for name in names.split()}
    if any(plain(cell) in usual or RECBOLE.fullmatch(cell) for cell in first):
        return True
    if any(NUMBER.fullmatch(cell) for cell in first):
        return False
    if any(NUMBER.fullmatch(cell) for row in rest for cell in row[: len(first)]):
        return True
    if named and all(name.isdigit() or name == NO_COLUMN for name in named):
        return False  # places were named, as for a file without names
    if is_csv and rest:
        raise DataError(
            f"cannot tell whether the first line of {path} ({listed(first)}) names its columns: say --header or "
            "--no-header, or name one with --user-column"
        )
    return is_csv


def find_columns(
    source: str, names: Sequence[str], named: bool, wanted: dict[str, str | None], needed: Sequence[str],
    without_header: Sequence[str] = (),
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Find the place of each role's column, from 0. Roles without a column are left out.

    A role has two places if its date and its time of day are in two columns.

    Args:
        named: whether the columns have names, not only places.
        needed: roles that must be found.
        without_header: the roles of the columns, in order, of a file without a header.
    """
    found: dict[str, tuple[int, ...]] = {}
    if len(names) < len(needed):
        raise DataError(f"{source} has one column only ({names[0]}); it needs one for each {' and '.join(needed)}")
    for role, name in wanted.items():
        if name not in (None, NO_COLUMN):
            parts = [name] if role != "time" or name in names else name.split("+")
            found[role] = tuple(_place(source, names, part) for part in parts)
        elif name is None and named:
            simple = [plain(column) for column in names]
            usual = [word for word in USUAL_NAMES[role].split() if word in simple]
            dates = [word for word in DATE_NAMES if word in simple]
            clocks = [word for word in CLOCK_NAMES if word in simple]
            if role == "time" and dates and clocks and usual[0] in ("time", "date", "eventtime"):
                found[role] = (simple.index(dates[0]), simple.index(clocks[0]))
            elif usual:
                found[role] = (simple.index(usual[0]),)
        elif name is None and role in without_header[: len(names)]:
            found[role] = (without_header.index(role),)
        if role in needed and role not in found:
            raise DataError(
                f"cannot tell which column of {source} holds the {role}s; its columns are {listed(names)}: "
                f"name one with --{role}-column"
            )
    return found


def _place(source: str, names: Sequence[str], name: str) -> int:
    if name in names:
        return names.index(name)
    if name.isdigit() and 1 <= int(name) <= len(names):
        return int(name) - 1
    raise DataError(f"{source} has no column {name!r}; its columns are {listed(names)}")


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
