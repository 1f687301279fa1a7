"""Tests lie where what they test lies: src/corerec/data/ids.py is tested by tests/corerec/data/test_ids.py."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC, TESTS = ROOT / "src" / "corerec", ROOT / "tests" / "corerec"
MODULES = {path.relative_to(SRC) for path in SRC.rglob("*.py")}
FILES = {path.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
UNTESTED = {  # a module without a file of tests, and why
    Path("__main__.py"): "one call; cli/test_app.py runs python -m corerec",
}
WITHOUT_MODULE = {  # a file of tests without a module, and why
    Path("cli/test_items.py"): "the options --items and --at of fit, update, evaluate and recommend together",
    Path("test_repeat_bias.py"): "one number that every way of scoring has to agree on",
    Path("serving/test_page.py"): "the page's scripts, serving/page/*.js, in a browser",
}


def mirror_of(module: Path) -> Path:
    name = "test_init.py" if module.name == "__init__.py" else f"test_{module.name}"
    return module.with_name(name)


def is_bare(module: Path) -> bool:
    """Whether a module is an __init__ that defines nothing: a docstring, imports and names."""
    text = (SRC / module).read_text(encoding="utf-8")
    return module.name == "__init__.py" and "def " not in text


@pytest.mark.parametrize("module", sorted(MODULES), ids=str)
def test_a_module_has_its_tests_in_the_same_place(module):
    is_exception = module in UNTESTED or is_bare(module)
    assert (mirror_of(module) in FILES) is not is_exception


@pytest.mark.parametrize("file", sorted(FILES), ids=str)
def test_a_file_of_tests_has_its_module_in_the_same_place(file):
    assert (file in {mirror_of(module) for module in MODULES}) is not (file in WITHOUT_MODULE)


def test_the_exceptions_are_there_and_few():
    assert UNTESTED.keys() <= MODULES
    assert WITHOUT_MODULE.keys() <= FILES
    assert len(UNTESTED) + len(WITHOUT_MODULE) <= 5


def test_no_file_of_tests_is_empty():
    bare = [file for file in FILES if "def test_" not in (TESTS / file).read_text(encoding="utf-8")]
    assert bare == []
