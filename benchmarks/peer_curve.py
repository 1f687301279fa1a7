"""Validation NDCG@10 of RecTools' models against their training seconds. plot.py draws them next to our models.

    rectools-python benchmarks/peer_curve.py ml-1m-sasrec.txt.gz --model sasrec --seconds 600 --json-out results/...

Run by an interpreter that has RecTools (pip install 'rectools[torch]'), and neither needs nor finds corerec. The same
questions as quality.py's: each user's last event but one, the whole catalogue, the events before it excluded. Epochs
follow one another until the seconds are spent; ranking the users after each is not counted, nor is building the data.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import time
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, SASRecModel

TOP = 10


def training_frame(path: Path) -> tuple[pd.DataFrame, pd.Series]:
    """RecTools' columns without each user's last two events; the last but one by user."""
    with gzip.open(path, "rt") as lines:
        events = pd.read_csv(lines, sep=" ", names=[Columns.User, Columns.Item])
    events[Columns.Weight] = 1.0
    events[Columns.Datetime] = pd.Timestamp("2000-01-01") + pd.to_timedelta(np.arange(len(events)), unit="s")
    from_the_end = events.groupby(Columns.User).cumcount(ascending=False)
    return events[from_the_end >= 2], events[from_the_end == 1].set_index(Columns.User)[Columns.Item]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="text file of `user item` lines in time order, .gz")
    parser.add_argument("--model", choices=["bert4rec", "sasrec"], default="bert4rec")
    parser.add_argument("--seconds", type=float, default=600, help="training seconds to spend")
    parser.add_argument("--max-len", type=int, default=200)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--json-out", type=Path, help="where to write the curve")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    frame, target = training_frame(args.data)
    dataset = Dataset.construct(frame)
    settings = {
        "session_max_len": args.max_len,
        "n_blocks": 2,
        "n_heads": 2,
        "n_factors": args.dim,
        "batch_size": args.batch_size,
        "dropout_rate": 0.2,
        "lr": 1e-3,
    }
    torch.manual_seed(0)
    common = {**settings, "verbose": 0, "dataloader_num_workers": 0, "recommend_batch_size": 256}
    if args.model == "bert4rec":
        model = BERT4RecModel(mask_prob=0.2, **common)
    else:
        model = SASRecModel(loss="softmax", **common)
    curve, seconds = [], 0.0
    while seconds < args.seconds:
        start = time.perf_counter()
        model.fit_partial(dataset, min_epochs=1, max_epochs=1)
        seconds += time.perf_counter() - start
        users = frame[Columns.User].unique()
        best = model.recommend(users=users, dataset=dataset, k=TOP, filter_viewed=True)
        ranks = best.loc[best[Columns.Item] == best[Columns.User].map(target), Columns.Rank]
        point = {"epoch": len(curve) + 1, "seconds": seconds}
        point |= {"ndcg": float((1 / np.log2(1 + ranks)).sum() / len(target)), "hr": len(ranks) / len(target)}
        curve.append(point)
        print(json.dumps(point), flush=True)
    record = {
        "data": args.data.name,
        "model": f"RecTools {metadata.version('rectools')} {args.model}",
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "settings": settings,
        "runs": [{"seed": 0, "curve": curve}],
    }
    if args.json_out:
        args.json_out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
