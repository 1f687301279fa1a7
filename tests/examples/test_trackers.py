"""The examples of trackers, against the real packages, without a network."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import corerec
from corerec.engines.bert4rec import Bert4Rec

EXAMPLES = Path(__file__).parents[2] / "examples"
EXTRA = "pip install 'corerec-bert4rec[trackers]'"
SMALL = ["epochs=3", "hidden_dim=8", "num_heads=2", "max_seq_len=8"]


def needs(module: str) -> None:
    """Skips without importing: the examples run in processes of their own, with their own warnings."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}: {EXTRA}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cycle_log):
    """log.csv, and ring.model fitted on it."""
    folder = tmp_path_factory.mktemp("trackers")
    store = cycle_log.sequences
    users, items = cycle_log.users.ids.repeat(store.lengths), cycle_log.items.ids[store.items - 1]
    pd.DataFrame({"user_id": users, "item_id": items, "timestamp": range(len(items))}).to_csv(
        folder / "log.csv", index=False
    )
    model = Bert4Rec("Ring", epochs=2, hidden_dim=8, num_heads=2, max_seq_len=8).fit_interactions(cycle_log)
    model.save(folder / "ring.model")
    return folder


@pytest.fixture
def run(python, folder):
    """Run an example, or code, in the folder; what it printed."""

    def run_in_folder(*command, code=None):
        source = str(Path(corerec.__file__).parents[1])  # of this checkout, whatever is installed
        offline = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_FILE_STORE": "true"}
        environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"} | offline
        program = [*python, EXAMPLES / command[0], *command[1:]] if code is None else [sys.executable, "-c", code]
        ran = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return run_in_folder


@pytest.mark.slow
def test_mlflow_has_a_point_an_epoch_the_settings_and_the_model(folder, run):
    needs("mlflow")
    shown = run("mlflow_tracking.py", "log.csv", (folder / "mlruns").as_uri(), *SMALL)
    assert "72 users, test NDCG@10 " in shown

    (run_folder,) = (path.parent for path in folder.glob("mlruns/*/*/metrics"))
    points = (run_folder / "metrics" / "validation_ndcg_at_10").read_text().splitlines()
    assert [int(point.split()[2]) for point in points] == [1, 2, 3]
    assert (run_folder / "params" / "hidden_dim").read_text() == "8"
    assert Bert4Rec.load(run_folder / "artifacts" / "corerec.model").num_events > 0


@pytest.mark.slow
def test_tensorboard_has_the_curves(folder, run):
    needs("tensorboard")
    shown = run("tensorboard_tracking.py", "log.csv", "runs/first", *SMALL)
    assert "runs/first: 3 epochs, validation NDCG@10 " in shown

    code = (
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator as Events\n"
        "events = Events('runs/first'); events.Reload()\n"
        "print(sorted(events.Tags()['scalars']), [point.step for point in events.Scalars('epoch/loss')])\n"
    )
    tags = ["epoch/learning_rate", "epoch/loss", "epoch/validation_ndcg_at_10", "step/loss"]
    assert run(code=code).strip() == f"{tags} [1, 2, 3]"
    assert Bert4Rec.load(folder / "runs" / "first" / "corerec.model").num_events > 0


@pytest.mark.slow
def test_a_pyfunc_answers_as_the_model(folder, run):
    needs("mlflow")
    run("mlflow_pyfunc.py", "ring.model", "ring-mlflow")

    code = (
        "import mlflow, pandas as pd\n"
        "served = mlflow.pyfunc.load_model('ring-mlflow')\n"
        "users = served.predict(pd.DataFrame({'user_id': ['user 3', 'user 0']}), params={'top_k': 2})\n"
        "histories = served.predict(pd.DataFrame({'history': [['a', 'b'], ['c']]}), params={'top_k': 3})\n"
        "print(users.to_json(orient='values'))\n"
        "print(histories['item_id'].tolist())\n"
    )
    users, histories = run(code=code).strip().splitlines()
    model = Bert4Rec.load(folder / "ring.model")
    assert users == model.batch_recommend(["user 3", "user 0"], 2, as_frame=True).to_json(orient="values")
    expected = model.batch_recommend(histories=[["a", "b"], ["c"]], top_k=3)
    assert histories == str([item for items in expected for item in items])
    assert not list((folder / "ring-mlflow").rglob("*.pkl"))


def test_no_example_hides_the_package_that_it_imports():
    """A script's own folder is looked in first: examples/tensorboard.py would be the package tensorboard."""
    installed = {path.stem for path in EXAMPLES.glob("*.py")} & {"mlflow", "tensorboard", "torch", "corerec"}
    assert not installed
