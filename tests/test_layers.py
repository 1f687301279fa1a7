"""The house: which way imports run, how large its rooms are, and what only one file may name."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
LAYERS = [  # from the ground up; a module may import from its own layer and from those before it
    {"errors", "files", "kernels", "machine", "tensor_file", "threads"},
    {"data"},
    {"retrieval"},
    {"queries", "item_groups", "resolving"},
    {"evaluation"},
    {"basic"},
    {"engines"},
    {"batch", "hub", "tuning"},
    {"serving", "cli", "__main__", "__init__"},
]
ONLY = {"torch.ops.mkldnn": {"kernels.py"}, "_int_mm": {"kernels.py"}, "torch.onnx._internal": {"export.py"}}
MODULES = sorted(SRC.joinpath("corerec").rglob("*.py"))


def layer_of(dotted: str) -> int:
    part = dotted.split(".")[1] if "." in dotted else "__init__"
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts)


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports when it is imported itself, not inside its functions."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("corerec"):
            deeper = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {name for name in deeper if SRC.joinpath(*name.split(".")).with_suffix(".py").exists()}
            found |= known or {node.module}
        elif isinstance(node, ast.If | ast.Try | ast.ClassDef):
            waiting += node.body
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path):
    own = layer_of(name_of(path))
    upwards = sorted(name for name in imported(path) if layer_of(name) > own)
    assert upwards == []


def test_no_modules_import_each_other_in_a_circle():
    edges = {name_of(path): imported(path) for path in MODULES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for other in sorted(edges.get(name, ())):
                visit(other, (*trail, name))
            done.add(name)

    for name in edges:
        visit(name, ())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_file_is_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


def test_the_largest_package_holds_at_most_a_third():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SRC.rglob("*.py")}
    by_folder: dict[Path, int] = {}
    for path, count in lines.items():
        by_folder[path.parent] = by_folder.get(path.parent, 0) + count
    assert max(by_folder.values()) <= sum(lines.values()) / 3


@pytest.mark.parametrize(("text", "files"), ONLY.items())
def test_private_operations_have_one_door(text, files):
    assert {path.name for path in MODULES if text in path.read_text(encoding="utf-8")} <= files
