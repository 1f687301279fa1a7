import pytest

from corerec.serving.titles import TitleIndex

FILMS = {
    "7": "Amélie (2001)",
    "3": "Star Wars (1977)",
    "9": "The Wars of the Stars",
    "1": "Superstar",
    "4": "ÇA",
    "5": "Die Straße",
}


@pytest.fixture
def films():
    return TitleIndex([9, 1, 3, 7, 4, 5, 2], FILMS)  # the most popular first; 2 has no title


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("amelie", [7]),
        ("AMÉLIE", [7]),
        ("ca", [4]),
        ("strasse", [5]),
        ("star", [3, 9, 1]),  # begins the title, begins a word, is inside one
        ("wars star", [9, 3]),  # all words, in any order; the popular first
        ("  star   wars ", [3, 9]),
        ("nothing such", []),
        ("2", [2, 7]),  # an id, before a title that has it
        ("2001", [7]),
        ("the the", [9]),
    ],
)
def test_search_finds_titles_whatever_their_case_and_accents(films, query, found):
    assert films.search(query) == found


def test_an_empty_query_finds_what_is_popular(films):
    assert films.search(" ", limit=2) == [9, 1]


def test_limit_keeps_the_best(films):
    assert films.search("star", limit=1) == [3]


def test_titles_are_known_by_id(films):
    assert films.title(7) == "Amélie (2001)"
    assert films.title(2) is None
    assert films.has_titles
    assert not TitleIndex([1], {}).has_titles


def test_without_titles_ids_are_searched():
    assert TitleIndex(["b-12", "a-12", "c"], {}).search("12") == ["b-12", "a-12"]


def test_a_search_looks_at_no_more_than_its_bound(films, monkeypatch):
    monkeypatch.setattr("corerec.serving.titles.LOOKED_AT", 1)

    assert films.search("star") == [9]
