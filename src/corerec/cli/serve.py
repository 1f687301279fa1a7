"""`corerec serve`: answer requests over HTTP."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from corerec.cli.options import (
    Device,
    ModelFile,
    TitleColumn,
    TitledItemColumn,
    TitlesFile,
    split_ids,
)
from corerec.errors import ConfigError

EVENTS, NETWORK = "Bounds of events", "Network"


def serve(
    model_file: ModelFile,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 means any free port.")] = 8000,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is open to the network.")] = "127.0.0.1",
    titles: TitlesFile = None,
    item_column: TitledItemColumn = None,
    title_column: TitleColumn = None,
    candidates: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A table of item ids, which requests name by the file's name without its suffix: stock.csv is stock. "
            "A reload reads it again; may be repeated.",
        ),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="MODEL.events.sqlite",
            help="The log of observed events. At each start, the model observes the events that it was not fitted on.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="COREREC_TOKEN", show_envvar=True, help="The bearer token that requests must have."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=NETWORK,
            show_default="localhost, 127.0.0.1, ::1 and --host",
            help='A name that requests may call this server by, besides those; may be repeated. "*" allows all, '
            '"*.example.org" what ends so. Other names are refused: a web page could point its own here.',
        ),
    ] = None,
    uds: Annotated[
        Path | None,
        typer.Option(metavar="PATH", rich_help_panel=NETWORK, help="A Unix socket to listen on, instead of a port."),
    ] = None,
    root_path: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            rich_help_panel=NETWORK,
            help="The path prefix that a proxy in front removes, such as /recs.",
        ),
    ] = "",
    forwarded_allow_ips: Annotated[
        str,
        typer.Option(
            metavar="IP,...",
            rich_help_panel=NETWORK,
            show_default="nobody's",
            help="Addresses or networks of proxies whose headers X-Forwarded-For and X-Forwarded-Proto are trusted.",
        ),
    ] = "",
    max_new_users: Annotated[
        int, typer.Option(rich_help_panel=EVENTS, help="The most new users that events may add, until the next fit.")
    ] = 1_000_000,
    max_new_items: Annotated[
        int,
        typer.Option(
            rich_help_panel=EVENTS, help="The most items that POST /v1/catalogue may add, until the next fit."
        ),
    ] = 100_000,
    max_user_events: Annotated[
        int, typer.Option(rich_help_panel=EVENTS, help="The most events of one user, including fitted events.")
    ] = 100_000,
    max_log_events: Annotated[
        int,
        typer.Option(
            rich_help_panel=EVENTS,
            help="Events that the log may hold. When a start takes longer than ten seconds: fit on its export "
            "(corerec events export), serve that model, and begin a new log.",
        ),
    ] = 5_000_000,
    max_connections: Annotated[
        int,
        typer.Option(
            rich_help_panel=NETWORK,
            help="The most open connections. A further connection closes the one that has been idle longest.",
        ),
    ] = 1000,
    queue_size: Annotated[
        int, typer.Option(help="The most requests that may wait. A further request is answered 503.")
    ] = 128,
    batch_size: Annotated[int, typer.Option(help="The most requests that are scored together.")] = 32,
    threads: Annotated[int, typer.Option(min=1, help="The number of CPU threads that score.")] = 1,
    device: Device = "cpu",
    access_log: Annotated[bool, typer.Option("--access-log", help="Print a line on stdout for each request.")] = False,
) -> None:
    """Serve a model over HTTP. The server recommends items, fills blanks in histories, and accepts new events and new
    items. It has Prometheus metrics, and a web page to try it.

    If the model's log has times, the time of a query is the current time. With a model of `corerec fit --items`, POST
    /v1/catalogue adds new items.

    On SIGTERM, the server answers the accepted requests and exits. On SIGHUP, it reads the model file again. GET /docs
    describes every route.

    \b
    Examples:
      corerec serve movies.model --titles movies.csv
      COREREC_TOKEN=secret corerec serve movies.model --host 0.0.0.0 --port 80 --allowed-host recs.example.org
      corerec serve movies.model --uds /run/corerec.sock --root-path /recs
    """
    if token is None and "COREREC_TOKEN" in os.environ:
        raise ConfigError("COREREC_TOKEN is empty: unset it to serve without a token, or give it one")
    with _hangups_ignored():  # nothing is read yet that would have to be read again
        from corerec.data.tables import read_titles
        from corerec.serving import LOOPBACK, ServerSettings
        from corerec.serving.process import serve as serve_file

        serve_file(
            model_file,
            host=host,
            port=port,
            titles=None if titles is None else read_titles(titles, item_column, title_column),
            candidate_files=candidates or (),
            events_file=events,
            uds=uds,
            root_path=root_path,
            forwarded_allow_ips=split_ids(forwarded_allow_ips),
            settings=ServerSettings(
                queue_size=queue_size,
                batch_size=batch_size,
                max_connections=max_connections,
                max_new_users=max_new_users,
                max_new_items=max_new_items,
                max_user_events=max_user_events,
                max_log_events=max_log_events,
                token=token,
                allowed_hosts=(*LOOPBACK, *(allowed_host or ())),
            ),
            device=device,
            threads=threads,
            access_log=access_log,
        )


@contextlib.contextmanager
def _hangups_ignored() -> Iterator[None]:
    """Ignore SIGHUP while the modules are imported, which takes seconds. Otherwise, the signal would end the
    process."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
