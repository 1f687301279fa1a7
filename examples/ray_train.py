"""Train one model with the workers of Ray Train, in parallel on parts of each batch. After a failure, the training
resumes from its checkpoint.

    pip install 'corerec-bert4rec[ray]'
    python examples/ray_train.py ratings.csv movies.model workers=2 epochs=20

Ray starts the workers and joins them in one torch.distributed group; `fit` shares each batch among them. Every worker
must be able to read the log, the model and the checkpoint beside the model. On several machines, put them on a shared
file system.
"""

import sys
from pathlib import Path

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from corerec import Bert4Rec, EpochResult, Interactions, read_events

FAILURES = 3  # so often a lost worker makes Ray start all of them again: `fit` goes on from the checkpoint


def report(event):
    """Ray shows and keeps the figures of each epoch."""
    if isinstance(event, EpochResult):
        ray.train.report({"epoch": event.epoch, "loss": event.loss})


def train(job):
    """What each worker does: all make the same calls, and rank 0 alone writes."""
    is_store = Path(job["log"], "corerec-store.json").exists()  # of `corerec prepare`: mapped, not read into memory
    log = Interactions.open(job["log"]) if is_store else read_events(job["log"]).interactions()
    model = Bert4Rec(**job["settings"], verbose=True)
    checkpoint = f"{job['model']}.training"  # rank 0 reads and writes it; `save` removes it
    model.fit_interactions(log, on_event=report, checkpoint=checkpoint, checkpoint_every_s=job["every_s"])
    model.save(job["model"])


def main(log_file, model_file, workers=2, cpus=1, gpus=0, checkpoint_every_s=60, **settings):
    """Train with so many workers of so many CPU cores each; gpus=1 gives each one GPU. Settings are Bert4Rec's."""
    job = {"log": str(Path(log_file).resolve()), "model": str(Path(model_file).resolve())}
    resources = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    TorchTrainer(
        train,
        train_loop_config=job | {"settings": settings, "every_s": checkpoint_every_s},
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker=resources),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=FAILURES)),
    ).fit()
    print(f"{model_file}: {Bert4Rec.load(model_file)}")


if __name__ == "__main__":
    log_file, model_file, *pairs = sys.argv[1:]
    main(log_file, model_file, **{name: int(value) for name, value in (pair.split("=") for pair in pairs)})
