"""The notebooks run from first cell to last. `make docs` runs them again, in Jupyter, and shows the output."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))


def code_cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="needs matplotlib").use("agg")
    monkeypatch.setenv("CR_LEARN_HOME", str(tmp_path))
    monkeypatch.setattr("cr_learn.ml_100k.read_archive", _unavailable)
    names = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(path), 1):
        exec(compile(cell, f"{path.name}, code cell {number}", "exec"), names)


def _unavailable(*_):
    from cr_learn import DatasetUnavailableError

    raise DatasetUnavailableError("this test has no network")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_committed(path):
    """Output is made by `make docs`, so that it is always that of the code as it is."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)
