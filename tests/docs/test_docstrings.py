"""The site shows a docstring's sections and doctests as such."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "hooks" / "docstrings.py"


@pytest.fixture(scope="module")
def docstrings():
    pytest.importorskip("griffe", reason="needs the extra docs")
    spec = importlib.util.spec_from_file_location("docstrings", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sections_stand_apart_and_doctests_are_code(docstrings):
    before = "Half.\n\n>>> half(4)\n2\n\nArgs:\n    x: even.\nRaises:\n    ValueError: odd."
    fenced = "Half.\n\n```pycon\n>>> half(4)\n2\n```\n\nArgs:\n    x: even.\n\nRaises:\n    ValueError: odd."
    assert docstrings.readable(before) == fenced


def test_every_section_of_recommend_is_found(docstrings):
    import griffe

    from corerec import Bert4Rec

    text = docstrings.readable(Bert4Rec.recommend.__doc__.replace("\n        ", "\n"))
    kinds = {section.kind.value for section in griffe.Docstring(text).parse("google", warnings=False)}
    assert {"text", "parameters", "raises"} <= kinds


def test_what_is_readable_already_stays(docstrings):
    text = "What it does.\n\nArgs:\n    x: a number.\n\nReturns:\n    twice as much."
    assert docstrings.readable(text) == text
