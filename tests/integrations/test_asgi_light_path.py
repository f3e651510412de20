"""What the layers keep between requests, and where they must not trust it."""

import pytest

from resilience import ConcurrencyLimiter, current_deadline
from resilience.integrations.asgi import DeadlineMiddleware, LoadSheddingMiddleware, SLIMiddleware
from resilience.limits import Aimd
from resilience.slo import SLO

from .asgi_server import Exchange, answer, begin, end


class Route:
    """A route that counts how often it was asked for its template."""

    def __init__(self, template):
        self.asked = 0
        self._template = template

    @property
    def path_format(self):
        self.asked += 1
        return self._template


def objective(route):
    return SLO("light", objective=0.99, window="1h", route=route)


def routed(**scope):
    """An application that leaves *scope* as a framework does, and answers."""

    async def app(seen, receive, send):
        seen.update(scope)
        await answer(send)

    return app


def test_the_objectives_of_a_route_are_looked_up_once(async_runtime):
    route, slo = Route("/a"), objective("/a")

    async def body():
        layer = SLIMiddleware(routed(route=route), slos=[slo])
        for _ in range(3):
            await Exchange(async_runtime).run(layer)

    async_runtime.run(body)
    assert (slo.good_events, route.asked) == (3, 1)


def test_a_route_that_says_less_than_the_scope_is_not_taken_at_its_word(async_runtime):
    route, one, other = Route("/a"), objective("/a"), objective("/b")

    async def body():
        scope = {"route": route}

        async def app(seen, receive, send):
            await routed(**scope)(seen, receive, send)

        layer = SLIMiddleware(app, slos=[one, other])
        await Exchange(async_runtime).run(layer)
        scope["path_template"] = "/b"
        await Exchange(async_runtime).run(layer)

    async_runtime.run(body)
    assert (one.good_events, other.good_events) == (1, 1)


@pytest.mark.parametrize("kind", ["http.response.debug", "http.response.trailers"])
def test_a_message_that_is_no_part_of_the_body_does_not_end_an_answer(async_runtime, kind):
    slo, limiter, held = objective(None), ConcurrencyLimiter("light", limit=1), []

    async def app(scope, receive, send):
        await begin(send)
        await send({"type": kind})
        held.append((slo.good_events, limiter.inflight))
        await end(send)
        held.append((slo.good_events, limiter.inflight))

    async def body():
        layer = SLIMiddleware(LoadSheddingMiddleware(app, limiter), slos=[slo])
        await Exchange(async_runtime).run(layer)

    async_runtime.run(body)
    assert held == [(0, 1), (1, 0)]


@pytest.mark.parametrize("value", ["1" * 65 + "S", " " * 70 + "1S", "1_0S", "-1S", ""])
def test_a_timeout_that_is_none_is_ignored_each_time(async_runtime, value):
    seen = []

    async def app(scope, receive, send):
        seen.append(current_deadline())
        await answer(send)

    async def body():
        for _ in range(2):
            await Exchange(async_runtime, headers={"X-Request-Timeout": value}).run(DeadlineMiddleware(app))

    async_runtime.run(body)
    assert seen == [None, None]


@pytest.mark.parametrize(
    "settings", [{"limit": 1}, {"limit": Aimd()}, {"limit": 1, "max_queue": 1, "max_wait": 1.0}]
)
def test_a_place_is_given_back_once_however_it_was_taken(async_runtime, settings):
    limiter = ConcurrencyLimiter("light", **settings)
    inside = []

    async def app(scope, receive, send):
        inside.append(limiter.inflight)
        await answer(send)
        inside.append(limiter.inflight)
        raise ConnectionError

    async def body():
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await Exchange(async_runtime).run(LoadSheddingMiddleware(app, limiter))

    async_runtime.run(body)
    assert (inside, limiter.inflight) == ([1, 0, 1, 0], 0)
