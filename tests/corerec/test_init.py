import re
import subprocess
import sys
from pathlib import Path

import pytest

import corerec

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
ELSEWHERE = ("corerec.serving.", "corerec.batch.", "corerec.tuning.", "corerec.hub.")  # modules of their own


def test_every_public_name_is_there():
    assert all(getattr(corerec, name) is not None for name in corerec.__all__)
    assert set(corerec._HOMES) == set(corerec.__all__) - {"__version__"}
    assert set(corerec.__all__) <= set(dir(corerec))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Bert5Rec"):
        corerec.Bert5Rec  # noqa: B018


def test_the_import_alone_loads_neither_torch_nor_pandas():
    code = "import sys, corerec; sys.exit(bool({'torch', 'pandas', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("page", ["model", "data", "evaluation"])
def test_whatever_the_reference_documents_by_name_is_exported(page):
    text = (REFERENCE / f"{page}.md").read_text(encoding="utf-8")
    documented = re.findall(r"^::: (corerec[\w.]+)\.(\w+)$", text, re.MULTILINE)
    names = {name for home, name in documented if not f"{home}.".startswith(ELSEWHERE)}
    names -= {name for name in names if name.islower() and name not in corerec.__all__ and is_module(name)}
    assert names
    assert names <= set(corerec.__all__)


def is_module(name: str) -> bool:
    return any(path.stem == name for path in Path(corerec.__file__).parent.rglob("*.py"))
