import io
from pathlib import Path

import pytest
from rich.console import Console

from corerec.cli import console


def shown(table) -> str:
    screen = Console(file=io.StringIO(), width=100)
    screen.print(table)
    return screen.file.getvalue()


def test_a_ranking_counts_from_one_and_shows_titles_as_they_are():
    rows = shown(console.ranking_table([("a", 0.25), ("b", 0.125)], {"a": "[b]Amélie"})).splitlines()
    (first,) = (row for row in rows if "Amélie" in row)
    (second,) = (row for row in rows if "12.50%" in row)
    assert [cell.strip() for cell in first.strip("│").split("│")] == ["1", "a", "[b]Amélie", "25.00%"]
    assert [cell.strip() for cell in second.strip("│").split("│")] == ["2", "b", "", "12.50%"]


def test_the_answers_of_a_ranking_are_marked_and_the_measure_is_named():
    text = shown(console.ranking_table([("a", 0.5), ("b", 0.25)], answers=["b"], measure="cosine"))
    assert "cosine" in text
    assert "title" not in text
    assert ["< this" in line for line in text.splitlines() if "%" in line] == [False, True]


def test_a_line_is_said_on_stderr_unchanged_and_unbroken(monkeypatch, capsys):
    monkeypatch.setattr(console, "err", Console(stderr=True, width=20, highlight=False))
    console.say("[bold]a text of more than twenty signs[/bold], with brackets")
    captured = capsys.readouterr()
    assert captured.err == "[bold]a text of more than twenty signs[/bold], with brackets\n"
    assert captured.out == ""


@pytest.mark.parametrize(("size", "text"), [(0, "0 bytes"), (1_200_000, "1.2 MB")])
def test_a_file_s_size_is_for_people(tmp_path: Path, size, text):
    (tmp_path / "file").write_bytes(bytes(size))
    assert console.file_size(tmp_path / "file") == text
