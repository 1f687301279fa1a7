"""How the server guards itself: a frozen setting, checked at construction."""

from __future__ import annotations

from dataclasses import dataclass

from corerec.errors import ConfigError

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ServerSettings:
    """Bounds of one server process."""

    batch_size: int = 32
    """Requests scored together, at most."""
    batch_window_ms: float = 2.0
    """How long the first request of a batch waits for company while the model is idle."""
    queue_size: int = 128
    """Requests of one kind that may wait for the model or the event log; the next one is answered 503 at once."""
    deadline_s: float = 2.0
    """A request that has waited so long is answered 503, unscored."""
    retry_after_s: int = 1
    """What a 503 tells the client to wait."""
    max_body_bytes: int = 2**21
    """Larger request bodies are answered 413."""
    body_timeout_s: float = 10.0
    """How long the body of a request may take to arrive; then 408."""
    max_connections: int = 1000
    """Open connections; fewer where the process may not open so many files. The next one ends the longest idle one."""
    header_timeout_s: float = 10.0
    """How long the headers of a request may take to arrive; then the connection is closed."""
    idle_timeout_s: int = 30
    """How long a connection may stay open without a further request, and how long a client may not read an answer."""
    max_new_users: int = 1_000_000
    """Users that appear by their events; events of further ones are refused until the next fit knows them."""
    max_new_items: int = 100_000
    """Items that /v1/catalogue adds; further ones are refused until the next fit knows them."""
    max_user_events: int = 100_000
    """Events of one user, fitted ones included; further ones are refused."""
    max_log_events: int = 5_000_000
    """Events that the log may hold; further ones are refused until a new log is begun."""
    token: str | None = None
    """Bearer token that /v1/* and /metrics ask for; None asks for none."""
    allowed_hosts: tuple[str, ...] = LOOPBACK
    """Names that the Host header may have; "*" allows all, "*.example.org" what ends so. See `gate.AllowedHosts`."""

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
