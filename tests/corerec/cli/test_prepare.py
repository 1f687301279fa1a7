import json

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from corerec.cli.app import app

SMALL = ("--epochs", "1", "--hidden-dim", "8", "--max-seq-len", "8", "--quiet")


def run(*arguments, code: int = 0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=120)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def write_log(path, users, steps=range(6)):
    """Users who walk a ring of 10 items."""
    rows = [f"{user},{10 + (user + step) % 10},{step}" for user in users for step in steps]
    path.write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def log_file(tmp_path_factory):
    return write_log(tmp_path_factory.mktemp("log") / "log.csv", range(1, 21))


@pytest.fixture(scope="module")
def store(log_file):
    folder = log_file.with_name("log.store")
    result = run("prepare", log_file, "-o", folder, "--memory", "1GB")
    assert "20 users, 10 items, 120 events" in " ".join(result.stdout.split())
    assert "user = user_id, item = item_id, time = timestamp" in " ".join(result.stderr.split())
    return folder


@pytest.fixture(scope="module")
def models(log_file, store):
    paths = log_file.with_name("of_log.model"), log_file.with_name("of_store.model")
    for source, path in zip((log_file, store), paths, strict=True):
        run("fit", source, "-o", path, "--holdout", *SMALL)
    return paths


def test_fit_learns_the_same_from_a_store(models):
    weights = [load_file(path) for path in models]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_evaluate_update_and_recommend_take_a_store(models, log_file, store, tmp_path):
    figures = []
    for source in (log_file, store):
        run("evaluate", models[0], source, "--quiet", "--json", tmp_path / "figures.json")
        figures.append(json.loads((tmp_path / "figures.json").read_text()))
        run("recommend", models[0], "--histories", source, "-o", tmp_path / f"{source.suffix}.csv", "--quiet")
        run("update", models[0], source, "-o", tmp_path / f"{source.suffix}.model", "--epochs", "1", "--quiet")
    assert figures[0][0]["measures"] == figures[1][0]["measures"]
    assert (tmp_path / ".csv.csv").read_text() == (tmp_path / ".store.csv").read_text()
    grown = [load_file(tmp_path / f"{kind}.model") for kind in (".csv", ".store")]
    assert all(torch.equal(tensor, grown[1][name]) for name, tensor in grown[0].items())


def test_a_day_is_appended(log_file, tmp_path):
    run("prepare", log_file, "-o", tmp_path / "s", "--quiet")
    result = run("prepare", write_log(tmp_path / "day.csv", range(15, 26), [7]), "--append", tmp_path / "s")
    assert "25 users, 10 items, 131 events" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fit", "STORE", "--since", "3"), "give --since to corerec prepare"),
        (("fit", "STORE", "LOG"), "a store is read alone"),
        (("prepare", "STORE"), "is a store, not a file of events"),
        (("prepare", "LOG", "--memory", "much"), "memory must be a size"),
    ],
)
def test_a_store_where_it_makes_no_sense_is_refused(arguments, said, log_file, store, tmp_path):
    given = [{"STORE": store, "LOG": log_file}.get(argument, argument) for argument in arguments]
    assert said in " ".join(run(*given, "-o", tmp_path / "out", code=2).stderr.split())


def test_one_place_to_write_is_needed(log_file):
    assert "give one of --output STORE and --append STORE" in " ".join(run("prepare", log_file, code=2).stderr.split())
