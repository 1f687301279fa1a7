import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "tables.py"


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("tables", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


def test_the_committed_tables_are_what_the_results_say():
    checked = run("--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_changed_figure_is_found_and_mended(tmp_path, tables):
    page, pages = tmp_path / "page.md", (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    page.write_text(pages.replace(".1988 (", ".1989 ("), encoding="utf-8")
    checked = run("--check", page)
    assert checked.returncode == 1
    assert "-| **`Bert4Rec(epochs=40, learning_rate=.001)`** | .1989 (" in checked.stdout
    assert run(page).returncode == 0
    assert page.read_text(encoding="utf-8") == pages


def test_every_table_is_on_a_page(tables):
    shown = {name for page in tables.PAGES for _, name, _ in tables.BLOCK.findall(page.read_text(encoding="utf-8"))}
    assert shown == set(tables.TABLES)


def test_every_marker_is_closed(tables):
    for page in tables.PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(re.findall("<!-- table: ", text)) == len(tables.BLOCK.findall(text)) == text.count("<!-- end -->")


def test_an_unknown_table_is_an_error(tables):
    with pytest.raises(KeyError, match="nonsense"):
        tables.with_tables("<!-- table: nonsense -->\n<!-- end -->\n")


def test_figures_are_printed_as_the_field_prints_them(tables):
    assert [tables.figure(value) for value in (0.19196, 1.0, 0.0)] == [".1920", "1.0000", ".0000"]


def test_only_published_models_with_the_querys_time_are_ahead_of_ours(tables):
    lines = tables.quality("ml-1m").splitlines()
    ahead = lines[2 : next(place for place, line in enumerate(lines) if "**`Bert4Rec()`**" in line)]
    published = [line for line in ahead if "`Bert4Rec(" not in line]
    assert published
    assert all("| yes |" in line for line in published)
