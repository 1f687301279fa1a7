"""MovieLens 100K: 100,000 ratings of 1,682 movies by 943 users, 1997 to 1998 (Harper & Konstan 2015).

GroupLens's terms apply: they allow research use, and forbid redistribution, and commercial use without permission.
"""

from __future__ import annotations

import os
from functools import partial

import pandas as pd

from cr_learn._archive import Archive, RawFile, Source, read_archive
from cr_learn._download import download
from cr_learn._recbole import PACKAGE, fetch_ml_100k
from cr_learn._tables import MOVIE_COLUMNS, USER_COLUMNS, parse_ratings, parse_text

# In the order of the 0/1 columns of u.item.
GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
ARCHIVE = Archive(
    name="ml-100k",
    title="MovieLens 100K",
    homepage="https://grouplens.org/datasets/movielens/100k/",
    files=("u.data", "u.user", "u.item"),
    sources=(
        Source(URL, "ml-100k.zip", partial(download, URL, md5="0e33842e24a9c977be4e0107933c0723")),
        Source(f"the Python package {PACKAGE}", "ml-100k-recbole.zip", partial(fetch_ml_100k, genres=GENRES)),
    ),
)


def load(data_path: str | os.PathLike[str] | None = None) -> dict[str, pd.DataFrame]:
    """Load the ratings, users and movies of MovieLens 100K.

    Without `data_path`, the files are read from the cache folder ($CR_LEARN_HOME, or else the user's cache folder). The
    first call downloads the files from GroupLens (5 MB). If GroupLens cannot be reached, it downloads a wheel from the
    package index instead (2 MB), which gives the same frames.

    Args:
        data_path: the zip, or a folder. The folder holds ml-100k.zip, or the files u.data, u.user and u.item, or a
            folder ml-100k with these files.

    Returns:
        ratings: user_id, movie_id, rating (1..5) and timestamp (seconds since 1970, UTC), all int64. The rows are in
            the order of the file, so a user's events of equal time are, too.
        users: user_id, gender ("F", "M"), age (years), occupation (a name: "technician"), zip_code (str).
        movies: movie_id, title ("Toy Story (1995)", stripped), genres ("Animation|Children's|Comedy").

    Raises:
        DatasetUnavailableError: the files were not found.
        DatasetCorruptError: a file does not have the format above.
    """
    files = read_archive(ARCHIVE, data_path)
    return {
        "ratings": parse_ratings(files["u.data"], b"\t"),
        "users": _parse_users(files["u.user"]),
        "movies": _parse_movies(files["u.item"]),
    }


def _parse_users(raw: RawFile) -> pd.DataFrame:
    columns = ("user_id", "age", "gender", "occupation", "zip_code")
    return parse_text(raw, "|", columns, integers={"user_id", "age"}).reindex(columns=list(USER_COLUMNS))


def _parse_movies(raw: RawFile) -> pd.DataFrame:
    columns = ("movie_id", "title", "release_date", "video_release_date", "url", *GENRES)
    movies = parse_text(raw, "|", columns, integers={"movie_id"})
    flags = movies[list(GENRES)].to_numpy() == "1"  # (movies, genres)
    movies["title"] = movies["title"].str.strip()
    movies["genres"] = ["|".join(genre for genre, has in zip(GENRES, row, strict=True) if has) for row in flags]
    return movies.reindex(columns=list(MOVIE_COLUMNS))
