"""What ASGI applications are, and the messages that the middlewares read or send."""

import json
import math
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any, Final, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

ABOUT_BLANK: Final = "about:blank"
"""The type of a problem of which its status says all. Source: RFC 9457."""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def ends_answer(message: Message) -> bool:
    """Whether *message* is the last of an answer's body."""
    kind = message["type"]
    if kind == "http.response.body" or kind == "http.response.zerocopysend":  # noqa: PLR1714  # the first, mostly
        return "more_body" not in message or not message["more_body"]
    return bool(kind == "http.response.pathsend")


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first value of the header *name*, in lower case, or None."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1").strip()
    return None


async def send_problem(
    send: Send, status: HTTPStatus, detail: str, kind: str, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Answer with *status* and ``application/problem+json``: see RFC 9457. *kind* is the problem's type."""
    problem = {"type": kind, "title": status.phrase, "status": status.value, "detail": detail}
    body = json.dumps(problem).encode()
    fields = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status.value, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def is_header(name: object) -> bool:
    """Whether *name* can be the name of a header."""
    return isinstance(name, str) and _TOKEN.fullmatch(name) is not None


def is_seconds(value: object) -> bool:
    """Whether *value* is a finite number of seconds > 0."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def several(given: Iterable[Any]) -> tuple[Any, ...] | None:
    """Return what *given* holds; None if it is one text, or nothing that holds anything."""
    value: Any = given
    return None if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__") else tuple(value)
