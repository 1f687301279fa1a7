"""Score a table of users with Ray Data: each worker holds the model, and scores a part of the users.

    pip install 'corerec-bert4rec[ray]'
    python examples/ray_scoring.py movies.model users.parquet recs/ workers=2 top_k=10

The second argument is a Parquet file of users, or a folder of such files. With only a column user_id, the model must
know the users. With a column history (lists of item ids, oldest first), the users may be unknown. The third argument is
the output: a folder of Parquet files with user_id, item_id, rank and score. Its rows have no order, and an existing
folder is replaced. On several machines, all three paths must be on a shared file system.
"""

import sys
from pathlib import Path

import pandas as pd
import ray.data
from ray.data import ActorPoolStrategy, SaveMode

from corerec import Bert4Rec

USERS_AT_ONCE = 1024  # rows of a task: their answers are in a worker's memory, and all workers have some


class Recommend:
    """Made once in each worker. It takes the model's path: a worker reads a file faster than it receives an object."""

    def __init__(self, model_file: str, top_k: int) -> None:
        self.model, self.top_k = Bert4Rec.load(model_file, device="cpu"), top_k

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        if "history" not in batch:
            return self.model.batch_recommend(batch["user_id"], self.top_k, as_frame=True)
        answers = self.model.batch_recommend(histories=batch["history"], top_k=self.top_k, as_frame=True)
        return answers.assign(user_id=batch["user_id"].to_numpy()[answers["user_id"]])  # instead of the row's place


def main(model_file, users, output, workers=2, cpus=1, top_k=10):
    """Score with up to so many workers of so many CPU cores each."""
    model_file, users, output = (str(Path(path).resolve()) for path in (model_file, users, output))
    answers = (
        ray.data.read_parquet(users)
        .repartition(target_num_rows_per_block=USERS_AT_ONCE)
        .map_batches(
            Recommend,
            fn_constructor_args=(model_file, top_k),
            batch_format="pandas",
            batch_size=USERS_AT_ONCE,
            # Not size=workers: where these hold all cores, nothing reads or writes, and the job waits forever.
            compute=ActorPoolStrategy(min_size=1, max_size=workers),
            num_cpus=cpus,
        )
    )
    answers.write_parquet(output, mode=SaveMode.OVERWRITE)
    print(f"{output}: {ray.data.read_parquet(output).count():,} recommendations")


if __name__ == "__main__":
    model_file, users, output, *pairs = sys.argv[1:]
    main(model_file, users, output, **{name: int(value) for name, value in (pair.split("=") for pair in pairs)})
