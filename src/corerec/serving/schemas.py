"""The requests and answers of the HTTP API as pydantic models, with the limits of every field. /openapi.json is made
from them."""

from __future__ import annotations

import contextlib
import math
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from corerec.data.ids import exact_in_javascript

MAX_HISTORY = 2_000
MAX_LISTED = 4_000  # candidates, exclude
MAX_PAIRS = 1_000
MAX_TOP_K = 1_000
MAX_EVENTS = 1_000
MAX_BLANKS = 50
MAX_ID_LENGTH = 512
LARGEST_ID = 10**100  # larger numbers take long to write down in an answer
MAX_QUERY_LENGTH = 200
MAX_SHOWN_ITEMS = 100
MAX_SHOWN_HISTORY = 10_000
LARGEST_TIME = 9 * 10**18  # below 2**63, and exact where JSON's numbers are read as floats


def _checked_id(value: Any) -> int | float | str:
    """Check that an id is a number, or a text of bounded length. The recommender need not know the id."""
    if (type(value) is int and abs(value) <= LARGEST_ID) or (type(value) is str and 1 <= len(value) <= MAX_ID_LENGTH):
        return value
    if type(value) is float and math.isfinite(value):  # 50.0 is 50: a float64 column holds whole numbers, too
        return int(value) if value.is_integer() else value
    raise ValueError(f"an id is a number or a text of 1 to {MAX_ID_LENGTH} characters")


def _checked_time(value: Any) -> int | float:
    """Return a number as it is, and convert a date to nanoseconds since 1970, as `fit` does. A date without a time zone
    is UTC."""
    if type(value) is str:
        with contextlib.suppress(ValueError):
            date = datetime.fromisoformat(value)
            date = date.replace(tzinfo=date.tzinfo or UTC)
            return (date - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1) * 1000
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_TIME:
        return value
    raise ValueError("a time is a number up to 9e18 or a date as ISO 8601 writes it")


def _checked_moment(value: Any) -> int | float | str:
    """Accept a number or a date, and return it unchanged: the model converts it to its log's unit."""
    _checked_time(value)
    return value


def _checked_candidates(value: Any) -> list[Any] | str | None:
    """Accept item ids, or the name of a list that the server holds."""
    if value is None or (type(value) is str and 1 <= len(value) <= MAX_ID_LENGTH):
        return value
    if type(value) is list and len(value) <= MAX_LISTED:
        return [_checked_id(item_id) for item_id in value]
    raise ValueError(f"candidates are {MAX_LISTED:,} item ids at most, or the name of a list that the server holds")


def _whole(value: Any) -> Any:
    """Convert a float such as 5.0 to int, because JSON Schema regards it as a whole number."""
    return int(value) if type(value) is float and value.is_integer() else value


_ID_SCHEMA: Any = {"anyOf": [{"type": "number"}, {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH}]}
_TIME_SCHEMA: Any = {
    "anyOf": [
        {"type": "number", "minimum": -LARGEST_TIME, "maximum": LARGEST_TIME},
        {"type": "string", "format": "date-time"},
    ]
}

_CANDIDATES_SCHEMA: Any = {
    "anyOf": [
        {"type": "array", "maxItems": MAX_LISTED, "items": _ID_SCHEMA},
        {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH},
        {"type": "null"},
    ]
}

Id = Annotated[Any, BeforeValidator(_checked_id), WithJsonSchema(_ID_SCHEMA)]
Time = Annotated[Any, BeforeValidator(_checked_time), WithJsonSchema(_TIME_SCHEMA)]
Moment = Annotated[Any, BeforeValidator(_checked_moment), WithJsonSchema(_TIME_SCHEMA)]
KnownId = Annotated[
    Any,
    PlainSerializer(exact_in_javascript, when_used="json"),
    WithJsonSchema(
        {
            "type": ["number", "string"],
            "description": "A whole number beyond 2^53 - 1, which JavaScript rounds, is text.",
        }
    ),
]
TopK = Annotated[
    int,
    Field(ge=1, le=MAX_TOP_K, description="The most items to return. There may be fewer if too few items are left."),
    BeforeValidator(_whole),
]
OnUnknown = Annotated[
    Literal["raise", "skip", "warn"],
    Field(
        description='Items that the model does not know: "raise" answers 404, "skip" leaves them out, "warn" also '
        "names them in unknown_items."
    ),
]
ExcludeSeen = Annotated[bool, Field(description="Leave out the items of the history.")]


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _one_error_for_many_fields(cls, data: Any) -> Any:
        """Refuse a body of 100,000 unknown fields with one error. An error for each would take two seconds."""
        if isinstance(data, dict) and len(data) > len(cls.model_fields):
            unknown = next(name for name in data if name not in cls.model_fields)
            raise ValueError(f"there is no field {str(unknown)[:40]!r}; the fields are {', '.join(cls.model_fields)}")
        return data


class Answer(BaseModel):
    """An answer. Long lists are built with `model_construct`, because validating the server's own values takes as long
    as scoring."""


class RecommendRequest(Request):
    """The request for the items that come next, for either a known user or a history."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["user_id"], "properties": {"user_id": _ID_SCHEMA, "history": {"type": "null"}}},
                {
                    "required": ["history"],
                    "properties": {"history": {"type": "array"}, "user_id": {"type": "null"}, "at": {"type": "null"}},
                },
            ],
            "examples": [{"history": [50, 181, 172], "top_k": 5}],
        }
    )

    user_id: Annotated[Id | None, Field(description="A user of the fitted log, or of events observed since.")] = None
    history: Annotated[
        list[Id] | None,
        FailFast(),
        Field(
            max_length=MAX_HISTORY,
            description="Item ids, oldest first. Unknown items are skipped and named in unknown_items. For an empty "
            "history, popular items are recommended.",
        ),
    ] = None
    at: Annotated[
        Moment | None,
        Field(
            description="The time of the query, with user_id: a number in the fitted log's own unit, or a date. With "
            "null, it is now, if the log's times count from 1970. Only models that read time use it."
        ),
    ] = None
    top_k: TopK = 10
    exclude: Annotated[list[Id], FailFast(), Field(max_length=MAX_LISTED, description="Items not to recommend.")] = []
    exclude_seen: ExcludeSeen = True
    candidates: Annotated[
        Any,
        BeforeValidator(_checked_candidates),
        WithJsonSchema(_CANDIDATES_SCHEMA),
        Field(description="The only items that may be recommended: their ids, or the name of a list of --candidates."),
    ] = None
    on_unknown: OnUnknown = "warn"
    explain: Annotated[
        bool, Field(description="Name the events of the history that were most important for each item.")
    ] = False

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.user_id is None) == (self.history is None):
            raise ValueError("give either user_id or history, one of the two")
        if self.at is not None and self.user_id is None:
            raise ValueError("at goes with user_id: when the events of a history happened is not known")
        return self


class Followed(Answer):
    times: Annotated[int, Field(ge=1, description="How often the item came next after this one in the fitted log.")]
    cases: Annotated[int, Field(ge=1, description="How often any item came next after this one in the fitted log.")]


class Because(Answer):
    position: Annotated[int, Field(ge=0, description="Place in the history as it was sent, counted from 0.")]
    item_id: KnownId
    title: str | None
    weight: Annotated[float, Field(description="Nats that the event adds to the item's log-probability.")]
    followed: Annotated[
        Followed | None,
        Field(description="For the newest event, if the item ever came next after it: how often; else null."),
    ]


class RankedItem(Answer):
    rank: Annotated[int, Field(ge=1)]
    item_id: KnownId
    title: str | None
    probability: Annotated[
        float, Field(ge=0, description="The probability, over the whole catalogue, that the item comes next.")
    ]
    is_new: Annotated[
        bool, Field(description="Whether the fitted log has no event of the item, so that only its features ranked it.")
    ]


class Recommendation(RankedItem):
    because: Annotated[
        list[Because], Field(description="At most three events, the most important first; only with explain.")
    ] = []


UnknownItems = Annotated[
    list[KnownId], Field(description='Items of the request that the model does not know; with on_unknown "warn".')
]


class Recommendations(Answer):
    basis: Annotated[
        Literal["history", "popularity"], Field(description='"popularity" if the model knows no item of the history.')
    ]
    recommendations: list[Recommendation]
    unknown_items: UnknownItems


class FillInRequest(Request):
    """The request for the most likely items at the blanks of a history, from the events on both sides."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": [50, None, 172], "top_k": 3}]})

    history: Annotated[
        list[Id | None],
        FailFast(),
        Field(
            min_length=1,
            max_length=MAX_HISTORY,
            description=f"Item ids, oldest first, null at each blank: one at least, {MAX_BLANKS} at most.",
            json_schema_extra={"contains": {"type": "null"}, "maxContains": MAX_BLANKS},
        ),
    ]
    top_k: TopK = 10
    exclude_seen: ExcludeSeen = True
    on_unknown: OnUnknown = "warn"

    @model_validator(mode="after")
    def _has_blanks(self) -> Self:
        blanks = self.history.count(None)
        if not blanks:
            raise ValueError("the history has no blank; put null where an item is missing, such as [1, null, 3]")
        if blanks > MAX_BLANKS:
            raise ValueError(f"the history has {blanks} blanks; {MAX_BLANKS} can be filled at once")
        return self


class Blank(Answer):
    position: Annotated[int, Field(ge=0, description="Place of the blank in the history as it was sent.")]
    items: list[RankedItem]


class FilledIn(Answer):
    blanks: list[Blank]
    unknown_items: UnknownItems


class Pair(Request):
    user_id: Id
    item_id: Id


class PredictRequest(Request):
    """The request for users' expected ratings of items, or for the probabilities that the items come next."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"pairs": [{"user_id": 1, "item_id": 50}], "kind": "probability"}]}
    )

    pairs: Annotated[list[Pair], FailFast(), Field(max_length=MAX_PAIRS)]
    kind: Annotated[
        Literal["rating", "probability"] | None,
        Field(description="null means ratings if the model was fitted with ratings, else probabilities."),
    ] = None


class Predictions(Answer):
    predictions: Annotated[
        list[float],
        Field(
            description="The values in the order of the pairs. An unknown item gets the rating of an average item, or "
            "a probability as if it had one event."
        ),
    ]


class Event(Request):
    user_id: Annotated[Id, Field(description="A known or a new user.")]
    item_id: Annotated[
        Id, Field(description="An item. If the model does not know it, the event is only logged, for the next fit.")
    ]
    timestamp: Annotated[
        Time | None,
        Field(
            description="A number in the fitted log's own unit, or a date if the log has dates. null means the "
            "newest time so far."
        ),
    ] = None
    rating: Annotated[float | None, Field(allow_inf_nan=False, ge=-1e30, le=1e30)] = None
    event_id: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=MAX_ID_LENGTH,
            description="Your own id of the event. An event_id is accepted only once, so you can safely send it again.",
        ),
    ] = None


class EventsRequest(Request):
    """New events of users. The server accepts all events of the request, or none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"events": [{"user_id": 7, "item_id": 50, "timestamp": 893286638, "event_id": "order-1"}]}]
        }
    )

    events: Annotated[list[Event], FailFast(), Field(min_length=1, max_length=MAX_EVENTS)]
    on_unknown: OnUnknown = "warn"


class Accepted(Answer):
    accepted: Annotated[
        int,
        Field(
            ge=0, description="The number of events written to the log, without events whose event_id it already had."
        ),
    ]
    unknown_items: Annotated[
        list[KnownId],
        Field(description='Unknown items of the request, with on_unknown "warn". Their events wait for the next fit.'),
    ]


class Item(Answer):
    item_id: KnownId
    title: str | None


class Items(Answer):
    items: list[Item]


class UserHistory(Answer):
    user_id: KnownId
    num_events: Annotated[int, Field(description="The number of the user's events, fitted and observed.")]
    history: Annotated[list[Item], Field(description="The user's newest events, at most `limit`, oldest first.")]


class SimilarRequest(Request):
    """The request for the items that are most similar to one item."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"item_id": 50, "top_k": 5}]})

    item_id: Id
    top_k: TopK = 10


class SimilarItem(Answer):
    rank: Annotated[int, Field(ge=1)]
    item_id: KnownId
    title: str | None
    similarity: Annotated[float, Field(description="Cosine of the two items' embeddings.")]


class SimilarItems(Answer):
    similar_items: list[SimilarItem]


class ModelInfo(Answer):
    name: str
    file: Annotated[str | None, Field(description="The name of the model's file; null if it was not read from a file.")]
    fit_time: Annotated[str, Field(description="When the fit ended, UTC, as ISO 8601.")]
    fingerprint: Annotated[str, Field(description="A hash of the events that the model was fitted on, in hexadecimal.")]
    num_users: Annotated[int | None, Field(description="null if the model file has no histories.")]
    num_items: int
    num_events: int
    max_seq_len: int
    has_titles: bool
    features: Annotated[
        list[str], Field(description="The columns of item features that the model reads, for /v1/catalogue.")
    ]
    reads_time: Annotated[bool, Field(description="Whether the time of a query changes the model's answers.")]
    candidates: Annotated[list[str], Field(description="Names of the candidate lists that requests may use.")]


class Reloaded(Answer):
    name: str


class Health(Answer):
    status: Literal["ok"]


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
