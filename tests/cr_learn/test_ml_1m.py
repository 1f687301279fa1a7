import hashlib
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from cr_learn import DatasetCorruptError, DatasetUnavailableError, ml_1m
from cr_learn._archive import Source
from cr_learn._download import download

NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens


@pytest.fixture(autouse=True)
def point_at(monkeypatch):
    """Download from `url` instead of GroupLens; from nowhere, until told."""

    def point_at(url: str, md5: str = "") -> None:
        source = Source(url, "ml-1m.zip", partial(download, url, md5=md5))
        monkeypatch.setattr(ml_1m, "ARCHIVE", replace(ml_1m.ARCHIVE, sources=(source,)))

    point_at(f"{NOWHERE}/ml-1m.zip")
    return point_at


PLACES = {
    "the folder": ("data", ""),
    "its subfolder": ("data", "ml-1m/"),
    "a zip as published": ("ml-1m.zip", "ml-1m/"),
    "a flat zip of any name": ("films.zip", ""),
}


@pytest.mark.parametrize(("place", "prefix"), PLACES.values(), ids=PLACES)
def test_load_gives_typed_frames_from(put, place, prefix):
    data = ml_1m.load(put("ml-1m", place, prefix))
    assert list(data) == ["ratings", "users", "movies"]
    assert data["ratings"].to_dict("list") == {
        "user_id": [2, 1, 1],
        "movie_id": [1193, 661, 1193],
        "rating": [5, 3, 4],
        "timestamp": [978300760, 978302109, 978302109],
    }
    assert data["users"].to_dict("list") == {
        "user_id": [1, 2],
        "gender": ["F", "M"],
        "age": [1, 56],
        "occupation": [10, 16],
        "zip_code": ["48067", "02460"],
    }
    assert data["movies"].to_dict("list") == {
        "movie_id": [661, 1193],
        "title": ["James: the Giant Peach (1996)", "Misérables, Les (1995)"],
        "genres": ["Animation|Children's", "Drama"],
    }
    assert set(data["ratings"].dtypes) == {np.dtype("int64")}
    assert {data["users"][column].dtype for column in ("user_id", "age", "occupation")} == {np.dtype("int64")}


@pytest.mark.parametrize(("place", "prefix"), [("home", ""), ("home", "ml-1m/"), ("home/ml-1m.zip", "ml-1m/")], ids=str)
def test_load_finds_what_lies_in_the_cache_folder(put, place, prefix):
    put("ml-1m", place, prefix)
    assert len(ml_1m.load()["ratings"]) == 3


def test_load_takes_a_folder_that_holds_the_zip(put, tmp_path):
    put("ml-1m", "downloads/ml-1m.zip", "ml-1m/")
    assert len(ml_1m.load(str(tmp_path / "downloads"))["ratings"]) == 3


def test_load_downloads_once(put, server, point_at, home):
    archive = put("ml-1m", "published.zip", "ml-1m/").read_bytes()
    server.pages["/ml-1m.zip"] = archive
    point_at(f"{server.url}/ml-1m.zip", hashlib.md5(archive).hexdigest())
    first, second = ml_1m.load(), ml_1m.load()
    assert server.requests == ["/ml-1m.zip"]
    assert [path.name for path in home.iterdir()] == ["ml-1m.zip"]
    pd.testing.assert_frame_equal(first["ratings"], second["ratings"])


def test_damaged_zip_in_the_cache_is_reported_and_fetched_again(put, server, point_at, home):
    archive = put("ml-1m", "published.zip", "ml-1m/").read_bytes()
    home.mkdir()
    (home / "ml-1m.zip").write_bytes(archive[:-30])
    with (
        pytest.warns(UserWarning, match=r"ml-1m\.zip is damaged"),
        pytest.raises(DatasetUnavailableError, match=r"(?s)ml-1m\.zip is damaged.*127\.0\.0\.1:9"),
    ):
        ml_1m.load()

    server.pages["/ml-1m.zip"] = archive
    point_at(f"{server.url}/ml-1m.zip", hashlib.md5(archive).hexdigest())
    with pytest.warns(UserWarning, match="fetching it again"):
        assert len(ml_1m.load()["ratings"]) == 3
    assert (home / "ml-1m.zip").read_bytes() == archive


def test_download_that_is_not_the_published_archive_is_not_used(put, server, point_at, home):
    server.pages["/ml-1m.zip"] = put("ml-1m", "other.zip", "ml-1m/").read_bytes()
    point_at(f"{server.url}/ml-1m.zip", "0" * 32)
    with pytest.raises(DatasetUnavailableError, match="with the MD5"):
        ml_1m.load()
    assert list(home.iterdir()) == []


def test_unavailable_names_each_place_tried_and_the_way_by_hand(home):
    with pytest.raises(DatasetUnavailableError) as caught:
        ml_1m.load()
    assert isinstance(caught.value, OSError)
    for part in (
        str(home),
        f"{NOWHERE}/ml-1m.zip: <urlopen error",
        "ratings.dat, users.dat, movies.dat",
        "CR_LEARN_HOME",
        "data_path=",
        "https://grouplens.org/datasets/movielens/1m/",
    ):
        assert part in str(caught.value)


def test_data_path_is_the_only_place_looked_at(put, tmp_path):
    put("ml-1m", "home")
    with pytest.raises(DatasetUnavailableError, match="nothing-here does not exist"):
        ml_1m.load(tmp_path / "nothing-here")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetUnavailableError, match=r"empty has neither ratings\.dat, users\.dat, movies\.dat"):
        ml_1m.load(tmp_path / "empty")


@pytest.mark.parametrize("prefix", ["", "ml-1m/"])
def test_incomplete_folder_names_the_missing_files(put, prefix):
    folder = put("ml-1m", "data", prefix, users_dat=None, movies_dat=None)
    with pytest.raises(DatasetUnavailableError, match=r"but not users\.dat, movies\.dat: add"):
        ml_1m.load(folder)


def test_incomplete_cache_folder_is_not_answered_with_other_data(put, server, point_at):
    put("ml-1m", "home", users_dat=None)
    server.pages["/ml-1m.zip"] = archive = put("ml-1m", "published.zip", "ml-1m/").read_bytes()
    point_at(f"{server.url}/ml-1m.zip", hashlib.md5(archive).hexdigest())
    with pytest.raises(DatasetUnavailableError, match=r"but not users\.dat"):
        ml_1m.load()
    assert server.requests == []


def test_zip_at_data_path_that_is_damaged_or_of_something_else_is_refused(put, tmp_path):
    (tmp_path / "page.zip").write_bytes(b"<html>")
    with pytest.raises(DatasetCorruptError, match=r"page\.zip is damaged or no zip"):
        ml_1m.load(tmp_path / "page.zip")
    with pytest.raises(DatasetUnavailableError, match=r"ml-100k\.zip does not hold ratings\.dat"):
        ml_1m.load(put("ml-100k", "ml-100k.zip", "ml-100k/"))


WHOLE = b"1::1193::5::978300760\n1::661::3::978302109\n"
BAD_RATINGS = {
    "cut after a separator": (WHOLE + b"2::914::3::", 3),
    "cut after a field": (WHOLE + b"2::914", 3),
    "cut inside a separator": (WHOLE + b"2::914::3:", 3),
    "cut inside the timestamp": (WHOLE + b"2::914::3::97830", 3),
    "a field too many": (WHOLE.replace(b"\n1", b"::0\n1"), 1),
    "a field too many on each line": (WHOLE.replace(b"\n", b"::0\n"), 1),
    "another separator": (WHOLE.replace(b"::", b","), 1),
    "a header": (b"user_id::movie_id::rating::timestamp\n" + WHOLE, 1),
    "a half star": (WHOLE.replace(b"::3::", b"::3.5::"), 2),
    "a rating of 6, after a blank line": (b"\n" + WHOLE.replace(b"::3::", b"::6::"), 3),
    "binary": (WHOLE + b"\x00\x01\xff\n", 3),
    "a number past int64": (WHOLE + b"2::99999999999999999999::3::978302109\n", None),
    "empty": (b"", None),
}


@pytest.mark.parametrize(("content", "line"), BAD_RATINGS.values(), ids=BAD_RATINGS)
def test_damaged_ratings_are_named_by_file_and_line(put, content, line):
    folder = put("ml-1m", ratings_dat=content)
    with pytest.raises(DatasetCorruptError) as caught:
        ml_1m.load(folder)
    assert isinstance(caught.value, ValueError)
    assert str(folder / "ratings.dat") in str(caught.value)
    if line:
        assert f"ratings.dat, line {line}:" in str(caught.value)


BAD_TEXT = {
    "movies cut short": (
        "movies_dat",
        b"1::Toy Story (1995)::Comedy\n2::Jumanji (19",
        r"movies\.dat, line 2: 2 fields",
    ),
    "movie without a number": ("movies_dat", b"Toy Story::1::Comedy\n", r"movies\.dat, line 1: movie_id 'Toy Story'"),
    "user without an age": ("users_dat", b"\n1::F::::10::48067\n", r"users\.dat, line 2: age '' is not"),
    "no users": ("users_dat", b"\n", r"users\.dat is empty"),
}


@pytest.mark.parametrize(("file", "content", "message"), BAD_TEXT.values(), ids=BAD_TEXT)
def test_damaged_users_and_movies_are_named_by_file_and_line(put, file, content, message):
    with pytest.raises(DatasetCorruptError, match=message):
        ml_1m.load(put("ml-1m", **{file: content}))


@pytest.mark.parametrize("content", [WHOLE[:-1], WHOLE.replace(b"\n", b"\r\n"), WHOLE + b"\n\n"])
def test_line_ends_of_other_editors_are_fine(put, content):
    ratings = ml_1m.load(put("ml-1m", ratings_dat=content))["ratings"]
    assert ratings.to_numpy().tolist() == [[1, 1193, 5, 978300760], [1, 661, 3, 978302109]]


def test_titles_may_hold_any_character_but_the_separator(put):
    # U+0085 ends a line for str.splitlines, and " would open a quoted field for a CSV reader
    movies = b'1::"A: B;\tC\x85 | D\xff (1995)::Drama\r\n'
    title = ml_1m.load(put("ml-1m", movies_dat=movies))["movies"]["title"].tolist()
    assert title == ['"A: B;\tC\x85 | Dÿ (1995)']


def test_a_million_ratings_parse_in_two_seconds(put):
    folder = put("ml-1m", ratings_dat=b"6040::1193::5::978300760\n" * 1_000_209)
    began = time.process_time()
    assert len(ml_1m.load(folder)["ratings"]) == 1_000_209
    assert time.process_time() - began < 2


@pytest.mark.data
def test_the_original_users_and_movies(put, real_data):
    original = {file: (real_data / "ml-1m" / f"{file}.dat").read_bytes() for file in ("users", "movies")}
    data = ml_1m.load(put("ml-1m", users_dat=original["users"], movies_dat=original["movies"]))
    users, movies = data["users"], data["movies"]
    assert (len(users), len(movies)) == (6040, 3883)
    assert set(users["age"]) == {1, 18, 25, 35, 45, 50, 56}
    assert set(users["occupation"]) == set(range(21))
    assert movies["title"].str.fullmatch(r".+\(\d{4}\)").all()
    assert movies["genres"].str.split("|").explode().nunique() == 18
