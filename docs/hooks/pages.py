"""Parts of the site that are generated from the code: settings, command line, HTTP API, notebooks, benchmarks.

MkDocs calls the functions `on_*`. A page asks for a generated part with a line such as

    <!-- generated: settings corerec.engines.bert4rec.config ModelConfig -->
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import importlib
import inspect
import json
import os
import re
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES_ELSEWHERE = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "benchmarks/LAB.md")
FROM_ELSEWHERE = re.compile(
    r"""<(?:script|link(?! rel="?canonical)|img|iframe)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>"""
)
MARKER = re.compile(r"^<!-- generated: (.+) -->$", re.MULTILINE)


# -------------------------------------------------------------------------------------------- what MkDocs calls


def on_files(files: Any, config: Any) -> Any:
    """Add the executed notebooks and the pages and plots of benchmarks/ to the files of the site."""
    from mkdocs.structure.files import File

    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        files.remove(files.get_file_from_path(f"notebooks/{notebook.name}"))
        for name, content in executed(notebook).items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    for path in [ROOT / name for name in PAGES_ELSEWHERE] + sorted((ROOT / "benchmarks" / "results").iterdir()):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_post_build(config: Any) -> None:
    """Refuse a site that would load something from elsewhere when it is read.

    Raises:
        RuntimeError: a page loads a script, a style, a picture or a frame by an absolute address.
    """
    for page in sorted(Path(config["site_dir"]).rglob("*.html")):
        if found := FROM_ELSEWHERE.search(page.read_text(encoding="utf-8")):
            raise RuntimeError(f"{page} would load something from elsewhere when it is read: {found[0]}")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each marker by the part that is generated from the code."""
    return with_generated_parts(markdown)


def with_generated_parts(markdown: str) -> str:
    return MARKER.sub(lambda marker: _generated(*marker[1].split()), markdown)


def _generated(kind: str, *arguments: str) -> str:
    kinds: dict[str, Callable[..., str]] = {"settings": settings, "command-line": command_line, "http-api": http_api}
    return kinds[kind](*arguments)


# ----------------------------------------------------------------------------------------------------- settings


def settings(module: str, name: str) -> str:
    """Return a table of a settings class: each field's name, type and default, and its docstring as the meaning."""
    cls = getattr(importlib.import_module(module), name)
    meanings = field_docstrings(cls)
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(cls):
        default = "required" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
        kind = str(field.type).replace("|", "\\|")
        rows.append(f"| `{field.name}` | `{kind}` | {default} | {meanings[field.name].replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def field_docstrings(cls: type) -> dict[str, str]:
    """Return the docstring of each field by the field's name, on one line. A field without a docstring is an error."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[field.target.id] = " ".join(str(below.value.value).split())  # type: ignore[union-attr]
    if missing := [field.name for field in dataclasses.fields(cls) if field.name not in found]:
        raise ValueError(f"{cls.__name__} has fields without a docstring: {missing}; write a line under each")
    return found


# ------------------------------------------------------------------------------------------------- command line


def command_line() -> str:
    """Return the output of `corerec --help` and of each command's `--help`."""
    os.environ["COLUMNS"] = "100"
    import typer
    from typer.testing import CliRunner

    from corerec.cli.app import app

    parts = []
    for name in ["", *typer.main.get_group(app).commands]:
        arguments = [name, "--help"] if name else ["--help"]
        result = CliRunner().invoke(app, arguments, prog_name="corerec", terminal_width=100, color=False)
        if result.exit_code != 0:
            raise RuntimeError(f"corerec {' '.join(arguments)} ended with {result.exit_code}: {result.output}")
        parts.append(f"## corerec {name}".rstrip() + f"\n\n```text\n{result.stdout.strip()}\n```")
    return "\n\n".join(parts)


# ----------------------------------------------------------------------------------------------------- HTTP API

URLS = {  # the example of each route without a body that takes something
    "/v1/items": "/v1/items?q=star&limit=2",
    "/v1/similar": "/v1/similar?item_id=50&top_k=3",
    "/v1/users/{user_id}": "/v1/users/1?limit=3",
}
TITLES = {
    "50": "Star Wars (1977)",
    "172": "The Empire Strikes Back (1980)",
    "181": "Return of the Jedi (1983)",
    "174": "Raiders of the Lost Ark (1981)",
    "210": "Indiana Jones and the Last Crusade (1989)",
    "222": "Star Trek: First Contact (1996)",
    "98": "The Silence of the Lambs (1991)",
    "100": "Fargo (1996)",
}


def http_api() -> str:
    """Each route of the server with an example request and the answer that a small model gave to it."""
    with tempfile.TemporaryDirectory() as folder:
        return "\n\n".join(_route(*answered) for answered in asyncio.run(answers(example_app(Path(folder)))))


async def answers(app: Any) -> list[tuple[str, str, str, dict[str, Any], Any, Any]]:
    """(method, path, URL, operation, example body or None, response) of each route of an app; none is refused."""
    import httpx

    found = []
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
    ):
        schema = (await http.get("/openapi.json")).json()
        for method, path, operation, body in operations(schema):
            url = path if body is not None else URLS.get(path, path)
            answer = await http.request(method, url, json=body)
            if answer.status_code != 200:
                raise RuntimeError(f"the example of {method} {path} was answered {answer.status_code}: {answer.text}")
            found.append((method, path, url, operation, body, answer))
    return found


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], Any]]:
    """(method, path, operation, example body or None) of each route of an OpenAPI schema.

    Raises:
        ValueError: a route takes a body, and its schema gives no example.
    """
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            body = None
            if "requestBody" in operation:
                reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                examples = schema["components"]["schemas"][reference.rpartition("/")[2]].get("examples")
                if not examples:
                    raise ValueError(f"{path} has no example body: give its model json_schema_extra examples")
                body = examples[0]
            yield method.upper(), path, operation, body


def _route(method: str, path: str, url: str, operation: dict[str, Any], body: Any, answer: Any) -> str:
    command = f"curl -s {'-X POST ' if method == 'POST' and body is None else ''}'http://127.0.0.1:8000{url}'"
    if body is not None:
        command += f" \\\n  -H 'content-type: application/json' \\\n  -d '{json.dumps(body)}'"
    is_json = answer.headers["content-type"].startswith("application/json")
    shown = json.dumps(answer.json(), indent=2) if is_json else _first_lines(answer.text)
    statuses = [
        f"| {status} | {response['description']} |"
        for status, response in sorted(operation["responses"].items())
        if status != "200"
    ]
    refusals = ["| status | when |", "|---|---|", *statuses] if statuses else []
    text = [f"## {method} {path}", "", operation["description"], "", "```console", command, "```", ""]
    text += ["```json" if is_json else "```text", shown, "```", "", *refusals]
    return "\n".join(text)


def _first_lines(text: str, count: int = 6) -> str:
    return "\n".join([*text.splitlines()[:count], "..."])


def example_app(folder: Path) -> Any:
    """A server of a small model that knows the ids of the examples: users 1 to 30, items 50, 100, 172, 181 and more."""
    import numpy as np
    import pandas as pd
    import torch

    from corerec import Bert4Rec
    from corerec.serving import create_app

    torch.set_num_threads(1)
    items = np.array([int(item_id) for item_id in TITLES])
    users, steps = np.divmod(np.arange(30 * 6), 6)  # each walks the ring of items from a place of their own
    log = (users + 1, items[(users + steps) % len(items)], 1 + steps % 5, 880_000_000 + steps)
    path = folder / "movies.model"
    table = pd.DataFrame({"item_id": items, "category": [["Action"], ["Action", "Comedy"]] * (len(items) // 2)})
    model = Bert4Rec("Example", epochs=5, hidden_dim=16, max_seq_len=8, learning_rate=0.01, device="cpu")
    model.fit(*log, items=table).save(path)
    return create_app(Bert4Rec.load(path, device="cpu"), path=path, titles=TITLES)


# ---------------------------------------------------------------------------------------------------- notebooks


def executed(path: Path) -> dict[str, str | bytes]:
    """Run a notebook and give its page, and the pictures that it drew, by file name.

    It runs without a network, so that the site is the same on each machine.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    import nbformat
    from nbconvert import MarkdownExporter
    from nbconvert.preprocessors import ExecutePreprocessor

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # of the Jupyter packages about one another
        os.environ |= {"CR_LEARN_HOME": folder, "https_proxy": "http://127.0.0.1:9", "PIP_NO_INDEX": "1"}
        os.environ["OMP_NUM_THREADS"] = "1"  # tiny matrices: a second thread only waits, and badly on a busy machine
        notebook = nbformat.read(path, as_version=4)
        runner = ExecutePreprocessor(timeout=600, kernel_name="python3", extra_arguments=["--log-level=ERROR"])
        runner.preprocess(notebook, {"metadata": {"path": folder}})
        names = {"output_files_dir": path.stem, "unique_key": path.stem}
        page, resources = MarkdownExporter().from_notebook_node(notebook, names)
    return {f"{path.stem}.md": page, **resources["outputs"]}
