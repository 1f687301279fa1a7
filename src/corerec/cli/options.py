"""The options that several commands share, and the code that reads them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from corerec.cli.console import say
from corerec.errors import DataError

if TYPE_CHECKING:
    from corerec.data.interactions import Interactions

COLUMNS, EVENTS = "Columns of the file", "Which events"
KINDS = "CSV, TSV, text, JSON lines (.gz, .zst), Parquet, DuckDB or SQLite"
LogFile = Annotated[
    Path, typer.Argument(metavar="LOG", help=f"{KINDS}; a folder, a quoted glob, a store, or - for stdin.")
]
LogFiles = Annotated[
    list[Path], typer.Argument(metavar="LOG", help=f"{KINDS}; a folder or glob of such, a store, or - for stdin.")
]
ModelFile = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A file of `corerec fit`, or a folder of `corerec card`.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the result.")]
Device = Annotated[str, typer.Option(help='The device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" ...')]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="The number of CPU threads. By default, one for each CPU that this process may use."),
]


class Unknown(StrEnum):
    RAISE = "raise"
    skip = "skip"
    warn = "warn"


OnUnknown = Annotated[
    Unknown,
    typer.Option(
        help="What an item that the model never saw does: raise an error, be left out, or be left out with a warning."
    ),
]
TitlesFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A table with a column of item ids and a column of titles.")
]
TitledItemColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The column of item ids in the file of titles. By default, it is guessed."),
]
TitleColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The column of titles in the file of titles. By default, it is guessed."),
]


ItemsFile = Annotated[
    Path | None,
    typer.Option(
        "--items",
        metavar="FILE",
        help="A table of items, such as products.parquet or .csv: a column of ids, and columns of categories, numbers, "
        "dates, or vectors (lists of numbers). Items without events are recommended by these features.",
    ),
]
AtTime = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME",
        help="The time of the query: a date, or a number as in the log. By default, the time of the user's last event.",
    ),
]


def use_threads(threads: int | None) -> None:
    if threads is not None:
        from corerec.threads import set_threads

        set_threads(threads)


def _column(help_text: str) -> Any:
    return typer.Option(metavar="NAME", rich_help_panel=COLUMNS, help=help_text)


@dataclass(frozen=True)
class LogOptions:
    """The options for reading a log. Every command with a log has these options (see `takes_a_log`)."""

    user_column: Annotated[
        str | None, _column("The column of users: its name, or its place from 1. By default, guessed: user_id ...")
    ] = None
    item_column: Annotated[
        str | None, _column("The column of items. By default, guessed: item_id, movieId, product_id ...")
    ] = None
    rating_column: Annotated[
        str | None, _column("The column of ratings; - for none. By default, guessed: rating ...")
    ] = None
    time_column: Annotated[
        str | None,
        _column(
            "The column of times; date+time joins two columns; - for none: rows are then in order of time. "
            "By default, guessed: timestamp, date ..."
        ),
    ] = None
    header: Annotated[
        bool | None,
        typer.Option(
            "--header/--no-header",
            rich_help_panel=COLUMNS,
            show_default=False,
            help="Whether the first line names the columns. By default, the line itself decides. "
            "Without names, the columns are: user item, or user item rating time.",
        ),
    ] = None
    delimiter: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            rich_help_panel=COLUMNS,
            help="The text between two cells. By default, the first line decides.",
        ),
    ] = None
    quote: Annotated[
        str | None,
        typer.Option(
            metavar="SIGN", rich_help_panel=COLUMNS, help='The quote around cells; "" for none. By default, \'"\'.'
        ),
    ] = None
    day_first: Annotated[
        bool | None,
        typer.Option(
            "--day-first/--month-first",
            rich_help_panel=COLUMNS,
            show_default=False,
            help="Whether 05/03/2023 is in March or in May. By default, the whole column decides.",
        ),
    ] = None
    explode: Annotated[
        bool,
        typer.Option(
            "--explode", rich_help_panel=COLUMNS, help="Read a list in a column as events, one after another."
        ),
    ] = False
    query: Annotated[
        str | None, typer.Option(metavar="SQL", rich_help_panel=EVENTS, help="A SELECT for a DuckDB or SQLite file.")
    ] = None
    where: Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            rich_help_panel=EVENTS,
            help="Only events that meet a condition on the columns, such as event = 'buy'.",
        ),
    ] = None
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            rich_help_panel=EVENTS,
            help="Only events from this time on: a date, or a number as in the log.",
        ),
    ] = None
    until: Annotated[
        str | None, typer.Option(metavar="TIME", rich_help_panel=EVENTS, help="Only events before this time.")
    ] = None
    min_events: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=EVENTS, help="Leave out users with fewer events.")
    ] = None
    max_events: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=EVENTS, help="Leave out users with more events, such as bots.")
    ] = None


def takes_a_log(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command that takes `log_options`, so that it has one command-line option for each field of
    `LogOptions`."""
    own = inspect.signature(command, eval_str=True).parameters
    hints = get_type_hints(LogOptions, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = [
        inspect.Parameter(each.name, keyword, default=each.default, annotation=hints[each.name])
        for each in fields(LogOptions)
    ]

    @wraps(command)
    def with_options(**given: Any) -> None:
        read = LogOptions(**{each.name: given.pop(each.name) for each in fields(LogOptions)})
        command(**given, log_options=read)

    parameters = [parameter for name, parameter in own.items() if name != "log_options"]
    parameters = [parameter.replace(kind=keyword) for parameter in parameters] + options
    with_options.__dict__["__signature__"] = inspect.Signature(parameters)
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


def reading_arguments(options: LogOptions) -> dict[str, Any]:
    """Return the options as arguments of `read_events`."""
    from corerec.data.layout import Columns

    rest = asdict(options)
    columns = Columns(*(rest.pop(f"{role}_column") for role in ("user", "item", "rating", "time")))
    return {"columns": columns, **rest}


def read_log(paths: Path | Sequence[Path], options: LogOptions, quiet: bool) -> Interactions:
    """Read a log, or open a store that `corerec prepare` wrote.

    Raises:
        DataError: a store was given together with other logs, or with options for reading a log.
    """
    from corerec.data.store import is_store

    given = [paths] if isinstance(paths, Path) else list(paths)
    if any(map(is_store, given)):
        return _open_store(given, options, quiet)
    from corerec.data.tables import read_events

    table = read_events(given, **reading_arguments(options))
    if not quiet:
        say(str(table))
    return table.interactions()


def _open_store(paths: Sequence[Path], options: LogOptions, quiet: bool) -> Interactions:
    from corerec.data.interactions import Interactions

    if len(paths) > 1:
        raise DataError("a store is read alone; add other logs to it with corerec prepare LOG --append STORE")
    said = [
        f"--{each.name.replace('_', '-')}" for each in fields(options) if getattr(options, each.name) != each.default
    ]
    if said:
        raise DataError(
            f"{paths[0]} is a store, which holds its log as it was prepared: give {said[0]} to corerec prepare"
        )
    log = Interactions.open(paths[0])
    if not quiet:
        say(f"{paths[0]}: {log.sequences.num_events:,} events, {len(log.users):,} users, {len(log.items):,} items")
    return log


def read_features(path: Path | None, log_options: LogOptions, log_items: Any, quiet: bool) -> Any:
    """Read the table of --items, with ids of the log's type. Return None without a path.

    Raises:
        DataError: the table cannot be read, or the log has none of its items.
    """
    if path is None:
        return None
    from corerec.data.item_features import ITEM_ID, FeatureTable
    from corerec.data.item_table import read_items

    table = read_items(path, log_options.item_column, known=log_items)
    is_known = log_items.encode(table[ITEM_ID].tolist()) > 0
    if not is_known.any():
        raise DataError(
            f"none of the {len(table):,} items of {path}, such as {table[ITEM_ID].iloc[0]!r}, is among those of the "
            f"log, such as {log_items.decode([1])[0]!r}; name the column of the ids with --item-column"
        )
    if not quiet:
        used = FeatureTable.of(table[is_known])
        left_out = [name for name in table.columns[1:] if name not in [column.name for column in used.columns]]
        unused = f" (not used, as no two items share a value: {', '.join(left_out)})" if left_out else ""
        others = int((~is_known).sum())
        more = f" and {others:,} without events" if others else ""
        say(f"{path}: {is_known.sum():,} of {len(log_items):,} items{more}; {used}{unused}")
    return table


def split_ids(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_ids(texts: Sequence[str | None], known: Any) -> list[Any]:
    from corerec.data.tables import ids_like

    return ids_like(texts, known)
