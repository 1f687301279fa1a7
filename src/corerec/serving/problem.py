"""Turn every error into application/problem+json (RFC 9457): {type, title, status, detail}.

The text in `detail` is written for clients. It never holds the text of an unexpected exception.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

SHOWN_ERRORS = 5
QUEUE_FULL = "the server has as many requests as it can hold; try again soon"


class ProblemResponse(JSONResponse):
    media_type = "application/problem+json"

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
        super().__init__(content, status, dict(headers or {}))


def install(app: FastAPI) -> None:
    """Answer HTTP errors, invalid bodies and unexpected exceptions with problem documents."""

    async def on_http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return ProblemResponse(error.status_code, str(error.detail), error.headers)

    async def on_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return ProblemResponse(422, validation_detail(error.errors()))

    async def on_surprise(_: Request, __: Exception) -> Response:  # the server's log gets the traceback
        return ProblemResponse(500, "something failed inside the server; its log says what")

    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(Exception, on_surprise)


def validation_detail(errors: Sequence[Any]) -> str:
    """Return the first few validation errors as one line: "top_k: Input should be less than or equal to 1000".

    The line does not repeat the invalid value, which may be long, or not be valid text.
    """
    lines: dict[str, None] = {}
    for error in errors:
        names = [str(part)[:40] for part in error["loc"][1:]]  # the first is "body" or "query"
        lines[f"{'.'.join(names) or 'body'}: {error['msg'].removeprefix('Value error, ')}"] = None
    shown = list(lines)[:SHOWN_ERRORS]
    more = len(lines) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")
