"""Small data sets for recommenders: MovieLens 1M and 100K, and a generated sample whose best possible score is known.

    from cr_learn import ml_1m

    data = ml_1m.load()
    data["ratings"]  # user_id, movie_id, rating, timestamp

The function `load` of every module returns three pandas frames with the same columns and dtypes:

    ratings   user_id int64, movie_id int64, rating int64 (1..5), timestamp int64 (seconds since 1970, UTC)
    users     user_id int64, gender str, age int64, occupation int64 (ML-100K: str), zip_code str
    movies    movie_id int64, title str, genres str (joined with '|')
"""

from cr_learn import ml_1m, ml_100k, sample
from cr_learn.errors import DatasetCorruptError, DatasetUnavailableError

__all__ = ["DatasetCorruptError", "DatasetUnavailableError", "ml_1m", "ml_100k", "sample"]
