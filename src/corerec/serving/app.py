"""The routes: HTTP in, ids in, ids out. Nothing that takes time is done on the event loop.

Gate (token, metrics)  ->  route  ->  Server's queues and threads  ->  answer, or problem document
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec import Query as RecommendQuery
from corerec.serving import problem, schemas
from corerec.serving.body import JsonRoute
from corerec.serving.events import EventLog, LoggedEvent
from corerec.serving.gate import Gate
from corerec.serving.live import LiveModel
from corerec.serving.scoring import Ask, reasons_for
from corerec.serving.service import Server
from corerec.serving.settings import ServerSettings

PAGE = Path(__file__).parent / "page"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}
SWAGGER = "/docs/assets"  # of /docs: from this server, where FastAPI's own would come from a CDN
SWAGGER_FILES = {f"{SWAGGER}/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")}
PUBLIC = {"/healthz", "/readyz", "/docs", "/openapi.json", *SWAGGER_FILES}  # and the page: no token is asked for
PAIRS_AT_ONCE = 64


def create_app(
    model: Bert4Rec,
    *,
    path: str | Path | None = None,
    titles: Mapping[str, str] | None = None,
    events: EventLog | None = None,
    settings: ServerSettings | None = None,
) -> FastAPI:
    """An ASGI app around a fitted model; `app.state.server` is the `Server` behind it.

    Args:
        model: fitted or loaded; the log's events are observed by it before this returns.
        path: the file that a reload reads; without one, a reload is refused.
        titles: of the items, by their ids as text, such as `corerec.data.tables.read_titles` gives.
        events: the log of observed events, closed with the app; None keeps them in memory, and they end with the app.
    """
    settings = settings or ServerSettings()
    server = Server(LiveModel(model, path=path, titles=titles, events=events), settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with server.running():
            yield

    app = FastAPIOffline(
        title="CoreRec",
        summary="What comes next in a sequence, and what was missed.",
        version=metadata.version("corerec-bert4rec"),
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
        static_url=SWAGGER,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.server, app.state.settings = server, settings
    problem.install(app)
    app.include_router(router)
    page = StaticFiles(directory=PAGE)
    paths = {f"/{file.name}": file.name for file in PAGE.iterdir() if file.is_file()} | {"/": "index.html"}
    # A route for each file, and no mount at the root, which would answer 404 where a wrong method deserves 405.
    app.router.routes += [Route(path, _page_file(page, name), methods=["GET"]) for path, name in paths.items()]
    app.add_middleware(
        Gate,
        token=settings.token,
        public=PUBLIC | paths.keys(),
        is_full={
            "/v1/recommend": lambda: server.recommend.is_full,
            "/v1/fill-in": lambda: server.single.is_full,
            "/v1/predict": lambda: server.single.is_full,
            "/v1/events": lambda: server.events.is_full,
        },
        retry_after_s=settings.retry_after_s,
        count=server.metrics.request,
    )
    app.openapi = lambda: _openapi(app, settings)
    return app


def _page_file(page: StaticFiles, name: str) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        response = await page.get_response(name, request.scope)
        response.headers.update(PAGE_HEADERS)
        return response

    return endpoint


# -------------------------------------------------------------------------------------------------------- routes

PROBLEMS = {
    400: "No JSON in UTF-8.",
    401: "No token, or a wrong one.",
    404: "An id that the model does not know.",
    408: "The body took too long.",
    409: "Not with this model: it holds no histories, its log had another clock, or there is no file to reload.",
    413: "The body is too large.",
    415: "The body is not called application/json.",
    422: "A field is missing, of another type or out of its bounds.",
    503: "The queue is full, or the request waited too long; Retry-After says when to come back.",
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": PROBLEMS[status], "content": content} for status in statuses}


BODY = (400, 408, 413, 415, 422)
router = APIRouter(route_class=JsonRoute)


def _server(request: Request) -> Server:
    return request.app.state.server


@router.post(
    "/v1/recommend",
    tags=["recommendations"],
    responses=_problems(*BODY, 404, 409, 503),
    response_model_exclude_unset=True,  # `because`, but for explain
)
async def recommend(asked: schemas.RecommendRequest, request: Request) -> schemas.Recommendations:
    """The items most likely to come next, best first, for a user or for anyone's history."""
    server = _server(request)
    served = server.live.now
    model, title = served.model, served.catalogue.title
    history, places, unknown = (None, None, []) if asked.history is None else _known_items(model, asked.history)
    query = RecommendQuery(
        asked.user_id, history, asked.top_k, asked.exclude_seen, asked.exclude, asked.candidates, on_unknown="skip"
    )
    answer = await server.ask(server.recommend, Ask(served, query), request)
    items = [
        schemas.Recommendation.model_construct(
            rank=rank, item_id=item_id, title=title(item_id), probability=probability
        )
        for rank, (item_id, probability) in enumerate(answer.pairs(), 1)
    ]
    if asked.explain:
        work = partial(reasons_for, model, [item.item_id for item in items], asked.user_id, history)
        for item, reasons in zip(items, await server.ask(server.single, work, request), strict=True):
            item.because = [
                schemas.Because.model_construct(
                    position=reason.position if places is None else places[reason.position],
                    item_id=reason.item_id,
                    title=title(reason.item_id),
                    weight=reason.weight,
                )
                for reason in reasons
            ]
    return schemas.Recommendations.model_construct(basis=answer.basis, recommendations=items, unknown_items=unknown)


@router.post("/v1/fill-in", tags=["recommendations"], responses=_problems(*BODY, 503))
async def fill_in(asked: schemas.FillInRequest, request: Request) -> schemas.FilledIn:
    """What most likely stood at each blank of a history, seen from both sides."""
    server = _server(request)
    served = server.live.now
    model, title = served.model, served.catalogue.title
    history, places, unknown = _known_items(model, asked.history)
    blanks = [place for place, item_id in zip(places, history, strict=True) if item_id is None]
    work = partial(model.fill_in, history, asked.top_k, exclude_seen=asked.exclude_seen, with_scores=True)
    answers = await server.ask(server.single, work, request)
    return schemas.FilledIn.model_construct(
        blanks=[
            schemas.Blank.model_construct(
                position=place,
                items=[
                    schemas.RankedItem.model_construct(
                        rank=rank, item_id=item_id, title=title(item_id), probability=probability
                    )
                    for rank, (item_id, probability) in enumerate(ranked, 1)
                ],
            )
            for place, ranked in zip(blanks, answers, strict=True)
        ],
        unknown_items=unknown,
    )


@router.post("/v1/predict", tags=["recommendations"], responses=_problems(*BODY, 404, 409, 503))
async def predict(asked: schemas.PredictRequest, request: Request) -> schemas.Predictions:
    """What a user would rate an item, or the probability, over the whole catalogue, that it comes next."""
    server = _server(request)
    model = server.live.now.model
    pairs = [(pair.user_id, pair.item_id) for pair in asked.pairs]
    predictions: list[float] = []
    for first in range(0, len(pairs), PAIRS_AT_ONCE):  # between two pieces others have their turn
        work = partial(model.batch_predict, pairs[first : first + PAIRS_AT_ONCE], kind=asked.kind)
        predictions += await server.ask(server.single, work, request)
    return schemas.Predictions.model_construct(predictions=predictions)


@router.post("/v1/events", tags=["events"], responses=_problems(*BODY, 404, 409, 503))
async def observe(asked: schemas.EventsRequest, request: Request) -> schemas.Accepted:
    """What users did since: answered once it is on disk, and known to the next recommendation.

    All events are taken, or none. New users appear by their first event; items have to be known to the model.
    """
    server = _server(request)
    events = [LoggedEvent(e.user_id, e.item_id, e.timestamp, e.rating, e.event_id) for e in asked.events]
    accepted = await server.ask(server.events, events, request)
    server.metrics.events.inc(accepted)
    return schemas.Accepted.model_construct(accepted=accepted)


@router.get("/v1/items", tags=["catalogue"], responses=_problems(422))
async def items(
    request: Request,
    q: Annotated[
        str, Query(max_length=schemas.MAX_QUERY_LENGTH, description="Words of the title; without any, what is popular.")
    ] = "",
    limit: Annotated[int, Query(ge=1, le=schemas.MAX_SHOWN_ITEMS)] = 20,
) -> schemas.Items:
    """Items whose titles hold all the words, whatever their case and accents; the best match first."""
    catalogue = _server(request).live.now.catalogue
    found = await asyncio.to_thread(catalogue.search, q, limit)
    return schemas.Items.model_construct(
        items=[schemas.Item.model_construct(item_id=item_id, title=catalogue.title(item_id)) for item_id in found]
    )


@router.get("/v1/model", tags=["model"])
async def model_info(request: Request) -> schemas.ModelInfo:
    """The model that serves now, and what it knows."""
    served = _server(request).live.now
    model = served.model
    return schemas.ModelInfo(
        name=model.name,
        num_users=None if model.users is None else len(model.users),
        num_items=len(model.items),
        num_events=model.num_events,
        max_seq_len=model.model_config.max_seq_len,
        has_titles=served.catalogue.has_titles,
    )


@router.post("/v1/reload", tags=["model"], responses=_problems(409))
async def reload(request: Request) -> schemas.Reloaded:
    """Read the model file again and serve what it holds now; the old model answers until then."""
    server = _server(request)
    if server.live.path is None:
        raise HTTPException(409, "this server's model was not read from a file")
    if server.is_reloading:
        raise HTTPException(409, "a reload is under way")
    await server.reload()
    return schemas.Reloaded(name=server.live.now.model.name)


@router.get("/healthz", tags=["health"])
async def healthz() -> schemas.Health:
    """The process answers."""
    return schemas.Health(status="ok")


@router.get("/readyz", tags=["health"], responses=_problems(503))
async def readyz(request: Request) -> schemas.Health:
    """The server takes recommend requests: its model is there and its queue has room."""
    server = _server(request)
    if not server.is_ready or server.recommend.is_full:
        raise HTTPException(503, "the server is not ready", {"Retry-After": str(server.settings.retry_after_s)})
    return schemas.Health(status="ok")


@router.get(
    "/metrics",
    tags=["health"],
    response_class=PlainTextResponse,
    responses={200: {"content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Counters for Prometheus, in its text format."""
    return Response(_server(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _known_items(model: Bert4Rec, history: Sequence[Any]) -> tuple[list[Any], list[int], list[Any]]:
    """The known items and blanks of a history, where they stood, and the unknown items."""
    vocabulary = model.items
    known = [(place, item_id) for place, item_id in enumerate(history) if item_id is None or item_id in vocabulary]
    items, places = [item_id for _, item_id in known], [place for place, _ in known]
    unknown = [item_id for item_id in history if item_id is not None and item_id not in vocabulary]
    return items, places, unknown


def _openapi(app: FastAPI, settings: ServerSettings) -> dict[str, Any]:
    """What FastAPI makes of the routes, with the problem documents and the token."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = schemas.Problem.model_json_schema()
        if settings.token is not None:
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            refused = _problems(401)[401]
            for path, methods in schema["paths"].items():
                for operation in methods.values():
                    if path not in PUBLIC:
                        operation["security"] = [{"token": []}]
                        operation["responses"]["401"] = refused
        app.openapi_schema = schema
    return app.openapi_schema
