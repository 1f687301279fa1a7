"""Give a model as many rows as it accepts, although one bad row makes it refuse a whole block."""

from __future__ import annotations

from collections.abc import Callable

from corerec.errors import CorerecError


def take_most(count: int, take: Callable[[int, int], object]) -> int:
    """Take `count` rows at once, or by halves where an error refuses a block. Return how many rows were taken.

    Args:
        take: takes the rows from its first argument to its second, or raises a CorerecError and takes none.
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
