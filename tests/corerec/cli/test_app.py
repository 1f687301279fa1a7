import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from corerec.cli.app import app
from cr_learn import DatasetUnavailableError, ml_100k

COMMANDS = ("demo", "fit", "tune", "evaluate", "recommend", "similar", "embed", "serve", "info", "export")
SMALL = ("--epochs", "1", "--hidden-dim", "8", "--max-seq-len", "8")


def run(*arguments, code: int = 0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=120)
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


def words(text: str) -> str:
    """Without the line breaks and frames that depend on the terminal's width."""
    return " ".join(text.replace("│", " ").split())


@pytest.fixture(scope="module")
def log_file(tmp_path_factory):
    """20 users who walk a ring of 10 items, 6 steps each."""
    rows = [f"{user},{10 + (user + step) % 10},{step}" for user in range(1, 21) for step in range(6)]
    path = tmp_path_factory.mktemp("log") / "log.csv"
    path.write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def model_file(log_file):
    path = log_file.with_name("ring.model")
    run("fit", log_file, "-o", path, "--holdout", "--name", "Ring", *SMALL)
    return path


def test_fit_sums_up_what_it_did(log_file, tmp_path):
    result = run("fit", log_file, "-o", tmp_path / "m", *SMALL)

    assert "20 users, 10 items, 120 events" in words(result.stdout)
    assert "user = user_id, item = item_id, time = timestamp" in words(result.stderr)
    assert run("fit", log_file, "-o", tmp_path / "m", "--quiet", *SMALL).output == ""


@pytest.fixture
def untrained(monkeypatch):
    """Whatever trains, fails: what is refused has to be refused before."""

    def fail(*_, **__):
        pytest.fail("it was trained")

    monkeypatch.setattr("corerec.engines.bert4rec.Bert4Rec.fit_interactions", fail)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("output", "text"),
    [
        (".", "cannot write .: it is a folder; name a file"),
        ("absent/model", "cannot write absent/model: the folder absent does not exist; create it first"),
        ("log.csv", "cannot write log.csv: it is the file that is read (log.csv); name another file"),
        ("link", "cannot write link: it is the file that is read (log.csv); name another file"),
        ("/dev/null", "cannot write /dev/null: it is a device, not a file; name another file"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_training(log_file, tmp_path, monkeypatch, output, text):
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_bytes(log_file.read_bytes())
    Path("link").symlink_to("log.csv")
    assert words(run("fit", "log.csv", "-o", output, *SMALL, code=2).stderr) == f"error: {text}"
    assert sorted(os.listdir()) == ["link", "log.csv"]
    assert Path("log.csv").read_bytes() == log_file.read_bytes()


@pytest.mark.usefixtures("untrained")
def test_fit_replaces_no_file_that_is_no_model(log_file, tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    result = run("fit", log_file, "-o", tmp_path / "notes.txt", *SMALL, code=2)
    assert "notes.txt is there already and is no model; name another file, or move it away" in words(result.stderr)
    assert (tmp_path / "notes.txt").read_text() == "precious"


def test_fit_writes_the_file_that_a_link_leads_to(log_file, tmp_path):
    (tmp_path / "live").symlink_to("model-1")
    run("fit", log_file, "-o", tmp_path / "live", *SMALL)
    assert (tmp_path / "live").is_symlink()
    run("info", tmp_path / "model-1")


def test_figures_are_not_written_over_what_they_are_about(model_file, log_file):
    before = log_file.read_bytes(), model_file.read_bytes()
    for path in (log_file, model_file):
        result = run("evaluate", model_file, log_file, "--json", path, code=2)
        assert "it is the file that is read" in words(result.stderr)
    assert (log_file.read_bytes(), model_file.read_bytes()) == before


def test_holdout_leaves_two_events_of_each_user_out(log_file, tmp_path):
    result = run("fit", log_file, "-o", tmp_path / "m", "--holdout", "--patience", 1, *SMALL)

    assert "80 events" in words(result.stdout)
    assert "40 events were left out" in words(result.stderr)


def test_fit_reads_several_files_and_filters_them(log_file, tmp_path):
    result = run("fit", log_file, log_file, "-o", tmp_path / "m", "--where", "user_id <= 5", "--until", 3, *SMALL)

    assert "30 events (where user_id <= 5; until 3)" in words(result.stderr)
    assert "30 of 30 rows" not in result.stderr
    assert "5 users" in words(result.stdout)
    refused = run("fit", log_file, "-o", tmp_path / "m", "--min-events", 7, *SMALL, code=2)
    assert "error: no event of log.csv is left (20 of 20 users left out" in words(refused.stderr)
    assert "events (until 4)" in words(run("evaluate", tmp_path / "m", log_file, "--until", 4).stderr)


def test_info_shows_settings_and_sizes(model_file):
    shown = words(run("info", model_file).stdout)

    for part in ("name Ring", "users 20", "items 10", "events 80", "hidden_dim 8", "format corerec.bert4rec"):
        assert part in shown
    assert "warmup_steps from the log" in shown
    assert "feedforward_dim 32" in shown


def test_evaluate_prints_one_column_for_each_scorer(model_file, log_file, tmp_path):
    result = run("evaluate", model_file, log_file, "--baselines", "-k", 1, "-k", 5, "--json", tmp_path / "figures")

    for part in ("Ring", "Popularity", "Last-item Markov", "NDCG@5", "HR@1", "20 users, 10 items"):
        assert part in words(result.stdout)
    assert "not honest" not in result.stderr
    figures = json.loads((tmp_path / "figures").read_text())
    assert [report["scorer"] for report in figures] == ["Ring", "Popularity", "Last-item Markov"]
    # On a ring, the item after the last one is the only one that ever followed it.
    assert [measure["mean"] for measure in figures[2]["measures"] if measure["k"] == 1] == [1.0, 1.0, 1.0]


def test_evaluate_writes_nothing_but_json_to_stdout(model_file, log_file):
    result = run("evaluate", model_file, log_file, "--json", "-", "--on", "valid", "--seen", "both", "--negatives", 3)

    (report,) = json.loads(result.stdout)
    assert {measure["seen"] for measure in report["measures"]} == {"excluded", "included"}
    assert "3 popularity-sampled negatives" in report["candidates"]


def test_evaluate_by_history_asks_with_less_and_less_of_it(model_file, log_file, tmp_path):
    figures = tmp_path / "figures"
    shown = run(
        "evaluate", model_file, log_file, "--baselines", "--by-history", "-k", 1, "-k", 10, "--json", figures
    ).stdout

    for part in ("HR@10", "NDCG@1 by history", "newest 1", "newest 50", "whole"):
        assert part in words(shown)
    reports = json.loads(figures.read_text())
    assert [report["scorer"] for report in reports] == ["Ring"] * 7 + ["Popularity"] * 7 + ["Last-item Markov"] * 7
    assert [report["histories"] for report in reports][:7] == [*(f"newest {n}" for n in (1, 2, 5, 10, 20, 50)), "whole"]
    # The chain needs the last event only.
    assert {report["measures"][0]["mean"] for report in reports[14:]} == {1.0}


def test_evaluate_warns_of_a_model_that_saw_the_answers(log_file, tmp_path):
    run("fit", log_file, "-o", tmp_path / "m", *SMALL)

    assert "--holdout" in run("evaluate", tmp_path / "m", log_file).stderr


def test_evaluate_counts_unknown_targets_as_misses(model_file, tmp_path):
    log = tmp_path / "other.csv"
    log.write_text("user,item\n" + "".join(f"u,{item}\n" for item in ("10", "x", "11", "12", "y")))
    result = run("evaluate", model_file, log, "-k", 10, "--json", "-")

    assert "knows 3 of the log's 5 items" in words(result.stderr)
    assert "1 questions about them are misses" in words(result.stderr)
    assert {measure["mean"] for measure in json.loads(result.stdout)[0]["measures"]} == {0.0}


def test_recommend_names_items_for_a_user_and_for_a_history(model_file, tmp_path):
    titles = tmp_path / "titles.csv"
    titles.write_text("item_id,title\n" + "".join(f"{item},[b]Title {item}\n" for item in range(10, 20)))
    table = words(run("recommend", model_file, "--user", 3, "--titles", titles, "-k", 2).stdout)
    answer = json.loads(run("recommend", model_file, "--history", "10,11", "--exclude", "12", "--json").stdout)

    assert "Ring recommends to user 3" in table
    assert "[b]Title" in table
    assert answer["history"] == [10, 11]
    assert {row["item"] for row in answer["recommendations"]} == set(range(13, 20))
    everything = json.loads(run("recommend", model_file, "--history", "10", "--include-seen", "--json").stdout)
    assert len(everything["recommendations"]) == 10


def test_export_prints_what_it_wrote(model_file, tmp_path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'corerec-bert4rec[export]'")
    result = run("export", model_file, tmp_path / "onnx")

    lines = result.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        str(tmp_path / "onnx" / name) for name in ("model.onnx", "items.json", "metadata.json")
    ]
    assert lines[0].endswith(" kB")
    assert sorted(json.loads((tmp_path / "onnx" / "items.json").read_text())) == list(range(10, 20))
    assert result.stderr == ""


def test_unknown_items_of_a_history_are_warned_of(model_file):
    warning = words(run("recommend", model_file, "--history", "10,99").stderr)

    assert warning.startswith("warning: ")
    assert "99 (1 in all); they are skipped" in warning
    assert run("recommend", model_file, "--history", "10,99", "--on-unknown", "skip").stderr == ""
    refused = words(run("recommend", model_file, "--history", "10,99", "--on-unknown", "raise", code=2).stderr)
    assert refused.startswith("error: item 99 is not among the 10 fitted items")
    assert "type int" in words(run("recommend", model_file, "--history", "10", "--exclude", "tea", code=2).stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "nothing.csv", "-o", "m"), "error: there is no file nothing.csv"),
        (("fit", "LOG", "-o", "no/such/m"), "no/such does not exist; create it first"),
        (("fit", "LOG", "-o", "m", "--item-column", "sku"), "no column 'sku'; its columns are user_id, item_id"),
        (("fit", "LOG", "-o", "m", "--hidden-dim", "64", "--num-heads", "5"), "multiple of num_heads (5)"),
        (("fit", "LOG"), "--output"),
        (("evaluate", "LOG", "LOG"), "is no safetensors file"),
        (("evaluate", "MODEL", "LOG", "-k", "0"), "ks must be whole numbers from 1"),
        (("recommend", "MODEL"), "give one of --user ID, --history"),
        (("recommend", "MODEL", "--user", "99"), "error: user 99 is not among the 20 fitted users"),
        (("recommend", "MODEL", "--user", "ann"), "fitted ids are of type int"),
        (("info", "nothing"), "error: no model at nothing"),
        (("export", "MODEL", "no/such/onnx"), "no/such does not exist; create it first"),
        (("demo", "--data", "no/such/folder"), "error:"),
    ],
)
def test_wrong_input_ends_with_one_message_and_code_2(arguments, message, model_file, log_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {"LOG": log_file, "MODEL": model_file}
    result = run(*(files.get(argument, argument) for argument in arguments), code=2)

    assert message in words(result.stderr)
    assert result.stdout == ""


def test_unexpected_errors_are_not_dressed_up(log_file, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr("corerec.data.tables.read_events", fail)
    result = CliRunner().invoke(app, ["fit", str(log_file), "-o", str(log_file.with_name("m"))])

    assert result.exit_code == 1
    assert isinstance(result.exception, RuntimeError)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples(command):
    assert f"corerec {command}" in words(run(command, "--help").stdout.split("Examples:")[1])
    assert command in run("--help").stdout


def test_help_does_not_import_torch():
    code = "import sys, corerec.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_python_m_corerec_is_the_same_command():
    shown = subprocess.run([sys.executable, "-m", "corerec", "--version"], capture_output=True, text=True)
    assert shown.stdout.startswith("corerec-bert4rec ")


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
