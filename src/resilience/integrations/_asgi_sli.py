"""Which requests were good."""

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from resilience import _clock
from resilience.errors import ConfigError, Problem
from resilience.integrations._asgi_messages import ASGIApp, Message, Receive, Scope, Send, ends_answer
from resilience.integrations._asgi_route import normalised, path_of, pattern_of, template_of
from resilience.slo import SLO
from resilience.typing import Seconds

_FAILED: Final = 500

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

    __slots__ = ("_by_path", "_by_route", "_everywhere", "_is_timed", "_route_of", "app")

    def __init__(self, app: ASGIApp, slos: Iterable[SLO], *, route_of: RouteOf | None = None) -> None:
        self.app = app
        given: object = slos
        found = list(slos) if isinstance(given, Iterable) else []
        objectives = [each for each in found if isinstance(each, SLO)]
        problems: list[Problem] = []
        if not objectives or len(objectives) < len(found):
            problems.append(Problem("slos", given, "must be at least one SLO"))
        if route_of is not None and not callable(route_of):
            problems.append(Problem("route_of", route_of, "must be a callable or None"))
        if problems:
            raise ConfigError("SLIMiddleware", problems)
        self._everywhere = tuple(slo for slo in objectives if slo.route is None)
        routes = {normalised(slo.route) for slo in objectives if slo.route is not None}
        self._by_route = {
            route: tuple(slo for slo in objectives if slo.route is None or normalised(slo.route) == route)
            for route in routes
        }
        # Of two templates that a path matches, the one with fewer parameters says more.
        plainest_first = sorted(
            dict.fromkeys(slo.route for slo in objectives if slo.route is not None),
            key=lambda route: route.count("{"),
        )
        self._by_path = [(pattern_of(route), self._by_route[normalised(route)]) for route in plainest_first]
        self._is_timed = any(slo.latency_threshold is not None for slo in objectives)
        self._route_of = template_of if route_of is None else route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = _clock.monotonic() if self._is_timed else 0.0
        took: Seconds | None = None  # until the answer began
        status = 0
        is_counted = has_left = False

        async def watched_receive() -> Message:
            nonlocal has_left
            message = await receive()
            if message["type"] == "http.disconnect":
                has_left = True
            return message

        async def watched_send(message: Message) -> None:
            nonlocal has_left, is_counted, status, took
            if took is None:
                if message["type"] == "http.response.start":
                    took = _clock.monotonic() - began if self._is_timed else 0.0
                    status = message["status"]
            elif not is_counted and ends_answer(message):
                is_counted = True
                self._count(scope, took, status >= _FAILED, has_left)
            try:
                await send(message)
            except OSError:  # what a server of ASGI 2.4 raises when nobody listens any more
                has_left = True
                raise

        try:
            await self.app(scope, watched_receive, watched_send)
        except BaseException as error:
            if not is_counted:
                was_cancelled = not isinstance(error, Exception)
                self._count(scope, self._since(began, took), True, has_left or was_cancelled)
            raise
        if not is_counted:
            self._count(scope, self._since(began, took), True, has_left)

    def _since(self, began: Seconds, took: Seconds | None) -> Seconds:
        """Return the seconds until the answer began, or so far if it did not."""
        if took is not None:
            return took
        return _clock.monotonic() - began if self._is_timed else 0.0

    def _count(self, scope: Scope, took: Seconds, is_bad: bool, has_left: bool) -> None:
        for slo in self._slos_for(scope) if self._by_route else self._everywhere:
            try:
                limit = slo.latency_threshold
                if limit is not None and took > limit:
                    slo.bad()
                elif not has_left:
                    if is_bad:
                        slo.bad()
                    else:
                        slo.good()
            except Exception:  # noqa: BLE001, S112  # counting never breaks the request, nor other objectives
                continue

    def _slos_for(self, scope: Scope) -> tuple[SLO, ...]:
        try:
            template = self._route_of(scope)
            if template is not None:
                return self._by_route.get(template, self._everywhere)
        except Exception:  # noqa: BLE001, S110  # a user's function, or a scope of another shape
            pass
        path = path_of(scope)
        for pattern, slos in self._by_path:
            if pattern.fullmatch(path) is not None:
                return slos
        return self._everywhere
