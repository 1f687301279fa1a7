"""Connection limits: how many connections may be open, and how long a connection may stay silent. uvicorn has no such
settings.

A connection is idle until the headers of its next request are complete. When a new connection exceeds the bound, the
one that has been idle longest is closed, as in nginx. So clients that connect and stay silent do not block other
clients.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger(__name__)

RESERVED_FILES = 64
"""Files that a process needs besides its connections, for libraries, the model and the event log."""
ACCEPTED_AT_ONCE = 64
"""The number of connections that the event loop accepts at once."""
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
ACCEPT_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def open_files_limit() -> int | None:
    """Return how many files this process may have open, or None if the operating system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def connection_bound(wanted: int) -> int:
    """Return the number of connections to allow: `wanted`, or fewer if the process may not open so many files."""
    limit = open_files_limit()
    if limit is None or limit - RESERVED_FILES - ACCEPTED_AT_ONCE >= wanted:
        return wanted
    bound = max(1, limit - RESERVED_FILES - ACCEPTED_AT_ONCE)
    log.warning("at most %d connections, since this process may open %d files (ulimit -n)", bound, limit)
    return bound


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with these limits. Use `limited_protocol`, which makes a class for one server."""

    max_connections: int
    header_timeout_s: float
    write_timeout_s: float
    idle: dict[LimitedProtocol, None]
    """The connections without a request. The connection that has been idle longest comes first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self.idle[self] = None
        self._header_timer = self.loop.call_later(self.header_timeout_s, transport.abort)
        if len(self.connections) > self.max_connections:
            oldest = next(iter(self.idle))
            if oldest is self:
                transport.write(REFUSED)
                transport.close()
            else:
                oldest.transport.abort()
            self.connections.discard(oldest)
            oldest._forget()

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        if self in self.idle and self._header_timer is None:  # the first bytes of another request
            self._header_timer = self.loop.call_later(self.header_timeout_s, self.transport.abort)
        super().data_received(data)
        if self.cycle is not before:
            self._forget()

    def on_response_complete(self) -> None:
        before = self.cycle
        self.idle[self] = None
        super().on_response_complete()  # may begin a request that was sent behind the last one
        if self.cycle is not before or self.transport.is_closing():
            self._forget()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().connection_lost(exc)

    def _forget(self) -> None:
        """Remove this connection from the idle connections."""
        self.idle.pop(self, None)
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


def limited_protocol(max_connections: int, header_timeout_s: float, write_timeout_s: float) -> type[LimitedProtocol]:
    """Return a protocol for `uvicorn.Config(http=...)`.

    Args:
        header_timeout_s: the longest time from a connection's start, or a request's first byte, to the end of the
            headers.
        write_timeout_s: how long a client may leave an answer unread.
    """
    limits = {"max_connections": max_connections, "header_timeout_s": header_timeout_s}
    return type("Protocol", (LimitedProtocol,), limits | {"write_timeout_s": write_timeout_s, "idle": {}})


class AcceptErrorLog:
    """An exception handler of the event loop. Once a second at most, it reports connections that could not be
    accepted."""

    def __init__(self) -> None:
        self._last, self._count = -1.0, 0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in ACCEPT_ERRORS):
            loop.default_exception_handler(context)
            return
        self._count += 1
        if time.monotonic() - self._last >= 1:
            log.error("cannot accept connections (%s), %d times so far: raise ulimit -n", error.strerror, self._count)
            self._last = time.monotonic()
