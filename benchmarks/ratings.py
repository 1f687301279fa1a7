"""How near do expected ratings come to the stars? RMSE on MovieLens-100K's official folds and on a random split.

    python benchmarks/ratings.py --data ml-100k --peer INTERPRETER --json-out results/ratings_ml-100k.json

The data is a folder with u.data and u1.test .. u5.test. The model is the default constructor's, given ratings and
timestamps, or, in the rows so called, the rows in random order and no timestamps. INTERPRETER is a Python with
scikit-surprise, whose models are fitted on the same folds in the same run. Test ratings are read once, at the end.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from rich.console import Console
from rich.table import Table

from corerec.engines.bert4rec import Bert4Rec
from machine import describe
from quality import settings_of

TIMED, SHUFFLED = "BERT4Rec", "BERT4Rec, rows shuffled, no timestamps"


def read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / name, sep="\t", names=["user", "item", "rating", "timestamp"])


def splits(folder: Path, folds: list[int]) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Train and test of each official fold, and of the tutorial's random split."""
    log = read(folder, "u.data")
    out = {}
    for fold in folds:
        test = read(folder, f"u{fold}.test")
        keys = pd.MultiIndex.from_frame(test[["user", "item"]])
        out[f"u{fold}"] = log[~pd.MultiIndex.from_frame(log[["user", "item"]]).isin(keys)], test
    shuffled = np.random.RandomState(42).permutation(len(log))  # as sklearn's train_test_split(random_state=42)
    cut = len(log) // 5
    out["random 80/20"] = log.iloc[shuffled[cut:]], log.iloc[shuffled[:cut]]
    return out


def ours(train: pd.DataFrame, test: pd.DataFrame, shuffled: bool, settings: dict[str, Any]) -> dict[str, Any]:
    model = Bert4Rec(**settings)
    if shuffled:
        train = train.sample(frac=1, random_state=0)
    started = time.perf_counter()
    model.fit(train["user"], train["item"], train["rating"], None if shuffled else train["timestamp"])
    seconds = time.perf_counter() - started
    pairs = list(zip(test["user"].tolist(), test["item"].tolist(), strict=True))
    started = time.perf_counter()
    expected = np.array([model.predict(user, item) for user, item in pairs])
    asking = time.perf_counter() - started
    rmse = float(np.sqrt(np.mean((expected - test["rating"].to_numpy()) ** 2)))
    name = SHUFFLED if shuffled else TIMED
    return {"name": name, "rmse": rmse, "seconds": seconds, "us_a_predict": 1e6 * asking / len(pairs)}


def theirs(train: pd.DataFrame, test: pd.DataFrame, interpreter: str) -> list[dict[str, Any]]:
    script = Path(__file__).with_name("ratings_surprise.py")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("train.csv", "test.csv")]
        for frame, path in zip((train, test), paths, strict=True):
            frame[["user", "item", "rating"]].to_csv(path, header=False, index=False)
        done = subprocess.run([interpreter, script, *paths], check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main(
    data: Annotated[Path, typer.Option(help="Folder with u.data and u1.test .. u5.test.")],
    peer: Annotated[str | None, typer.Option(help="A Python interpreter with scikit-surprise.")] = None,
    fold: Annotated[list[int] | None, typer.Option(help="Official folds; all five when left out.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of the constructor.")] = None,
    shuffled: Annotated[bool, typer.Option(help="Measure without timestamps, too.")] = True,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    machine, settings = describe(), settings_of(set_ or [])
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for split, (train, test) in splits(data, fold or [1, 2, 3, 4, 5]).items():
        figures = [ours(train, test, order, settings) for order in ([False, True] if shuffled else [False])]
        figures += theirs(train, test, peer) if peer else []
        for figure in figures:
            rows.setdefault(figure.pop("name"), {})[split] = figure
            print(json.dumps({"split": split} | figure), file=sys.stderr, flush=True)
    table = Table(title=f"RMSE on {data.name}")
    names = list(next(iter(rows.values())))
    for column in ("", *names, "mean of folds", "seconds a fit"):
        table.add_column(column, justify="right")
    for name, by_split in rows.items():
        rmse = {split: figure["rmse"] for split, figure in by_split.items()}
        folds_mean = statistics.mean(value for split, value in rmse.items() if split.startswith("u"))
        seconds = statistics.median(figure["seconds"] for figure in by_split.values())
        table.add_row(name, *(f"{rmse[split]:.4f}" for split in names), f"{folds_mean:.4f}", f"{seconds:.0f}")
    Console().print(table)
    if json_out:
        record = {"data": data.name, "machine": machine, "settings": settings, "rows": rows}
        json_out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
