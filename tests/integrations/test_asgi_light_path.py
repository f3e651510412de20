"""What the layers keep between requests, and where they must not trust it."""

import pytest

from resilience import ConcurrencyLimiter, current_deadline
from resilience.integrations.asgi import DeadlineMiddleware, LoadSheddingMiddleware, SLIMiddleware
from resilience.limits import Aimd
from resilience.slo import SLO

from .asgi_server import Exchange, answer, answering, begin, end


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


def test_a_router_that_was_included_says_more_than_its_route(async_runtime):
    route, one, other = Route("/a"), objective("/a"), objective("/b")
    included = Route("/b")
    included.original_route = route

    async def body():
        layer = SLIMiddleware(
            lambda seen, receive, send: routed(**scope)(seen, receive, send), slos=[one, other]
        )
        for scope in (  # noqa: B007  # the application reads it
            {"route": route},
            {"route": route, "fastapi": {"effective_route_context": included}},
            {"route": route},
        ):
            await Exchange(async_runtime).run(layer)

    async_runtime.run(body)
    assert (one.good_events, other.good_events) == (2, 1)


def test_a_route_in_a_mount_is_not_the_one_beside_it(async_runtime):
    route, slo = Route("/a"), objective("/a")

    async def body():
        layer = SLIMiddleware(lambda seen, receive, send: routed(**scope)(seen, receive, send), slos=[slo])
        for scope in (  # noqa: B007  # the application reads it
            {"route": route},
            {"route": route, "app_root_path": "", "root_path": "/mount", "path": "/mount/x"},
        ):
            await Exchange(async_runtime).run(layer)

    async_runtime.run(body)
    assert slo.good_events == 1


def test_an_objective_that_counts_in_its_own_way_does_so(async_runtime):
    class Own(SLO):
        counted = 0

        def good(self):
            self.counted += 1

    own, plain = Own("own", objective=0.9, window="1h"), objective(None)
    async_runtime.run(lambda: Exchange(async_runtime).run(SLIMiddleware(answering(), slos=[own, plain])))
    assert (own.counted, own.good_events, plain.good_events) == (1, 0, 1)


def test_a_whole_answer_to_a_client_that_left_meanwhile_is_not_counted(async_runtime):
    slo, exchange = objective(None), Exchange(async_runtime)

    async def app(scope, receive, send):
        await receive()
        await begin(send)
        exchange.left.set()
        await receive()
        await end(send)

    async_runtime.run(lambda: exchange.run(SLIMiddleware(app, slos=[slo])))
    assert (slo.good_events, slo.bad_events) == (0, 0)


def test_a_route_that_is_gone_is_not_taken_for_a_new_one(async_runtime):
    slos = {path: objective(path) for path in ("/a", "/b", "/c")}

    async def app(scope, receive, send):
        scope["route"] = Route(scope["path"])  # often where the last one was
        await answer(send)

    async def body():
        layer = SLIMiddleware(app, slos=slos.values())
        for path in ("/a", "/b", "/c") * 20:
            await Exchange(async_runtime, path).run(layer)

    async_runtime.run(body)
    assert {path: slo.good_events for path, slo in slos.items()} == {"/a": 20, "/b": 20, "/c": 20}


def test_good_requests_are_counted_in_the_time_in_which_they_were_answered(async_runtime, fake_clock):
    early, late = (
        SLO("steps", objective=0.9, window="1h", minimum_events=1, route=path) for path in ["/a", "/b"]
    )

    async def app(scope, receive, send):
        scope["path_template"] = scope["path"]
        await answer(send)

    async def body():
        layer = SLIMiddleware(app, slos=[early, late])
        for path, pause in (("/a", 600.0), ("/b", 600.0), ("/b", 1.0)):
            await Exchange(async_runtime, path).run(layer)
            fake_clock.advance(pause)
        early.bad()
        late.bad()

    async_runtime.run(body)
    assert [round(slo.burn_rate("5m"), 6) for slo in (early, late)] == [10.0, 5.0]
    assert [round(slo.burn_rate(), 6) for slo in (early, late)] == [5.0, 3.333333]


def test_a_stream_is_counted_in_the_time_in_which_it_ends(async_runtime, fake_clock):
    slo = SLO("stream", objective=0.9, window="1h", minimum_events=1, latency_threshold=1.0)

    async def app(scope, receive, send):
        await begin(send)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        fake_clock.advance(1200.0)
        await end(send)

    async_runtime.run(lambda: Exchange(async_runtime).run(SLIMiddleware(app, slos=[slo])))
    assert slo.burn_rate("5m") == 0.0


def test_a_fork_begins_the_count_anew(async_runtime):
    slo = objective(None)

    async def body():
        layer = SLIMiddleware(answering(), slos=[slo])
        await Exchange(async_runtime).run(layer)
        slo._after_fork()
        await Exchange(async_runtime).run(layer)

    async_runtime.run(body)
    assert slo.good_events == 1


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


@pytest.mark.parametrize(("status", "counts"), [(200, (1, 0, 0)), (503, (0, 1, 0)), (504, (0, 0, 1))])
def test_an_answer_teaches_the_same_after_waiting_for_a_place(async_runtime, status, counts):
    class Recorder:
        limit, window, quantile = 1, 0.0, None

        def __init__(self):
            self.samples = []

        def on_sample(self, sample):
            self.samples.append(sample)

    limit = Recorder()
    limiter = ConcurrencyLimiter("light", limit=limit, max_queue=1, max_wait=20.0)

    async def body():
        gate = async_runtime.event()

        async def app(scope, receive, send):
            if scope["path"] == "/slow":
                await gate.wait()
                await begin(send)  # and no end: nothing is learnt
                return
            await answer(send, status)

        layer = LoadSheddingMiddleware(app, limiter)
        slow = async_runtime.spawn(lambda: Exchange(async_runtime, "/slow").run(layer))
        await async_runtime.until(lambda: limiter.inflight == 1)
        waiting = async_runtime.spawn(lambda: Exchange(async_runtime).run(layer))
        await async_runtime.until(lambda: limiter.queued == 1)
        gate.set()
        await slow.join()
        assert (await waiting).status == status

    async_runtime.run(body)
    (sample,) = limit.samples
    assert (sample.good, sample.throttled, sample.timed_out) == counts
    assert limiter.is_idle


def test_a_request_keeps_its_place_while_the_limit_is_replaced(async_runtime):
    limiter, seen = ConcurrencyLimiter("light", limit=1), []

    async def app(scope, receive, send):
        if scope["path"] == "/outer":
            await begin(send)
            limiter.reconfigure(limit=Aimd(initial=1))
            inner = await Exchange(async_runtime).run(layer)
            seen.append((inner.status, limiter.inflight))
        await end(send) if scope["path"] == "/outer" else await answer(send)
        seen.append(limiter.inflight)

    async def body():
        await Exchange(async_runtime, "/outer").run(layer)
        assert (await Exchange(async_runtime).run(layer)).status == 200

    layer = LoadSheddingMiddleware(app, limiter)
    async_runtime.run(body)
    assert seen == [(503, 1), 0, 0]


def test_a_second_last_part_frees_no_second_place(async_runtime):
    limiter, seen = ConcurrencyLimiter("light", limit=5), []

    async def app(scope, receive, send):
        if scope["path"] == "/twice":
            other = async_runtime.spawn(lambda: Exchange(async_runtime).run(layer))
            await async_runtime.until(lambda: limiter.inflight == 2)
            await answer(send)
            await end(send)
            seen.append(limiter.inflight)
            gate.set()
            await other.join()
        else:
            await gate.wait()
            await answer(send)

    async def body():
        nonlocal gate
        gate = async_runtime.event()
        await Exchange(async_runtime, "/twice").run(layer)

    gate = None
    layer = LoadSheddingMiddleware(app, limiter)
    async_runtime.run(body)
    assert (seen, limiter.inflight) == ([1], 0)
