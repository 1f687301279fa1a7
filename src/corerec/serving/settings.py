"""How the server guards itself: a frozen setting, checked at construction."""

from __future__ import annotations

from dataclasses import dataclass

from corerec.errors import ConfigError


@dataclass(frozen=True)
class ServerSettings:
    """Bounds of one server process."""

    batch_size: int = 32
    """Requests pair_with_scores together, at most."""
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
    token: str | None = None
    """Bearer token that /v1/* and /metrics ask for; None asks for none."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "queue_size", "max_body_bytes", "retry_after_s"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.batch_window_ms < 0:
            raise ConfigError(f"batch_window_ms must not be negative, and is {self.batch_window_ms}")
        for name in ("deadline_s", "body_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}")
        if self.token is not None and not self.token.strip():
            raise ConfigError("the token is empty; leave it out to ask for none")
