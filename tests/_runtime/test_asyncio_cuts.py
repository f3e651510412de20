"""Deadlines of calls on asyncio: one timer for all of a loop, and nothing that stays behind."""

import asyncio
import contextvars
import gc
import os
import sys
import threading
import time
import weakref
from contextlib import suppress

import pytest
import trio
from tests.collector import collector_off
from tests.virtual_loop import VirtualLoop

from resilience import (
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    DeadlineExceededError,
    Pipeline,
    Retry,
    Timeout,
)
from resilience._runtime import adrive
from resilience._runtime import compile as compiling
from resilience._runtime._asyncio_cuts import REST, Cuts, loops
from resilience.backoff import constant
from resilience.deadline import current_deadline, deadline, remaining
from resilience.testing import FakeClock

pytestmark = pytest.mark.skipif(not compiling.is_on(), reason="nothing is generated here")

SHORT = 0.03
LONG = 5.0


@CircuitBreaker("stock")
async def fetch(seconds=LONG, result="late"):
    await asyncio.sleep(seconds)
    return result


@pytest.fixture(autouse=True)
def no_deadline_is_left():
    yield
    assert current_deadline() is None


@pytest.fixture(autouse=True)
def generated(monkeypatch):
    """Let every call be generated code's, but for those that a test says are not."""
    with deadline(LONG):
        asyncio.run(fetch(0))  # the first call comes before its code

    def fail(*args):
        raise AssertionError("driven as a flow")

    monkeypatch.setattr(adrive, "run", fail)
    return monkeypatch


def cancels():
    return asyncio.current_task().cancelling()


async def within(seconds, awaitable):
    with deadline(seconds):
        return await awaitable


async def ending(awaitable):
    """Return what came of it, and how many cancellations are left to bear."""
    try:
        result = await awaitable
    except BaseException as error:
        return type(error), cancels()
    return result, cancels()


def timers(loop):
    """Return the timers that run for deadlines in *loop*."""
    return [
        each
        for each in loop._scheduled
        if isinstance(getattr(each._callback, "__self__", None), Cuts) and not each.cancelled()
    ]


# --- how long ----------------------------------------------------------------------------------------------------


def test_a_call_that_is_late_is_cancelled_and_says_that_it_was_begun():
    async def body():
        began = time.monotonic()
        try:
            await within(SHORT, fetch())
        except DeadlineExceededError as error:
            return error.started, error.__context__, time.monotonic() - began, cancels()

    started, context, took, left = asyncio.run(body())
    assert (started, context, left) == (True, None, 0)
    assert SHORT <= took < 1.0


def test_what_is_late_before_it_begins_is_not_begun():
    begun = []

    @CircuitBreaker("stock")
    async def begin():
        begun.append(True)

    async def body():
        await begin()
        with deadline(SHORT):
            await asyncio.sleep(2 * SHORT)
            with pytest.raises(DeadlineExceededError) as caught:
                await begin()
        return caught.value.started

    assert (asyncio.run(body()), begun) == (False, [True])


def test_a_thousand_calls_with_deadlines_of_their_own_all_end_in_time():
    took = []

    async def one(n):
        began, seconds = time.monotonic(), 0.2 + n % 10 / 100
        with suppress(DeadlineExceededError):
            await within(seconds, fetch())
        took.append(time.monotonic() - began - seconds)

    async def body():
        await asyncio.gather(*(one(n) for n in range(1_000)))
        return loops.cuts.at, loops.cuts.next

    assert asyncio.run(body()) == ({}, float("inf"))
    assert len(took) == 1_000
    assert 0.0 <= min(took) <= max(took) < 5.0


def test_any_number_of_calls_has_one_timer():
    async def body():
        calls = [asyncio.create_task(within(LONG + n % 7, fetch())) for n in range(100)]
        await asyncio.sleep(0)
        seen = len(loops.cuts.at), len(timers(asyncio.get_running_loop()))
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        return seen, len(loops.cuts.at), len(timers(asyncio.get_running_loop()))

    assert asyncio.run(body()) == ((100, 1), 0, 1)


def test_a_deadline_that_comes_before_the_others_is_not_late():
    async def body():
        first = asyncio.create_task(within(LONG, fetch()))
        await asyncio.sleep(0)
        began = time.monotonic()
        assert await ending(within(SHORT, fetch())) == (DeadlineExceededError, 0)
        first.cancel()
        return time.monotonic() - began

    assert asyncio.run(body()) < 1.0


def test_the_others_are_ended_after_the_first():
    async def body():
        ends = [ending(within(n * SHORT, fetch())) for n in (3, 1, 2)]
        return await asyncio.gather(*ends)

    assert asyncio.run(body()) == [(DeadlineExceededError, 0)] * 3


def test_a_loop_without_calls_has_no_timer():
    async def body():
        for _ in range(3):
            await within(SHORT, fetch(0))
        await asyncio.sleep(2 * SHORT)
        return timers(asyncio.get_running_loop())

    assert asyncio.run(body()) == []


def test_looking_through_many_calls_is_followed_by_a_rest():
    set_for = []

    class Loop:
        _thread_id = None

        def call_later(self, seconds, *args, context):
            set_for.append(seconds)

    cuts = Cuts(Loop(), lambda: 1000.0)
    cuts.at = {object(): 1000.0 + REST for _ in range(3_000)}
    cuts._ring()
    assert set_for == [pytest.approx(3 * REST)]


def test_the_timer_does_not_keep_what_the_first_call_knew():
    class Request:
        pass

    variable = contextvars.ContextVar("request")

    async def first():
        request = Request()
        variable.set(request)
        await within(LONG, fetch(0))
        return weakref.ref(request)

    async def body():
        known = await asyncio.create_task(first())
        await asyncio.sleep(0)
        gc.collect()
        return len(timers(asyncio.get_running_loop())), known()

    assert asyncio.run(body()) == (1, None)


def test_a_task_that_cannot_be_cancelled_does_not_stop_the_timer():
    class Stubborn(asyncio.Task):
        def cancel(self, msg=None):
            super().cancel(msg)
            raise RuntimeError("not me")

    async def body():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, about: errors.append(type(about["exception"])))
        tasks = [Stubborn(within(SHORT, fetch()), loop=loop) for _ in range(3)]
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        return [type(end) for end in ends]

    errors = []
    assert asyncio.run(body()) == [DeadlineExceededError] * 3
    assert errors == [RuntimeError] * 3


# --- one in another ----------------------------------------------------------------------------------------------


def test_a_call_within_a_call_with_the_same_deadline_is_cancelled_once():
    seen = []

    @CircuitBreaker("outer")
    async def outer():
        try:
            return await fetch()
        finally:
            seen.append((len(loops.cuts.at), cancels()))

    assert asyncio.run(ending(within(SHORT, outer()))) == (DeadlineExceededError, 0)
    assert seen == [(0, 1)]


def test_the_nearer_deadline_of_a_call_within_a_call_ends_it_alone():
    @CircuitBreaker("outer")
    async def outer():
        inner = await ending(within(SHORT, fetch()))
        return inner, await fetch(0, "next")

    async def body():
        return await within(LONG, outer()), loops.cuts.at

    assert asyncio.run(body()) == (((DeadlineExceededError, 0), "next"), {})


def test_the_deadline_around_ends_a_call_that_outlasts_its_own():
    @CircuitBreaker("inner")
    async def stubborn():
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            await asyncio.sleep(LONG)

    @CircuitBreaker("outer")
    async def outer():
        with deadline(SHORT):
            await stubborn()

    assert asyncio.run(ending(within(2 * SHORT, outer()))) == (DeadlineExceededError, 0)


def test_the_deadline_around_a_limit_of_time_that_comes_first_is_the_callers():
    limit = Timeout(LONG)
    call = limit(fetch.__wrapped__)

    async def body():
        await call(0)
        with deadline(SHORT):
            return await ending(call()), limit.timed_out, dict(limit.queue.outlasted.began)

    assert asyncio.run(body()) == ((DeadlineExceededError, 0), 0, {})


def test_a_limit_of_time_that_comes_before_the_deadline_is_its_own():
    limit = Timeout(SHORT)
    call = limit(fetch.__wrapped__)

    async def body():
        await call(0)
        with deadline(LONG):
            return await ending(call()), limit.timed_out, loops.cuts.at, round(remaining())

    assert asyncio.run(body()) == ((TimeoutError, 0), 1, {}, LONG)


def test_a_function_with_a_limit_of_time_may_call_itself_within_a_deadline(generated):
    generated.undo()  # inside itself it is driven as a flow

    @Timeout(LONG)
    async def climb(depth):
        return depth and 1 + await climb(depth - 1)

    async def body():
        with deadline(LONG / 2):
            return [await climb(3) for _ in range(2)], cancels()

    assert asyncio.run(body()) == ([3, 3], 0)


# --- policies ----------------------------------------------------------------------------------------------------


def test_a_call_that_is_cut_short_teaches_a_breaker_nothing():
    breaker = CircuitBreaker("stock", consecutive_failures=1)
    call = breaker(fetch.__wrapped__)

    async def body():
        await call(0)
        return await ending(within(SHORT, call()))

    assert asyncio.run(body()) == (DeadlineExceededError, 0)
    assert (breaker.state, breaker._circuit.cancelled) == (CircuitState.CLOSED, 1)


def test_a_deadline_ends_the_attempts_after_the_first_too(generated):
    generated.undo()  # those are driven as a flow
    attempts = []

    @Retry(attempts=5, backoff=constant(0.0), budget=None)
    async def flaky():
        attempts.append(remaining())
        if len(attempts) % 2:
            raise ConnectionError
        await asyncio.sleep(LONG)

    async def body():
        seen = []
        for _ in range(2):
            began = time.monotonic()
            seen.append((*await ending(within(SHORT, flaky())), time.monotonic() - began < 1.0))
        return seen, loops.cuts.at

    assert asyncio.run(body()) == ([(DeadlineExceededError, 0, True)] * 2, {})
    assert len(attempts) == 4
    assert all(0.0 < left <= SHORT for left in attempts)


def test_retries_know_the_deadline_of_a_failed_attempt(generated):
    generated.undo()
    attempts = []

    @Retry(attempts=5, backoff=constant(1.0), budget=None)
    async def fail():
        attempts.append(True)
        raise ConnectionError

    async def body():
        began = time.monotonic()
        ends = [await ending(within(SHORT, fail())) for _ in range(2)]
        return ends, time.monotonic() - began < 1.0

    assert asyncio.run(body()) == ([(ConnectionError, 0)] * 2, True)
    assert len(attempts) == 2


def test_a_refusal_within_a_deadline_is_that_of_the_policy():
    breaker = CircuitBreaker("stock", consecutive_failures=1)
    call = Pipeline("stock", Retry(budget=None), breaker)(fetch.__wrapped__)

    async def body():
        await call(0)
        with breaker.isolate():
            return await ending(within(LONG, call(0))), loops.cuts.at

    assert asyncio.run(body()) == ((CircuitOpenError, 0), {})


# --- loops and threads -------------------------------------------------------------------------------------------


def test_loops_in_two_threads_keep_deadlines_apart():
    ends = []

    async def body():
        for n in range(200):
            ends.append(await within(LONG, fetch(0, n)))
        calls = [within(0.1, fetch(LONG if n % 2 else 0.01)) for n in range(20)]
        ends.extend(await asyncio.gather(*calls, return_exceptions=True))
        assert cancels() == 0

    threads = [threading.Thread(target=asyncio.run, args=(body(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sum(isinstance(end, DeadlineExceededError) for end in ends) == 30
    assert ends.count("late") == 30
    assert len(ends) == 660


def test_a_loop_that_was_closed_with_calls_in_it_is_let_go_of():
    def begin():
        loop = asyncio.new_event_loop()
        task = loop.create_task(within(LONG, fetch()))
        loop.run_until_complete(asyncio.sleep(0))
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
        loop.close()
        return weakref.ref(loop)

    closed = [begin() for _ in range(3)]
    assert asyncio.run(within(LONG, fetch(0))) == "late"
    gc.collect()
    assert [loop() for loop in closed] == [None] * 3


def test_in_a_loop_with_a_time_of_its_own_that_time_counts(generated):
    generated.undo()  # only flows keep a deadline there
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(within(10.0, fetch(9.0))) == "late"
        with pytest.raises(DeadlineExceededError):
            runner.run(within(10.0, fetch(1_000.0)))


def test_under_a_fake_clock_its_time_counts(generated):
    generated.undo()
    with FakeClock() as clock:

        @CircuitBreaker("stock")
        async def wait():
            clock.advance(9.0)
            await asyncio.sleep(0.001)
            return "here"

        assert asyncio.run(within(10.0, wait())) == "here"
        with pytest.raises(DeadlineExceededError):
            asyncio.run(within(5.0, wait()))


def test_trio_keeps_deadlines_by_its_own_means(generated):
    generated.undo()

    @CircuitBreaker("stock")
    async def doze(seconds):
        await trio.sleep(seconds)
        return "here"

    async def body():
        with deadline(SHORT), pytest.raises(DeadlineExceededError):
            await doze(LONG)
        return await within(LONG, doze(0))

    async def task():
        return trio.run(body)

    assert trio.run(body) == "here"
    assert asyncio.run(task()) == "here"


def test_a_child_process_begins_with_no_calls(generated):
    generated.undo()  # a breaker looks up once after a fork

    async def body():
        task = asyncio.create_task(within(LONG, fetch()))
        await asyncio.sleep(0)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                asyncio._set_running_loop(None)
                try:
                    asyncio.run(within(SHORT, fetch()))
                except DeadlineExceededError:
                    os.write(write, b"in time")
            finally:
                os._exit(0)
        os.close(write)
        said = b"".join(iter(lambda: os.read(read, 100), b""))
        os.close(read)
        os.waitpid(child, 0)  # noqa: ASYNC222  # it has ended: the pipe is read to its end
        task.cancel()
        await asyncio.wait([task])
        return said, len(loops.cuts.at)

    assert asyncio.run(body()) == (b"in time", 0)


# --- coroutines that no task runs to their end -------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_coroutine_that_is_closed_leaves_nothing(elsewhere):
    async def body():
        with deadline(SHORT):
            coroutine = fetch()
            coroutine.send(None)
            assert len(loops.cuts.at) == 1
            (contextvars.Context() if elsewhere else contextvars.copy_context()).run(coroutine.close)
        seen = len(loops.cuts.at)
        await asyncio.sleep(2 * SHORT)
        return seen, cancels()

    assert asyncio.run(body()) == (0, 0)


def test_without_a_task_a_call_goes_the_slow_way(generated):
    generated.undo()

    @CircuitBreaker("stock")
    async def here():
        return "here"

    with deadline(LONG):
        asyncio.run(here())
        with pytest.raises(RuntimeError, match=r"no running event loop|inside a task"):
            here().send(None)


# --- garbage -----------------------------------------------------------------------------------------------------


class Bad(Exception):
    pass


@pytest.mark.parametrize("how", ["error", "late", "cancelled", "late before"])
def test_a_task_that_failed_needs_no_collector(how):
    breaker = CircuitBreaker("stock")

    @breaker
    async def call():
        if how == "error":
            raise Bad
        await asyncio.sleep(LONG)

    async def one():
        with deadline(SHORT):
            if how == "late before":
                await asyncio.sleep(2 * SHORT)
            await call()

    async def body():
        for _ in range(2):
            task = asyncio.create_task(one())
            await asyncio.sleep(0)
            if how == "cancelled":
                task.cancel()
            await asyncio.wait([task])
            if how != "cancelled":
                task.exception()
        return weakref.ref(task)

    with collector_off():
        assert asyncio.run(body())() is None


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks")
def test_eager_tasks_have_deadlines_of_their_own():
    async def body():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        calls = within(LONG, fetch(0, 1)), within(SHORT, fetch()), within(LONG, fetch(0, 2))
        ends = await asyncio.gather(*calls, return_exceptions=True)
        return [end if isinstance(end, int) else type(end) for end in ends], cancels(), loops.cuts.at

    assert asyncio.run(body()) == ([1, DeadlineExceededError, 2], 0, {})
