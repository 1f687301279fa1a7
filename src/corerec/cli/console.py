"""The output of the command line: results on stdout, all other output on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

out, err = Console(highlight=False), Console(stderr=True, highlight=False)


def say(text: str, style: str | None = None) -> None:
    """Print a line on stderr, without markup."""
    err.print(text, style=style, markup=False, soft_wrap=True)


def print_heading(text: str) -> None:
    out.print()
    out.print(text, style="bold", markup=False)


def ranking_table(
    ranked: Sequence[tuple[Any, float]],
    titles: dict[Any, str] | None = None,
    answers: Sequence[Any] = (),
    measure: str = "probability",
    new: Sequence[Any] = (),
) -> Table:
    """Return a table of (item id, probability or another `measure`) pairs, best first. Items in `answers` and in `new`
    are marked."""
    table = Table()
    table.add_column("rank", justify="right")
    table.add_column("item", overflow="fold")
    if titles is not None:
        table.add_column("title", overflow="fold")
    table.add_column(measure, justify="right")
    for rank, (item, probability) in enumerate(ranked, 1):
        name = f"{item} (new)" if item in new else str(item)
        cells = [name] if titles is None else [name, titles.get(item, "")]
        mark = "bold green" if item in answers else None
        table.add_row(str(rank), *map(Text, cells), f"{'< this ' if mark else ''}{probability:.2%}", style=mark)
    return table


def file_size(path: Path) -> str:
    """Return a file's size for people, such as 1.2 MB."""
    return decimal(path.stat().st_size)
