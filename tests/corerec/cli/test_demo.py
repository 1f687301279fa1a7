import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

import corerec
from command_line import run, words
from corerec.cli.demo import _content, _what_they_add
from corerec.data.interactions import Interactions
from corerec.data.splitting import leave_one_out
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


def test_what_clock_and_content_add_is_one_table_with_a_row_each():
    titles = [f"Film {n} (199{n})" for n in range(6)]
    movies = pd.DataFrame({"movie_id": range(6), "title": titles, "genres": ["Action|Comedy", "Comedy"] * 3})
    log = Interactions.from_columns(np.repeat(range(8), 5), np.arange(40) % 6, timestamps=np.arange(40) * 60)
    split = leave_one_out(log)
    items = _content(movies, log.items)
    assert items["year"].tolist() == [1990.0, 1991.0, 1992.0, 1993.0, 1994.0, 1995.0]
    rows = {"ids": {"clock": False}, "and the clock": {}, "and content": {"items": items}}
    settings = {"epochs": 1, "hidden_dim": 8, "max_seq_len": 5}
    table = _what_they_add(rows, settings, "cpu", split.train, split.test)
    assert list(table.columns[0].cells) == ["ids", "and the clock", "and content"]
    assert all("±" in cell for column in table.columns[1:] for cell in column.cells)
