"""What a request with a key says: the key, the body, who asks, and what is the same request."""

import re
import uuid
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final, TypeAlias

from resilience.errors import IdempotencyKeyError
from resilience.idempotency import fingerprint_request, fingerprint_value, parse_key
from resilience.integrations._asgi_messages import Receive, Scope, header
from resilience.integrations._asgi_route import path_of, pattern_of

Principal: TypeAlias = Callable[[Scope], str | int | bytes | uuid.UUID | None]
Fingerprint: TypeAlias = Callable[[Scope, bytes], object]

_BOUNDARY: Final = re.compile(r'boundary=(?:"([^"]+)"|([^\s;"]+))', re.IGNORECASE)


class Refusal(Exception):  # noqa: N818  # an answer, not a fault
    """
    The request is answered with a problem, and the application is not asked.

    Attributes:
        status: Status of the answer.
        kind: Last part of the problem's type.
        detail: What is wrong.
        retry_after: Seconds to stay away, or None if that does not help.

    """

    def __init__(
        self, status: HTTPStatus, kind: str, detail: str, *, retry_after: float | None = None
    ) -> None:
        super().__init__(kind)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.retry_after = retry_after


class ClientLeft(Exception):  # noqa: N818  # nobody's fault
    """The client left before its request was there."""


class Paths:
    """Some paths, by their templates."""

    __slots__ = ("_fits",)

    def __init__(self, templates: Iterable[str]) -> None:
        self._fits = re.compile("|".join(pattern_of(each).pattern for each in templates)).fullmatch

    def match(self, scope: Scope) -> bool:
        """Whether the path of *scope* is one of them."""
        return self._fits(path_of(scope)) is not None


def key_of(fields: list[bytes], *, strict: bool) -> str:
    """
    Return the key that the header says.

    Raises:
        Refusal: It says none.

    """
    if len(fields) > 1:
        raise _bad_key("the header is repeated")
    try:
        return parse_key(str(fields[0], "latin-1"), syntax="strict" if strict else "lenient")
    except IdempotencyKeyError as error:
        raise _bad_key(error.problem or "it cannot be read") from None


def _bad_key(problem: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, "invalid-key", f"The idempotency key is not valid: {problem}.")


def owner_of(scope: Scope, principal: Principal) -> str:
    """
    Return who asks, so that no two of them are the same text.

    Raises:
        Refusal: Nobody knows.
        TypeError: *principal* returned what tells nobody apart.

    """
    try:
        found: object = principal(scope)
    except Exception as error:
        error.add_note(
            "principal= of IdempotencyMiddleware failed: the middleware belongs inside authentication"
        )
        raise
    if found is None or found in ("", b""):
        raise Refusal(
            HTTPStatus.BAD_REQUEST,
            "caller-unknown",
            "A request with an idempotency key needs a known caller.",
        )
    if isinstance(found, bool) or not isinstance(found, (str, int, bytes, uuid.UUID)):
        raise TypeError(
            "principal= of IdempotencyMiddleware must return a str, int, bytes or UUID, or None if the "
            f"caller is unknown, got {type(found).__name__}"
        )
    text = found.hex() if isinstance(found, bytes) else str(found)
    return f"{type(found).__name__}:{text}"


async def body_of(scope: Scope, receive: Receive, most: int) -> bytes:
    """
    Return the whole body.

    Raises:
        Refusal: It is longer than *most* bytes.
        ClientLeft: It never came.

    """
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdecimal() and len(declared) < 20 and int(declared) > most:
        raise _too_large(most)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise _too_large(most)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(most: int) -> Refusal:
    detail = f"The body of a request with an idempotency key may have {most} bytes at most."
    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request-too-large", detail)


def fingerprint_of(scope: Scope, body: bytes, own: Fingerprint | None) -> bytes:
    """Return what makes the request itself: by default method, path, query, kind of content, and content."""
    if own is not None:
        return fingerprint_value(own(scope, body))
    written = header(scope, b"content-type") or ""
    kind = written.partition(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        body = _without_boundary(written, body)
    path: Any = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogatepass")
    query = str(scope.get("query_string", b""), "latin-1")
    headers = [("content-type", kind)]
    return fingerprint_request(scope["method"], str(path, "latin-1"), body, query=query, headers=headers)


def _without_boundary(content_type: str, body: bytes) -> bytes:
    """Return a multipart body as it is with one and the same boundary: clients draw one for each request."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        return body
    boundary = (found[1] or found[2]).encode("latin-1")
    return body.replace(b"--" + boundary, b"--boundary")
