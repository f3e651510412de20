"""How long the caller of a request still waits."""

import re
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from resilience import DeadlineExceededError, _clock, current_deadline
from resilience.deadline import bounded, decode_timeout
from resilience.errors import ConfigError, Problem
from resilience.integrations import _asgi_asyncio
from resilience.integrations._asgi_messages import (
    ABOUT_BLANK,
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
    ends_answer,
    is_header,
    is_seconds,
    send_problem,
)
from resilience.typing import Seconds

if TYPE_CHECKING:
    from resilience.integrations._asgi_anyio import Cut as AnyioCut

HEADERS: Final = ("X-Request-Timeout", "grpc-timeout", "x-envoy-expected-rq-timeout-ms")
"""Where callers say how long they wait."""

CAP: Final[Seconds] = 60.0
"""Seconds that no caller can extend. Source: nginx, ``proxy_read_timeout``."""

_MILLISECONDS: Final = re.compile(r"[0-9]{1,15}")


class DeadlineMiddleware:
    """
    Give each request the time that its caller still waits, and stop working for one who has gone.

    The application runs inside a `resilience.deadline`: ``remaining()`` tells how long there is, policies
    keep it, and calls carry it on. When the time is up the application is cancelled; if its answer has not
    begun, the answer is 504. A request whose time was up on arrival is answered 504 without asking the
    application. The deadline ends with the last part of the answer: work in the background afterwards has
    none.

    Functions that run on threads are not interrupted. Websockets pass through.

    Args:
        app: The application.
        headers: Where a request says how many seconds it has: one to eight digits and a unit as in
            ``grpc-timeout``, or, in a header whose name ends in ``-ms``, milliseconds. Of several the
            shortest counts; what cannot be read is ignored. Default ``X-Request-Timeout``,
            ``grpc-timeout`` and ``x-envoy-expected-rq-timeout-ms``.
        cap: Seconds, > 0, that a request has at most, whatever it says. None: no bound. Default 60.0 (nginx).
        default: Seconds, > 0, that a request has that does not say. Default None: as long as it takes.
        problem_type: ``type`` of the problem that is sent, a URI. Default ``about:blank`` (RFC 9457).

    Raises:
        ConfigError: A setting is wrong; every problem is listed.
        DeadlineExceededError: From the application, when the time was up in the middle of an answer: the
            server breaks it off.

    Example:
        >>> async def app(scope, receive, send): ...
        >>> app = DeadlineMiddleware(app, cap=10.0, default=5.0)

    """

    __slots__ = ("_cap", "_default", "_headers", "_problem_type", "app")

    def __init__(
        self,
        app: ASGIApp,
        *,
        headers: Sequence[str] = HEADERS,
        cap: Seconds | None = CAP,
        default: Seconds | None = None,
        problem_type: str = ABOUT_BLANK,
    ) -> None:
        problems: list[Problem] = []
        if isinstance(headers, str) or not all(is_header(name) for name in headers):
            problems.append(Problem("headers", headers, "must be a sequence of names of headers"))
        for setting, value in (("cap", cap), ("default", default)):
            if value is not None and not is_seconds(value):
                problems.append(Problem(setting, value, "must be a finite number of seconds > 0 or None"))
        if not isinstance(problem_type, str):
            problems.append(Problem("problem_type", problem_type, "must be a URI"))
        if problems:
            raise ConfigError("DeadlineMiddleware", problems)
        self.app = app
        self._headers = {name.lower().encode(): decoder_of(name) for name in headers}
        self._cap = cap
        self._default = default
        self._problem_type = problem_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        left = self._asked(scope)
        if left is None:
            await self.app(scope, receive, send)
        elif left <= 0:
            await self._refuse(send, "The caller's time was up on arrival: the request was not begun.")
        else:
            await self._bounded(left, scope, receive, send)

    def _asked(self, scope: Scope) -> Seconds | None:
        """Return the seconds that the request has, or None."""
        shortest: Seconds | None = None
        for name, value in scope["headers"]:
            decode = self._headers.get(name)
            if decode is not None:
                try:
                    seconds = decode(str(value, "latin-1").strip())
                except ValueError:
                    continue
                if shortest is None or seconds < shortest:
                    shortest = seconds
        if shortest is None:
            shortest = self._default
        return shortest if shortest is None or self._cap is None else min(shortest, self._cap)

    async def _bounded(self, left: Seconds, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = has_ended = False
        outside, block = current_deadline(), bounded(_clock.monotonic() + left)
        cut = _cut(left)

        async def watched_send(message: Message) -> None:
            nonlocal has_begun, has_ended
            if not has_begun:
                # Noted before it is sent: who is cancelled meanwhile cannot know whether it was.
                has_begun = message["type"] == "http.response.start"
            elif not has_ended and ends_answer(message):
                has_ended = True
                cut.lift()
                block.until = outside
            await send(message)

        late: DeadlineExceededError | None = None
        with block:
            try:
                async with cut:
                    await self.app(scope, receive, watched_send)
            except DeadlineExceededError as error:
                # From a policy inside that kept our deadline, and noticed first.
                if has_begun or block.until is None or _clock.monotonic() < block.until:
                    raise
                late = error
        if has_ended or (late is None and not cut.was_made):
            return
        if has_begun:
            raise DeadlineExceededError("deadline exceeded in the middle of the answer", started=True)
        await self._refuse(send, "The caller's time was up before there was an answer.")

    async def _refuse(self, send: Send, detail: str) -> None:
        await send_problem(send, HTTPStatus.GATEWAY_TIMEOUT, detail, self._problem_type)


def decoder_of(header: str) -> Callable[[str], Seconds]:
    """Return what reads the values of *header*."""
    return decode_milliseconds if header.lower().endswith("-ms") else decode_timeout


def decode_milliseconds(text: str) -> Seconds:
    """
    Read a whole number of milliseconds as seconds.

    Raises:
        ValueError: *text* is not 1 to 15 digits.

    """
    if _MILLISECONDS.fullmatch(text) is None:
        raise ValueError(f"not milliseconds: {text[:32]!r}")
    return int(text) / 1_000


def _cut(left: Seconds) -> "_asgi_asyncio.Cut | AnyioCut":
    if _asgi_asyncio.is_running():
        return _asgi_asyncio.Cut(left)
    from resilience.integrations._asgi_anyio import Cut  # noqa: PLC0415  # AnyIO comes when it is needed

    return Cut(left)
