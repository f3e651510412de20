"""How much of an answer has to be there in time: its beginning, or all of it."""

import asyncio
import weakref

import httpx
import pytest
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import StreamingResponse
from tests.collector import collector_off
from tests.runtimes import AsyncioRuntime

from resilience import (
    ConcurrencyLimiter,
    DeadlineExceededError,
    Pipeline,
    Timeout,
    current_deadline,
    deadline,
    remaining,
)
from resilience._runtime._asyncio_cuts import loops
from resilience.idempotency.stores import MemoryStore
from resilience.integrations.asgi import DeadlineMiddleware, IdempotencyMiddleware, LoadSheddingMiddleware
from resilience.integrations.httpx import resilient
from resilience.testing import FakeClock

from .asgi_server import Exchange, answer, begin, end, serving

SHORT = {"X-Request-Timeout": "20m"}
LONGER = 0.06  # seconds, than that
EVENTUALLY = 60.0


def ran(runtime, app, headers=SHORT, error=None, **scope):
    """Send one request, which ends with *error*; return the exchange."""
    exchange = Exchange(runtime, headers=headers, **scope)

    async def body():
        if error is None:
            await exchange.run(app)
        else:
            with pytest.raises(error):
                await exchange.run(app)
        assert current_deadline() is None

    runtime.run(body)
    return exchange


async def part(send, body):
    await send({"type": "http.response.body", "body": body, "more_body": True})


def streaming(runtime, seen=None, wait=LONGER):
    """Return an application whose answer takes longer than its caller waits."""

    async def app(scope, receive, send):
        await begin(send)
        await part(send, b"first")
        await runtime.sleep(wait)
        if seen is not None:
            seen.append(remaining())
        await end(send, b" last")

    return app


# --- an answer that has begun ----------------------------------------------------------------------------------------


def test_an_answer_that_has_begun_takes_as_long_as_it_takes(async_runtime):
    assert ran(async_runtime, DeadlineMiddleware(streaming(async_runtime))).body == b"first last"


@pytest.mark.parametrize(("covers", "after_the_head"), [("head", False), ("answer", True)])
def test_the_deadline_is_over_with_what_it_covers(async_runtime, covers, after_the_head):
    seen = []

    async def app(scope, receive, send):
        seen.append(remaining() is not None)
        await begin(send)
        seen.append(remaining() is not None)
        await part(send, b"first")
        seen.append(remaining() is not None)
        await end(send)
        seen.append(remaining() is not None)

    ran(async_runtime, DeadlineMiddleware(app, covers=covers), {"X-Request-Timeout": "30S"})
    assert seen == [True, after_the_head, after_the_head, False]


@pytest.mark.parametrize("kind", ["http.response.early_hint", "http.response.push", "http.response.debug"])
def test_what_comes_before_an_answer_does_not_end_the_deadline(async_runtime, kind):
    async def app(scope, receive, send):
        await send({"type": kind})
        await async_runtime.sleep(EVENTUALLY)

    assert ran(async_runtime, DeadlineMiddleware(app)).status == 504


def test_an_answer_may_begin_in_a_task_of_its_own(async_runtime):
    async def app(scope, receive, send):
        await async_runtime.spawn(lambda: streaming(async_runtime)(scope, receive, send)).join()

    assert ran(async_runtime, DeadlineMiddleware(app)).body == b"first last"


def test_a_server_may_take_its_time_over_the_head(async_runtime):
    async def app(scope, receive, send):
        async def slowly(message):
            await async_runtime.sleep(LONGER)
            await send(message)

        await DeadlineMiddleware(answer_whole)(scope, receive, slowly)

    assert ran(async_runtime, app).status == 200


async def answer_whole(scope, receive, send):
    await answer(send)


def test_a_request_that_is_cancelled_while_its_head_is_sent_stays_cancelled(async_runtime):
    sending = []

    async def body():
        async def stuck(message):
            sending.append(message)
            await async_runtime.sleep(EVENTUALLY)

        exchange = Exchange(async_runtime, headers=SHORT)
        layer = DeadlineMiddleware(answer_whole)
        job = async_runtime.spawn(lambda: layer(exchange.scope, exchange.receive, stuck))
        await async_runtime.until(lambda: sending)
        job.cancel()
        await job.join()
        assert isinstance(job.error, async_runtime.cancelled)

    async_runtime.run(body)
    assert [message["type"] for message in sending] == ["http.response.start"]


def test_what_is_called_while_an_answer_streams_has_no_deadline_of_the_request(async_runtime):
    async def app(scope, receive, send):
        await begin(send)
        await Timeout(30.0).acall(async_runtime.sleep, LONGER)
        await end(send, b"done")

    assert ran(async_runtime, DeadlineMiddleware(app)).body == b"done"


def test_a_call_that_begins_an_answer_keeps_the_deadline_that_it_began_with(async_runtime):
    async def app(scope, receive, send):
        await Timeout(30.0).acall(streaming(async_runtime, wait=EVENTUALLY), scope, receive, send)

    exchange = ran(async_runtime, DeadlineMiddleware(app), error=DeadlineExceededError)
    assert exchange.body == b"first"


def test_a_fake_clock_changes_nothing():
    with FakeClock():
        runtime = AsyncioRuntime()
        assert ran(runtime, DeadlineMiddleware(streaming(runtime))).body == b"first last"


def test_nothing_is_armed_for_an_answer_that_has_begun():
    async def body():
        armed = []

        async def app(scope, receive, send):
            armed.append(len(loops.cuts.at))
            await begin(send)
            armed.append(len(loops.cuts.at))
            await end(send)

        await Exchange(AsyncioRuntime(), headers={"X-Request-Timeout": "30S"}).run(DeadlineMiddleware(app))
        return armed

    assert asyncio.run(body()) == [1, 0]


# --- an answer that begins once its time is up -----------------------------------------------------------------------


def refusing_to_end(runtime, messages):
    """Return an application that sends *messages* when it is cancelled, and then is."""

    async def app(scope, receive, send):
        try:
            await runtime.sleep(EVENTUALLY)
        finally:
            for message in messages:
                await send(message)

    return app


START = {"type": "http.response.start", "status": 200, "headers": []}
MORE = {"type": "http.response.body", "body": b"first", "more_body": True}


@pytest.mark.parametrize("covers", ["head", "answer"])
@pytest.mark.parametrize("messages", [[START], [START, MORE], [START, {"type": "http.response.trailers"}]])
def test_what_was_cancelled_before_it_began_may_not_break_off_in_silence(async_runtime, covers, messages):
    app = DeadlineMiddleware(refusing_to_end(async_runtime, messages), covers=covers)
    assert ran(async_runtime, app, error=DeadlineExceededError).sent == messages


@pytest.mark.parametrize("covers", ["head", "answer"])
@pytest.mark.parametrize(
    "last", [{"type": "http.response.body"}, {"type": "http.response.pathsend"}, {**MORE, "more_body": False}]
)
def test_what_was_cancelled_before_it_began_may_answer_all_the_same(async_runtime, covers, last):
    app = DeadlineMiddleware(refusing_to_end(async_runtime, [START, MORE, last]), covers=covers)
    assert ran(async_runtime, app).sent == [START, MORE, last]


# --- deadlines within each other -------------------------------------------------------------------------------------


def test_a_deadline_outside_still_holds_when_the_answer_has_begun(async_runtime):
    seen = []

    async def app(scope, receive, send):
        with deadline(2.0):
            await DeadlineMiddleware(streaming(async_runtime, seen))(scope, receive, send)

    assert ran(async_runtime, app).body == b"first last"
    assert 1.0 < seen[0] < 2.0


def nested(app, outer, inner):
    """Return two layers around *app*, each given the part that it covers and its seconds."""
    layer = DeadlineMiddleware(app, headers=[], covers=inner[0], default=inner[1])
    return DeadlineMiddleware(layer, headers=[], covers=outer[0], default=outer[1])


@pytest.mark.parametrize(
    ("outer", "inner"),
    [(("head", 0.02), ("head", 30.0)), (("head", 30.0), ("head", 0.02)), (("head", 0.02), ("head", 0.02))],
)
def test_no_head_of_several_layers_bounds_the_answer(async_runtime, outer, inner):
    seen = []
    app = nested(streaming(async_runtime, seen), outer, inner)
    assert ran(async_runtime, app, {}).body == b"first last"
    assert seen == [None]


def test_a_whole_answer_has_its_own_time_once_an_outer_one_for_its_head_is_over(async_runtime):
    seen = []
    app = nested(streaming(async_runtime, seen), ("head", 0.02), ("answer", 30.0))
    assert ran(async_runtime, app, {}).body == b"first last"
    assert 20.0 < seen[0] < 30.0


def test_a_whole_answer_keeps_the_time_outside_of_all_layers(async_runtime):
    seen = []
    layers = nested(streaming(async_runtime, seen), ("head", 0.02), ("answer", 30.0))

    async def app(scope, receive, send):
        with deadline(5.0):
            await layers(scope, receive, send)

    assert ran(async_runtime, app, {}).body == b"first last"
    assert 3.0 < seen[0] < 5.0


def test_a_whole_answer_is_cut_short_by_the_time_outside_of_all_layers(async_runtime):
    layers = nested(streaming(async_runtime, wait=EVENTUALLY), ("head", 30.0), ("answer", 30.0))

    async def app(scope, receive, send):
        with deadline(0.02):
            await layers(scope, receive, send)

    assert ran(async_runtime, app, {}, DeadlineExceededError).body == b"first"


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        (("answer", 0.02), ("head", 30.0)),
        (("head", 30.0), ("answer", 0.02)),
        (("answer", 0.02), ("answer", 30.0)),
        (("answer", 30.0), ("answer", 0.02)),
    ],
)
def test_a_layer_for_whole_answers_breaks_one_off_wherever_it_stands(async_runtime, outer, inner):
    app = nested(streaming(async_runtime, wait=EVENTUALLY), outer, inner)
    assert ran(async_runtime, app, {}, DeadlineExceededError).body == b"first"


@pytest.mark.parametrize("inner", [("head", 30.0), ("answer", 30.0)])
def test_the_nearer_time_of_an_outer_layer_is_that_of_the_head(async_runtime, inner):
    seen = []

    async def app(scope, receive, send):
        seen.append(remaining())
        await async_runtime.sleep(EVENTUALLY)

    assert ran(async_runtime, nested(app, ("head", 0.02), inner), {}).status == 504
    assert 0.0 < seen[0] <= 0.02


def test_a_layer_that_answers_itself_gives_those_inside_their_own_time(async_runtime):
    seen = []

    async def app(scope, receive, send):
        await send(START)
        seen.append(remaining())

    async def impatient(scope, receive, send):
        await begin(send)

        async def swallow(message):
            await send(MORE)

        await DeadlineMiddleware(app, headers=[], default=30.0, covers="answer")(scope, receive, swallow)
        await end(send)

    assert ran(async_runtime, DeadlineMiddleware(impatient)).status == 200
    assert 20.0 < seen[0] <= 30.0


async def failing(scope, receive, send):
    raise KeyError


async def silent(scope, receive, send):
    pass


@pytest.mark.parametrize("app", [answer_whole, failing, silent])
@pytest.mark.parametrize("covers", ["head", "answer"])
def test_requests_within_each_other_need_no_collector(app, covers):
    async def body():
        exchange = Exchange(AsyncioRuntime())
        task = asyncio.create_task(exchange.run(nested(app, (covers, 30.0), (covers, 30.0))))
        await asyncio.wait([task])
        assert isinstance(task.exception(), KeyError if app is failing else type(None))
        return weakref.ref(task)

    with collector_off():
        assert asyncio.run(body())() is None


# --- other layers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_inside", [True, False])
def test_a_place_is_held_until_an_answer_that_takes_longer_is_complete(async_runtime, is_inside):
    limiter, held = ConcurrencyLimiter("requests", limit=1), []

    async def app(scope, receive, send):
        await begin(send)
        await async_runtime.sleep(LONGER)
        held.append(limiter.inflight)
        await end(send)
        held.append(limiter.inflight)

    if is_inside:
        layers = DeadlineMiddleware(LoadSheddingMiddleware(app, limiter))
    else:
        layers = LoadSheddingMiddleware(DeadlineMiddleware(app), limiter)
    assert ran(async_runtime, layers).status == 200
    assert held == [1, 0]


@pytest.mark.parametrize("is_inside", [True, False])
def test_an_answer_that_takes_longer_is_kept_and_replayed(async_runtime, is_inside):
    store, app = MemoryStore(), streaming(async_runtime)

    def keyed(app):
        return IdempotencyMiddleware(app, store=store, principal=lambda scope: "ann")

    layers = DeadlineMiddleware(keyed(app)) if is_inside else keyed(DeadlineMiddleware(app))
    headers = {**SHORT, "Idempotency-Key": "k"}
    first = ran(async_runtime, layers, headers, method="POST")
    again = ran(async_runtime, layers, headers, method="POST")
    assert first.body == again.body == b"first last"
    assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("is_inside", [True, False])
def test_a_framework_may_send_from_tasks_of_its_own(is_inside):
    async def parts():
        yield b"first"
        await asyncio.sleep(LONGER)
        yield b" last"

    async def app(scope, receive, send):
        await StreamingResponse(parts())(scope, receive, send)

    layers = DeadlineMiddleware(passing_on(app)) if is_inside else passing_on(DeadlineMiddleware(app))
    assert ran(AsyncioRuntime(), layers).body == b"first last"


def passing_on(app):
    """Return a layer that runs *app* in a task of its own, and sends in another."""

    async def dispatch(request, call_next):
        return await call_next(request)

    return BaseHTTPMiddleware(app, dispatch)


@pytest.mark.parametrize(("inner", "least", "most"), [("head", None, None), ("answer", 20.0, 30.0)])
def test_layers_in_different_tasks_have_no_deadline_of_each_other_either(inner, least, most):
    seen = []
    app = DeadlineMiddleware(streaming(AsyncioRuntime(), seen), headers=[], covers=inner, default=30.0)
    assert ran(AsyncioRuntime(), DeadlineMiddleware(passing_on(app))).body == b"first last"
    assert seen == [None] if least is None else least < seen[0] < most


@pytest.mark.parametrize("covers", ["head", "answer"])
def test_a_client_of_ours_reads_a_body_that_takes_longer_than_its_attempts(covers):
    with serving(DeadlineMiddleware(served(0.8), covers=covers)) as client:
        resilient(client, Pipeline("impatient", Timeout(0.5)))
        if covers == "head":
            assert client.get("/").content == b"first last"
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                client.get("/")


def test_an_answer_broken_off_within_a_layer_of_starlette_is_seen_to_be_broken():
    app = DeadlineMiddleware(passing_on(served(0.8)), covers="answer", headers=[], default=0.2)
    with serving(app) as client, pytest.raises(httpx.RemoteProtocolError):
        client.get("/")


def served(wait):
    """Return an application for a server, whose answer takes *wait* seconds."""

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await streaming(AsyncioRuntime(), wait=wait)(scope, receive, send)

    return app
