"""Log a training to MLflow: its settings, the loss and validation NDCG@10 of each epoch, test figures and the model
file.

    pip install 'corerec-bert4rec[trackers]'
    python examples/mlflow_tracking.py ratings.csv http://127.0.0.1:5000 epochs=20

The command `mlflow ui`, which the package mlflow installs, shows the logged training.
"""

import sys
import tempfile
from pathlib import Path

import mlflow

from corerec import Bert4Rec, evaluate, leave_one_out, read_events
from corerec.engines.bert4rec.training import EpochResult


def to_mlflow(event):
    """`on_event` of `fit`: a point of each curve after every epoch."""
    if isinstance(event, EpochResult):
        figures = {"loss": event.loss, "learning_rate": event.learning_rate, "validation_ndcg_at_10": event.ndcg}
        figures = {name: value for name, value in figures.items() if value is not None}
        mlflow.log_metrics(figures, step=event.epoch)


def main(log_file, tracking_uri, **settings):
    split = leave_one_out(read_events(log_file).interactions())
    model = Bert4Rec(**({"patience": 5} | settings))
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment("corerec")
    with mlflow.start_run() as run, tempfile.TemporaryDirectory() as folder:
        mlflow.log_params(model.get_params())
        model.fit_interactions(split.train, split.valid, on_event=to_mlflow)
        report = evaluate(model, split.test)
        mlflow.log_metrics({f"test_{name.lower()}_at_10": report.value(name) for name in ("NDCG", "HR")})
        model.save(Path(folder) / "corerec.model")
        mlflow.log_artifact(Path(folder) / "corerec.model")
    print(f"run {run.info.run_id}: {report.num_questions:,} users, test NDCG@10 {report.value('NDCG'):.4f}")


if __name__ == "__main__":
    log_file, tracking_uri, *pairs = sys.argv[1:]
    main(log_file, tracking_uri, **{name: int(value) for name, value in (pair.split("=") for pair in pairs)})
