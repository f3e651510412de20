"""Which requests were good."""

import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias

from resilience import _clock
from resilience.errors import ConfigError, Problem
from resilience.integrations._asgi_messages import ASGIApp, Message, Receive, Scope, Send, ends_answer
from resilience.integrations._asgi_route import is_told_by_route, normalised, path_of, pattern_of, template_of
from resilience.slo import SLO
from resilience.typing import Seconds

_FAILED: Final = 500

_MOST_ROUTES: Final = 4096
"""Routes whose objectives are looked up once. Applications make theirs when they start; some make more."""

RouteOf: TypeAlias = Callable[[Scope], str | None]


class SLIMiddleware:
    """
    Count each request as good or bad, once, in every objective whose route took it.

    An answer is bad if its status is 5xx, if it ends before it is complete, or if it begins later than the
    objective's `latency_threshold`; what the client did wrong (4xx) was answered well. It is counted when its
    last part is handed to the server, so that what an application does in the background afterwards, and
    how fast a client reads, is not part of it. A request whose client left, or that was cancelled, is
    counted as bad where the threshold had passed by then, and nowhere else.

    Args:
        app: The application.
        slos: The objectives. One without a route counts every request; one with a route counts those that
            the route of that template took, whatever their method. Where no template is known, as for a
            request that a layer inside this one refused, those whose path the template could stand for.
        route_of: Returns the template of the route that took the request of a scope, or None, after the
            application has run. Default None: what Starlette, FastAPI and Litestar leave in the scope.

    Raises:
        ConfigError: A setting is wrong; every problem is listed.

    Example:
        >>> from resilience.slo import SLO
        >>> async def app(scope, receive, send): ...
        >>> orders = SLO("orders", objective=0.999, window="30d", route="/orders/{id}")
        >>> app = SLIMiddleware(app, slos=[orders])

    """

    __slots__ = (
        "_by_path",
        "_by_route",
        "_due",
        "_everywhere",
        "_has_routes",
        "_is_timed",
        "_known",
        "_route_of",
        "_routes",
        "_slos",
        "app",
    )

    def __init__(self, app: ASGIApp, slos: Iterable[SLO], *, route_of: RouteOf | None = None) -> None:
        self.app = app
        given: object = slos
        found = list(slos) if isinstance(given, Iterable) else []
        objectives = [each for each in found if isinstance(each, SLO)]
        problems: list[Problem] = []
        if not objectives or len(objectives) < len(found):
            problems.append(Problem("slos", given, "must be a list of at least one SLO"))
        if route_of is not None and not callable(route_of):
            problems.append(Problem("route_of", route_of, "must be a callable or None"))
        if problems:
            raise ConfigError("SLIMiddleware", problems)
        routes = {slo.route: normalised(slo.route) for slo in objectives if slo.route is not None}
        self._slos = tuple(objectives)
        self._everywhere = _Watched(slo for slo in objectives if slo.route is None)
        self._by_route = {
            route: _Watched(slo for slo in objectives if slo.route is None or routes[slo.route] == route)
            for route in routes.values()
        }
        # Of two templates that a path matches, the one with fewer parameters says more.
        plainest_first = sorted(routes, key=lambda route: route.count("{"))
        self._by_path = [(pattern_of(route), self._by_route[routes[route]]) for route in plainest_first]
        # By the id of a route, which is kept, so that nothing else gets its id.
        self._known: dict[int, _Watched] = {}
        self._routes: list[object] = []
        self._has_routes = bool(routes)
        self._is_timed = any(slo.latency_threshold is not None for slo in objectives)
        self._route_of = template_of if route_of is None else route_of
        self._due: Seconds = -math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Names of this function: what is called as an attribute of an object is looked up each time.
        app = self.app
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        answer = _Answer()  # set from here: a method that does it costs as much again
        answer.layer = self
        answer.scope = scope
        answer.listen = receive
        answer.forward = send
        answer.took = None
        answer.is_counted = answer.is_streamed = answer.has_left = False
        answer.began = _clock.monotonic() if self._is_timed else 0.0
        try:
            await app(scope, answer.receive, answer.send)
        except BaseException as error:
            if not answer.is_counted:
                answer.has_left = answer.has_left or not isinstance(error, Exception)
                self._break_off(answer)
            raise
        if not answer.is_counted:
            self._break_off(answer)

    def _break_off(self, answer: "_Answer") -> None:
        answer.is_bad = True
        self._count(answer, self._watched_in(answer.scope))

    def _turn(self, now: Seconds) -> None:
        """Let all objectives begin the step of *now*, so that whoever counts need not ask each of them."""
        for slo in self._slos:
            slo._turn(slo._budget, now)
        self._due = min(slo._budget.due for slo in self._slos)

    def _count(self, answer: "_Answer", watched: "_Watched") -> None:
        """Count a request in the objectives that watch it, once."""
        answer.is_counted = True
        took, is_bad, has_left = answer.took, answer.is_bad, answer.has_left
        if took is None:  # so far
            took = _clock.monotonic() - answer.began
        for slo in watched.slos:
            limit = slo.latency_threshold
            try:
                if (limit is not None and took > limit) or (is_bad and not has_left):
                    slo.bad()
                elif not has_left:
                    slo.good()
            except Exception:  # noqa: BLE001, S112  # counting never breaks the request, nor other objectives
                continue

    def _watched_in(self, scope: Scope) -> "_Watched":
        """Return the objectives of the request of *scope*; what a route alone says is known from then on."""
        if not self._has_routes:
            return self._everywhere
        route = scope.get("route")
        try:
            template = self._route_of(scope)
            found = None if template is None else self._by_route.get(template, self._everywhere)
        except Exception:  # noqa: BLE001  # a user's function, or a scope of another shape
            found = None
        if found is None:
            return self._watched_at(path_of(scope))
        is_lasting = route is not None and self._route_of is template_of and is_told_by_route(scope)
        if is_lasting and len(self._known) < _MOST_ROUTES:
            self._routes.append(route)  # first
            self._known[id(route)] = found
        return found

    def _watched_at(self, path: str) -> "_Watched":
        for pattern, watched in self._by_path:
            if pattern.fullmatch(path) is not None:
                return watched
        return self._everywhere


class _Watched:
    """
    The objectives of some requests.

    Attributes:
        slos: They.
        patience: Seconds within which an answer begins in time for all of them; below 0 if one counts in a
            way of its own, or under a lock.

    """

    __slots__ = ("patience", "slos")

    def __init__(self, slos: Iterable[SLO]) -> None:
        self.slos = tuple(slos)
        limits = [slo.latency_threshold for slo in self.slos if slo.latency_threshold is not None]
        is_plain = not SLO._takes_lock and all(
            type(slo).good is SLO.good and type(slo).bad is SLO.bad for slo in self.slos
        )
        self.patience: Seconds = min(limits, default=math.inf) if is_plain else -1.0


class _Answer:
    """
    What is seen of the answer to one request, all of it set by the layer.

    Attributes:
        layer: The layer.
        scope: That of the request.
        listen: Receives from the server.
        forward: Sends to the server.
        began: Instant at which the request came, if anybody asks.
        took: Seconds until the answer began, or None.
        is_bad: Whether its status is one of failure, or it broke off.
        is_counted: Whether the request was counted.
        has_left: Whether the client was seen to have left.

    """

    __slots__ = (
        "began", "forward", "has_left", "is_bad", "is_counted", "is_streamed", "layer", "listen", "scope",
        "took",
    )  # fmt: skip

    layer: SLIMiddleware
    scope: Scope
    listen: Receive
    forward: Send
    began: Seconds
    took: Seconds | None
    is_bad: bool
    is_counted: bool
    is_streamed: bool
    has_left: bool

    async def receive(self) -> Message:
        message = await self.listen()
        if message["type"] == "http.disconnect":
            self.has_left = True
        return message

    def send(self, message: Message) -> Awaitable[None]:
        # No coroutine of its own where there is nothing to do afterwards: they are what a layer costs.
        forward = self.forward
        took = self.took
        if took is None:
            if message["type"] == "http.response.start":
                self.is_bad = message["status"] >= _FAILED
                self.took = (now := _clock.monotonic()) - self.began
                if now >= (layer := self.layer)._due:
                    layer._turn(now)
        elif self.is_counted:
            return forward(message)
        elif (
            "more_body" not in message or not message["more_body"]
            if message["type"] == "http.response.body"
            else ends_answer(message)
        ):
            # What most requests need is written out here: a call costs as much as all of it.
            layer = self.layer
            if layer._has_routes:
                scope = self.scope
                watched = layer._known.get(id(scope.get("route")))
                if (
                    watched is None
                    or "path_template" in scope  # as `is_told_by_route` says
                    or "app_root_path" in scope
                    or "fastapi" in scope
                ):
                    watched = layer._watched_in(scope)
            else:
                watched = layer._everywhere
            if self.is_bad or self.has_left or took > watched.patience:
                layer._count(self, watched)
            else:
                self.is_counted = True
                if self.is_streamed and (now := _clock.monotonic()) >= layer._due:
                    layer._turn(now)
                for slo in watched.slos:
                    slo._budget.good += 1
            return forward(message)
        else:
            self.is_streamed = True
        return self._checked(message)

    async def _checked(self, message: Message) -> None:
        try:
            await self.forward(message)
        except OSError:  # what a server of ASGI 2.4 raises when nobody listens any more
            self.has_left = True
            raise
