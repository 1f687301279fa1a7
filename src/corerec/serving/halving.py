"""Pass rows to a model, which refuses a whole block if one row is bad, so that it accepts as many rows as possible."""

from __future__ import annotations

from collections.abc import Callable

from corerec.errors import CorerecError


def take_most(count: int, take: Callable[[int, int], object]) -> int:
    """Call `take` for `count` rows at once; if it refuses a block, call it for each half. Return how many rows it took.

    Args:
        take: a function of (first, end) that takes the rows first .. end - 1, or raises a CorerecError and takes none.
    """

    def taken(first: int, end: int) -> int:
        try:
            take(first, end)
            return end - first
        except CorerecError:
            if end - first == 1:
                return 0
            middle = (first + end) // 2
            return taken(first, middle) + taken(middle, end)

    return taken(0, count)
