"""How long the caller of a request still waits."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from resilience import DeadlineExceededError
from resilience.deadline import decode_timeout
from resilience.errors import ConfigError, Problem
from resilience.integrations._asgi_asyncio import Timed
from resilience.integrations._asgi_messages import (
    ABOUT_BLANK,
    ASGIApp,
    Receive,
    Scope,
    Send,
    is_header,
    is_seconds,
    send_problem,
    several,
)
from resilience.typing import Seconds

HEADERS: Final = ("X-Request-Timeout", "grpc-timeout", "x-envoy-expected-rq-timeout-ms")
"""Where callers say how long they wait."""

CAP: Final[Seconds] = 60.0
"""Seconds that no caller can extend. Source: nginx, ``proxy_read_timeout``."""

_MILLISECONDS: Final = re.compile(rb"[0-9]{1,15}")

_LONGEST: Final = 64
"""Bytes of the longest value that is looked at."""

_MOST_VALUES: Final = 1024
"""Different values of a header whose meaning is kept."""


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
        names = several(headers)
        if names is None or not all(is_header(name) for name in names):
            problems.append(Problem("headers", headers, "must be a sequence of names of headers"))
        for setting, value in (("cap", cap), ("default", default)):
            if value is not None and not is_seconds(value):
                problems.append(Problem(setting, value, "must be a finite number of seconds > 0 or None"))
        if not isinstance(problem_type, str):
            problems.append(Problem("problem_type", problem_type, "must be a URI"))
        if problems:
            raise ConfigError("DeadlineMiddleware", problems)
        self.app = app
        self._headers = {name.lower().encode(): reader_of(name) for name in names or ()}
        self._cap = cap
        self._default = default
        self._problem_type = problem_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (left := self._asked(scope)) is None:
            await self.app(scope, receive, send)
            return
        if left <= 0:
            await self._refuse(send, "The caller's time was up on arrival: the request was not begun.")
            return
        request = Timed(left, send)
        try:
            await self.app(scope, receive, request.send)
        except BaseException as error:
            if not request.end(error):
                raise
        else:
            request.end(None)
            if not request.was_cut:
                return
        if request.has_ended:
            return
        if request.has_begun:
            raise DeadlineExceededError("deadline exceeded in the middle of the answer", started=True)
        await self._refuse(send, "The caller's time was up before there was an answer.")

    def _asked(self, scope: Scope) -> Seconds | None:
        """Return the seconds that the request has, or None."""
        shortest: Seconds | None = None
        headers = self._headers
        for name, value in scope["headers"]:
            if name in headers and len(value) <= _LONGEST:
                seconds = headers[name](value)
                if seconds is not None and (shortest is None or seconds < shortest):
                    shortest = seconds
        if shortest is None:
            shortest = self._default
        cap = self._cap
        return cap if cap is not None and shortest is not None and cap < shortest else shortest

    async def _refuse(self, send: Send, detail: str) -> None:
        await send_problem(send, HTTPStatus.GATEWAY_TIMEOUT, detail, self._problem_type)


def reader_of(header: str) -> Callable[[bytes], Seconds | None]:
    """Return what reads the values of *header*."""
    return milliseconds_in if header.lower().endswith("-ms") else timeout_in


# Clients say the same few values again and again.


@lru_cache(_MOST_VALUES)
def timeout_in(value: bytes) -> Seconds | None:
    """Return the seconds of a ``grpc-timeout``, or None if it is none."""
    try:
        return decode_timeout(str(value, "latin-1").strip())
    except ValueError:
        return None


@lru_cache(_MOST_VALUES)
def milliseconds_in(value: bytes) -> Seconds | None:
    """Return a whole number of milliseconds as seconds, or None if it is none: 1 to 15 digits."""
    digits = value.strip()
    return int(digits) / 1_000 if _MILLISECONDS.fullmatch(digits) is not None else None
