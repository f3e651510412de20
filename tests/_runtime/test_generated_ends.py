"""However a call ends that goes through generated code: what it raises, gives back and leaves behind."""

import asyncio
import gc
import traceback
import weakref
from unittest.mock import patch

import pytest

from resilience import ConcurrencyLimiter, Pipeline, Retry, RetryBudget, Timeout
from resilience._runtime import compile as compiling
from resilience._runtime.permit import Permit
from resilience.backoff import constant
from resilience.deadline import current_deadline
from resilience.errors import ConcurrencyLimitedError

pytestmark = pytest.mark.skipif(not compiling.is_on(), reason="nothing is generated here")


class Bad(Exception):
    pass


@pytest.fixture(params=["generated", "driven"])
def way(request, monkeypatch):
    """Both ways through a policy."""
    if request.param == "driven":
        monkeypatch.setattr(compiling, "is_on", lambda: False)
    return request.param


POLICIES = {
    "limit": lambda: Timeout(5.0),
    "places": lambda: ConcurrencyLimiter(limit=2),
    "limit around retries": lambda: Pipeline("stock", Timeout(5.0), Retry(attempts=2, backoff=constant(0.0))),
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


def test_an_error_that_is_raised_again_and_again_has_no_longer_a_traceback():
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
def test_a_signal_while_the_deadline_is_set_or_taken_away_costs_no_place(end, nth):
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
    set_block, count = work.__globals__["set_block"], []

    def struck(until):
        set_block(until)
        count.append(until)
        if len(count) == nth:
            raise KeyboardInterrupt

    with patch.dict(work.__globals__, set_block=struck), pytest.raises(KeyboardInterrupt):
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


def test_a_refused_coroutine_is_in_no_queue():
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
def test_an_error_that_is_dropped_needs_no_collector(how):
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
        gc.collect()
        gc.disable()
        try:
            return (await drop())()
        finally:
            gc.enable()

    assert asyncio.run(body()) is None
