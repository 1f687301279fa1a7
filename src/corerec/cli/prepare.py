"""`corerec prepare`: convert a log of any size into a sorted store, in bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from corerec.cli.console import out
from corerec.cli.options import LogFiles, LogOptions, Quiet, reading_arguments, takes_a_log
from corerec.errors import DataError


@takes_a_log
def prepare(
    log_files: LogFiles,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="STORE", help="The folder of the store to write.")
    ] = None,
    append: Annotated[
        Path | None,
        typer.Option(metavar="STORE", help="Instead of --output: an existing store, to which the log is added."),
    ] = None,
    memory: Annotated[
        str,
        typer.Option(metavar="SIZE", help="The most memory to use, such as 800MB. Data beyond this is sorted on disk."),
    ] = "4GB",
    quiet: Quiet = False,
    log_options: LogOptions = LogOptions(),  # noqa: B008
) -> None:
    """Convert a log of any size into a sorted store.

    A store is a folder that fit, tune, update, evaluate and recommend accept as a log. The log is read and sorted once.
    Other commands then map the store into memory, so a log may be larger than the memory. Meanwhile, temporary files
    are written beside the store.

    \b
    Examples:
      corerec prepare clicks.parquet -o clicks.store
      corerec prepare "days/*.csv.gz" -o shop.store --memory 8GB --min-events 2 --max-events 5000
      corerec prepare today.csv --append shop.store
      corerec fit shop.store -o shop.model
    """
    from corerec.data.prepare import prepare as write

    store = output if append is None else append
    if store is None or (output is not None and append is not None):
        raise DataError("give one of --output STORE and --append STORE")
    settings: dict[str, Any] = reading_arguments(log_options)
    prepared = write(list(log_files), store, append=append is not None, memory=memory, verbose=not quiet, **settings)
    if not quiet:
        out.print(str(prepared), markup=False, soft_wrap=True)
