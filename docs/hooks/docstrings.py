"""Docstrings as the site's parser reads them: a blank line above each section, and doctests as code.

mkdocstrings loads this as an extension of Griffe. The source stays as it is: compact for those who read it there.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Warns):$")


class ReadableDocstrings(griffe.Extension):
    """Rewrites the docstring of every object that is documented."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)


def readable(text: str) -> str:
    """A docstring with a blank line above each section, and a fence around each doctest."""
    lines: list[str] = []
    indent: str | None = None  # of the doctest that the line stands in
    for line in [*text.splitlines(), ""]:
        if indent is None and line.lstrip().startswith(">>> "):
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f"{indent}```pycon")
        elif indent is not None and not line.strip():
            lines.append(f"{indent}```")
            indent = None
        if SECTION.match(line) and lines and lines[-1].strip():
            lines.append("")
        lines.append(line)
    return "\n".join(lines).rstrip()
