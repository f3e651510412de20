"""How long a request has: what it says, what is granted, and what happens when the time is up."""

import asyncio
import json
import math
import weakref

import pytest
from tests.collector import collector_off
from tests.runtimes import AsyncioRuntime

from resilience import (
    CircuitBreaker,
    ConfigError,
    DeadlineExceededError,
    Timeout,
    current_deadline,
    deadline,
    remaining,
)
from resilience._runtime._asyncio_cuts import loops
from resilience.integrations.asgi import DeadlineMiddleware
from resilience.testing import FakeClock

from .asgi_server import Exchange, answer, answering, begin, end


def granted(runtime, said, **settings):
    """Return the seconds that the application saw, rounded, and the status of the answer."""
    seen = []

    async def app(scope, receive, send):
        seen.append(remaining())
        await answer(send)

    async def body():
        exchange = Exchange(runtime)
        exchange.scope["headers"] = [(name.lower().encode(), value.encode()) for name, value in said]
        await exchange.run(DeadlineMiddleware(app, **settings))
        assert remaining() is None
        return exchange.status

    status = runtime.run(body)
    return (None if not seen or seen[0] is None else math.ceil(seen[0]), status, len(seen))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        ([("X-Request-Timeout", "5S")], 5),
        ([("grpc-timeout", " 5000m ")], 5),
        ([("x-envoy-expected-rq-timeout-ms", "5000")], 5),
        ([("grpc-timeout", "7S"), ("X-Request-Timeout", "5S")], 5),
        ([("X-Request-Timeout", "5S"), ("X-Request-Timeout", "7S")], 5),
        ([("X-Request-Timeout", "soon"), ("grpc-timeout", "5S")], 5),
        ([("X-Request-Timeout", "99999999H")], 60),
        ([("X-Request-Timeout", "5")], None),
        ([("X-Request-Timeout", "-5S")], None),
        ([("x-envoy-expected-rq-timeout-ms", "5.5")], None),
        ([("x-envoy-expected-rq-timeout-ms", "1" * 16)], None),
    ],
)
def test_a_request_has_what_it_says_up_to_the_cap(async_runtime, headers, seconds):
    assert granted(async_runtime, headers) == (seconds, 200, 1)


def test_a_request_that_does_not_say_has_the_default(async_runtime):
    assert granted(async_runtime, [], default=3.0) == (3, 200, 1)
    assert granted(async_runtime, [("X-Request-Timeout", "?")], default=3.0) == (3, 200, 1)
    assert granted(async_runtime, [], default=3.0, cap=2.0) == (2, 200, 1)


def test_names_of_headers_can_be_chosen(async_runtime):
    said = [("X-Left-MS", "5000"), ("X-Request-Timeout", "1S")]
    assert granted(async_runtime, said, headers=["X-Left-ms"]) == (5, 200, 1)


@pytest.mark.parametrize("header", [("grpc-timeout", "0n"), ("x-envoy-expected-rq-timeout-ms", "0")])
def test_a_request_that_is_late_on_arrival_is_refused(async_runtime, header):
    assert granted(async_runtime, [header]) == (None, 504, 0)


def late(runtime, app, error=None, *, headers=None, covers="head"):
    """Run an application that takes too long; return the exchange."""
    exchange = Exchange(runtime, headers=headers or {"X-Request-Timeout": "20m"})

    async def body():
        layer = DeadlineMiddleware(app, covers=covers)
        if error is None:
            await exchange.run(layer)
        else:
            with pytest.raises(error):
                await exchange.run(layer)
        assert current_deadline() is None

    runtime.run(body)
    return exchange


def test_an_application_that_takes_too_long_is_cancelled_and_504_is_answered(async_runtime):
    endings = []

    async def app(scope, receive, send):
        try:
            await async_runtime.sleep(60)
        except BaseException as error:
            endings.append(type(error))
            raise

    exchange = late(async_runtime, app)
    assert endings == [async_runtime.cancelled]
    assert exchange.status == 504
    assert exchange.headers["content-type"] == "application/problem+json"
    assert int(exchange.headers["content-length"]) == len(exchange.body)
    problem = json.loads(exchange.body)
    assert (problem["type"], problem["title"], problem["status"]) == ("about:blank", "Gateway Timeout", 504)


def test_an_answer_that_has_begun_is_broken_off_if_its_time_is_for_all_of_it(async_runtime):
    async def app(scope, receive, send):
        await begin(send)
        await async_runtime.sleep(60)

    exchange = late(async_runtime, app, DeadlineExceededError, covers="answer")
    assert [message["type"] for message in exchange.sent] == ["http.response.start"]


@pytest.mark.parametrize("covers", ["head", "answer"])
def test_work_in_the_background_has_no_deadline(async_runtime, covers):
    seen = []

    async def app(scope, receive, send):
        await answer(send)
        seen.append(remaining())
        await async_runtime.sleep(0.05)
        seen.append("done")

    assert late(async_runtime, app, covers=covers).status == 200
    assert seen == [None, "done"]


@pytest.mark.parametrize("covers", ["head", "answer"])
@pytest.mark.parametrize("forwards", ["at once", "when awaited"])
def test_work_in_the_background_has_no_deadline_of_any_layer(async_runtime, forwards, covers):
    seen = []

    async def app(scope, receive, send):
        await answer(send)
        seen.append(remaining())

    def between(app):
        async def layer(scope, receive, send):
            async def forward(message):
                await send(message)

            await app(scope, receive, send if forwards == "at once" else forward)

        return layer

    inner = DeadlineMiddleware(between(DeadlineMiddleware(app, covers=covers)), covers=covers)
    assert late(async_runtime, between(inner), covers=covers).status == 200
    assert seen == [None]


def test_a_layer_that_answers_on_lets_what_is_inside_it_keep_its_deadline(async_runtime):
    seen = []

    async def app(scope, receive, send):
        await answer(send)
        seen.append(remaining())

    async def layer(scope, receive, send):
        async def forward(message):
            await send({**message, "more_body": message["type"] == "http.response.body"})

        await DeadlineMiddleware(app, covers="answer")(scope, receive, forward)
        await send({"type": "http.response.body", "body": b""})

    assert late(async_runtime, layer, covers="answer").status == 200
    assert seen[0] is not None


def test_an_application_that_will_not_be_cancelled_may_still_answer(async_runtime):
    async def app(scope, receive, send):
        try:
            await async_runtime.sleep(60)
        except async_runtime.cancelled:
            await answer(send, 200)

    assert late(async_runtime, app).status == 200


def test_an_application_that_is_cancelled_and_answers_nothing_is_answered_for(async_runtime):
    async def app(scope, receive, send):
        try:
            await async_runtime.sleep(60)
        except async_runtime.cancelled:
            return

    assert late(async_runtime, app).status == 504


def test_an_error_of_the_application_wins_over_the_end_of_its_time(async_runtime):
    async def app(scope, receive, send):
        try:
            await async_runtime.sleep(60)
        finally:
            raise KeyError

    assert late(async_runtime, app, KeyError).status is None


def test_a_policy_that_notices_first_is_answered_for(async_runtime):
    async def app(scope, receive, send):
        await Timeout(30.0).acall(async_runtime.sleep, 60)

    assert late(async_runtime, app).status == 504


def test_a_deadline_of_the_applications_own_is_its_own_affair(async_runtime):
    async def app(scope, receive, send):
        with deadline(0.01):
            await Timeout(30.0).acall(async_runtime.sleep, 60)

    assert (
        late(async_runtime, app, DeadlineExceededError, headers={"X-Request-Timeout": "30S"}).status is None
    )


def test_a_request_that_is_cancelled_from_outside_stays_cancelled(async_runtime):
    begun = []

    async def app(scope, receive, send):
        begun.append(True)
        await async_runtime.sleep(60)

    async def body():
        exchange = Exchange(async_runtime, headers={"grpc-timeout": "30S"})
        job = async_runtime.spawn(lambda: exchange.run(DeadlineMiddleware(app)))
        await async_runtime.until(lambda: begun)
        job.cancel()
        await job.join()
        assert isinstance(job.error, async_runtime.cancelled)
        assert exchange.sent == []

    async_runtime.run(body)


def test_a_deadline_outside_is_never_extended_and_is_back_for_the_background(async_runtime):
    seen = []

    async def app(scope, receive, send):
        seen.append(remaining())
        await begin(send)
        await end(send)
        seen.append(remaining())

    async def body():
        with deadline(2.0):
            await Exchange(async_runtime, headers={"grpc-timeout": "30S"}).run(DeadlineMiddleware(app))

    async_runtime.run(body)
    assert all(1.0 < seconds <= 2.0 for seconds in seen)


@pytest.mark.parametrize("kind", ["websocket", "lifespan", "other"])
def test_what_is_no_request_passes_through_untouched(async_runtime, kind):
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))

    async def body():
        given = ({"type": kind, "headers": [(b"grpc-timeout", b"0n")]}, object(), object())
        await DeadlineMiddleware(app)(*given)
        assert all(one is other for one, other in zip(seen[0], given, strict=True))

    async_runtime.run(body)


def test_all_that_is_wrong_is_said_at_once():
    wrong = {"headers": ["a b"], "cap": 0, "default": float("nan"), "covers": "body", "problem_type": 3}
    with pytest.raises(ConfigError, match="covers must be 'head' or 'answer', got 'body'") as caught:
        DeadlineMiddleware(answering(), **wrong)
    assert [problem.setting for problem in caught.value.problems] == list(wrong)


@pytest.mark.parametrize("covers", [None, True, "", "HEAD", ["head"]])
def test_what_is_no_part_of_an_answer_cannot_be_covered(covers):
    with pytest.raises(ConfigError, match="covers must be 'head' or 'answer'"):
        DeadlineMiddleware(answering(), covers=covers)


@pytest.mark.parametrize("headers", [None, 5, [b"x-time"]])
def test_what_is_no_sequence_of_headers_is_refused(headers):
    with pytest.raises(ConfigError, match="headers must be"):
        DeadlineMiddleware(answering(), headers=headers)


def test_headers_may_come_from_anything_that_can_be_gone_through_once():
    assert DeadlineMiddleware(answering(), headers=(name for name in ["X-Time"]))._headers.keys() == {
        b"x-time"
    }


# --- on asyncio, where requests share a timer with the calls that they make ------------------------------------------


def request(app, timeout="20m"):
    """Return an exchange, and the coroutine of its request under a deadline."""
    exchange = Exchange(AsyncioRuntime(), headers={"X-Request-Timeout": timeout})
    return exchange, exchange.run(DeadlineMiddleware(app))


def test_a_request_that_ends_in_time_leaves_nothing_behind():
    async def body():
        exchange, run = request(answer_slowly, "30S")
        await run
        return exchange.status, loops.cuts.at, current_deadline()

    assert asyncio.run(body()) == (200, {}, None)


async def answer_slowly(scope, receive, send):
    await asyncio.sleep(0)
    await answer(send)
    await asyncio.sleep(0)


async def hang(scope, receive, send):
    await asyncio.Event().wait()


def test_a_task_that_was_cancelled_before_is_cut_short_alike():
    async def body():
        asyncio.current_task().cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        exchange, run = request(hang)
        await run
        return exchange.status, asyncio.current_task().cancelling()

    assert asyncio.run(body()) == (504, 1)


def test_a_request_that_is_cancelled_while_it_is_cut_short_stays_cancelled():
    async def app(scope, receive, send):
        try:
            await asyncio.Event().wait()
        finally:
            asyncio.current_task().cancel()

    exchange, run = request(app)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run)
    assert exchange.status is None


def test_a_guarded_call_in_a_request_is_cut_short_with_it():
    seen = []

    @CircuitBreaker("stock")
    async def fetch():
        seen.append(remaining())
        await asyncio.Event().wait()

    async def app(scope, receive, send):
        await fetch()

    async def body():
        statuses = []
        for _ in range(2):
            exchange, run = request(app)
            await run
            statuses.append(exchange.status)
        return statuses, asyncio.current_task().cancelling(), loops.cuts.at

    assert asyncio.run(body()) == ([504, 504], 0, {})
    assert all(0.0 < left <= 0.02 for left in seen)


def test_a_call_that_sends_the_end_of_the_answer_still_has_its_deadline():
    async def app(scope, receive, send):
        @Timeout(30.0)
        async def work():
            await answer(send)
            await asyncio.Event().wait()

        with pytest.raises(DeadlineExceededError):
            await work()
        seen.append(remaining())

    seen = []
    exchange, run = request(app)
    asyncio.run(run)
    assert (exchange.status, seen) == (200, [None])


def test_the_nearer_of_two_deadlines_ends_a_request():
    async def body():
        exchange = Exchange(AsyncioRuntime(), headers={"X-Request-Timeout": "20m"})
        await exchange.run(DeadlineMiddleware(DeadlineMiddleware(hang), headers=[], default=30.0))
        return exchange.status, loops.cuts.at

    assert asyncio.run(body()) == (504, {})


def test_requests_in_one_loop_after_the_other_have_deadlines():
    statuses = []
    for _ in range(3):
        exchange, run = request(hang)
        asyncio.run(run)
        statuses.append(exchange.status)
    assert statuses == [504, 504, 504]


def test_a_fake_clock_does_not_keep_a_request_from_being_cut_short():
    with FakeClock():
        exchange, run = request(hang)
        asyncio.run(run)
    assert exchange.status == 504


def test_a_request_that_failed_needs_no_collector():
    async def app(scope, receive, send):
        raise KeyError

    async def body():
        _, run = request(app, "30S")
        task = asyncio.create_task(run)
        await asyncio.wait([task])
        assert isinstance(task.exception(), KeyError)
        return weakref.ref(task)

    with collector_off():
        assert asyncio.run(body())() is None
