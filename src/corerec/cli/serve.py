"""`corerec serve`: answer over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corerec.cli.options import (
    Device,
    ModelFile,
    TitleColumn,
    TitledItemColumn,
    TitlesFile,
)

if TYPE_CHECKING:
    pass


def serve(
    model_file: ModelFile,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is open to the network.")] = "127.0.0.1",
    titles: TitlesFile = None,
    item_column: TitledItemColumn = None,
    title_column: TitleColumn = None,
    events: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="MODEL.events.sqlite",
            help="The log of observed events, observed again at each start. A model fitted on them needs a new one.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="COREREC_TOKEN", show_envvar=True, help="Bearer token to ask for."),
    ] = None,
    queue_size: Annotated[int, typer.Option(help="Requests that may wait; more are answered 503.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Requests pair_with_scores together, at most.")] = 32,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the model.")] = 1,
    device: Device = "cpu",
    access_log: Annotated[bool, typer.Option("--access-log", help="A line on stdout for each request.")] = False,
) -> None:
    """Answer over HTTP: recommendations, blanks, events as they happen, metrics, and a page to try it all.

    SIGTERM answers what was taken and ends; SIGHUP reads the model file again.

    \b
    Examples:
      corerec serve movies.model --titles movies.csv
      COREREC_TOKEN=secret corerec serve movies.model --host 0.0.0.0 --port 80
    """
    from corerec.data.tables import read_titles
    from corerec.serving import ServerSettings
    from corerec.serving.process import serve as serve_file

    serve_file(
        model_file,
        host=host,
        port=port,
        titles=None if titles is None else read_titles(titles, item_column, title_column),
        events_file=events,
        settings=ServerSettings(queue_size=queue_size, batch_size=batch_size, token=token),
        device=device,
        threads=threads,
        access_log=access_log,
    )
