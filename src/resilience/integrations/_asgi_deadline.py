"""How long the caller of a request still waits."""

import math
import re
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from threading import get_ident
from typing import Any, Final, Literal

from resilience import DeadlineExceededError, _clock
from resilience._runtime._asyncio_cuts import loops, task_of
from resilience.deadline import _innermost, bounded, decode_timeout, usage
from resilience.errors import ConfigError, Problem
from resilience.integrations._asgi_asyncio import Timed, cuts_here
from resilience.integrations._asgi_messages import (
    ABOUT_BLANK,
    ASGIApp,
    Message,
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

_MOST_VALUES: Final = 256
"""Different values of a header whose meaning is kept."""

_ENDLESS: Final = math.inf

# As names of this module: an attribute of an object that is called is looked up each time.
_innermost_block: Final[Callable[[], Any]] = _innermost.get
_set_block: Final = _innermost.set


class DeadlineMiddleware:
    """
    Give each request the time that its caller still waits, and stop working for one who has gone.

    The application runs inside a `resilience.deadline`: ``remaining()`` tells how long there is, policies
    keep it, and calls carry it on. When the time is up the application is cancelled, and the answer is 504. A
    request whose time was up on arrival is answered 504 without asking the application. The deadline is over
    when the answer begins: a body, or an event stream, takes as long as it takes. With ``covers="answer"`` it
    is over with the last part of the answer, and one that has begun is broken off. Work in the background
    afterwards never has it.

    Functions that run on threads are not interrupted. Websockets pass through.

    Args:
        app: The application.
        headers: Where a request says how many seconds it has: one to eight digits and a unit as in
            ``grpc-timeout``, or, in a header whose name ends in ``-ms``, milliseconds. Of several the
            shortest counts; what cannot be read is ignored. Default ``X-Request-Timeout``,
            ``grpc-timeout`` and ``x-envoy-expected-rq-timeout-ms``.
        cap: Seconds, > 0, that a request has at most, whatever it says. None: no bound. Default 60.0 (nginx).
        default: Seconds, > 0, that a request has that does not say. Default None: as long as it takes.
        covers: How much of the answer has to be there in time: ``"head"``, its beginning, or ``"answer"``,
            all of it, for callers who wait no longer than they say for all of it, as those of gRPC and Envoy
            do. Default ``"head"``: so do the timeouts of attempts of `resilience.integrations.httpx` end.
        problem_type: ``type`` of the problem that is sent, a URI. Default ``about:blank`` (RFC 9457).

    Raises:
        ConfigError: A setting is wrong; every problem is listed.
        DeadlineExceededError: From the application, when the time was up in the middle of an answer: the
            server breaks it off.

    Example:
        >>> async def app(scope, receive, send): ...
        >>> app = DeadlineMiddleware(app, cap=10.0, default=5.0)

    """

    __slots__ = ("_covers_answer", "_default", "_headers", "_problem_type", "app")

    def __init__(
        self,
        app: ASGIApp,
        *,
        headers: Sequence[str] = HEADERS,
        cap: Seconds | None = CAP,
        default: Seconds | None = None,
        covers: Literal["head", "answer"] = "head",
        problem_type: str = ABOUT_BLANK,
    ) -> None:
        problems: list[Problem] = []
        names = several(headers)
        if names is None or not all(is_header(name) for name in names):
            problems.append(Problem("headers", headers, "must be a sequence of names of headers"))
        for setting, value in (("cap", cap), ("default", default)):
            if value is not None and not is_seconds(value):
                problems.append(Problem(setting, value, "must be a finite number of seconds > 0 or None"))
        if covers not in ("head", "answer"):
            problems.append(Problem("covers", covers, "must be 'head' or 'answer'"))
        if not isinstance(problem_type, str):
            problems.append(Problem("problem_type", problem_type, "must be a URI"))
        if problems:
            raise ConfigError("DeadlineMiddleware", problems)
        most = math.inf if cap is None else cap
        self.app = app
        self._headers = {name.lower().encode(): Said(reader_of(name), most) for name in names or ()}
        self._default = math.inf if default is None else min(default, most)
        self._problem_type = problem_type
        self._covers_answer = covers == "answer"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Names of this function: what is called as an attribute of an object is looked up each time.
        app = self.app
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        left, headers = _ENDLESS, self._headers
        for name, value in scope["headers"]:
            if name in headers and (seconds := headers[name][value]) < left:
                left = seconds
        if left == _ENDLESS and (left := self._default) == _ENDLESS:
            await app(scope, receive, send)
            return
        if left <= 0.0:
            await self._refuse(send, "The caller's time was up on arrival: the request was not begun.")
            return
        request = Timed()  # set from here: a method that does it costs as much again
        request.forward = send
        request.has_begun = request.has_ended = request.was_cut = False
        request.inside = None
        until = _clock.monotonic() + left
        request.outer = outer = _innermost_block()
        request.until = until
        if outer is not None:
            # A request outside is cut short itself, and may be over before.
            if isinstance(outer, Timed):
                outside, beyond = outer.until, None if outer.outer is None else outer.beyond
                if outside is not None:
                    outer.inside = request
            else:
                outside = beyond = outer.until if isinstance(outer, bounded) else outer
            if outside is not None and outside < until:
                request.until = outside
            request.beyond = beyond
            if beyond is not None and beyond < until:
                until = beyond
            request.own = until
        cuts: Any
        task: Any
        if (cuts := loops.cuts).runner._thread_id != get_ident() or (task := task_of(cuts.loop)) is None:
            cuts, task, until = cuts_here(until)
            if task is None:
                await self._within_scope(request, until, scope, receive)
                return
        request.cancels = task.cancelling()
        request.task = task
        del task  # no cycle: task -> error -> traceback -> frame -> task
        request.at = at = cuts.at
        try:
            if until < cuts.next:
                cuts.arm(until)
            at[request] = until
            if not usage.used:
                usage.begin()
            _set_block(request)
            await app(scope, receive, request.send if self._covers_answer else request.send_head)
            if _innermost_block() is request and not request.was_cut:  # as `end` does it, for most requests
                _set_block(request.outer)
                at.pop(request, None)
                request.inside = None
                return
            request.end(None)
            if not request.was_cut:
                return
        except BaseException as error:
            if not request.end(error):
                raise
        await self._finish(request)

    async def _within_scope(self, request: Timed, until: Seconds, scope: Scope, receive: Receive) -> None:
        """Run the application where not asyncio runs it."""
        from resilience.integrations import _asgi_anyio  # noqa: PLC0415  # AnyIO comes when it is needed

        bounded.__init__(request, until)
        request.at = {}
        forward = request.send if self._covers_answer else request.send_head
        cut = _asgi_anyio.scope_for(until - _clock.monotonic())

        def send(message: Message) -> Awaitable[None]:
            sent = forward(message)
            if request.has_ended or (request.has_begun and not self._covers_answer):
                cut.deadline = math.inf
            return sent

        try:
            with cut, request:
                await self.app(scope, receive, send)
        except DeadlineExceededError:
            if not request.is_late():
                raise
        else:
            if not cut.cancel_called:
                return
        finally:
            request.inside = None
        await self._finish(request)

    async def _finish(self, request: Timed) -> None:
        """Do what is left to do for a request whose time was up."""
        if request.has_ended:
            return
        if request.has_begun:
            raise DeadlineExceededError("deadline exceeded in the middle of the answer", started=True)
        await self._refuse(request.forward, "The caller's time was up before there was an answer.")

    async def _refuse(self, send: Send, detail: str) -> None:
        await send_problem(send, HTTPStatus.GATEWAY_TIMEOUT, detail, self._problem_type)


class Said(dict[bytes, Seconds]):
    """
    What the values of a header mean, as far as they were asked for: clients say the same few again and again.

    Args:
        read: Reads a value; None if it cannot be read.
        most: Seconds that no value exceeds.

    """

    __slots__ = ("_most", "_read")

    def __init__(self, read: Callable[[bytes], Seconds | None], most: Seconds) -> None:
        self._read, self._most = read, most

    def __missing__(self, value: bytes) -> Seconds:
        """Return how many seconds *value* means; infinitely many if it cannot be read."""
        if len(value) > _LONGEST:
            return _ENDLESS
        seconds = self._read(value)
        if len(self) >= _MOST_VALUES:
            self.clear()  # all of them: one step, whoever else reads meanwhile
        self[value] = least = _ENDLESS if seconds is None else min(seconds, self._most)
        return least


def reader_of(header: str) -> Callable[[bytes], Seconds | None]:
    """Return what reads the values of *header*."""
    return milliseconds_in if header.lower().endswith("-ms") else timeout_in


def timeout_in(value: bytes) -> Seconds | None:
    """Return the seconds of a ``grpc-timeout``, or None if it is none."""
    try:
        return decode_timeout(str(value, "latin-1").strip())
    except ValueError:
        return None


def milliseconds_in(value: bytes) -> Seconds | None:
    """Return a whole number of milliseconds as seconds, or None if it is none: 1 to 15 digits."""
    digits = value.strip()
    return int(digits) / 1_000 if _MILLISECONDS.fullmatch(digits) is not None else None
