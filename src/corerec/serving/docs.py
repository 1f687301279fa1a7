"""The content of /docs and /openapi.json: the error responses, the token, and a security policy for /docs."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Collection
from hashlib import sha256
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response
from starlette.routing import Route

from corerec.serving import schemas
from corerec.serving.gate import HEADERS

PROBLEMS = {
    400: "No JSON in UTF-8.",
    401: "No token, or a wrong one.",
    404: "An id that the model does not know.",
    408: "The body took too long.",
    409: "Not with this model: it holds no histories, its log had another clock, it reads no features of items, or "
    "there is no file to reload.",
    413: "The body is too large.",
    415: "The body is not called application/json.",
    422: "A field is missing, of another type or out of its bounds.",
    507: "The log, its users or a user's events are as many as the server's settings allow: fit again.",
    503: "The queue is full, or the request waited too long; Retry-After says when to come back.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": PROBLEMS[status], "content": content} for status in statuses}


def openapi(app: FastAPI, public: Collection[str], *, has_token: bool) -> dict[str, Any]:
    """Return FastAPI's description of the routes, with the problem documents and the token added."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = schemas.Problem.model_json_schema()
        if has_token:
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            refused = problems(401)[401]
            for path, methods in schema["paths"].items():
                for operation in methods.values():
                    if path not in public:
                        operation["security"] = [{"token": []}]
                        operation["responses"]["401"] = refused
        app.openapi_schema = schema
    return app.openapi_schema


def allow_own_script(app: FastAPI) -> None:
    """Allow /docs its only inline script, by the script's hash, and Swagger's inline styles."""
    route = next(route for route in app.router.routes if isinstance(route, Route) and route.path == "/docs")
    page = route.endpoint

    async def docs(request: Request) -> Response:
        response = await page(request)
        scripts = re.findall(rb"<script>(.*?)</script>", response.body, re.DOTALL)
        hashes = " ".join(f"'sha256-{b64encode(sha256(text).digest()).decode()}'" for text in scripts)
        policy = HEADERS[b"content-security-policy"].decode()
        response.headers["Content-Security-Policy"] = (
            f"{policy}; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
        )
        return response

    app.router.routes[app.router.routes.index(route)] = Route("/docs", docs, methods=["GET"], include_in_schema=False)
