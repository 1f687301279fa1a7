import subprocess
import sys

import pytest

import corerec


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
