"""The HTTP routes: they take ids and return ids. Slow work runs in threads, never on the event loop.

Gate (token, metrics)  ->  route  ->  ModelService queues and threads  ->  answer, or problem document
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from corerec.data.tables import ids_like
from corerec.data.times import UNITS
from corerec.engines.bert4rec import Bert4Rec
from corerec.engines.bert4rec import Query as RecommendQuery
from corerec.errors import UnknownIdError
from corerec.queries import Recommendations
from corerec.serving import docs, problem, schemas
from corerec.serving.body import JsonRoute
from corerec.serving.catalogue import CatalogueRow, columns_of
from corerec.serving.catalogue_schemas import AddedItems, CatalogueRequest
from corerec.serving.docs import problems
from corerec.serving.events import EventLog, LoggedEvent
from corerec.serving.gate import Gate
from corerec.serving.live import Added, EventBatch, LiveModel, Served, Taken
from corerec.serving.scoring import Ask, reasons_for
from corerec.serving.service import ModelService
from corerec.serving.settings import ServerSettings

PAGE = Path(__file__).parent / "page"
SWAGGER = "/docs/assets"  # of /docs: from this server, where FastAPI's own would come from a CDN
SWAGGER_FILES = {f"{SWAGGER}/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")}
PUBLIC = {"/healthz", "/readyz", "/docs", "/openapi.json", *SWAGGER_FILES}  # and the page: no token is asked for
PAIRS_AT_ONCE = 64


def create_app(
    model: Bert4Rec,
    *,
    path: str | Path | None = None,
    titles: Mapping[str, str] | None = None,
    candidate_files: Sequence[str | Path] = (),
    events: EventLog | None = None,
    settings: ServerSettings | None = None,
) -> FastAPI:
    """Return an ASGI app around a fitted model; `app.state.server` is the `ModelService` behind it.

    Args:
        model: a fitted or loaded model. `create_app` lets it observe the events of `events` before it returns.
        path: the file that a reload reads. Without it, a reload is refused.
        titles: item id as text -> title, as `corerec.data.tables.read_titles` returns them.
        candidate_files: tables of item ids. Requests name each list by its file's name without the suffix.
        events: the log of observed events, which the app closes. None keeps events in memory, until the app ends.
    """
    settings = settings or ServerSettings()
    server = ModelService(
        LiveModel(model, path=path, titles=titles, candidate_files=candidate_files, events=events, settings=settings),
        settings,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with server.running():
            yield

    app = FastAPIOffline(
        title="CoreRec",
        summary="Recommends the items that come next in a history, and fills blanks in it.",
        version=metadata.version("corerec-bert4rec"),
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
        static_url=SWAGGER,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.server, app.state.settings = server, settings
    problem.install(app)
    docs.allow_own_script(app)
    app.include_router(router)
    page = StaticFiles(directory=PAGE)
    paths = {f"/{file.name}": file.name for file in PAGE.iterdir() if file.is_file()} | {"/": "index.html"}
    # A route for each file, and no mount at the root, which would answer 404 where a wrong method deserves 405.
    app.router.routes += [Route(path, _page_file(page, name), methods=["GET"]) for path, name in paths.items()]
    app.add_middleware(
        Gate,
        allowed_hosts=settings.allowed_hosts,
        token=settings.token,
        public=PUBLIC | paths.keys(),
        is_full={
            "/v1/recommend": lambda: server.recommend.is_full,
            "/v1/events": lambda: server.events.is_full,
            "/v1/catalogue": lambda: server.catalogue.is_full,
            **{
                f"/v1/{name}": lambda name=name: server.pieces[name].is_full
                for name in ("fill-in", "predict", "similar")
            },
        },
        retry_after_s=settings.retry_after_s,
        count=server.metrics.request,
    )
    app.openapi = lambda: docs.openapi(app, PUBLIC, has_token=settings.token is not None)
    return app


def _page_file(page: StaticFiles, name: str) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return await page.get_response(name, request.scope)

    return endpoint


# -------------------------------------------------------------------------------------------------------- routes

BODY = (400, 408, 413, 415, 422)
router = APIRouter(route_class=JsonRoute)


def _server(request: Request) -> ModelService:
    return request.app.state.server


@router.post(
    "/v1/recommend",
    tags=["recommendations"],
    responses=problems(*BODY, 404, 409, 503),
    response_model_exclude_unset=True,  # `because`, but for explain
)
async def recommend(asked: schemas.RecommendRequest, request: Request) -> schemas.Recommendations:
    """Return the items most likely to come next, best first, for a user or for any history."""
    server = _server(request)
    served = server.live.now
    model, title = served.model, served.titles.title
    unknown: list[Any] = []
    history, places = None, None
    if asked.history is not None:
        history, places = _known_items(model, asked.history, asked.on_unknown, unknown)
    candidates = _candidates(served, asked.candidates, asked.on_unknown, unknown)
    with _unknown_ids():
        for item_id in asked.exclude:
            model.items.number_or_zero(item_id)  # an id of a type that no item has would exclude nothing
    at = _moment(model, asked)
    query = RecommendQuery(
        asked.user_id, history, asked.top_k, asked.exclude_seen, asked.exclude, candidates, on_unknown="skip", at=at
    )
    price = min(server.settings.batch_size, 1 + (asked.top_k + len(candidates or ()) // 10) // 100)
    answer: Recommendations = await server.ask(
        "recommend", Ask(served, query), request, min(price, server.settings.batch_size)
    )
    items = [
        schemas.Recommendation.model_construct(
            rank=rank, item_id=item_id, title=title(item_id), probability=probability, is_new=is_new
        )
        for rank, ((item_id, probability), is_new) in enumerate(zip(answer.pairs(), answer.is_new, strict=True), 1)
    ]
    if asked.explain:
        work = partial(reasons_for, model, [item.item_id for item in items], asked.user_id, history, at)
        for item, reasons in zip(items, await server.ask("explain", work, request, price), strict=True):
            item.because = [
                schemas.Because.model_construct(
                    position=reason.position if places is None else places[reason.position],
                    item_id=reason.item_id,
                    title=title(reason.item_id),
                    weight=reason.weight,
                    followed=reason.followed
                    and schemas.Followed.model_construct(times=reason.followed.times, cases=reason.followed.cases),
                )
                for reason in reasons
            ]
    return schemas.Recommendations.model_construct(basis=answer.basis, recommendations=items, unknown_items=unknown)


@router.post("/v1/fill-in", tags=["recommendations"], responses=problems(*BODY, 503))
async def fill_in(asked: schemas.FillInRequest, request: Request) -> schemas.FilledIn:
    """Return the most likely items for each blank of a history, from the events on both sides of it."""
    server = _server(request)
    served = server.live.now
    model, title = served.model, served.titles.title
    unknown: list[Any] = []
    history, places = _known_items(model, asked.history, asked.on_unknown, unknown)
    blanks = [place for place, item_id in zip(places, history, strict=True) if item_id is None]
    work = partial(model.fill_in, history, asked.top_k, exclude_seen=asked.exclude_seen, with_scores=True)
    answers = await server.ask("fill-in", work, request, 1 + len(blanks) // 10)
    new = _new_among(model, [item_id for ranked in answers for item_id, _ in ranked])
    return schemas.FilledIn.model_construct(
        blanks=[
            schemas.Blank.model_construct(
                position=place,
                items=[
                    schemas.RankedItem.model_construct(
                        rank=rank,
                        item_id=item_id,
                        title=title(item_id),
                        probability=probability,
                        is_new=item_id in new,
                    )
                    for rank, (item_id, probability) in enumerate(ranked, 1)
                ],
            )
            for place, ranked in zip(blanks, answers, strict=True)
        ],
        unknown_items=unknown,
    )


@router.post("/v1/predict", tags=["recommendations"], responses=problems(*BODY, 404, 409, 503))
async def predict(asked: schemas.PredictRequest, request: Request) -> schemas.Predictions:
    """Return a user's expected rating of an item, or the probability (over the whole catalogue) that it comes next."""
    server = _server(request)
    model = server.live.now.model
    pairs = [(pair.user_id, pair.item_id) for pair in asked.pairs]
    predictions: list[float] = []
    for first in range(0, len(pairs), PAIRS_AT_ONCE):  # other requests are answered between two pieces
        work = partial(model.batch_predict, pairs[first : first + PAIRS_AT_ONCE], kind=asked.kind)
        predictions += await server.ask("predict", work, request)
    return schemas.Predictions.model_construct(predictions=predictions)


@router.post("/v1/events", tags=["events"], responses=problems(*BODY, 404, 409, 503, 507))
async def observe(asked: schemas.EventsRequest, request: Request) -> schemas.Accepted:
    """Add events of users. The server answers once they are on disk, and the next recommendation uses them.

    All events are added, or none. A new user is added with the first event. Events of items that the model does not
    know are kept in the log for the next fit.
    """
    server = _server(request)
    events = [LoggedEvent(e.user_id, e.item_id, e.timestamp, e.rating, e.event_id) for e in asked.events]
    taken: Taken = await server.ask("events", EventBatch(events, asked.on_unknown), request)
    server.metrics.events.inc(taken.accepted)
    named = taken.unknown_items if asked.on_unknown == "warn" else []
    return schemas.Accepted.model_construct(accepted=taken.accepted, unknown_items=named)


@router.post("/v1/catalogue", tags=["catalogue"], responses=problems(*BODY, 404, 409, 503, 507))
async def add_to_catalogue(asked: CatalogueRequest, request: Request) -> AddedItems:
    """Add items that are recommended by their features, without training. The server answers once they are on disk.

    All items are added, or none. If an item is sent again, its new features replace the old ones, unless the model was
    fitted on events of the item. The model must have been fitted with a table of items.
    """
    server = _server(request)
    rows = [CatalogueRow(item.item_id, item.title, item.features) for item in asked.items]
    if len({row.item_id for row in rows}) < len(rows):
        raise HTTPException(422, "an item is named twice; give each item one entry")
    taken: Added = await server.ask("catalogue", rows, request)
    return AddedItems.model_construct(added=taken.added, known_items=taken.known_items)


@router.get("/v1/users/{user_id:path}", tags=["catalogue"], responses=problems(404, 409, 422))
async def user(
    user_id: str,
    request: Request,
    limit: Annotated[int, Query(ge=1, le=schemas.MAX_SHOWN_HISTORY)] = schemas.MAX_HISTORY,
) -> schemas.UserHistory:
    """Return a user's history, oldest first: the events that the model was fitted on, and the events observed since."""
    served = _server(request).live.now
    model, title = served.model, served.titles.title
    if model.users is None:
        raise HTTPException(409, "this model was saved without histories, so it knows no users")
    with _unknown_ids():
        (known_id,) = ids_like([user_id], model.users)
        history = await asyncio.to_thread(model.history, known_id)
    return schemas.UserHistory.model_construct(
        user_id=known_id,
        num_events=len(history),
        history=[schemas.Item.model_construct(item_id=item_id, title=title(item_id)) for item_id in history[-limit:]],
    )


@router.post("/v1/similar", tags=["recommendations"], responses=problems(*BODY, 404, 503))
async def similar(asked: schemas.SimilarRequest, request: Request) -> schemas.SimilarItems:
    """Return the items most similar to one item by the cosine of their embeddings, best first."""
    return await _similar(asked.item_id, asked.top_k, request)


@router.get("/v1/similar", tags=["recommendations"], responses=problems(404, 422, 503), name="similar_to")
async def similar_to(
    request: Request,
    item_id: Annotated[str, Query(min_length=1, max_length=schemas.MAX_ID_LENGTH)],
    top_k: Annotated[int, Query(ge=1, le=schemas.MAX_TOP_K)] = 10,
) -> schemas.SimilarItems:
    """Return the items most similar to one item, whose id is given as text."""
    (known_id,) = ids_like([item_id], _server(request).live.now.model.items)
    return await _similar(known_id, top_k, request)


async def _similar(item_id: Any, top_k: int, request: Request) -> schemas.SimilarItems:
    server = _server(request)
    served = server.live.now
    work = partial(served.model.similar_items, item_id, top_k, with_scores=True)
    return schemas.SimilarItems.model_construct(
        similar_items=[
            schemas.SimilarItem.model_construct(
                rank=rank, item_id=item_id, title=served.titles.title(item_id), similarity=similarity
            )
            for rank, (item_id, similarity) in enumerate(await server.ask("similar", work, request), 1)
        ]
    )


@router.get("/v1/items", tags=["catalogue"], responses=problems(422))
async def items(
    request: Request,
    q: Annotated[
        str, Query(max_length=schemas.MAX_QUERY_LENGTH, description="Words of the title. Without words: popular items.")
    ] = "",
    limit: Annotated[int, Query(ge=1, le=schemas.MAX_SHOWN_ITEMS)] = 20,
) -> schemas.Items:
    """Return the items whose titles contain all the words, best match first. Case and accents do not matter."""
    titles = _server(request).live.now.titles
    found = await asyncio.to_thread(titles.search, q, limit)
    return schemas.Items.model_construct(
        items=[schemas.Item.model_construct(item_id=item_id, title=titles.title(item_id)) for item_id in found]
    )


@router.get("/v1/model", tags=["model"])
async def model_info(request: Request) -> schemas.ModelInfo:
    """Describe the model that is in service."""
    server = _server(request)
    served = server.live.now
    model = served.model
    return schemas.ModelInfo(
        name=model.name,
        file=None if server.live.path is None else Path(server.live.path).name,
        fit_time=model.fitted.fitted_at,
        fingerprint=served.fingerprint,
        num_users=None if model.users is None else len(model.users),
        num_items=len(model.items),
        num_events=model.num_events,
        max_seq_len=model.model_config.max_seq_len,
        has_titles=served.titles.has_titles,
        features=columns_of(model),
        reads_time=model.fitted.network.gap_scale is not None,
        candidates=served.candidates.names,
    )


@router.post("/v1/reload", tags=["model"], responses=problems(409))
async def reload(request: Request) -> schemas.Reloaded:
    """Read the model file again and serve the new model. The old model answers until the new model is ready."""
    server = _server(request)
    if server.live.path is None:
        raise HTTPException(409, "this server's model was not read from a file")
    if server.is_reloading:
        raise HTTPException(409, "a reload is under way")
    await server.reload()
    return schemas.Reloaded(name=server.live.now.model.name)


@router.get("/healthz", tags=["health"])
async def healthz() -> schemas.Health:
    """Answer 200 as long as the process is alive."""
    return schemas.Health(status="ok")


@router.get("/readyz", tags=["health"], responses=problems(503))
async def readyz(request: Request) -> schemas.Health:
    """Answer 200 if the server accepts recommend requests: its model is loaded and its queue has room."""
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
    """Return counters for Prometheus, in its text format."""
    return Response(_server(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _moment(model: Bert4Rec, asked: schemas.RecommendRequest) -> Any:
    """Return the time of a query: the given or the current time, or None if the log's times do not count from 1970."""
    histories = model.fitted.histories
    if asked.at is not None or asked.user_id is None or histories is None or histories.time_unit is None:
        return asked.at
    return time.time_ns() * UNITS[histories.time_unit] // 10**9


def _new_among(model: Bert4Rec, item_ids: Sequence[Any]) -> set[Any]:
    """Return the items, among the given items, that have no event in the log that the model was fitted on."""
    is_new = model.fitted.is_new(model.items.encode(list(item_ids))).tolist()
    return {item_id for item_id, new in zip(item_ids, is_new, strict=True) if new}


def _known_items(
    model: Bert4Rec, history: Sequence[Any], on_unknown: str, unknown: list[Any]
) -> tuple[list[Any], list[int]]:
    """Return the known items and blanks of a history, and their positions. `_note_unknown` handles other items."""
    vocabulary = model.items
    known = [(place, item_id) for place, item_id in enumerate(history) if item_id is None or item_id in vocabulary]
    items, places = [item_id for _, item_id in known], [place for place, _ in known]
    if len(known) < len(history):
        strangers = [item_id for item_id in history if item_id is not None and item_id not in vocabulary]
        _note_unknown(model, strangers, on_unknown, unknown)
    return items, places


def _candidates(served: Served, asked: list[Any] | str | None, on_unknown: str, unknown: list[Any]) -> list[Any] | None:
    """Return the known candidates of a request. The request gives item ids, or the name of a list."""
    if asked is None:
        return None
    if isinstance(asked, str):
        found = served.candidates.find(asked)
        if found is None:
            names = ", ".join(served.candidates.names) or "none"
            raise HTTPException(404, f"there is no list of candidates of that name; the server holds: {names}")
        return found
    vocabulary = served.model.items
    with _unknown_ids():
        strangers = [item_id for item_id in asked if not vocabulary.number_or_zero(item_id)]
    if strangers:
        _note_unknown(served.model, strangers, on_unknown, unknown)
    return [item_id for item_id in asked if item_id in vocabulary] if strangers else asked


def _note_unknown(model: Bert4Rec, strangers: list[Any], on_unknown: str, unknown: list[Any]) -> None:
    """Refuse, skip or list the ids that the model does not know, as `on_unknown` says."""
    if on_unknown == "raise":
        with _unknown_ids():
            model.items.number(strangers[0])
    if on_unknown == "warn":
        unknown += strangers


@contextlib.contextmanager
def _unknown_ids() -> Iterator[None]:
    """Turn an UnknownIdError into the HTTP error 404."""
    try:
        yield
    except UnknownIdError as error:
        raise HTTPException(404, str(error)) from None
