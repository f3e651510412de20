"""No more requests at once than an application can serve."""

import math
import re
from collections.abc import Awaitable, Collection
from http import HTTPStatus
from typing import Final

from resilience import (
    ConcurrencyLimitedError,
    ConcurrencyLimiter,
    Permit,
    Priority,
    Rejection,
    Verdict,
    priority_scope,
)
from resilience.errors import ConfigError, Problem
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
    several,
)
from resilience.streaming import Halved, Work
from resilience.typing import Seconds

_PRIORITIES: Final = {priority.value: priority for priority in Priority}
_FAILED: Final = 500

_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")


class LoadSheddingMiddleware:
    """
    Let a request in while the limiter has a place for it; answer the others with 503 at once.

    A place is held until the last part of the answer has been handed to the server, not while the application
    works in the background. Answers teach a limit that learns: below 500 they are good, 503 and 504 say
    overload. Other 5xx, exceptions, cancelled requests and answers in several parts, which take as long as
    their client reads, teach nothing; nor do requests that were refused.

    Websockets pass through without a place, which each would hold for hours.

    Args:
        app: The application.
        limiter: How many at once, how many wait, whose share; without ``share_of``, as a request is no call
            with arguments.
        exempt: Paths that are always let in, such as ``"/healthz"``: compared with the whole path.
        priority_header: Where a request says how important it is: ``critical``, ``high``, ``normal``, ``low``
            or ``sheddable``; of several the least counts, and what cannot be read is ignored. All that the
            application calls for it inherits that. None: nobody is asked.
        highest: How important a request may say it is at most. Default `Priority.NORMAL`: a stranger can make
            itself less important only. Behind a gateway that sets the header, `Priority.CRITICAL`.
        retry_after: Seconds, > 0, to stay away that a refused client is told, rounded up, where the limiter
            knows no better. Default 1.0.
        problem_type: ``type`` of the problem that is sent, a URI. Default ``about:blank`` (RFC 9457).

    Raises:
        ConfigError: A setting is wrong; every problem is listed.

    Example:
        >>> from resilience import ConcurrencyLimiter
        >>> async def app(scope, receive, send): ...
        >>> app = LoadSheddingMiddleware(app, ConcurrencyLimiter("requests", limit=100), exempt={"/healthz"})

    """

    __slots__ = (
        "_exempt",
        "_halved",
        "_highest",
        "_label",
        "_priority_headers",
        "_problem_type",
        "_retry_after",
        "app",
        "limiter",
    )

    def __init__(
        self,
        app: ASGIApp,
        limiter: ConcurrencyLimiter,
        *,
        exempt: Collection[str] = (),
        priority_header: str | None = "X-Request-Priority",
        highest: Priority = Priority.NORMAL,
        retry_after: Seconds = 1.0,
        problem_type: str = ABOUT_BLANK,
    ) -> None:
        problems: list[Problem] = []
        if not isinstance(limiter, ConcurrencyLimiter):
            problems.append(Problem("limiter", limiter, "must be a ConcurrencyLimiter"))
        elif limiter.settings.share_of is not None:
            problems.append(Problem("limiter", limiter, "must have no share_of: a request has no arguments"))
        paths = several(exempt)
        if paths is None or not all(isinstance(path, str) for path in paths):
            problems.append(Problem("exempt", exempt, "must be a collection of paths"))
        if priority_header is not None and not is_header(priority_header):
            problems.append(
                Problem("priority_header", priority_header, "must be the name of a header or None")
            )
        if not isinstance(highest, Priority):
            problems.append(Problem("highest", highest, "must be a Priority"))
        if not is_seconds(retry_after):
            problems.append(Problem("retry_after", retry_after, "must be a finite number of seconds > 0"))
        if not isinstance(problem_type, str):
            problems.append(Problem("problem_type", problem_type, "must be a URI"))
        if problems:
            raise ConfigError("LoadSheddingMiddleware", problems)
        self.app = app
        self.limiter = limiter
        self._exempt = frozenset(paths or ())
        names = () if priority_header is None else (priority_header.lower().encode(),)
        self._priority_headers = frozenset(names)
        self._highest = highest
        self._retry_after = retry_after
        self._problem_type = problem_type
        self._halved = Halved(limiter)
        self._label = _UNPRINTABLE.sub("_", limiter.name).replace("\\", "\\\\").replace('"', '\\"')

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Names of this function: what is called as an attribute of an object is looked up each time.
        app = self.app
        if scope["type"] != "http" or (self._exempt and scope["path"] in self._exempt):
            await app(scope, receive, send)
            return
        priority: priority_scope | None = None
        names = self._priority_headers
        if names:
            for key, _ in scope["headers"]:
                if key in names:
                    priority = self._priority_of(scope, key)
                    break
        halves = self._halved.halves or self._halved.renewed()
        take = halves.take
        place = _Place()  # set from here: a method that does it costs as much again
        place.forward = send
        place.halves = halves
        place.status = 0
        place.holds = place.is_streamed = False
        try:
            if priority is not None:
                priority.__enter__()
            if take(place) or await self._admit(place, send):
                await app(scope, receive, place.send)
        finally:
            if place.holds:
                place.halves.let_go(place)
            if priority is not None:
                priority.__exit__(None, None, None)

    def _priority_of(self, scope: Scope, name: bytes) -> priority_scope | None:
        claimed = _priority_in(scope, name)
        # What comes first is the least.
        return None if claimed is None else priority_scope(max(claimed, self._highest))

    async def _admit(self, place: "_Place", send: Send) -> bool:
        """Admit a request for which there is no place at once, or refuse it."""
        limiter, settings = self.limiter, self.limiter.settings
        retry_after: Seconds | None = None
        permit: Permit | Rejection | None = None
        if type(settings.limit) is not int and not settings.max_wait:
            permit = limiter.try_acquire()
            retry_after = None if permit else permit.retry_after
        else:
            guard = limiter.guard()
            try:
                permit = await guard.__aenter__() if settings.max_wait else guard.__enter__()
            except ConcurrencyLimitedError as error:
                retry_after = error.retry_after
        if permit:
            place.hold_by(permit)
            return True
        # Not where the error was caught: what fails from here on did not come of it.
        await self._refuse(send, retry_after)
        return False

    async def _refuse(self, send: Send, retry_after: Seconds | None) -> None:
        seconds = max(1, math.ceil(self._retry_after if retry_after is None else retry_after))
        label, limit = self._label, self.limiter.limit
        await send_problem(
            send,
            HTTPStatus.SERVICE_UNAVAILABLE,
            "The server is at its limit: the request was not begun.",
            self._problem_type,
            (
                (b"retry-after", str(seconds).encode()),
                (b"ratelimit-policy", f'"{label}";q={limit};qu="concurrent-requests"'.encode()),
                (b"ratelimit", f'"{label}";r=0;t={seconds}'.encode()),
            ),
        )


class _Place(Work):
    """
    The place of one request, which is free when its answer has been sent; all of it set by the layer.

    Attributes:
        forward: Sends to the server.
        status: That of the answer, or 0.
        is_streamed: Whether the answer comes in several parts.

    """

    __slots__ = ("forward", "is_streamed", "status")

    forward: Send
    status: int
    is_streamed: bool

    def send(self, message: Message) -> Awaitable[None]:
        # No coroutine of its own where there is nothing to do afterwards: they are what a layer costs.
        forward = self.forward
        if not self.status:
            if message["type"] == "http.response.start":
                self.status = message["status"]
        elif self.holds:
            if (
                "more_body" not in message or not message["more_body"]
                if message["type"] == "http.response.body"
                else ends_answer(message)
            ):
                if self.is_streamed or self.status >= _FAILED:
                    return self._sent(message)
                give_back_after = self.halves.give_back_after
                return give_back_after(self, forward(message))
            self.is_streamed = True
        return forward(message)

    async def _sent(self, message: Message) -> None:
        await self.forward(message)
        if self.is_streamed:
            self.halves.let_go(self)
        else:
            self.settle(verdict_on(self.status))


def _priority_in(scope: Scope, name: bytes) -> Priority | None:
    """Return how important a request says it is; of several the least: a proxy may add to a stranger's."""
    least: Priority | None = None
    for key, value in scope["headers"]:
        if key == name:
            said = _PRIORITIES.get(str(value, "latin-1").strip().lower())
            if said is not None:
                least = said if least is None else max(least, said)  # as above
    return least


def verdict_on(status: int) -> Verdict:
    """Return what an answer with *status* teaches a limit."""
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return Verdict.GOOD
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return Verdict.THROTTLED
    return Verdict.TIMED_OUT if status == HTTPStatus.GATEWAY_TIMEOUT else Verdict.IGNORED
