"""The generated parts of the site: each says what the code says, and each example request is answered."""

import asyncio
import importlib.util
import inspect
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec.config import ModelConfig, TrainConfig
from corerec.serving.settings import ServerSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "hooks" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("cls", [ModelConfig, TrainConfig, ServerSettings])
def test_the_table_has_a_row_for_each_setting(pages, cls):
    rows = pages.settings(cls.__module__, cls.__name__).splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [field.name for field in fields(cls)]
    meanings = pages.field_docstrings(cls)
    assert all(meanings[field.name] in row.replace("\\|", "|") for field, row in zip(fields(cls), rows, strict=True))


def test_every_keyword_of_the_constructor_is_in_a_table_or_on_the_page(pages):
    page = pages.with_generated_parts((ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8"))
    missing = [name for name in inspect.signature(Bert4Rec.__init__).parameters if f"`{name}`" not in page]
    assert missing == ["self"]


@dataclass
class WithoutDocstring:
    """One field says what it is, the other does not."""

    documented: int = 1
    """A number."""
    bare: int = 2


def test_a_setting_without_a_docstring_stops_the_build(pages):
    with pytest.raises(ValueError, match=r"WithoutDocstring has fields without a docstring: \['bare'\]"):
        pages.field_docstrings(WithoutDocstring)


def test_the_example_of_each_route_is_answered(pages, tmp_path):
    pytest.importorskip("fastapi", reason="needs the extra serve")
    answered = asyncio.run(pages.answers(pages.example_app(tmp_path)))
    by_route = {path: answer for _, path, *_, answer in answered}
    assert {answer.status_code for answer in by_route.values()} == {200}
    assert by_route["/v1/recommend"].json()["basis"] == "history"
    assert by_route["/v1/recommend"].json()["unknown_items"] == []
    assert by_route["/v1/events"].json()["accepted"] == 1
    found = {item["title"] for item in by_route["/v1/items"].json()["items"]}
    assert found == {"Star Wars (1977)", "Star Trek: First Contact (1996)"}


def test_the_command_line_page_has_the_help_of_each_command(pages):
    page = pages.command_line()
    for command in ("demo", "fit", "evaluate", "recommend", "serve", "info", "plot", "export"):
        assert f"## corerec {command}\n" in page
        assert f"Usage: corerec {command} " in page


def test_a_page_that_loads_from_elsewhere_stops_the_build(pages, tmp_path):
    (tmp_path / "page.html").write_text('<link rel="canonical" href="https://a.example/"><a href="https://a.example/">')
    pages.on_post_build({"site_dir": tmp_path})
    (tmp_path / "page.html").write_text('<script src="https://a.example/x.js"></script>')
    with pytest.raises(RuntimeError, match=r"from elsewhere.*x\.js"):
        pages.on_post_build({"site_dir": tmp_path})


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_every_marker_names_a_part_that_can_be_generated(pages, page):
    kinds = {marker.split()[0] for marker in pages.MARKER.findall(page.read_text(encoding="utf-8"))}
    assert kinds <= {"settings", "command-line", "http-api"}
    assert "<!-- generated" not in pages.MARKER.sub("", page.read_text(encoding="utf-8"))
