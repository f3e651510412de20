"""Which requests were good."""

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
        "_by_object", "_by_path", "_by_route", "_everywhere", "_has_routes", "_is_timed", "_route_of", "app",
    )  # fmt: skip

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
        self._everywhere = tuple(slo for slo in objectives if slo.route is None)
        self._by_route = {
            route: tuple(slo for slo in objectives if slo.route is None or routes[slo.route] == route)
            for route in routes.values()
        }
        # Of two templates that a path matches, the one with fewer parameters says more.
        plainest_first = sorted(routes, key=lambda route: route.count("{"))
        self._by_path = [(pattern_of(route), self._by_route[routes[route]]) for route in plainest_first]
        # By the id of a route, with the route itself, so that nothing else gets its id.
        self._by_object: dict[int, tuple[object, tuple[SLO, ...]]] = {}
        self._has_routes = bool(routes)
        self._is_timed = any(slo.latency_threshold is not None for slo in objectives)
        self._route_of = template_of if route_of is None else route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(self, scope, receive, send, _clock.monotonic() if self._is_timed else 0.0)
        try:
            await self.app(scope, answer.receive, answer.send)
        except BaseException as error:
            if not answer.is_counted:
                answer.has_left = answer.has_left or not isinstance(error, Exception)
                self.count(answer, is_bad=True)
            raise
        if not answer.is_counted:
            self.count(answer, is_bad=True)

    def count(self, answer: "_Answer", *, is_bad: bool) -> None:
        """Count a request, once."""
        answer.is_counted = True
        took, has_left = answer.took, answer.has_left
        if took is None:  # so far
            took = self.since(answer.began)
        for slo in self._slos_for(answer.scope) if self._has_routes else self._everywhere:
            limit = slo.latency_threshold
            try:
                if (limit is not None and took > limit) or (is_bad and not has_left):
                    slo.bad()
                elif not has_left:
                    slo.good()
            except Exception:  # noqa: BLE001, S112  # counting never breaks the request, nor other objectives
                continue

    def since(self, began: Seconds) -> Seconds:
        """Return the seconds since *began*, if any objective asks."""
        return _clock.monotonic() - began if self._is_timed else 0.0

    def _slos_for(self, scope: Scope) -> tuple[SLO, ...]:
        route = scope.get("route")
        known = self._by_object.get(id(route))
        if known is not None and known[0] is route and is_told_by_route(scope):
            return known[1]
        try:
            template = self._route_of(scope)
            slos = None if template is None else self._by_route.get(template, self._everywhere)
        except Exception:  # noqa: BLE001  # a user's function, or a scope of another shape
            slos = None
        if slos is None:
            return self._slos_for_path(path_of(scope))
        is_lasting = route is not None and self._route_of is template_of and is_told_by_route(scope)
        if is_lasting and len(self._by_object) < _MOST_ROUTES:
            self._by_object[id(route)] = (route, slos)
        return slos

    def _slos_for_path(self, path: str) -> tuple[SLO, ...]:
        for pattern, slos in self._by_path:
            if pattern.fullmatch(path) is not None:
                return slos
        return self._everywhere


class _Answer:
    """What is seen of the answer to one request."""

    __slots__ = ("_layer", "_receive", "_send", "began", "has_left", "is_bad", "is_counted", "scope", "took")

    def __init__(
        self, layer: SLIMiddleware, scope: Scope, receive: Receive, send: Send, began: Seconds
    ) -> None:
        self._layer, self._receive, self._send = layer, receive, send
        self.scope = scope
        self.began = began
        self.took: Seconds | None = None  # until the answer began
        self.is_counted = self.has_left = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.has_left = True
        return message

    def send(self, message: Message) -> Awaitable[None]:
        # No coroutine of its own where there is nothing to do afterwards: they are what a layer costs.
        kind = message["type"]
        if self.took is None:
            if kind == "http.response.start":
                self.is_bad = message["status"] >= _FAILED
                self.took = self._layer.since(self.began)
        elif self.is_counted:
            return self._send(message)
        elif not message.get("more_body") if kind == "http.response.body" else ends_answer(message):
            self._layer.count(self, is_bad=self.is_bad)
            return self._send(message)
        return self._checked(message)

    async def _checked(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:  # what a server of ASGI 2.4 raises when nobody listens any more
            self.has_left = True
            raise
