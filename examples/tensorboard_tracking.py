"""Log a training to TensorBoard: the loss of each step, and the loss, learning rate and validation NDCG@10 of each
epoch.

pip install 'corerec-bert4rec[trackers]'
python examples/tensorboard_tracking.py ratings.csv runs/first epochs=20
tensorboard --logdir runs
"""

import sys

from torch.utils.tensorboard import SummaryWriter

from corerec import Bert4Rec, read_events
from corerec.engines.bert4rec.training import EpochResult, StepResult

EVERY = 10  # steps: reading a loss waits for the device


def to_tensorboard(writer):
    """An `on_event` for `fit` that writes to TensorBoard."""

    def on_event(event):
        if isinstance(event, StepResult) and event.step % EVERY == 0:
            writer.add_scalar("step/loss", float(event.loss), event.step)
        elif isinstance(event, EpochResult):
            writer.add_scalar("epoch/loss", event.loss, event.epoch)
            writer.add_scalar("epoch/learning_rate", event.learning_rate, event.epoch)
            if event.ndcg is not None:
                writer.add_scalar("epoch/validation_ndcg_at_10", event.ndcg, event.epoch)

    return on_event


def main(log_file, folder, **settings):
    model = Bert4Rec(**({"patience": 5} | settings))
    with SummaryWriter(folder) as writer:
        model.fit_interactions(read_events(log_file).interactions(), on_event=to_tensorboard(writer))
    best = model.training_log["ndcg"].max()
    model.save(f"{folder}/corerec.model")
    print(f"{folder}: {len(model.training_log)} epochs, validation NDCG@10 {best:.4f}")


if __name__ == "__main__":
    log_file, folder, *pairs = sys.argv[1:]
    main(log_file, folder, **{name: int(value) for name, value in (pair.split("=") for pair in pairs)})
