import os
import subprocess
import sys
from pathlib import Path

import corerec
from command_line import run, words
from cr_learn import DatasetUnavailableError, ml_100k


def test_another_project_s_cr_learn_is_named_with_what_to_do(tmp_path):
    """A distribution of that import name is published; where it is found first, the data sets are not ours."""
    (tmp_path / "cr_learn").mkdir()
    (tmp_path / "cr_learn" / "__init__.py").write_text("ml_1m = None\n")
    path = os.pathsep.join([str(tmp_path), str(Path(corerec.__file__).parents[1])])
    shown = subprocess.run(
        [sys.executable, "-m", "corerec", "demo", "--data", "sample"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 2
    assert "Traceback" not in shown.stderr
    assert str(tmp_path / "cr_learn") in shown.stderr
    assert "pip uninstall cr_learn" in shown.stderr


def test_demo_measures_and_recommends():
    shown = words(run("demo", "--data", "sample", "--epochs", 1, "--user", 7).stdout)

    for part in ("NDCG@10", "Last-item Markov", "times Popularity's", "last five movies of user 7", "fills in"):
        assert part in shown


def test_demo_falls_back_to_the_sample(monkeypatch):
    def unavailable(path):
        raise DatasetUnavailableError("no network")

    monkeypatch.setattr(ml_100k, "load", unavailable)
    result = run("demo", "--epochs", 1)

    assert "generated sample instead" in words(result.stderr)
    assert "Generated sample" in result.stdout
