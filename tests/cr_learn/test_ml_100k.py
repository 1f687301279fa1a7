import hashlib
import os
import sys
import zipfile
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from cr_learn import DatasetCorruptError, DatasetUnavailableError, _recbole, ml_100k
from cr_learn._archive import Source
from cr_learn._download import download

NOWHERE = "http://127.0.0.1:9/ml-100k.zip"  # the discard port: nothing listens


@pytest.fixture(autouse=True)
def without_grouplens(monkeypatch):
    unreachable = Source(NOWHERE, "ml-100k.zip", partial(download, NOWHERE, md5=""))
    monkeypatch.setattr(ml_100k, "ARCHIVE", replace(ml_100k.ARCHIVE, sources=(unreachable, ml_100k.ARCHIVE.sources[1])))


@pytest.fixture(autouse=True)
def package_index(monkeypatch, tmp_path):
    """A folder that pip looks for wheels in, and nowhere else."""
    index = tmp_path / "wheels"
    index.mkdir()
    for variable, value in {"NO_INDEX": "1", "FIND_LINKS": str(index), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{variable}", value)
    return index


RECBOLE_FILES = {
    "ml-100k.inter": (
        b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        b"196\t242\t3\t881250949\n186\t302\t3\t891717742\n196\t1\t5\t881250949\n"
    ),
    "ml-100k.user": (
        b"user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        b"186\t39\tF\texecutive\t00000\n196\t49\tM\twriter\tV0R2M\n"
    ),
    "ml-100k.item": (
        b"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        b"1\tToy Story\t1995\tAnimation Children's Comedy\n242\tKolya\t1996\tComedy\n302\tunkonwn\tunkonwn\tunknown\n"
    ),
}


@pytest.fixture
def wheel(package_index):
    """A wheel of the pinned name and version that holds three tiny files."""
    info = "recbole-1.2.1.dist-info"
    with zipfile.ZipFile(package_index / "recbole-1.2.1-py3-none-any.whl", "w") as zipped:
        for name, content in RECBOLE_FILES.items():
            zipped.writestr(f"{_recbole.FOLDER}/{name}", content)
        zipped.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n")
        zipped.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        zipped.writestr(f"{info}/RECORD", "")


@pytest.mark.parametrize(("place", "prefix"), [("data", ""), ("data", "ml-100k/"), ("ml-100k.zip", "ml-100k/")])
def test_load_gives_typed_frames_shaped_as_ml_1m(put, place, prefix):
    data = ml_100k.load(put("ml-100k", place, prefix))
    assert data["ratings"].to_dict("list") == {
        "user_id": [196, 186, 196],
        "movie_id": [242, 302, 1],
        "rating": [3, 3, 5],
        "timestamp": [881250949, 891717742, 881250949],
    }
    assert data["users"].to_dict("list") == {
        "user_id": [186, 196],
        "gender": ["F", "M"],
        "age": [39, 49],
        "occupation": ["executive", "writer"],
        "zip_code": ["00000", "V0R2M"],
    }
    assert data["movies"].to_dict("list") == {
        "movie_id": [1, 242, 302],
        "title": ["Toy Story (1995)", "Kolya (1996)", "unknown"],
        "genres": ["Animation|Children's|Comedy", "Comedy", "unknown"],
    }
    assert set(data["ratings"].dtypes) == {np.dtype("int64")}


def test_damaged_movies_are_named_by_file_and_line(put):
    with pytest.raises(DatasetCorruptError, match=r"u\.item, line 1: 8 fields separated by '\|', not 24"):
        ml_100k.load(put("ml-100k", u_item=b"1|Toy Story (1995)|01-Jan-1995||http://x|0|0|0"))


def test_wheel_stands_in_for_grouplens_and_gives_the_same_frames(put, wheel, home, monkeypatch):
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in RECBOLE_FILES.items()}
    monkeypatch.setattr(_recbole, "SHA256", digests)
    original = ml_100k.load(put("ml-100k"))
    from_wheel = ml_100k.load()
    monkeypatch.setattr(sys, "executable", "no-such-python")  # the second time nothing is fetched
    from_cache = ml_100k.load()
    for name in original:
        pd.testing.assert_frame_equal(from_wheel[name], original[name])
        pd.testing.assert_frame_equal(from_cache[name], original[name])
    assert [path.name for path in home.iterdir()] == ["ml-100k-recbole.zip"]


def test_wheel_with_other_content_than_pinned_is_not_used(wheel, home):
    with pytest.raises(DatasetUnavailableError, match=r"ml-100k\.inter has the SHA-256 .*, not 4edb74e2"):
        ml_100k.load()
    assert not home.exists()


def test_unavailable_names_both_sources(home):
    with pytest.raises(DatasetUnavailableError) as caught:
        ml_100k.load()
    for part in (str(home), f"{NOWHERE}: <urlopen error", "recbole==1.2.1: pip download failed: ERROR:", "u.item"):
        assert part in str(caught.value)


def test_pip_that_hangs_is_ended(tmp_path):
    with pytest.raises(TimeoutError, match="pip download was not finished"):
        _recbole.fetch_ml_100k(tmp_path / "ml-100k.zip", genres=ml_100k.GENRES, timeout_s=0.01)
    assert not (tmp_path / "ml-100k.zip").exists()


@pytest.mark.data
def test_the_original(real_data):
    data = ml_100k.load(real_data)
    ratings, users, movies = data["ratings"], data["users"], data["movies"]
    assert (len(ratings), len(users), len(movies)) == (100_000, 943, 1682)
    assert ratings.iloc[[0, -1]].to_numpy().tolist() == [[196, 242, 3, 881250949], [12, 203, 3, 879959583]]
    assert movies.iloc[542].tolist() == [543, "Misérables, Les (1995)", "Drama|Musical"]
    assert users["occupation"].nunique() == 21
    assert (movies["genres"] != "").all()
    assert not ratings.duplicated(["user_id", "movie_id"]).any()
