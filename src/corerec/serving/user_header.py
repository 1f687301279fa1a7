"""The header Corerec-User names the user of a request, so that a load balancer can choose one of several servers. A
server knows only the events that were sent to it. If a request is about another user than its header names, it may have
come to the wrong server. So the server refuses it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote

from starlette.exceptions import HTTPException

USER_HEADER = "corerec-user"
SHOWN = 100  # letters of an id in an error


def check_users(header: str | None, user_ids: list[Any]) -> None:
    """Check that a request is about the user that its header names. Without the header, nothing is checked.

    Args:
        header: the user's id as text, percent-encoded as in a URL.
        user_ids: the users that the request is about, as its body gives them. Values that are not ids are left to other
            checks.
    Raises:
        HTTPException: 422, the request is about another user than the header names.
    """
    if header is None:
        return
    named = unquote(header)
    for user_id in user_ids:
        text = _as_text(user_id)
        if text is not None and text != named:
            raise HTTPException(
                422,
                f"the header Corerec-User is {header[:SHOWN]!r}, and the request is about user {quote(text)[:SHOWN]}; "
                "send a request for each user, with the user's id in the header, as it decides which server answers",
            )


def users_of(body: Any) -> list[Any]:
    """Return the user ids in a parsed body that is not validated yet: the ids of the request, of its events and of its
    pairs."""
    if not isinstance(body, dict):
        return []
    rows = [body]
    for name in ("events", "pairs"):
        listed = body.get(name)
        rows += listed if isinstance(listed, list) else []
    return [row["user_id"] for row in rows if isinstance(row, dict) and "user_id" in row]


def _as_text(user_id: Any) -> str | None:
    """Return an id as the text that the header has for it before percent-encoding: 5.0 gives "5"."""
    if isinstance(user_id, float) and user_id.is_integer():
        return str(int(user_id))
    return str(user_id) if type(user_id) in (int, float, str) else None
