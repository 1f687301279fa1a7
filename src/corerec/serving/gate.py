"""What stands before every route: the token, the queue's bound, the clock of /metrics, and headers for each answer."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Collection, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corerec.serving.problem import QUEUE_FULL, ProblemResponse

HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Gate:
    """Asks for the bearer token, turns requests away while their queue is full, counts and times them.

    Here, before a body is read: a flood that cost as much to refuse as to hear would leave no time to answer anybody.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        public: Collection[str],
        is_full: Mapping[str, Callable[[], bool]],
        retry_after_s: int,
        count: Callable[[str, str, int, float], None],
    ) -> None:
        """Args:
        token: what all paths but the public ones ask for; None asks for nothing.
        is_full: whether the queue of a path is.
        count: told route, method, status and seconds of each answer.
        """
        self.app, self._public, self._is_full, self._count = app, frozenset(public), is_full, count
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._no_entry = ProblemResponse(
            401, "this needs the server's token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
        )
        self._full = ProblemResponse(503, QUEUE_FULL, {"Retry-After": str(retry_after_s)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status, path = time.perf_counter(), 500, scope["path"]

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        app = self.app
        if not self._may_enter(scope):
            app = self._no_entry
        elif path in self._is_full and scope["method"] == "POST" and self._is_full[path]():
            app = self._full
        try:
            await app(scope, receive, send_with_headers)
        finally:
            known = path in self._is_full or path in self._public
            route = getattr(scope.get("route"), "path", None) or (path if known else "none")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._count(route, method, status, time.perf_counter() - started)

    def _may_enter(self, scope: Scope) -> bool:
        if self._expected is None or scope["path"] in self._public:
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, self._expected)
