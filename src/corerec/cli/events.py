"""`corerec events`: export the log of events that a server observed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corerec.cli.console import out, say
from corerec.cli.options import Quiet

events = typer.Typer(
    help="The log of events that a server observed.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@events.callback()
def _group() -> None:
    pass


@events.command()
def export(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="The SQLite file of `corerec serve --events`.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write: .parquet, .csv or .csv.gz.")
    ],
    after: Annotated[
        int, typer.Option(min=0, metavar="NUMBER", help="Write only events whose event_number is larger.")
    ] = 0,
    quiet: Quiet = False,
) -> None:
    """Write logged events as a table that `corerec fit` can read. The server may run meanwhile.

    The columns are user_id, item_id and event_number. If any event has a value for them, there are also the columns
    timestamp, rating and event_id. Timestamps are dates if the model's log has dates. If the log is damaged, all
    readable events are written, and the exit code is 1.

    \b
    Examples:
      corerec events export movies.model.events.sqlite -o events.parquet
      corerec events export movies.model.events.sqlite -o new.csv --after 120000
    """
    from corerec.serving.event_export import read_all, write_table

    columns, damage = read_all(log, after)
    write_table(columns, output)
    if not quiet:
        last = f", the last with number {columns.numbers[-1]:,}" if len(columns) else ""
        out.print(f"{output}: {len(columns):,} events{last}", markup=False, soft_wrap=True)
    if damage is not None:
        say(f"warning: {damage}; events between those written may be missing", style="yellow")
        raise typer.Exit(1)
