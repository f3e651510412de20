"""Which requests are good and which are bad: every way for an answer to end."""

import pytest

from resilience import ConfigError
from resilience.integrations.asgi import SLIMiddleware
from resilience.slo import SLO

from .asgi_server import Exchange, answer, answering, begin, end


def objective(**settings):
    return SLO("checkout", objective=0.99, window="1h", **settings)


def counted(slo):
    return slo.good_events, slo.bad_events


@pytest.fixture
def watched(async_runtime):
    """Run an application once under the middleware; return the objective and the exchange."""

    def run(app, slo=None, error=None, exchange=None):
        slo = slo or objective()
        exchange = exchange or Exchange(async_runtime)

        async def body():
            layer = SLIMiddleware(app, slos=[slo])
            if error is None:
                await exchange.run(layer)
            else:
                with pytest.raises(error):
                    await exchange.run(layer)

        async_runtime.run(body)
        return slo, exchange

    return run


@pytest.mark.parametrize("status", [200, 204, 304, 404, 429, 499])
def test_an_answer_below_500_is_good(watched, status):
    slo, exchange = watched(answering(status))
    assert counted(slo) == (1, 0)
    assert exchange.status == status


@pytest.mark.parametrize("status", [500, 503, 599])
def test_an_answer_from_500_is_bad(watched, status):
    assert counted(watched(answering(status))[0]) == (0, 1)


def test_an_error_before_the_answer_is_bad_and_goes_on(watched):
    async def app(scope, receive, send):
        raise KeyError

    assert counted(watched(app, error=KeyError)[0]) == (0, 1)


def test_an_error_in_the_middle_of_the_answer_is_bad(watched):
    async def app(scope, receive, send):
        await begin(send)
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise KeyError

    assert counted(watched(app, error=KeyError)[0]) == (0, 1)


def test_an_error_after_the_answer_is_counted_once_and_as_it_was(watched):
    async def app(scope, receive, send):
        await answer(send)
        raise KeyError

    assert counted(watched(app, error=KeyError)[0]) == (1, 0)


def test_an_application_that_ends_without_an_answer_is_bad(watched):
    async def app(scope, receive, send):
        return

    assert counted(watched(app)[0]) == (0, 1)


def test_a_stream_is_counted_when_it_ends(watched):
    slo, seen = objective(), []

    async def app(scope, receive, send):
        await begin(send)
        for part in (b"a", b"b"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            seen.append(counted(slo))
        await end(send)
        seen.append(counted(slo))

    watched(app, slo)
    assert seen == [(0, 0), (0, 0), (1, 0)]


@pytest.mark.parametrize(
    "last",
    [{"type": "http.response.pathsend", "path": "/x"}, {"type": "http.response.zerocopysend", "file": 3}],
)
def test_other_ways_to_send_a_body_end_an_answer(watched, last):
    async def app(scope, receive, send):
        await send({"type": "http.response.early_hint", "links": []})
        await begin(send)
        await send(last)
        raise KeyError

    slo, exchange = watched(app, error=KeyError)
    assert counted(slo) == (1, 0)
    assert [message["type"] for message in exchange.sent] == [
        "http.response.early_hint",
        "http.response.start",
        last["type"],
    ]


def test_a_client_that_left_before_the_end_is_not_counted(async_runtime, watched):
    exchange = Exchange(async_runtime)

    async def app(scope, receive, send):
        await receive()
        await begin(send)
        exchange.left.set()
        assert (await receive())["type"] == "http.disconnect"

    assert counted(watched(app, exchange=exchange)[0]) == (0, 0)


def test_a_server_that_says_so_when_it_sends_is_not_counted(async_runtime, watched):
    exchange = Exchange(async_runtime)
    exchange.refuses = True

    async def app(scope, receive, send):
        await begin(send)
        exchange.left.set()
        await send({"type": "http.response.body", "body": b"x", "more_body": True})

    assert counted(watched(app, error=OSError, exchange=exchange)[0]) == (0, 0)


def test_a_client_that_left_after_the_threshold_was_answered_too_late(async_runtime, fake_clock, watched):
    exchange = Exchange(async_runtime)
    slow, any_time = objective(latency_threshold=0.5), objective()

    async def app(scope, receive, send):
        await receive()
        fake_clock.advance(0.6)
        exchange.left.set()
        await receive()

    watched(SLIMiddleware(app, [any_time]), slow, exchange=exchange)
    assert (counted(slow), counted(any_time)) == ((0, 1), (0, 0))


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, (1, 0)), (0.5, (1, 0)), (0.75, (0, 1))])
def test_what_counts_is_when_the_answer_begins(fake_clock, watched, seconds, expected):
    async def app(scope, receive, send):
        fake_clock.advance(seconds)
        await begin(send)
        fake_clock.advance(60.0)  # a long download, and a client that reads slowly
        await end(send)
        fake_clock.advance(60.0)  # what is done in the background

    assert counted(watched(app, objective(latency_threshold=0.5))[0]) == expected


def test_a_fast_failure_is_no_fast_answer(watched):
    assert counted(watched(answering(503), objective(latency_threshold=0.5))[0]) == (0, 1)


def test_a_cancelled_request_is_neither_good_nor_bad(async_runtime):
    slo, begun = objective(), []

    async def app(scope, receive, send):
        begun.append(True)
        await async_runtime.sleep(60)

    async def body():
        job = async_runtime.spawn(lambda: Exchange(async_runtime).run(SLIMiddleware(app, slos=[slo])))
        await async_runtime.until(lambda: begun)
        job.cancel()
        await job.join()
        assert isinstance(job.error, async_runtime.cancelled)

    async_runtime.run(body)
    assert counted(slo) == (0, 0)


@pytest.mark.parametrize("kind", ["websocket", "lifespan", "other"])
def test_what_is_no_request_passes_through_untouched(async_runtime, kind):
    slo, seen = objective(), []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))

    async def body():
        given = ({"type": kind}, object(), object())
        await SLIMiddleware(app, slos=[slo])(*given)
        assert all(one is other for one, other in zip(seen[0], given, strict=True))

    async_runtime.run(body)
    assert counted(slo) == (0, 0)


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ("/orders/{id}", (1, 0)),
        ("/orders/{id:int}", (1, 0)),
        ("/orders/7", (0, 0)),
        ("/other", (0, 0)),
        (None, (0, 0)),
    ],
)
def test_a_route_is_the_template_that_the_application_left(watched, left, expected):
    async def app(scope, receive, send):
        if left is not None:
            scope["path_template"] = left
        await answer(send)

    assert counted(watched(app, objective(route="/orders/{id:int}"))[0]) == expected


@pytest.mark.parametrize(
    ("route", "path", "is_it"),
    [
        ("/orders/{id}", "/orders/7", True),
        ("/orders/{id:int}", "/orders/7", True),
        ("/orders/{id}", "/orders/7/lines", False),
        ("/orders/{id}", "/orders/", False),
        ("/orders/{id}/lines", "/orders/7/lines", True),
        ("/files/{name:path}", "/files/a/b.txt", True),
        ("/v1.0/x", "/v1.0/x", True),
        ("/v1.0/x", "/v1a0/x", False),
        ("/orders/{id}", "/shop/orders/7", True),
        ("/shop/orders/{id}", "/shop/orders/7", False),
    ],
)
def test_a_request_that_was_never_routed_is_known_by_its_path(async_runtime, watched, route, path, is_it):
    root = "/shop" if path.startswith("/shop") else ""
    slo, _ = watched(
        answering(503), objective(route=route), exchange=Exchange(async_runtime, path, root_path=root)
    )
    assert counted(slo) == (0, int(is_it))


def test_of_two_templates_that_a_path_could_be_the_plainer_counts(async_runtime):
    any_order, latest = objective(route="/orders/{id}"), objective(route="/orders/latest")

    async def body():
        await Exchange(async_runtime, "/orders/latest").run(
            SLIMiddleware(answering(), slos=[any_order, latest])
        )

    async_runtime.run(body)
    assert (counted(any_order), counted(latest)) == ((0, 0), (1, 0))


def test_an_objective_without_a_route_counts_every_request(async_runtime):
    every, one = objective(), objective(route="/a")

    async def app(scope, receive, send):
        scope["path_template"] = scope["path"]
        await answer(send)

    async def body():
        layer = SLIMiddleware(app, slos=[every, one])
        for path in ("/a", "/b"):
            await Exchange(async_runtime, path).run(layer)

    async_runtime.run(body)
    assert (counted(every), counted(one)) == ((2, 0), (1, 0))


def test_a_function_may_say_which_route(async_runtime):
    slo = objective(route="/rpc/{method}")

    async def body():
        layer = SLIMiddleware(answering(), slos=[slo], route_of=lambda scope: "/rpc/{method}")
        await Exchange(async_runtime).run(layer)

    async_runtime.run(body)
    assert counted(slo) == (1, 0)


def test_counting_that_fails_breaks_neither_the_request_nor_other_objectives(async_runtime):
    class Broken(SLO):
        def good(self):
            raise ArithmeticError

    other = objective()

    async def body():
        layer = SLIMiddleware(answering(), slos=[Broken("broken", objective=0.9, window="1h"), other])
        assert (await Exchange(async_runtime).run(layer)).status == 200

    async_runtime.run(body)
    assert counted(other) == (1, 0)


@pytest.mark.parametrize("route_of", [lambda scope: 1 / 0, lambda scope: ["/a"], lambda scope: 3])
def test_a_function_for_routes_that_fails_does_not_break_the_request(async_runtime, route_of):
    async def body():
        layer = SLIMiddleware(answering(), slos=[objective(route="/a")], route_of=route_of)
        assert (await Exchange(async_runtime).run(layer)).status == 200

    async_runtime.run(body)


@pytest.mark.parametrize("slos", [[], None, 3, ["checkout"], [objective, objective()]])
def test_objectives_must_be_given(slos):
    with pytest.raises(ConfigError, match="slos must be a list of at least one SLO"):
        SLIMiddleware(answering(), slos=slos)


def test_objectives_may_come_from_a_generator(async_runtime):
    slo = objective()

    async def body():
        await Exchange(async_runtime).run(SLIMiddleware(answering(), slos=(each for each in [slo])))

    async_runtime.run(body)
    assert counted(slo) == (1, 0)


def test_a_function_for_routes_must_be_one():
    with pytest.raises(ConfigError, match="route_of"):
        SLIMiddleware(answering(), slos=[objective()], route_of="/a")
