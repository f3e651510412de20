"""Requests with a deadline: what the layer keeps of their headers, and what it must not trust on its short way."""

import asyncio
import os
import subprocess
import sys
import threading
import weakref

import pytest
from tests.collector import collector_off
from tests.runtimes import AsyncioRuntime

from resilience import DeadlineExceededError, current_deadline, deadline, remaining
from resilience._runtime._asyncio_cuts import loops
from resilience.integrations._asgi_deadline import Said, timeout_in
from resilience.integrations.asgi import DeadlineMiddleware

from .asgi_server import Exchange, answer, begin, end


async def hang(scope, receive, send):
    await asyncio.Event().wait()


def request(app, timeout="20m", **settings):
    """Return an exchange, and the coroutine of its request under a deadline."""
    exchange = Exchange(AsyncioRuntime(), headers={"X-Request-Timeout": timeout})
    return exchange, exchange.run(DeadlineMiddleware(app, **settings))


# --- what headers mean -----------------------------------------------------------------------------------------------


@pytest.fixture
def read():
    """Return a reader that keeps what it was asked, as its attribute *asked*."""

    def read(value):
        read.asked.append(value)
        return timeout_in(value)

    read.asked = []
    return read


@pytest.mark.parametrize(("value", "seconds"), [(b"5S", 5.0), (b"0n", 0.0), (b"soon", float("inf"))])
def test_a_value_that_was_read_is_not_read_again(read, value, seconds):
    said = Said(read, 60.0)
    assert (said[value], said[value], read.asked) == (seconds, seconds, [value])


def test_no_value_means_more_than_the_cap():
    assert (Said(timeout_in, 60.0)[b"1H"], Said(timeout_in, float("inf"))[b"1H"]) == (60.0, 3600.0)


def test_any_number_of_values_leaves_but_a_few_behind(read):
    said, sizes = Said(read, 60.0), set()
    for number in range(2_000):
        assert said[b"%dm" % number] == number / 1_000
        sizes.add(len(said))
    assert max(sizes) == 256


def test_a_value_that_is_too_long_is_neither_read_nor_kept(read):
    said = Said(read, 60.0)
    assert (said[b" " * 63 + b"1S"], read.asked, len(said)) == (float("inf"), [], 0)


def test_threads_may_read_at_once():
    said, wrong = Said(timeout_in, 60.0), []

    def hammer(begin):
        for number in range(begin, begin + 3_000):
            if said[b"%dm" % number] != number / 1_000:
                wrong.append(number)

    threads = [threading.Thread(target=hammer, args=(n * 100,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(said) <= 256 + len(threads)


def test_a_text_means_in_each_header_what_it_means_there(async_runtime):
    seen = []

    async def app(scope, receive, send):
        left = remaining()
        seen.append(left is not None and 4.0 < left <= 5.0)
        await answer(send)

    async def body():
        layer = DeadlineMiddleware(app)
        for _ in range(2):
            for name in ("x-envoy-expected-rq-timeout-ms", "X-Request-Timeout"):
                await Exchange(async_runtime, headers={name: "5000"}).run(layer)

    async_runtime.run(body)
    assert seen == [True, False, True, False]


# --- what ends otherwise than most requests do -----------------------------------------------------------------------


def leaving_a_block_open(left_open):
    """Return an application that leaves a deadline of a generator behind, and does not answer."""

    async def app(scope, receive, send):
        def generator():
            with deadline(30.0):
                yield

        left_open.append(generator())
        next(left_open[0])

    return app


def test_a_request_whose_application_left_a_block_open_is_not_late(async_runtime):
    left_open = []

    async def body():
        exchange = Exchange(async_runtime, headers={"X-Request-Timeout": "10S"})
        await exchange.run(DeadlineMiddleware(leaving_a_block_open(left_open)))
        left_open[0].close()
        return exchange.sent, current_deadline()

    assert async_runtime.run(body) == ([], None)


def test_a_block_that_an_application_left_open_does_not_keep_the_deadline_of_its_request(async_runtime):
    left_open = []

    async def body():
        exchange = Exchange(async_runtime, headers={"X-Request-Timeout": "10S"})
        await exchange.run(DeadlineMiddleware(leaving_a_block_open(left_open)))
        inside = remaining()
        left_open[0].close()
        return inside, remaining()

    inside, after = async_runtime.run(body)
    assert inside is not None
    assert after is None


def test_an_outer_block_that_ends_within_a_request_does_not_come_back(async_runtime):
    async def body():
        outer = deadline(5.0)
        outer.__enter__()

        async def app(scope, receive, send):
            outer.__exit__(None, None, None)
            await answer(send)

        await Exchange(async_runtime, headers={"X-Request-Timeout": "10S"}).run(DeadlineMiddleware(app))
        return current_deadline()

    assert async_runtime.run(body) is None


def test_what_an_application_starts_has_its_deadline_until_the_answer_is_complete(async_runtime):
    seen = []

    async def app(scope, receive, send):
        async def child():
            seen.append(remaining())
            told.set()
            await ended.wait()
            seen.append(remaining())

        told, ended = async_runtime.event(), async_runtime.event()
        job = async_runtime.spawn(child)
        await told.wait()
        await answer(send)
        ended.set()
        await job.join()

    async_runtime.run(
        lambda: Exchange(async_runtime, headers={"X-Request-Timeout": "10S"}).run(DeadlineMiddleware(app))
    )
    inside, after = seen
    assert 9.0 < inside <= 10.0
    assert after is None


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_request_that_is_interrupted_leaves_nothing_behind(kind):
    async def app(scope, receive, send):
        raise kind

    async def body():
        _, run = request(app, "30S")
        with pytest.raises(kind):
            await run
        return loops.cuts.at, current_deadline(), asyncio.current_task().cancelling()

    assert asyncio.run(body()) == ({}, None, 0)


@pytest.mark.parametrize("covers", ["head", "answer"])
def test_work_in_the_background_is_not_cancelled_and_leaves_nothing_behind(covers):
    async def app(scope, receive, send):
        await answer(send)
        await asyncio.sleep(0.05)

    async def body():
        exchange, run = request(app, covers=covers)
        await run
        return exchange.status, loops.cuts.at, asyncio.current_task().cancelling()

    assert asyncio.run(body()) == (200, {}, 0)


def test_a_request_that_broke_off_needs_no_collector():
    async def app(scope, receive, send):
        await begin(send)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    async def body():
        _, run = request(app, covers="answer")
        task = asyncio.create_task(run)
        await asyncio.wait([task])
        assert isinstance(task.exception(), DeadlineExceededError)
        return weakref.ref(task)

    with collector_off():
        assert asyncio.run(body())() is None


def test_a_second_end_of_an_answer_changes_nothing(async_runtime):
    seen = []

    async def app(scope, receive, send):
        await answer(send)
        await end(send)
        seen.append(remaining())

    async_runtime.run(
        lambda: Exchange(async_runtime, headers={"X-Request-Timeout": "10S"}).run(DeadlineMiddleware(app))
    )
    assert seen == [None]


def test_what_comes_before_an_answer_does_not_begin_it(async_runtime):
    async def app(scope, receive, send):
        await send({"type": "http.response.debug", "info": {}})
        await async_runtime.sleep(60)

    async def body():
        exchange = Exchange(async_runtime, headers={"X-Request-Timeout": "20m"})
        await exchange.run(DeadlineMiddleware(app))
        return exchange.status

    assert async_runtime.run(body) == 504


def test_the_first_request_with_a_deadline_lets_everybody_look_for_it():
    program = (
        "import asyncio\n"
        "from resilience.deadline import usage\n"
        "from resilience.integrations.asgi import DeadlineMiddleware\n"
        "async def app(scope, receive, send): print(usage.used)\n"
        "async def request(*headers):\n"
        "    await DeadlineMiddleware(app)({'type': 'http', 'headers': headers}, None, None)\n"
        "asyncio.run(request())\n"
        "asyncio.run(request((b'grpc-timeout', b'5S')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_process_cuts_its_own_requests_short_and_not_those_of_its_parent():
    async def body():
        exchange, run = request(hang, "30S")
        task = asyncio.create_task(run)
        await asyncio.sleep(0)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                asyncio._set_running_loop(None)
                exchange, run = request(hang)
                asyncio.run(run)
                os.write(write, b"%d" % exchange.status)
            finally:
                os._exit(0)
        os.close(write)
        said = b"".join(iter(lambda: os.read(read, 100), b""))
        os.close(read)
        os.waitpid(child, 0)  # noqa: ASYNC222  # it has ended: the pipe is read to its end
        task.cancel()
        await asyncio.wait([task])
        return said, loops.cuts.at, exchange.status

    assert asyncio.run(body()) == (b"504", {}, None)
