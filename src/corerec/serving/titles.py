"""The titles of the items, and a search for words in the titles that ignores case and accents."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import Any

LOOKED_AT = 10_000  # items that a search looks at more closely: of a word that more have, in the most popular


class TitleIndex:
    """Items with their titles, the most popular first.

    >>> films = TitleIndex([2, 1, 3], {"1": "Amélie", "2": "Star Wars", "3": "Wars of the Star"})
    >>> films.search("amelie"), films.search("STAR w"), films.search("3")
    ([1], [2, 3], [3])
    """

    def __init__(self, item_ids: Sequence[Any], titles: Mapping[str, str]) -> None:
        """Index the titles of items.

        Args:
            item_ids: the item ids, the most popular first.
            titles: item id as text -> title. An item without a title is found by its id alone.
        """
        self._ids = list(item_ids)
        self._titles = {item_id: titles[str(item_id)] for item_id in self._ids if str(item_id) in titles}
        names = [_folded(self.title(item_id) or str(item_id)) for item_id in self._ids]
        self._by_text = {_folded(str(item_id)): at for at, item_id in reversed(list(enumerate(self._ids)))}
        # One long text: str.find looks through a million titles in milliseconds.
        self._text = "\n".join(["", *names, ""])
        self._starts = list(accumulate((len(name) + 1 for name in names), initial=1))

    def with_more(self, item_ids: Sequence[Any], titles: Mapping[str, str]) -> TitleIndex:
        """Return an index that also has the given items, at the end, and the given titles."""
        known = {str(item_id): title for item_id, title in self._titles.items()}
        return TitleIndex([*self._ids, *item_ids], known | dict(titles))

    @property
    def has_titles(self) -> bool:
        return bool(self._titles)

    def title(self, item_id: Any) -> str | None:
        return self._titles.get(item_id)

    def search(self, query: str, limit: int = 20) -> list[Any]:
        """Return the ids of the items whose titles contain all words of the query, best match first. An item whose id
        equals the query comes first. Titles that begin with the query come next, and then titles with a word that
        begins with it. Among equal matches, the more popular item comes first. An empty query finds the most popular
        items.
        """
        wanted = _folded(query)
        words = wanted.split()
        if not words:
            return self._ids[:limit]
        found: dict[int, int] = {}  # place -> how bad the match is
        if wanted in self._by_text:
            found[self._by_text[wanted]] = 0
        for at in islice(self._lines_with(max(words, key=len)), LOOKED_AT):
            if at in found:
                continue
            name = self._text[self._starts[at] : self._starts[at + 1] - 1]
            if all(word in name for word in words):
                starts = f" {name}"
                whole_words = all(f" {word}" in starts for word in words)
                found[at] = 1 if name.startswith(wanted) else 2 if whole_words else 3
        return [self._ids[at] for at in sorted(found, key=lambda at: (found[at], at))[:limit]]

    def _lines_with(self, word: str) -> Iterator[int]:
        """Yield the indices of the titles that contain a word, in order."""
        position = self._text.find(word)
        while position >= 0:
            at = bisect_right(self._starts, position) - 1
            yield at
            position = self._text.find(word, self._starts[at + 1])


def _folded(text: str) -> str:
    """Return text in lower case, without accents, one space between words: "Amélie  POULAIN" -> "amelie poulain"."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return " ".join("".join(letters).casefold().split())
