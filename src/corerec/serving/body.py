"""Read request bodies, with limits on their bytes, on the seconds that they take, and on their number of values.

A body must be JSON, and must have the content type of JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from corerec.serving.settings import ServerSettings
from corerec.serving.user_header import USER_HEADER, check_users, users_of

MAX_SIGNS = 100_000
"""The most colons, commas and opening brackets in a body. The largest valid request has 30,000 of them, not counting
those in its texts."""
READ_AT_ONCE = 2**14
"""Bodies of up to this many bytes are parsed on the event loop, in 0.1 ms. Larger ones are parsed in a thread."""
# One thread: a parser holds the interpreter's lock, and several at once would keep the event loop from it for longer.
PARSER = ThreadPoolExecutor(1, "parser")


class BoundedRequest(Request):
    """A request that reads its body within the limits of the server's settings."""

    async def body(self) -> bytes:
        """Read the body.

        Raises:
            HTTPException: 413, it is too large; 408, it takes too long; 415, its content type is not JSON.
        """
        if hasattr(self, "_body"):
            return self._body
        settings: ServerSettings = self.app.state.settings
        too_large = HTTPException(413, f"the body may have {settings.max_body_bytes:,} bytes at most")
        declared = self.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > settings.max_body_bytes:
            raise too_large
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HTTPException(415, "send JSON, with the header Content-Type: application/json")
        body = bytearray()
        try:
            # Without a time limit, a client that sends one byte a minute would keep its connection forever.
            async with asyncio.timeout(settings.body_timeout_s):
                async for chunk in self.stream():
                    body += chunk
                    if len(body) > settings.max_body_bytes:
                        raise too_large
        except TimeoutError:
            raise HTTPException(408, f"the body did not arrive within {settings.body_timeout_s:g} seconds") from None
        except ClientDisconnect:
            raise HTTPException(400, "the client left before the body was there") from None
        self._body = bytes(body)
        return self._body

    async def json(self) -> Any:
        """Parse the body as JSON.

        Raises:
            HTTPException: 400, it is not JSON in UTF-8 (no NaN, no lone surrogate, at most 200 levels); 413, it has too
                many values; 422, it is about another user than the header Corerec-User.
        """
        parsed = await self._json()
        check_users(self.headers.get(USER_HEADER), users_of(parsed))
        return parsed

    async def _json(self) -> Any:
        body = await self.body()
        if len(body) <= READ_AT_ONCE:
            return _parsed(body)
        # Counted before anything is made of it: the count takes a fiftieth of the time that parsing does.
        if sum(body.count(sign) for sign in (b":", b",", b"[", b"{")) > MAX_SIGNS:
            raise HTTPException(413, f"the body may have {MAX_SIGNS:,} colons, commas and brackets at most")
        return await asyncio.get_running_loop().run_in_executor(PARSER, _parsed, body)


def _parsed(body: bytes) -> Any:
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON in UTF-8: {error}") from None


class JsonRoute(APIRoute):
    """A route that reads its body as a `BoundedRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_bounded(request: Request) -> Response:
            in_path = request.path_params.get("user_id")
            check_users(request.headers.get(USER_HEADER), [] if in_path is None else [in_path])
            return await handle(BoundedRequest(request.scope, request.receive))

        return handle_bounded
