"""The checks before every route: the headers Host and Origin, the token, and whether the queue is full. The gate also
measures each answer's time and adds headers.

The checks run before a body is read, so that refusing a flood of requests costs little time.
"""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Callable, Collection, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corerec.serving.problem import QUEUE_FULL, ProblemResponse

HEADERS = {
    b"content-security-policy": b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"x-frame-options": b"DENY",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-cache",
}
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
READS = {"GET", "HEAD", "OPTIONS"}


class Gate:
    """Passes a request to the app if it has an allowed host, comes from the same site, has the token, and the queue has
    room."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed_hosts: Collection[str],
        token: str | None,
        public: Collection[str],
        is_full: Mapping[str, Callable[[], bool]],
        retry_after_s: int,
        count: Callable[[str, str, int, float], None],
    ) -> None:
        """Wrap an app.

        Args:
            allowed_hosts: names that the Host header may have. "*" allows all, "*.example.org" all subdomains of
                example.org.
            token: the bearer token that all paths need, except public paths. With None, no token is needed.
            is_full: path -> a function that returns whether its queue is full.
            count: is called with the route, method, status and seconds of each answer.
        """
        self.app, self._public, self._is_full, self._count = app, frozenset(public), is_full, count
        self._hosts = AllowedHosts(allowed_hosts)
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._wrong_host = ProblemResponse(
            400, "this server does not answer by that name; start it with --allowed-host NAME to let it do so"
        )
        self._other_site = ProblemResponse(403, "a page of another site may not send this; ask from outside a browser")
        self._no_entry = ProblemResponse(
            401, "this needs the server's token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
        )
        self._full = ProblemResponse(503, QUEUE_FULL, {"Retry-After": str(retry_after_s)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status = time.perf_counter(), 500
        path = scope["path"].removeprefix(scope.get("root_path", ""))

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name.lower() for name, _ in message.get("headers", ())}
                more = [(name, value) for name, value in HEADERS.items() if name not in own]
                message["headers"] = [*message.get("headers", ()), *more]
            await send(message)

        try:
            await self._app_for(scope, path)(scope, receive, send_with_headers)
        finally:
            known = path in self._is_full or path in self._public
            route = getattr(scope.get("route"), "path", None) or (path if known else "none")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._count(route, method, status, time.perf_counter() - started)

    def _app_for(self, scope: Scope, path: str) -> ASGIApp:
        """Return the app, or the answer that refuses the request."""
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))  # the first of two counts
        local = (scope.get("server") or ("",))[0]
        if not self._hosts.allow(headers.get(b"host"), local):
            return self._wrong_host
        if scope["method"] not in READS and is_from_another_site(headers):
            return self._other_site
        needs_token = self._expected is not None and path not in self._public
        if needs_token and not hmac.compare_digest(headers.get(b"authorization", b""), self._expected or b""):
            return self._no_entry
        if path in self._is_full and scope["method"] == "POST" and self._is_full[path]():
            return self._full
        return self.app


class AllowedHosts:
    """The host names that are allowed in a Host header. A DNS rebinding attack uses another name."""

    def __init__(self, names: Collection[str]) -> None:
        self._all = "*" in names
        self._names = {_without_port(name.lower()) for name in names if not name.startswith("*")}
        self._suffixes = tuple(name[1:].lower() for name in names if name.startswith("*."))

    def allow(self, host: bytes | None, local_address: str = "") -> bool:
        """Return whether a Host header is allowed.

        Args:
            host: the header. None, for a request without this header, is allowed: every browser sends it.
            local_address: the address at which the connection arrived. It is allowed, because DNS rebinding cannot
                change an address.
        """
        if self._all or host is None:
            return True
        name = _without_port(host.decode("latin-1").lower()).removesuffix(".")
        return (
            name in self._names
            or bool(self._suffixes and name.endswith(self._suffixes))
            or (_address(name) is not None and _address(name) == _address(local_address))
        )


def _without_port(host: str) -> str:
    """Return a host without its port: "localhost:8000" gives "localhost", "[::1]:8000" gives "::1"."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_from_another_site(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a browser sent this request for a page of another origin. Other clients do not send the headers
    Sec-Fetch-Site and Origin, so the result is False."""
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site not in (b"same-origin", b"none")
    origin = headers.get(b"origin")
    return origin is not None and origin.partition(b"://")[2] != headers.get(b"host")
