"""The server process of `corerec serve`: its sockets, its signals and its event loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import logging.config
import os
import signal
import socket
import stat
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import uvicorn
from prometheus_client import disable_created_metrics

from corerec.engines.bert4rec import Bert4Rec
from corerec.errors import DataError
from corerec.serving.app import create_app
from corerec.serving.connections import ACCEPTED_AT_ONCE, AcceptErrorLog, connection_bound, limited_protocol
from corerec.serving.events import EventLog
from corerec.serving.logs import logging_config
from corerec.serving.service import ModelService
from corerec.serving.settings import LOOPBACK, ServerSettings
from corerec.threads import set_threads

log = logging.getLogger(__name__)

DRAIN_S = 30
WAITING_TO_BE_ACCEPTED = 2048
ANY_ADDRESS = {"", "0.0.0.0", "::"}


def serve(
    model_file: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    uds: str | Path | None = None,
    root_path: str = "",
    forwarded_allow_ips: Sequence[str] = (),
    titles: Mapping[str, str] | None = None,
    candidate_files: Sequence[str | Path] = (),
    events_file: str | Path | None = None,
    settings: ServerSettings | None = None,
    device: str = "cpu",
    threads: int = 1,
    access_log: bool = False,
) -> None:
    """Serve a model file until SIGTERM or SIGINT. Then answer the accepted requests, for half a minute at most.

    On SIGHUP, the server reads the file again, as for POST /v1/reload. A SIGHUP during the start takes effect once the
    server is up.

    Args:
        host, port: the address to listen on; port 0 takes a free one.
        uds: a Unix socket to listen on instead of a port. A socket that no server listens on any more is replaced.
        root_path: the path that a proxy in front removes, such as "/recommend". Links of the page and of /docs begin
            with it.
        forwarded_allow_ips: addresses of proxies whose headers X-Forwarded-For and X-Forwarded-Proto are trusted. With
            an empty text, none are.
        titles: item id as text -> title.
        candidate_files: tables of item ids. Each table becomes a list that requests can name. A reload reads the tables
            again.
        events_file: the SQLite log of observed events. With None, it is MODEL.events.sqlite in the model's folder.
        settings: the limits of the server. `host` is added to its allowed hosts.
        threads: CPU threads of torch. The event loop has a thread of its own.
    Raises:
        FileNotFoundError, CheckpointError: there is no such model file, or it is damaged.
        DataError: the event log is in use by another server, is damaged, or is another file; or `root_path` is not a
            path.
        OSError: the address is in use.
    """
    logging.config.dictConfig(logging_config())
    disable_created_metrics()
    # Answers name unknown items themselves, and a warning for each request would fill the log.
    warnings.simplefilter("ignore", UserWarning)
    set_threads(threads)
    # oneDNN keeps compiled code for each shape it meets, and a server meets every length and batch size: its usual
    # 1,024 grow to hundreds of MB, and 32 are no slower.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
    if root_path and not root_path.startswith("/"):
        raise DataError(f"--root-path must begin with a slash, as /{root_path} does")
    root_path = root_path.rstrip("/")
    events_file = events_file or f"{model_file}.events.sqlite"
    settings = settings or ServerSettings()
    if uds is None and host not in ANY_ADDRESS:
        settings = replace(settings, allowed_hosts=(*settings.allowed_hosts, host))
    elif uds is None and set(settings.allowed_hosts) <= set(LOOPBACK):
        log.info("requests may name this machine by its address or as localhost; allow names with --allowed-host NAME")
    with _listening(host, port, uds) as listener, _hangups() as hangups:
        model = Bert4Rec.load(model_file, device=device)
        app = create_app(
            model,
            path=model_file,
            titles=titles,
            candidate_files=candidate_files,
            events=EventLog(events_file),
            settings=settings,
        )
        log.info("%s; events are kept in %s", model, events_file)
        gc.collect()
        gc.freeze()  # ids and histories stay in memory, so the garbage collector need not search them
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=access_log,
            ws="none",
            http=limited_protocol(
                connection_bound(settings.max_connections), settings.header_timeout_s, settings.idle_timeout_s
            ),
            backlog=ACCEPTED_AT_ONCE,
            server_header=False,
            root_path=root_path,
            proxy_headers=bool(forwarded_allow_ips),
            forwarded_allow_ips=list(forwarded_allow_ips),
            timeout_keep_alive=settings.idle_timeout_s,
            timeout_graceful_shutdown=DRAIN_S,
        )
        # uvicorn raises its signal again once it has drained: that must not end in a bad exit status.
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                asyncio.run(_run(_Process(config), app.state.server, listener, hangups))
        finally:
            signal.signal(signal.SIGTERM, before)
            gc.unfreeze()
    log.info("ended")


class _Process(uvicorn.Server):
    """A uvicorn server that prints its address once it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(WAITING_TO_BE_ACCEPTED)  # uvicorn's `backlog` is also how many are accepted at once
            address = shown_address(listener.getsockname()) + self.config.root_path
            log.info("%s/ has the page, %s/docs the API", address, address)


async def _run(process: uvicorn.Server, server: ModelService, listener: socket.socket, hangups: list[int]) -> None:
    loop, reloads = asyncio.get_running_loop(), set[asyncio.Task[None]]()
    loop.set_exception_handler(AcceptErrorLog())

    def reload() -> None:
        task = loop.create_task(server.reload_quietly())
        reloads.add(task)  # the loop alone would let it be collected
        task.add_done_callback(reloads.discard)

    if sys.platform != "win32":
        loop.add_signal_handler(signal.SIGHUP, reload)
    if hangups:  # the file may have been replaced while it was read
        reload()
    await process.serve(sockets=[listener])


@contextlib.contextmanager
def _hangups() -> Iterator[list[int]]:
    """Collect the SIGHUP signals that arrive before the event loop handles them. Otherwise, such a signal would end the
    process."""
    noted: list[int] = []
    if sys.platform == "win32":
        yield noted
        return
    before = signal.signal(signal.SIGHUP, lambda number, _: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGHUP, before)


def shown_address(name: object) -> str:
    """Return the address of a socket as a URL, or the path of a Unix socket.

    >>> shown_address(("127.0.0.1", 8000)), shown_address(("::1", 8000, 0, 0)), shown_address("/run/corerec.sock")
    ('http://127.0.0.1:8000', 'http://[::1]:8000', 'unix:/run/corerec.sock:')
    """
    if not isinstance(name, tuple):
        return f"unix:{name}:"
    host, port, *_ = name
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def _listening(host: str, port: int, uds: str | Path | None) -> Iterator[socket.socket]:
    """Bind a socket, but do not listen yet. So clients that connect before the model is loaded are refused, and need
    not wait."""
    if uds is not None:
        with _bound_unix(Path(uds)) as listener:
            mine = os.stat(uds)
            try:
                yield listener
            finally:
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.stat(uds), mine):
                        os.unlink(uds)
        return
    cannot = f"cannot listen on {host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise OSError(f"{cannot} ({error.strerror}); choose another --host") from None
    with socket.socket(family, kind, protocol) as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            raise OSError(f"{cannot} ({error.strerror}); choose another --port or --host") from None
        yield listener


def _bound_unix(path: Path) -> socket.socket:
    """Bind a Unix socket at a path. If nobody listens on a socket there, the new socket replaces it."""
    if not hasattr(socket, "AF_UNIX"):
        raise OSError("this system has no Unix sockets; use --host and --port")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(str(path)) != 0:
                    path.unlink()
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {path} ({error.strerror or error}); choose another --uds") from None
    return listener
