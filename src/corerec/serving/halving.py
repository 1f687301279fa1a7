"""Take as many rows as a model can, where some may be of another model and an error refuses all at once."""

from __future__ import annotations

from collections.abc import Callable

from corerec.errors import CorerecError


def take_most(count: int, take: Callable[[int, int], object]) -> int:
    """How many of so many rows were taken: all at once, or by halves where an error says that some cannot be.

    Args:
        take: takes the rows from the first number to the second, all or none; raises a CorerecError for none.
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
