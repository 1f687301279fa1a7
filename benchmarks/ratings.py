"""Error of expected ratings: RMSE on MovieLens-100K's official folds and on a random split.

    python benchmarks/ratings.py --data ml-100k --peer INTERPRETER --json-out results/ratings_ml-100k.json

The data is a folder with u.data and u1.test .. u5.test. The model is the default constructor's, given ratings and
timestamps; on the random split, which is the tutorial's, also the rows in random order and no timestamps, with the
default's settings and with the tutorial's. INTERPRETER is a Python with scikit-surprise, whose models are fitted on the
same folds in the same run. Test ratings are read once, at the end.
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

from arguments import settings_of
from corerec.engines.bert4rec import Bert4Rec
from machine import describe

RANDOM = "random 80/20"
TUTORIAL = {
    "max_seq_len": 50,
    "hidden_dim": 64,
    "num_layers": 2,
    "num_heads": 2,
    "mask_prob": 0.15,
    "epochs": 20,
    "batch_size": 256,
    "learning_rate": 0.001,
}


def read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / name, sep="\t", names=["user", "item", "rating", "timestamp"])


def splits(folder: Path, folds: list[int]) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Train and test of each official fold, and of the tutorial's random split."""
    log = read(folder, "u.data")
    out = {}
    for fold in folds:
        test = read(folder, f"u{fold}.test")
        keys = pd.MultiIndex.from_arrays([test["user"], test["item"]])
        out[f"u{fold}"] = log[~pd.MultiIndex.from_arrays([log["user"], log["item"]]).isin(keys)], test
    shuffled = np.random.RandomState(42).permutation(len(log))  # as sklearn's train_test_split(random_state=42)
    cut = len(log) // 5
    out[RANDOM] = log.iloc[shuffled[cut:]], log.iloc[shuffled[:cut]]
    return out


def ours(
    name: str, train: pd.DataFrame, test: pd.DataFrame, settings: dict[str, Any], shuffled: bool = False
) -> dict[str, Any]:
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
    return {"name": name, "rmse": rmse, "seconds": seconds, "us_a_predict": 1e6 * asking / len(pairs)}


def theirs(train: pd.DataFrame, test: pd.DataFrame, interpreter: str) -> list[dict[str, Any]]:
    script = Path(__file__).with_name("ratings_surprise.py")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("train.csv", "test.csv")]
        for frame, path in zip((train, test), paths, strict=True):
            frame[["user", "item", "rating"]].to_csv(path, header=False, index=False)
        done = subprocess.run([interpreter, script, *paths], check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main(
    data: Annotated[Path, typer.Option(help="Folder with u.data and u1.test .. u5.test.")],
    peer: Annotated[str | None, typer.Option(help="A Python interpreter with scikit-surprise.")] = None,
    fold: Annotated[list[int] | None, typer.Option(help="Official folds; all five when left out.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE of the constructor.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    json_out: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    machine, settings = describe(), settings_of(set_ or [])
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for split, (train, test) in splits(data, fold or [1, 2, 3, 4, 5]).items():
        figures = [ours("BERT4Rec", train, test, settings)]
        if split == RANDOM:
            figures.append(ours("BERT4Rec, shuffled, no timestamps", train, test, settings, shuffled=True))
            figures.append(ours("the tutorial's, shuffled, no timestamps", train, test, TUTORIAL, shuffled=True))
        figures += theirs(train, test, peer) if peer else []
        for figure in figures:
            rows.setdefault(figure.pop("name"), {})[split] = figure
            print(json.dumps({"split": split} | figure), file=sys.stderr, flush=True)
    table = Table(title=f"RMSE on {data.name}")
    names = list(next(iter(rows.values())))
    for column in ("", *names, "mean of folds", "seconds a fit"):
        table.add_column(column, justify="right")
    for name, by_split in rows.items():
        cells = [f"{by_split[split]['rmse']:.4f}" if split in by_split else "" for split in names]
        folds = [figure["rmse"] for split, figure in by_split.items() if split != RANDOM]
        seconds = statistics.median(figure["seconds"] for figure in by_split.values())
        table.add_row(name, *cells, f"{statistics.mean(folds):.4f}" if folds else "", f"{seconds:.0f}")
    Console().print(table)
    if json_out:
        record = {"data": data.name, "machine": machine, "settings": settings, "rows": rows}
        json_out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
