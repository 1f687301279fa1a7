"""The server as a process of its own: `corerec serve`."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import logging
import logging.config
import os
import signal
import socket
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import uvicorn
from prometheus_client import disable_created_metrics
from uvicorn.config import LOGGING_CONFIG

from corerec.engines.bert4rec import Bert4Rec
from corerec.serving.app import create_app
from corerec.serving.events import EventLog
from corerec.serving.service import Server
from corerec.serving.settings import ServerSettings

log = logging.getLogger(__name__)

DRAIN_S = 30
KEEP_ALIVE_S = 30


def serve(
    model_file: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    titles: Mapping[str, str] | None = None,
    events_file: str | Path | None = None,
    settings: ServerSettings | None = None,
    device: str = "cpu",
    threads: int = 1,
    access_log: bool = False,
) -> None:
    """Serve a model file until SIGTERM or SIGINT; then answer what was taken, for half a minute at most.

    SIGHUP reads the file again, as POST /v1/reload does.

    Args:
        host, port: where to listen; port 0 takes a free one.
        titles: of the items, by their ids as text.
        events_file: SQLite log of observed events; None puts it beside the model, as MODEL.events.sqlite.
        threads: CPU threads of torch; the event loop has one of its own besides.
    Raises:
        FileNotFoundError, CheckpointError: there is no such model file, or it is damaged.
        DataError: the event log is in use by another server, or is something else.
        OSError: the address is taken.
    """
    logging_config = copy.deepcopy(LOGGING_CONFIG)
    logging_config["loggers"]["corerec"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    logging_config["loggers"]["uvicorn"]["level"] = "WARNING"  # its steps of starting and ending tell users nothing
    logging_config["loggers"]["uvicorn.error"]["level"] = "WARNING"
    logging.config.dictConfig(logging_config)
    disable_created_metrics()
    # Answers name unknown items themselves, and a warning for each request would fill the log.
    warnings.simplefilter("ignore", UserWarning)
    torch.set_num_threads(threads)
    # oneDNN keeps compiled code for each shape it meets, and a server meets every length and batch size: its usual
    # 1,024 grow to hundreds of MB, and 32 are no slower.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
    events_file = events_file or f"{model_file}.events.sqlite"
    with _bound(host, port) as listener:
        model = Bert4Rec.load(model_file, device=device)
        app = create_app(model, path=model_file, titles=titles, events=EventLog(events_file), settings=settings)
        log.info("%s; events are kept in %s", model, events_file)
        gc.collect()
        gc.freeze()  # ids and histories stay: the collector need not stop all requests to look them through
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=access_log,
            ws="none",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S,
        )
        # uvicorn raises its signal again once it has drained: that must not end in a bad exit status.
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                asyncio.run(_run(_Process(config), app.state.server, listener))
        finally:
            signal.signal(signal.SIGTERM, before)
            gc.unfreeze()
    log.info("ended")


class _Process(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            host, port, *_ = listener.getsockname()
            address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            log.info("%s/ has the page, %s/docs the API", address, address)


async def _run(process: uvicorn.Server, server: Server, listener: socket.socket) -> None:
    loop, reloads = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    def reload() -> None:
        task = loop.create_task(server.reload_quietly())
        reloads.add(task)  # the loop alone would let it be collected
        task.add_done_callback(reloads.discard)

    if sys.platform != "win32":
        loop.add_signal_handler(signal.SIGHUP, reload)
    await process.serve(sockets=[listener])


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not listening yet: who comes before the model is loaded is refused, not kept."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port or --host") from None
    return listener
