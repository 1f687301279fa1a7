"""scikit-surprise's models on one split, for `ratings.py --peer INTERPRETER`: prints one JSON line a model.

    INTERPRETER benchmarks/ratings_surprise.py train.csv test.csv     # columns user, item, rating; no header

Runs in an environment of its own (`pip install scikit-surprise pandas`), with the library's default settings.
"""

import json
import sys
import time

import pandas as pd
from surprise import SVD, BaselineOnly, Dataset, Reader, SVDpp

COLUMNS = ["user", "item", "rating"]
train, test = (pd.read_csv(path, names=COLUMNS) for path in sys.argv[1:3])
scale = train["rating"].min(), train["rating"].max()
known = Dataset.load_from_df(train, Reader(rating_scale=scale)).build_full_trainset()
for name, model in {
    "global biases": BaselineOnly(verbose=False),
    "SVD": SVD(random_state=0),
    "SVD++": SVDpp(random_state=0, cache_ratings=True),
}.items():
    started = time.perf_counter()
    model.fit(known)
    seconds = time.perf_counter() - started
    expected = [model.predict(user, item).est for user, item in zip(test["user"], test["item"], strict=True)]
    rmse = ((test["rating"] - expected) ** 2).mean() ** 0.5
    print(json.dumps({"name": f"scikit-surprise {name}", "rmse": rmse, "seconds": seconds}), flush=True)
