"""What a user gets who installs the wheel, outside any clone."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from corerec.cli.app import app

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names of the files in a wheel built from a copy of this tree."""
    pytest.importorskip("setuptools", minversion="77", reason="needs setuptools 77 to build a wheel")
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    built = subprocess.run([sys.executable, "-c", BUILD, folder / "dist"], cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def test_the_wheel_has_every_file_of_the_packages(wheel):
    source = {
        path.relative_to(ROOT / "src").as_posix()
        for package in ("corerec", "cr_learn")
        for path in (ROOT / "src" / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"corerec/py.typed", "cr_learn/py.typed", "corerec/serving/page/index.html"} <= source
    assert source - wheel.keys() == set()


def test_the_wheel_has_the_program_and_the_licence_and_nothing_but_the_packages(wheel):
    about = next(name.partition("/")[0] for name in wheel if ".dist-info/" in name)
    assert b"corerec = corerec.cli.app:main" in wheel[f"{about}/entry_points.txt"]
    assert f"{about}/licenses/LICENSE" in wheel
    assert {name.partition("/")[0] for name in wheel} == {"corerec", "cr_learn", about}


def test_help_names_no_file_of_the_clone():
    """Whoever installed the wheel has no clone: a path such as examples/x.py leads nowhere."""
    runner = CliRunner()
    commands = re.findall(r"^│ (\w+)", runner.invoke(app, ["--help"], terminal_width=120).stdout, re.MULTILINE)
    assert {"fit", "export"} <= set(commands)
    for command in commands:
        text = runner.invoke(app, [command, "--help"], terminal_width=120).stdout
        assert not re.search(r"\b(examples|docs|tests|benchmarks|scripts)/", text), f"corerec {command} --help"
