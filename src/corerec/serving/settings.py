"""The settings of the server. They are frozen, and checked at construction."""

from __future__ import annotations

from dataclasses import dataclass

from corerec.errors import ConfigError

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ServerSettings:
    """The limits of one server process."""

    batch_size: int = 32
    """The most requests that are scored together."""
    batch_window_ms: float = 2.0
    """How long the first request of a batch waits for further requests while the model is idle."""
    queue_size: int = 128
    """The most requests of one kind that may wait for the model or the event log. A further request gets 503 at
    once."""
    deadline_s: float = 2.0
    """How long a request may wait. A request that waits longer is not scored, and gets 503."""
    retry_after_s: int = 1
    """The seconds after which a client that got 503 may try again."""
    max_body_bytes: int = 2**21
    """The largest request body. A larger body gets 413."""
    body_timeout_s: float = 10.0
    """How long the body of a request may take to arrive. A slower body gets 408."""
    max_connections: int = 1000
    """The most open connections, or fewer if the process may not open so many files. At this limit, a new connection
    closes the connection that has been idle longest."""
    header_timeout_s: float = 10.0
    """How long the headers of a request may take to arrive, before the connection is closed."""
    idle_timeout_s: int = 30
    """How long a connection may stay open without a request, and how long a client may leave an answer unread."""
    max_new_users: int = 1_000_000
    """The most new users that events may add. Events of further new users are refused until a model is fitted that
    knows these users."""
    max_new_items: int = 100_000
    """The most items that /v1/catalogue may add. Further items are refused until a model is fitted that knows the added
    items."""
    max_user_events: int = 100_000
    """The most events of one user, including the events that the model was fitted on. Further events are refused."""
    max_log_events: int = 5_000_000
    """The most events in the event log. Further events are refused until the server starts with a new log."""
    token: str | None = None
    """The bearer token that /v1/* and /metrics need. With None, no token is needed."""
    allowed_hosts: tuple[str, ...] = LOOPBACK
    """Names that the Host header may have. "*" allows all, "*.example.org" all subdomains. See `gate.AllowedHosts`."""

    def __post_init__(self) -> None:
        for name in (
            "batch_size", "queue_size", "max_body_bytes", "retry_after_s", "max_connections", "idle_timeout_s",
            "max_new_users", "max_new_items", "max_user_events", "max_log_events",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.batch_window_ms < 0:
            raise ConfigError(f"batch_window_ms must not be negative, and is {self.batch_window_ms}")
        for name in ("deadline_s", "body_timeout_s", "header_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.token is not None and not self.token.strip():
            raise ConfigError("the token is empty; leave it out (unset COREREC_TOKEN) to ask for none")
        if self.token is not None and not all("!" <= letter <= "~" for letter in self.token):
            raise ConfigError("the token has a space, a line's end or a letter outside ASCII, which no header can hold")
