"""What several commands share: every command with a log reads it by the same options."""

import inspect
from dataclasses import fields

import pytest
import typer

from command_line import run, words
from corerec.cli.app import app
from corerec.cli.options import LogOptions, parse_ids, read_log, split_ids, takes_a_log
from corerec.data.vocabulary import Vocabulary

OPTIONS = {f"--{each.name.replace('_', '-')}" for each in fields(LogOptions)}


@pytest.mark.parametrize("command", ["fit", "update", "evaluate", "recommend", "tune"])
def test_every_command_with_a_log_has_every_option_of_a_log(command):
    parameters = typer.main.get_group(app).commands[command].params
    assert {name for parameter in parameters for name in parameter.opts} >= OPTIONS


def test_a_command_gets_the_options_of_the_log_as_one_value():
    got = []

    @takes_a_log
    def command(path: str, log_options: LogOptions = LogOptions()) -> None:  # noqa: B008
        got.append((path, log_options))

    names = list(inspect.signature(command).parameters)
    assert names == ["path", *(each.name for each in fields(LogOptions))]
    given = {each.name: None for each in fields(LogOptions)} | {"path": "log", "where": "a > 1"}
    command(**given)
    assert got == [("log", LogOptions(explode=None, where="a > 1"))]


def test_the_columns_and_filters_of_a_log_are_read_as_asked(tmp_path, capsys):
    path = tmp_path / "log.tsv"
    path.write_text("who\twhat\tat\nann\t7\t1\nann\t8\t2\nbob\t9\t3\n")
    options = LogOptions(user_column="who", item_column="what", time_column="at", until="3")
    table = read_log(path, options, quiet=False)
    assert table.items.ids.tolist() == [7, 8]
    assert "user = who, item = what, time = at" in words(capsys.readouterr().err)
    read_log(path, options, quiet=True)
    assert capsys.readouterr().err == ""


def test_typed_ids_are_split_at_commas_and_take_the_kind_of_the_model():
    assert split_ids(" 10, 11 ,,12") == ["10", "11", "12"]
    assert parse_ids(["10", "11"], Vocabulary([10, 12])) == [10, 11]
    assert parse_ids(["10", "tea"], Vocabulary(["10", "tea"])) == ["10", "tea"]


def test_threads_are_bounded_from_below(ring_model):
    assert "--threads" in words(run("recommend", ring_model, "--user", 1, "--threads", 0, code=2).stderr)
