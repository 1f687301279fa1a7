import importlib.util
import os
import signal
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from command_line import run, words
from corerec.cli.app import WAITS, app
from corerec.errors import TrainingInterrupted

COMMANDS = sorted(typer.main.get_group(app).commands)


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
def test_wrong_input_ends_with_one_message_and_code_2(arguments, message, ring_model, ring_log, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {"LOG": ring_log, "MODEL": ring_model}
    result = run(*(files.get(argument, argument) for argument in arguments), code=2)

    assert message in words(result.stderr)
    assert result.stdout == ""


def test_unexpected_errors_are_not_dressed_up(ring_log, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr("corerec.data.tables.read_events", fail)
    result = CliRunner().invoke(app, ["fit", str(ring_log), "-o", str(ring_log.with_name("m"))])

    assert result.exit_code == 1
    assert isinstance(result.exception, RuntimeError)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples(command):
    assert command in run("--help").stdout
    subcommand = ("export",) if command == "events" else ()
    assert f"corerec {command}" in words(run(command, *subcommand, "--help").stdout.split("Examples:")[1])


def test_every_command_has_a_file_of_its_name():
    """One file a command, and its tests in a file of the same name."""
    assert {"fit", "update", "events"} <= set(COMMANDS)
    for command in COMMANDS:
        assert importlib.util.find_spec(f"corerec.cli.{command}"), command


def test_an_interrupt_ends_with_code_130_and_one_word(ring_log, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("corerec.data.tables.read_events", interrupted)
    result = run("fit", ring_log, "-o", tmp_path / "m", code=130)
    assert words(result.stderr) == "interrupted"


def test_an_interrupted_training_says_how_the_command_goes_on(ring_log, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise TrainingInterrupted("the same call goes on from there", signal.SIGTERM)

    monkeypatch.setattr("corerec.engines.bert4rec.Bert4Rec.fit_interactions", interrupted)
    result = run("fit", ring_log, "-o", tmp_path / "m", "--quiet", code=128 + signal.SIGTERM)
    assert words(result.stderr) == "the same command goes on from there"


def test_only_the_first_of_several_processes_warns(ring_model, monkeypatch):
    asked = ("recommend", ring_model, "--history", "10,99")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, warns in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert ("warning: " in run(*asked).stderr) is warns
    monkeypatch.setenv("RANK", "1")
    assert "error in rank 1: no model at nothing" in words(run("info", "nothing", code=2).stderr)


def test_help_does_not_import_torch():
    code = "import sys, corerec.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_python_m_corerec_is_the_same_command():
    shown = subprocess.run([sys.executable, "-m", "corerec", "--version"], capture_output=True, text=True)
    assert shown.stdout.startswith("corerec-bert4rec ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({}, "GOMP_SPINCOUNT = '1000'"),
        ({"OMP_WAIT_POLICY": "active"}, "OMP_WAIT_POLICY = 'ACTIVE'"),
        ({"GOMP_SPINCOUNT": "12345"}, "GOMP_SPINCOUNT = '12345'"),
    ],
)
def test_waiting_threads_sleep_soon_unless_the_environment_says_otherwise(environment, shown, ring_model):
    """What OpenMP itself says that it read when PyTorch was imported."""
    unset = {name: value for name, value in os.environ.items() if name not in WAITS}
    command = [sys.executable, "-m", "corerec", "recommend", str(ring_model), "--history", "10"]
    told = subprocess.run(
        command, env=unset | environment | {"OMP_DISPLAY_ENV": "verbose"}, capture_output=True, text=True, check=True
    ).stderr
    if "GOMP_SPINCOUNT" not in told:
        pytest.skip("this PyTorch has another OpenMP than libgomp")
    assert shown in told
