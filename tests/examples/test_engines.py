"""The examples for Ray and Spark give what the library gives alone, in processes that each engine starts.

They are in no extra of the tests: pip install 'corerec-bert4rec[ray,spark]' runs them.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import corerec
from corerec import batch
from corerec.engines.bert4rec import Bert4Rec

EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCE = str(Path(corerec.__file__).parents[1])  # of this checkout, whatever is installed
TOP_K = 3
SMALL = {"epochs": 2, "hidden_dim": 8, "num_heads": 2, "max_seq_len": 6}
# A cluster of two cores on this machine, in which the script named next runs.
TWO_CORES = "import ray, runpy, sys; ray.init(num_cpus=2, object_store_memory=200_000_000, include_dashboard=False); "
TWO_CORES += "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX processes")]


def needs(module: str, extra: str) -> None:
    """Skips without importing: the examples run in processes of their own, with their own warnings."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}: pip install 'corerec-bert4rec[{extra}]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cycle_log):
    """ring.model, whose ids are text; numbers.model, whose ids are whole numbers; and log.csv, which that learned."""
    folder = tmp_path_factory.mktemp("engines")
    Bert4Rec(epochs=2, hidden_dim=8, num_heads=2, max_seq_len=8).fit_interactions(cycle_log).save(folder / "ring.model")
    rows = [(user, (user + step) % 12, step) for user in range(40) for step in range(6)]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    log.to_csv(folder / "log.csv", index=False)
    model = Bert4Rec(**SMALL, device="cpu").fit(log["user_id"], log["item_id"], timestamps=log["timestamp"])
    model.save(folder / "numbers.model")
    return folder


def start(folder, engine, script, *arguments):
    """Start an example; what it and its workers say goes to said.txt."""
    pythons = {"PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", "PYSPARK_PYTHON": sys.executable}
    local = {"HOME": str(folder), "SPARK_LOCAL_IP": "127.0.0.1", "RAY_USAGE_STATS_ENABLED": "0"}
    spark = "--master local[2] --driver-memory 1g --conf spark.ui.enabled=false pyspark-shell"
    environment = os.environ | pythons | local | {"PYSPARK_SUBMIT_ARGS": spark}
    before = ["-c", TWO_CORES] if engine == "ray" else []
    command = [sys.executable, *before, str(EXAMPLES / script), *map(str, arguments)]
    with open(folder / "said.txt", "w") as said:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)


def finish(process, folder):
    """Wait for an example; what it said. Ray and Spark end what they started when they are told to end."""
    try:
        code = process.wait(timeout=300)
    finally:
        process.terminate()
        process.wait(timeout=60)
    said = (folder / "said.txt").read_text()
    assert code == 0, said[-10_000:]
    return said


def run(folder, engine, script, *arguments):
    return finish(start(folder, engine, script, *arguments), folder)


def assert_same_answers(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """The same rows, whatever their order, with ids of the same kind."""
    found = found.sort_values(["user_id", "rank"], ignore_index=True)
    expected = expected.sort_values(["user_id", "rank"], ignore_index=True)
    assert list(found.columns) == list(expected.columns) == ["user_id", "item_id", "rank", "score"]
    for column in ("user_id", "item_id", "rank"):
        assert found[column].tolist() == expected[column].tolist()
        assert type(found[column].tolist()[0]) is type(expected[column].tolist()[0])
    assert np.allclose(found["score"], expected["score"], rtol=1e-4)


SCORING = [
    pytest.param("ray", "ray_scoring.py", [f"top_k={TOP_K}"], id="ray"),
    pytest.param("spark", "spark_scoring.py", [TOP_K], id="spark"),
]


def needs_engine(engine):
    needs({"ray": "ray", "spark": "pyspark"}[engine], engine)
    if engine == "spark" and shutil.which("java") is None:
        pytest.skip("needs Java")


@pytest.mark.parametrize(("engine", "script", "options"), SCORING)
@pytest.mark.parametrize("name", ["ring.model", "numbers.model"])
def test_known_users_get_the_answers_of_batch_score(engine, script, options, name, folder, tmp_path):
    needs_engine(engine)
    model = Bert4Rec.load(folder / name)
    pd.DataFrame({"user_id": model.users.ids.tolist()}).to_parquet(tmp_path / "users.parquet")

    said = run(tmp_path, engine, script, folder / name, "users.parquet", "recs", *options)

    batch.score(model, tmp_path / "expected.parquet", TOP_K)
    expected = pd.read_parquet(tmp_path / "expected.parquet")
    assert_same_answers(pd.read_parquet(tmp_path / "recs"), expected)
    assert f"{len(expected):,} recommendations" in said


@pytest.mark.parametrize(("engine", "script", "options"), SCORING)
def test_histories_of_any_users_are_answered(engine, script, options, folder, tmp_path):
    needs_engine(engine)
    histories = [["a", "b", "c"], ["k"], [], ["b", "never seen"]]
    users = pd.DataFrame({"user_id": [7, 5, 9, 8], "history": histories})
    users.to_parquet(tmp_path / "users.parquet")

    run(tmp_path, engine, script, folder / "ring.model", "users.parquet", "recs", *options)

    model = Bert4Rec.load(folder / "ring.model")
    expected = model.batch_recommend(histories=histories, top_k=TOP_K, on_unknown="skip", as_frame=True)
    expected["user_id"] = users["user_id"].to_numpy()[expected["user_id"]]
    assert_same_answers(pd.read_parquet(tmp_path / "recs"), expected)


def settings(**more):
    return [f"{name}={value}" for name, value in (SMALL | more).items()]


def weights(path):
    return Bert4Rec.load(path).fitted.network.state_dict()


def test_two_workers_of_ray_train_give_the_model_of_one_process(folder, tmp_path):
    needs("ray", "ray")
    said = run(tmp_path, "ray", "ray_train.py", folder / "log.csv", "ray.model", *settings())

    assert "world_rank=1" in said
    assert said.count("epoch 2/2") == 1
    alone = weights(folder / "numbers.model")
    assert all(np.allclose(found, alone[name], atol=1e-4) for name, found in weights(tmp_path / "ray.model").items())
    assert not (tmp_path / "ray.model.training").exists()


def test_a_lost_worker_of_ray_train_costs_no_more_than_the_steps_since_the_checkpoint(folder, tmp_path):
    needs("ray", "ray")
    log, longer = folder / "log.csv", {"epochs": 300}
    process = start(tmp_path, "ray", "ray_train.py", log, "ray.model", *settings(**longer), "checkpoint_every_s=0")
    said, deadline = tmp_path / "said.txt", time.monotonic() + 300
    while not (tmp_path / "ray.model.training").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    lost = re.search(r"pid=(\d+)\) world_rank=1", said.read_text())
    assert lost, said.read_text()
    os.kill(int(lost[1]), signal.SIGKILL)

    text = finish(process, tmp_path)

    assert len(re.findall(r"world_rank=1", text)) == 2
    assert "epoch 1/300 " in text
    assert text.count("epoch 300/300 ") == 1
    events = pd.read_csv(log)
    uninterrupted = Bert4Rec(**SMALL | longer, device="cpu")
    uninterrupted.fit(events["user_id"], events["item_id"], timestamps=events["timestamp"])
    uninterrupted.save(tmp_path / "alone.model")
    alone = weights(tmp_path / "alone.model")
    assert all(np.allclose(found, alone[name], atol=1e-2) for name, found in weights(tmp_path / "ray.model").items())
