"""Command-line arguments that several benchmarks share: settings of the constructor, and a table of items."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pandas as pd

from corerec.data.item_features import ITEM_ID
from corerec.data.item_table import read_items
from corerec.data.vocabulary import Vocabulary


def settings_of(pairs: list[str]) -> dict[str, Any]:
    """["epochs=3", "dropout=.1", "positions=sinusoidal"] -> {"epochs": 3, "dropout": .1, "positions": "sinusoidal"}"""
    settings = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            settings[name] = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(value, value))
        except (SyntaxError, ValueError):
            settings[name] = value
    return settings


def items_of(path: Path, items: Vocabulary) -> pd.DataFrame:
    """A table of items; of a folder of MovieLens-100K its genres and years."""
    if path.is_dir():
        from cr_learn import ml_100k

        movies = ml_100k.load(path)["movies"]
        year = pd.to_numeric(movies["title"].str.extract(r"\((\d{4})\)\s*$")[0])
        return pd.DataFrame({ITEM_ID: movies["movie_id"], "genres": movies["genres"].str.split("|"), "year": year})
    return read_items(path, known=items)
