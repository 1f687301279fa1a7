"""Options that several commands share, and what they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corerec.cli.console import say

if TYPE_CHECKING:
    from corerec.data.tables import EventTable

COLUMNS = "Columns of the file"
LogFile = Annotated[Path, typer.Argument(metavar="LOG", help="CSV, TSV, Parquet or text; .gz too. One row an event.")]
ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="A file written by `corerec fit`.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")]
Device = Annotated[str, typer.Option(help='"auto" takes a GPU where there is one; or such as "cpu", "cuda:1".')]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores when left out.")]
UserColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=COLUMNS, help="Guessed from names such as user_id. Or its place: 1."),
]
ItemColumn = Annotated[
    str | None, typer.Option(metavar="NAME", rich_help_panel=COLUMNS, help="Guessed: item_id, movieId, product_id ...")
]
RatingColumn = Annotated[
    str | None, typer.Option(metavar="NAME", rich_help_panel=COLUMNS, help="Guessed: rating ... ; - goes without.")
]
TimeColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=COLUMNS,
        help="Guessed: timestamp, date ... ; - goes without: rows are then in the order of time.",
    ),
]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        rich_help_panel=COLUMNS,
        show_default=False,
        help="Whether the first line names the columns; looked at when left out. "
        "Without, they are: user item, or user item rating time.",
    ),
]


class Unknown(StrEnum):
    RAISE = "raise"
    skip = "skip"
    warn = "warn"


OnUnknown = Annotated[
    Unknown, typer.Option(help="An item that the model never saw: an error; left out; or left out with a warning.")
]
TitlesFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A table with a column of item ids and one of titles.")
]
TitledItemColumn = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of the item ids in the titles' file; guessed.")
]
TitleColumn = Annotated[str | None, typer.Option(metavar="NAME", help="Of the titles in it; guessed.")]


def use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def read_log(
    path: Path,
    user: str | None,
    item: str | None,
    rating: str | None,
    when: str | None,
    header: bool | None,
    quiet: bool,
) -> EventTable:
    from corerec.data.tables import Columns, read_events

    table = read_events(path, Columns(user, item, rating, when), header)
    if not quiet:
        say(str(table))
    return table


def split_ids(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_ids(texts: Sequence[str | None], known: Any) -> list[Any]:
    from corerec.data.tables import ids_like

    return ids_like(texts, known)
