"""However a call ends that goes through generated code: what it raises, gives back and leaves behind."""

import asyncio
import gc
import traceback
import weakref
from unittest.mock import patch

import pytest
from tests._runtime.test_interrupts import Interrupt
from tests.collector import collector_off

from resilience import (
    CircuitBreaker,
    ConcurrencyLimiter,
    Pipeline,
    Retry,
    RetryBudget,
    Timeout,
    current_attempt,
)
from resilience._runtime import compile as compiling
from resilience._runtime import locked
from resilience._runtime.attempt import innermost
from resilience._runtime.permit import Permit
from resilience.backoff import constant
from resilience.deadline import current_deadline
from resilience.errors import CircuitOpenError, ConcurrencyLimitedError

pytestmark = pytest.mark.skipif(not compiling.is_on(), reason="nothing is generated here")


class Bad(Exception):
    pass


@pytest.fixture(params=["generated", "with locks", "driven"])
def way(request, monkeypatch):
    """Every way through a policy."""
    monkeypatch.setattr(locked, "_needs_locks", request.param == "with locks")
    if request.param == "driven":
        monkeypatch.setattr(compiling, "is_on", lambda: False)
    return request.param


def running(guarded):
    """Return the function whose code is generated: *guarded*, or what that hands its calls on to."""
    return guarded.__globals__.get("present", guarded)


POLICIES = {
    "limit": lambda: Timeout(5.0),
    "places": lambda: ConcurrencyLimiter(limit=2),
    "limit around retries": lambda: Pipeline("stock", Timeout(5.0), Retry(attempts=2, backoff=constant(0.0))),
    "limit that does not tell": lambda: Timeout(5.0, propagate=False),
    "limit around retries that does not tell": lambda: Pipeline(
        "stock", Timeout(5.0, propagate=False), Retry(attempts=2, backoff=constant(0.0))
    ),
}


@pytest.fixture(params=POLICIES)
def policy(request):
    """A policy of each kind that raises anew."""
    return POLICIES[request.param]()


# --- what is raised ----------------------------------------------------------------------------------------------


def handled(call):
    """Return what *call* raises while another error is handled."""
    try:
        raise OSError("of the caller")
    except OSError:
        try:
            call()
        except Bad as error:
            return error


def chain(error):
    """Return the types of an error and of those in whose handling it was raised."""
    types = []
    while error is not None:
        types.append(type(error))
        error = error.__context__
    return types


def test_an_error_keeps_its_context_while_the_caller_handles_another(way, policy):
    @policy
    def fail():
        try:
            raise KeyError
        except KeyError:
            raise Bad  # noqa: B904  # the context is what is looked at

    assert chain(handled(fail)) == [Bad, KeyError, OSError]


def test_an_error_of_a_coroutine_keeps_its_context(way, policy):
    @policy
    async def fail():
        try:
            raise KeyError
        except KeyError:
            raise Bad  # noqa: B904  # the context is what is looked at

    async def body():
        try:
            raise OSError("of the caller")
        except OSError:
            try:
                await fail()
            except Bad as error:
                return chain(error)

    assert asyncio.run(body()) == [Bad, KeyError, OSError]


def test_an_error_without_a_context_has_that_of_the_caller(way, policy):
    @policy
    def fail():
        raise Bad

    assert chain(handled(fail)) == [Bad, OSError]
    with pytest.raises(Bad) as caught:
        fail()
    assert caught.value.__context__ is None


def test_an_error_with_its_context_suppressed_keeps_that(way, policy):
    @policy
    def fail():
        try:
            raise KeyError
        except KeyError:
            raise Bad from None

    assert handled(fail).__suppress_context__


def test_an_error_that_is_raised_again_and_again_has_no_longer_a_traceback(mode):
    limit = Timeout(5.0)
    error = Bad()

    @limit
    def fail():
        raise error.with_traceback(None)

    lengths = set()
    for _ in range(5):
        with pytest.raises(Bad):
            fail()
        lengths.add(len(traceback.extract_tb(error.__traceback__)))
    assert len(lengths - {max(lengths)}) <= 1  # the first call goes through what makes the code


# --- what is given back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("end", [None, Bad, SystemExit])
def test_a_signal_while_the_deadline_is_set_or_taken_away_costs_no_place(mode, end, nth):
    places = ConcurrencyLimiter(limit=2)
    policy = Pipeline("stock", places, Timeout(5.0))

    @policy
    def work():
        if end is not None:
            raise end

    try:
        work()
    except (Bad, SystemExit):
        pass
    set_block, count = running(work).__globals__["set_block"], []

    def struck(until):
        set_block(until)
        count.append(until)
        if len(count) == nth:
            raise KeyboardInterrupt

    with patch.dict(running(work).__globals__, set_block=struck), pytest.raises(KeyboardInterrupt):
        work()
    assert places.inflight == 0
    assert current_deadline() is None


@pytest.mark.parametrize("end", ["result", "error", "late", "cancelled", "closed"])
def test_every_ending_of_a_coroutine_gives_its_place_back(way, end):
    places = ConcurrencyLimiter(limit=1)
    policy = Pipeline(
        "stock", Timeout(5.0), Retry(budget=RetryBudget.grpc(), attempts=1), places, Timeout(0.02)
    )

    @policy
    async def work():
        if end == "error":
            raise Bad
        if end != "result":
            await asyncio.get_running_loop().create_future()

    async def body():
        if end == "closed":
            coroutine = work()
            coroutine.send(None)
            inside = places.inflight
            coroutine.close()
        else:
            task = asyncio.create_task(work())
            await asyncio.sleep(0)
            inside = places.inflight
            if end == "cancelled":
                task.cancel()
            await asyncio.wait([task])
            if end != "cancelled":
                task.exception()
        return inside, places.inflight, asyncio.current_task().cancelling()

    inside, after, cancels = asyncio.run(body())
    assert inside == (end not in ("result", "error"))
    assert (after, cancels) == (0, 0)


def test_a_refused_coroutine_is_in_no_queue(mode):
    places = ConcurrencyLimiter(limit=1)
    limit = Timeout(5.0)
    policy = Pipeline("stock", limit, places)

    @policy
    async def work():
        return 1

    async def body():
        await work()
        permit = places.try_acquire()
        assert isinstance(permit, Permit)
        with pytest.raises(ConcurrencyLimitedError):
            await work()
        permit.release()
        return len(limit.queue.began), current_deadline(), await work()

    assert asyncio.run(body()) == (0, None, 1)


# --- what is left behind -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["plain", "async", "refused"])
def test_an_error_that_is_dropped_needs_no_collector(mode, how):
    places = ConcurrencyLimiter(limit=1)
    policy = Pipeline("stock", Timeout(5.0), places)

    @policy
    def plain():
        raise Bad

    @policy
    async def work():
        raise Bad

    async def drop():
        try:
            if how == "plain":
                plain()
            elif how == "async":
                await work()
            else:
                with places.guard():
                    await work()
        except (Bad, ConcurrencyLimitedError) as error:
            return weakref.ref(error)

    async def body():
        await drop()
        with collector_off():
            return (await drop())()

    assert asyncio.run(body()) is None


@pytest.mark.parametrize("is_async", [False, True])
def test_no_error_of_many_attempts_needs_the_collector(is_async):
    policy = Pipeline(
        "stock", Retry(attempts=3, backoff=constant(0.0), budget=None), ConcurrencyLimiter(limit=1)
    )
    errors = []

    def made():
        error = Bad()
        errors.append(weakref.ref(error))
        return error

    def plain():
        raise made()

    async def work():
        plain()

    guarded = policy(work if is_async else plain)

    async def drop():
        try:
            if is_async:
                await guarded()
            else:
                guarded()
        except Bad:
            pass

    async def body():
        await drop()
        gc.collect()
        errors.clear()
        gc.disable()
        try:
            await drop()
            return [error() for error in errors]
        finally:
            gc.enable()

    assert asyncio.run(body()) == [None] * 3


# --- further attempts --------------------------------------------------------------------------------------------


def flaky(*errors):
    """Return a function that raises these errors, one at each call, and then returns a number."""
    left = list(errors)

    def ask():
        if left:
            raise left.pop(0)
        return 7

    return ask


def test_a_classifier_that_fails_at_a_further_attempt_ends_the_call(way):
    asked = []

    def judge(error):
        asked.append(error)
        if len(asked) > 2:
            raise ZeroDivisionError
        return True

    places = ConcurrencyLimiter(limit=1)
    retry = Retry(attempts=5, backoff=constant(0.0), budget=None, on=Bad)
    ask = Pipeline("stock", retry, places, CircuitBreaker(on=judge))(flaky(Bad(), Bad(), Bad(), Bad()))
    with pytest.raises(ZeroDivisionError):
        ask()
    assert (places.inflight, len(asked), retry.retries) == (0, 3, 2)
    assert retry.stops["cancelled"] == 1
    assert current_attempt().attempt == 1


def test_a_plain_function_that_returns_a_coroutine_at_a_further_attempt_is_refused(way):
    places = ConcurrencyLimiter(limit=1)
    retry = Retry(attempts=5, backoff=constant(0.0), budget=None)
    failing = flaky(Bad())

    async def coroutine():
        pass

    @Pipeline("stock", retry, places)
    def ask():
        failing()
        return coroutine()

    with pytest.raises(TypeError, match="returned a coroutine"):
        ask()
    assert (places.inflight, retry.retries, retry.stops["cancelled"]) == (0, 1, 1)


def test_a_refusal_that_is_retried_ends_in_a_result(way):
    breaker = CircuitBreaker("breaker")
    order = breaker.isolate()
    retry = Retry(attempts=3, backoff=lambda _: order.end() or 0.0, budget=None, on=CircuitOpenError)
    ask = Pipeline("stock", retry, breaker)(lambda: 7)
    assert ask() == 7
    assert (retry.retries, retry.stops["success"]) == (1, 1)


def test_an_interrupted_wait_gives_everything_back(way):
    budget = RetryBudget.inflight(min_concurrency=1)
    outer, inner = ConcurrencyLimiter("outer", limit=1), ConcurrencyLimiter("inner", limit=1)
    retry = Retry(attempts=3, backoff=constant(1.0), budget=budget)
    ask = Pipeline("stock", outer, retry, inner)(flaky(Bad(), Bad()))
    with patch("time.sleep", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        ask()
    assert (outer.inflight, inner.inflight, retry.stops["cancelled"]) == (0, 0, 1)
    assert (budget.level, budget.limit) == (1, 1)
    assert current_attempt().attempt == 1


@pytest.mark.parametrize("when", ["waiting", "trying again"])
@pytest.mark.parametrize("end", ["cancelled", "closed"])
def test_a_coroutine_that_ends_during_its_retries_gives_everything_back(way, when, end):
    budget = RetryBudget.inflight(min_concurrency=1)
    outer, inner = ConcurrencyLimiter("outer", limit=1), ConcurrencyLimiter("inner", limit=1)
    delay = 60.0 if when == "waiting" else 0.0
    retry = Retry(attempts=3, backoff=constant(delay), budget=budget)
    failing, seen = flaky(Bad()), []

    @Pipeline("stock", outer, retry, inner)
    async def work():
        failing()
        seen.append(current_attempt().attempt)
        await asyncio.get_running_loop().create_future()

    async def body():
        if end == "closed":
            coroutine = work()
            coroutine.send(None)
            inside = outer.inflight, inner.inflight
            coroutine.close()
        else:
            task = asyncio.create_task(work())
            await asyncio.sleep(0)
            inside = outer.inflight, inner.inflight
            task.cancel()
            await asyncio.wait([task])
        return inside, current_attempt().attempt

    inside, attempt = asyncio.run(body())
    assert inside == (1, int(when == "trying again"))
    assert seen == ([2] if when == "trying again" else [])
    assert attempt == 1
    assert (outer.inflight, inner.inflight, retry.stops["cancelled"]) == (0, 0, 1)
    assert (budget.level, budget.limit) == (1, 1)


def test_a_signal_at_any_line_of_further_attempts_ends_them_once():
    struck, n, left = "-", 0, []
    while struck:
        n += 1
        retry = Retry(attempts=3, backoff=constant(0.0), budget=RetryBudget.inflight())
        ask = Pipeline("stock", CircuitBreaker("outer"), retry, CircuitBreaker("inner"))(flaky(Bad(), Bad()))
        attempts = []

        def work(ask=ask, attempts=attempts):
            try:
                ask()
            finally:
                attempts.append(innermost.get())  # itself: `current_attempt` could be struck, too

        interrupt = Interrupt(n)
        interrupt.run(work)
        struck = interrupt.struck
        if attempts != [None] or sum(retry.stops.values()) > 1:
            left.append((struck, attempts, retry.stops))
    assert left == []
    assert n > 100, "it came to all lines"
