import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "licences.py"


@pytest.fixture(scope="module")
def licences():
    spec = importlib.util.spec_from_file_location("licences", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_names_what_is_needed_directly_and_through_others_but_no_extra(licences):
    found = licences.needed("corerec-bert4rec", set())
    assert {"torch", "numpy", "duckdb", "jinja2"} <= set(found)  # torch needs jinja2
    assert not {"corerec-bert4rec", "pytest", "fastapi"} & set(found)


def test_an_extra_adds_its_packages(licences):
    alone, served = licences.needed("corerec-bert4rec", set()), licences.needed("corerec-bert4rec", {"serve"})
    assert {"fastapi", "uvicorn"} <= set(served) - set(alone)


def test_every_package_states_a_licence(licences):
    stated = {name: licences.licence_of(it) for name, it in licences.needed("corerec-bert4rec", {"serve"}).items()}
    assert [name for name, licence in stated.items() if licence == "not stated"] == []


def test_an_unknown_extra_is_refused_by_name(licences):
    with pytest.raises(SystemExit, match=r"no extra servw; it has .*serve"):
        licences.main(["servw"])
