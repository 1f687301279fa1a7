"""MovieLens 1M: 1,000,209 ratings of 3,883 movies by 6,040 users, 2000 to 2003 (Harper & Konstan 2015).

GroupLens's terms apply: they allow research use, and forbid redistribution, and commercial use without permission.
"""

from __future__ import annotations

import os
from functools import partial

import pandas as pd

from cr_learn._archive import Archive, Source, read_archive
from cr_learn._download import download
from cr_learn._tables import MOVIE_COLUMNS, USER_COLUMNS, parse_ratings, parse_text

URL = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
ARCHIVE = Archive(
    name="ml-1m",
    title="MovieLens 1M",
    homepage="https://grouplens.org/datasets/movielens/1m/",
    files=("ratings.dat", "users.dat", "movies.dat"),
    sources=(Source(URL, "ml-1m.zip", partial(download, URL, md5="c4d9eecfca2ab87c1945afe126590906")),),
)


def load(data_path: str | os.PathLike[str] | None = None) -> dict[str, pd.DataFrame]:
    """Load the ratings, users and movies of MovieLens 1M.

    Without `data_path`, the files are read from the cache folder ($CR_LEARN_HOME, or else the user's cache folder). The
    first call downloads the files from GroupLens (6 MB).

    Args:
        data_path: the zip, or a folder. The folder holds ml-1m.zip, or the files ratings.dat, users.dat and movies.dat,
            or a folder ml-1m with these files.

    Returns:
        ratings: user_id, movie_id, rating (1..5) and timestamp (seconds since 1970, UTC), all int64. The rows are in
            the order of the file, so a user's events of equal time are, too.
        users: user_id, gender ("F", "M"), age (the lower end of a bracket: 1, 18, 25, 35, 45, 50, 56), occupation (a
            code, 0..20, which the archive's README explains), zip_code (str).
        movies: movie_id, title ("Toy Story (1995)"), genres ("Animation|Children's|Comedy").

    Raises:
        DatasetUnavailableError: the files were not found.
        DatasetCorruptError: a file does not have the format above.
    """
    files = read_archive(ARCHIVE, data_path)
    return {
        "ratings": parse_ratings(files["ratings.dat"], b"::"),
        "users": parse_text(files["users.dat"], "::", USER_COLUMNS, integers={"user_id", "age", "occupation"}),
        "movies": parse_text(files["movies.dat"], "::", MOVIE_COLUMNS, integers={"movie_id"}),
    }
