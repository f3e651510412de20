"""Cache on threads, under asyncio and under trio: fresh, stale, one call for all, and who takes over."""

import asyncio
import contextvars
import gc
import multiprocessing
import os
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio
from tests.collector import collector_off

from resilience._runtime.flow import Call, Flow, Inner
from resilience._runtime.pipeline import Pipeline
from resilience._runtime.policy import Binding, Policy, Step
from resilience.cache import Cache, CacheSettings
from resilience.deadline import deadline
from resilience.errors import CircuitOpenError, ConfigError, DeadlineExceededError
from resilience.outcome import CallContext, Outcome, Verdict


class Counted:
    """A function that counts its calls, and does what it is told."""

    def __init__(self, then: Any = None) -> None:
        self.calls = 0
        self.then = then

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if isinstance(self.then, BaseException):
            raise self.then
        return self.calls if self.then is None else self.then


class Refusing(Policy):
    """Lets calls pass until it is told to refuse them."""

    __slots__ = ("refuses",)
    kind = "refusing"

    def __init__(self) -> None:
        super().__init__(None)
        self.refuses = False

    @property
    def settings(self) -> None:
        return None

    def _configure(self, settings: Any) -> None: ...

    def step_for(self, binding: Binding) -> Step:
        def step(call: Call, inner: Inner) -> Flow:
            if self.refuses:
                return Outcome(error=CircuitOpenError(self.name))
            return (yield from inner(call))

        return step


def counts(cache: Cache) -> dict[str, int]:
    return {
        name: count
        for name, count in [
            ("hits", cache.hits),
            ("misses", cache.misses),
            ("shared", cache.shared),
            ("stale", cache.stale),
        ]
        if count
    }


class Stuck:
    """A function whose calls wait until they are let go."""

    def __init__(self, runtime: Any, then: Any = "answer") -> None:
        self.runtime = runtime
        self.then = then
        self.calls = 0
        self.began = runtime.event()
        self.go = runtime.event()

    async def call(self, *args: Any) -> Any:
        self.calls += 1
        self.began.set()
        await self.go.wait()
        if isinstance(self.then, BaseException):
            raise self.then
        return self.then

    def in_colour(self) -> Callable[..., Any]:
        async def stuck(*args: Any) -> Any:
            return await self.call(*args)

        return stuck


def waiting(cache: Cache) -> int:
    return sum(len(flight.waiters) for flight in list(cache._flights.values()))


def until(holds: Callable[[], bool]) -> None:
    """Wait, on a thread, until *holds*."""
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.001)


# --- fresh -------------------------------------------------------------------------------------------------------


def test_a_fresh_result_is_returned_without_a_call(runtime: Any) -> None:
    cache = Cache(ttl=60.0)
    fn = Counted()

    async def body() -> None:
        fetch = runtime.wrap(cache, fn)
        assert [await fetch("a"), await fetch("a"), await fetch("a")] == [1, 1, 1]
        assert await fetch("b") == 2
        assert counts(cache) == {"hits": 2, "misses": 2}
        assert len(cache) == 2

    runtime.run(body)


def test_none_is_a_result_to_keep(runtime: Any) -> None:
    cache = Cache(ttl=60.0)
    calls: list[int] = []

    async def body() -> None:
        fetch = runtime.wrap(cache, calls.append)
        assert [await fetch(1), await fetch(1)] == [None, None]
        assert calls == [1]

    runtime.run(body)


def test_a_result_is_fresh_until_its_ttl_is_over(runtime: Any, fake_clock: Any) -> None:
    cache = Cache(ttl=8.0)

    async def body() -> None:
        fetch = runtime.wrap(cache, Counted())
        assert await fetch() == 1
        fake_clock.advance(7.0)
        assert await fetch() == 1
        fake_clock.advance(1.0)
        assert await fetch() == 2

    runtime.run(body)


def test_the_ttl_is_counted_from_the_return_of_the_call(runtime: Any, fake_clock: Any) -> None:
    cache = Cache(ttl=8.0)

    async def body() -> None:
        def slow() -> float:
            fake_clock.advance(100.0)
            return fake_clock.now()

        fetch = runtime.wrap(cache, slow)
        assert await fetch() == await fetch()

    runtime.run(body)


def test_all_callers_get_one_object(runtime: Any) -> None:
    async def body() -> None:
        fetch = runtime.wrap(Cache(ttl=60.0), lambda: object())
        assert await fetch() is await fetch()

    runtime.run(body)


# --- what is kept ------------------------------------------------------------------------------------------------


def test_an_error_is_not_kept(runtime: Any) -> None:
    cache = Cache(ttl=60.0)
    fn = Counted(ValueError("broken"))

    async def body() -> None:
        fetch = runtime.wrap(cache, fn)
        for _ in range(2):
            with pytest.raises(ValueError, match="broken"):
                await fetch()
        assert fn.calls == 2
        assert len(cache) == 0
        assert counts(cache) == {"misses": 2}

    runtime.run(body)


@pytest.mark.parametrize("verdict", [each for each in Verdict if each is not Verdict.GOOD])
def test_a_result_that_is_not_good_is_returned_but_not_kept(runtime: Any, verdict: Verdict) -> None:
    cache = Cache(ttl=60.0, classify=lambda outcome, context: verdict)

    async def body() -> None:
        fetch = runtime.wrap(cache, Counted())
        assert [await fetch(), await fetch()] == [1, 2]
        assert len(cache) == 0

    runtime.run(body)


def test_it_inherits_the_classifier_of_its_pipeline(runtime: Any) -> None:
    cache = Cache(ttl=60.0)

    async def body() -> None:
        pipeline = Pipeline("p", cache, classify=lambda outcome, context: Verdict.BAD)
        fetch = runtime.wrap(pipeline, Counted())
        assert [await fetch(), await fetch()] == [1, 2]

    runtime.run(body)


def test_an_error_of_the_classifier_comes_out_and_blocks_nobody(runtime: Any) -> None:
    def broken(outcome: Outcome[object], context: CallContext) -> Verdict:
        raise LookupError("broken classifier")

    async def body() -> None:
        fetch = runtime.wrap(Cache(ttl=60.0, classify=broken), Counted())
        for _ in range(2):
            with pytest.raises(LookupError, match="broken classifier"):
                await fetch()

    runtime.run(body)


# --- keys --------------------------------------------------------------------------------------------------------


def test_the_arguments_are_the_key() -> None:
    cache = Cache(ttl=60.0)
    fn = Counted()
    fetch = cache(fn)
    assert fetch(1, sku="a", size=2) == fetch(1, size=2, sku="a") == 1, "the order of names does not matter"
    assert fetch(1.0, sku="a", size=2) == 1, "equal arguments are the same, as in functools.lru_cache"
    different = [
        fetch(1),
        fetch(x=1),
        fetch((1,)),
        fetch(1, ()),
        fetch(1, (("x", 1),)),
        fetch(1, x=1),
        fetch(),
    ]
    assert different == [2, 3, 4, 5, 6, 7, 8]


def test_a_key_function_decides_which_calls_are_the_same(runtime: Any) -> None:
    cache = Cache(ttl=60.0, key=lambda sku, *, trace: sku.lower())

    async def body() -> None:
        fetch = runtime.wrap(cache, Counted())
        assert await fetch("A", trace="t1") == await fetch("a", trace="t2") == 1
        assert await fetch("b", trace="t1") == 2
        assert cache.key_of("A", trace="t3") == "a"

    runtime.run(body)


def test_two_functions_never_get_each_others_results(runtime: Any) -> None:
    cache = Cache(ttl=60.0, key=lambda sku: sku)

    async def body() -> None:
        stock, price = runtime.wrap(cache, lambda sku: "stock"), runtime.wrap(cache, lambda sku: "price")
        assert [await stock("a"), await price("a"), await stock("a"), await price("a")] == [
            "stock",
            "price",
        ] * 2

    runtime.run(body)


def test_self_is_part_of_the_key() -> None:
    cache = Cache(ttl=60.0)

    class Shop:
        def __init__(self, name: str) -> None:
            self.name = name

        @cache
        def label(self, sku: str) -> str:
            return f"{self.name}/{sku}"

    one, two = Shop("one"), Shop("two")
    assert [one.label("a"), two.label("a"), one.label("a")] == ["one/a", "two/a", "one/a"]
    assert counts(cache) == {"hits": 1, "misses": 2}


def test_a_bound_method_is_the_same_function_each_time() -> None:
    class Shop:
        def stock(self, sku: str) -> object:
            return object()

    cache, shop = Cache(ttl=60.0), Shop()
    assert cache.call(shop.stock, "a") is cache.call(shop.stock, "a")
    assert cache.call(Shop().stock, "a") is not cache.call(shop.stock, "a")


def test_an_argument_that_cannot_be_a_key_is_a_type_error_that_names_the_function(runtime: Any) -> None:
    def total(prices: list[int]) -> int:
        return sum(prices)

    async def body() -> None:
        fetch = runtime.wrap(Cache(ttl=60.0), total)
        with pytest.raises(TypeError, match=r"total.*: unhashable type: 'list'; give Cache\(key="):
            await fetch([1, 2])
        fetch = runtime.wrap(Cache(ttl=60.0, key=tuple), total)
        assert await fetch([1, 2]) == 3

    runtime.run(body)


def test_an_error_of_the_key_function_comes_out(runtime: Any) -> None:
    async def body() -> None:
        fn = Counted()
        fetch = runtime.wrap(Cache(ttl=60.0, key=lambda sku: {}[sku]), fn)
        with pytest.raises(KeyError):
            await fetch("a")
        assert fn.calls == 0

    runtime.run(body)


def test_the_results_asked_for_last_are_kept(runtime: Any) -> None:
    cache = Cache(ttl=60.0, max_entries=2)

    async def body() -> None:
        fetch = runtime.wrap(cache, Counted())
        assert [await fetch(key) for key in "abaca"] == [1, 2, 1, 3, 1]
        assert await fetch("b") == 4
        assert len(cache) == 2

    runtime.run(body)


def test_a_result_that_is_dropped_is_set_free() -> None:
    class Result:
        pass

    cache = Cache(ttl=60.0, max_entries=1)
    fetch = cache(lambda key: Result())
    first = weakref.ref(fetch(1))
    assert first() is not None
    fetch(2)
    assert first() is None


# --- stale -------------------------------------------------------------------------------------------------------


def test_a_stale_result_stands_in_where_a_call_fails(runtime: Any, fake_clock: Any) -> None:
    cache = Cache(ttl=8.0, stale_for=4.0)
    fn = Counted("old")

    async def body() -> None:
        fetch = runtime.wrap(cache, fn)
        assert await fetch() == "old"
        fn.then = ConnectionError("down")
        fake_clock.advance(8.0)
        assert [await fetch(), await fetch()] == ["old", "old"]
        assert fn.calls == 3, "each call tries anew"
        assert counts(cache) == {"misses": 3, "stale": 2}
        fake_clock.advance(4.0)
        with pytest.raises(ConnectionError):
            await fetch()

    runtime.run(body)


def test_a_good_call_takes_the_place_of_a_stale_result(runtime: Any, fake_clock: Any) -> None:
    async def body() -> None:
        fetch = runtime.wrap(Cache(ttl=8.0, stale_for=4.0), Counted())
        assert await fetch() == 1
        fake_clock.advance(8.0)
        assert [await fetch(), await fetch()] == [2, 2]

    runtime.run(body)


def test_a_stale_result_stands_in_where_an_inner_policy_refuses(runtime: Any, fake_clock: Any) -> None:
    gate = Refusing()
    cache = Cache(ttl=8.0, stale_for=4.0)

    async def body() -> None:
        fetch = runtime.wrap(Pipeline("p", cache, gate), Counted())
        assert await fetch() == 1
        gate.refuses = True
        fake_clock.advance(8.0)
        assert await fetch() == 1
        fake_clock.advance(4.0)
        with pytest.raises(CircuitOpenError):
            await fetch()

    runtime.run(body)


def test_a_stale_result_stands_in_for_a_bad_one_which_is_closed(runtime: Any, fake_clock: Any) -> None:
    class Response:
        def __init__(self, status: int) -> None:
            self.status = status
            self.closed = False

        def close(self) -> None:
            self.closed = True

    def by_status(outcome: Outcome[Any], context: CallContext) -> Verdict:
        return Verdict.GOOD if outcome.value.status == 200 else Verdict.BAD

    good, bad = Response(200), Response(503)
    fn = Counted(good)

    async def body() -> None:
        fetch = runtime.wrap(Cache(ttl=8.0, stale_for=4.0, classify=by_status), fn)
        assert await fetch() is good
        fn.then = bad
        fake_clock.advance(8.0)
        assert await fetch() is good
        assert (good.closed, bad.closed) == (False, True)

    runtime.run(body)


def test_an_error_that_is_judged_good_comes_out_and_ends_what_was_kept(runtime: Any, fake_clock: Any) -> None:
    fn = Counted("old")

    async def body() -> None:
        cache = Cache(ttl=8.0, stale_for=400.0, on=ConnectionError)
        fetch = runtime.wrap(cache, fn)
        await fetch()
        fake_clock.advance(8.0)
        fn.then = KeyError("no longer there")
        with pytest.raises(KeyError):
            await fetch()
        fn.then = ConnectionError("down")
        with pytest.raises(ConnectionError):
            await fetch()
        assert len(cache) == 0

    runtime.run(body)


# --- one call for all --------------------------------------------------------------------------------------------


def test_those_who_ask_for_the_same_share_one_call(runtime: Any) -> None:
    async def body() -> None:
        cache, fn = Cache(ttl=60.0), Stuck(runtime)
        fetch = runtime.wrap(cache, fn.in_colour())
        jobs = [runtime.spawn(fetch, "a") for _ in range(5)]
        await runtime.until(lambda: waiting(cache) == 4)
        fn.go.set()
        assert [await job for job in jobs] == ["answer"] * 5
        assert fn.calls == 1
        assert counts(cache) == {"misses": 1, "shared": 4}
        assert not cache._flights

    runtime.run(body)


def test_those_who_ask_for_something_else_do_not_wait(runtime: Any) -> None:
    async def body() -> None:
        cache, fn = Cache(ttl=60.0), Stuck(runtime)

        async def work(key: str) -> Any:
            return await fn.call() if key == "slow" else key

        fetch = runtime.wrap(cache, work)
        job = runtime.spawn(fetch, "slow")
        await fn.began.wait()
        assert await fetch("fast") == "fast"
        fn.go.set()
        assert await job == "answer"

    runtime.run(body)


def test_those_who_wait_share_the_error(runtime: Any) -> None:
    async def body() -> None:
        error = ValueError("broken")
        cache, fn = Cache(ttl=60.0), Stuck(runtime, error)
        fetch = runtime.wrap(cache, fn.in_colour())
        jobs = [runtime.spawn(fetch) for _ in range(4)]
        await runtime.until(lambda: waiting(cache) == 3)
        fn.go.set()
        for job in jobs:
            await job.join()
            assert job.error is error
        assert fn.calls == 1
        assert len(cache) == 0

    runtime.run(body)


def test_a_shared_error_does_not_grow_its_traceback(runtime: Any) -> None:
    depths: list[int] = []

    async def body() -> None:
        error = ValueError("broken")
        cache, fn = Cache(ttl=60.0), Stuck(runtime, error)
        fetch = runtime.wrap(cache, fn.in_colour())
        turn = threading.Lock()

        async def ask() -> None:
            try:
                await fetch()
            except ValueError as caught:
                with turn:
                    depths.append(len(traceback.extract_tb(caught.__traceback__)))

        jobs = [runtime.spawn(ask) for _ in range(10)]
        await runtime.until(lambda: waiting(cache) == 9)
        fn.go.set()
        for job in jobs:
            await job

    runtime.run(body)
    assert max(depths) <= min(depths) + 6, depths


def test_those_who_wait_share_a_stale_result(runtime: Any) -> None:
    async def body() -> None:
        cache, fn = Cache(ttl=1e-9, stale_for=60.0), Stuck(runtime, "old")
        fetch = runtime.wrap(cache, fn.in_colour())
        fn.go.set()
        assert await fetch() == "old"
        fn.go, fn.then = runtime.event(), ConnectionError("down")
        jobs = [runtime.spawn(fetch) for _ in range(3)]
        await runtime.until(lambda: waiting(cache) == 2)
        fn.go.set()
        assert [await job for job in jobs] == ["old"] * 3
        assert counts(cache) == {"misses": 2, "shared": 2, "stale": 3}

    runtime.run(body)


def test_those_who_wait_do_not_wait_for_a_bad_result_to_be_closed(runtime: Any) -> None:
    async def body() -> None:
        closed = runtime.event()

        class Slow:
            async def aclose(self) -> None:
                await closed.wait()

            def close(self) -> None:
                runtime.run(self.aclose)

        def judge(outcome: Outcome[Any], context: CallContext) -> Verdict:
            return Verdict.GOOD if outcome.value == "old" else Verdict.BAD

        cache, fn = Cache(ttl=1e-9, stale_for=60.0, classify=judge), Stuck(runtime, "old")
        fetch = runtime.wrap(cache, fn.in_colour())
        fn.go.set()
        await fetch()
        fn.began, fn.go, fn.then = runtime.event(), runtime.event(), Slow()
        leader = runtime.spawn(fetch)
        await fn.began.wait()
        follower = runtime.spawn(fetch)
        await runtime.until(lambda: waiting(cache) == 1)
        fn.go.set()
        assert await follower == "old"
        assert not leader.done()
        closed.set()
        assert await leader == "old"

    runtime.run(body)


def test_each_of_those_who_share_has_an_outcome_of_its_own(runtime: Any) -> None:
    seen: list[Outcome[Any]] = []

    class Spy(Refusing):
        __slots__ = ()

        def step_for(self, binding: Binding) -> Step:
            def step(call: Call, inner: Inner) -> Flow:
                outcome = yield from inner(call)
                seen.append(outcome)
                return outcome

            return step

    async def body() -> None:
        cache, fn = Cache(ttl=60.0), Stuck(runtime)
        fetch = runtime.wrap(Pipeline("p", Spy(), cache), fn.in_colour())
        jobs = [runtime.spawn(fetch) for _ in range(3)]
        await runtime.until(lambda: waiting(cache) == 2)
        fn.go.set()
        for job in jobs:
            await job

    runtime.run(body)
    assert len({id(outcome) for outcome in seen}) == 3


def test_one_who_stops_waiting_leaves_the_others_alone(async_runtime: Any) -> None:
    async def body() -> None:
        cache, fn = Cache(ttl=60.0), Stuck(async_runtime)
        fetch = async_runtime.wrap(cache, fn.in_colour())
        leader = async_runtime.spawn(fetch)
        await fn.began.wait()
        leaver = async_runtime.spawn(fetch)
        await async_runtime.until(lambda: waiting(cache) == 1)
        follower = async_runtime.spawn(fetch)
        await async_runtime.until(lambda: waiting(cache) == 2)
        async_runtime.cancel(leaver)
        await leaver.join()
        assert isinstance(leaver.error, async_runtime.cancelled)
        assert waiting(cache) == 1
        fn.go.set()
        assert [await leader, await follower] == ["answer", "answer"]
        assert fn.calls == 1

    async_runtime.run(body)


def test_one_who_waits_takes_over_from_a_cancelled_call(async_runtime: Any) -> None:
    async def body() -> None:
        cache, fn = Cache(ttl=60.0), Stuck(async_runtime)
        fetch = async_runtime.wrap(cache, fn.in_colour())
        leader = async_runtime.spawn(fetch)
        await fn.began.wait()
        followers = [async_runtime.spawn(fetch) for _ in range(3)]
        await async_runtime.until(lambda: waiting(cache) == 3)
        async_runtime.cancel(leader)
        await leader.join()
        assert isinstance(leader.error, async_runtime.cancelled)
        await async_runtime.until(lambda: fn.calls == 2 and waiting(cache) == 2)
        fn.go.set()
        assert [await job for job in followers] == ["answer"] * 3
        assert fn.calls == 2
        assert counts(cache) == {"misses": 2, "shared": 2}

    async_runtime.run(body)


def test_a_cancelled_call_leaves_nothing_behind(async_runtime: Any) -> None:
    async def body() -> None:
        cache, fn = Cache(ttl=60.0), Stuck(async_runtime)
        fetch = async_runtime.wrap(cache, fn.in_colour())
        leader = async_runtime.spawn(fetch)
        await fn.began.wait()
        async_runtime.cancel(leader)
        await leader.join()
        assert not cache._flights
        fn.go.set()
        assert await fetch() == "answer"

    async_runtime.run(body)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_one_who_waits_takes_over_from_an_interrupted_thread(kind: type[BaseException]) -> None:
    cache = Cache(ttl=60.0)
    began, go = threading.Event(), threading.Event()
    calls: list[int] = []

    @cache
    def fetch() -> str:
        calls.append(1)
        if len(calls) == 1:
            began.set()
            assert go.wait(20)
            raise kind
        return "answer"

    def lead() -> type[BaseException] | None:
        try:
            fetch()
        except BaseException as error:
            return type(error)
        return None

    with ThreadPoolExecutor(4) as pool:
        leader = pool.submit(lead)
        assert began.wait(20)
        followers = [pool.submit(fetch) for _ in range(3)]
        until(lambda: waiting(cache) == 3)
        go.set()
        assert leader.result() is kind
        assert [each.result() for each in followers] == ["answer"] * 3
    assert len(calls) == 2


def test_threads_and_both_event_loops_share_one_object() -> None:
    cache = Cache(ttl=60.0)
    go = threading.Event()
    calls: list[str] = []

    def plain() -> str:
        calls.append("plain")
        assert go.wait(20)
        return "answer"

    async def polite() -> str:
        calls.append("async")
        assert await anyio.to_thread.run_sync(go.wait, 20)
        return "answer"

    runners = [
        lambda: asyncio.run(cache.acall(polite)),
        lambda: trio.run(cache.acall, polite),
        lambda: cache.call(plain),
    ]
    with ThreadPoolExecutor(9) as pool:
        jobs = [pool.submit(run) for run in runners * 3]
        until(lambda: waiting(cache) == 7)
        go.set()
        assert [job.result() for job in jobs] == ["answer"] * 9
    assert sorted(calls) == ["async", "plain"], "one call of each function"


def test_an_event_loop_takes_over_from_another_that_was_cancelled() -> None:
    cache = Cache(ttl=60.0)
    began, queued, go = threading.Event(), threading.Event(), threading.Event()
    calls: list[int] = []

    async def fetch() -> str:
        calls.append(1)
        began.set()
        assert await anyio.to_thread.run_sync(go.wait, 20, abandon_on_cancel=True)
        return "answer"

    async def lead() -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(cache.acall, fetch)
                assert await anyio.to_thread.run_sync(queued.wait, 20)
                scope.cancel()

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(asyncio.run, lead())
        assert began.wait(20)
        follower = pool.submit(trio.run, cache.acall, fetch)
        until(lambda: waiting(cache) == 1)
        queued.set()
        leader.result()
        until(lambda: len(calls) == 2)
        go.set()
        assert follower.result() == "answer"


def test_a_waiter_whose_event_loop_is_gone_harms_nobody() -> None:
    cache = Cache(ttl=60.0)
    began, go = threading.Event(), threading.Event()

    async def fetch() -> str:
        began.set()
        assert await anyio.to_thread.run_sync(go.wait, 20)
        return "answer"

    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(lambda: asyncio.run(cache.acall(fetch)))
        assert began.wait(20)
        loop = asyncio.new_event_loop()
        task = loop.create_task(cache.acall(fetch))
        while not waiting(cache):
            loop.run_until_complete(asyncio.sleep(0))
        (flight,) = cache._flights.values()
        (gone,) = list(flight.waiters)
        signal = gone.signal
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
        loop.close()
        gone.signal = signal
        flight.waiters[gone] = None  # as if its loop had been closed while it waited
        go.set()
        assert leader.result() == "answer"
        assert not gone.wake()


# --- deadlines ---------------------------------------------------------------------------------------------------


def test_one_who_waits_gives_up_at_its_deadline(runtime: Any) -> None:
    async def body() -> None:
        cache, fn = Cache(ttl=60.0), Stuck(runtime)
        fetch = runtime.wrap(cache, fn.in_colour())
        leader = runtime.spawn(fetch)
        await fn.began.wait()

        async def hurried() -> None:
            with deadline(0.02):
                await fetch()

        with pytest.raises(DeadlineExceededError):
            await hurried()
        assert waiting(cache) == 0
        fn.go.set()
        assert await leader == "answer"
        assert fn.calls == 1

    runtime.run(body)


def test_a_stale_result_stands_in_at_the_deadline_of_one_who_waits() -> None:
    cache = Cache(ttl=1e-9, stale_for=60.0)
    began, go = threading.Event(), threading.Event()
    go.set()

    @cache
    def fetch() -> str:
        began.set()
        assert go.wait(20)
        return "answer"

    assert fetch() == "answer"
    began.clear()
    go.clear()
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(fetch)
        assert began.wait(20)
        with deadline(0.02):
            assert fetch() == "answer"
        go.set()
        assert leader.result() == "answer"
    assert counts(cache) == {"misses": 2, "shared": 1, "stale": 1}


def test_the_deadline_of_one_caller_is_not_shared_by_those_who_have_more_time(runtime: Any) -> None:
    async def body() -> None:
        cache = Cache(ttl=60.0)
        calls: list[int] = []
        began = runtime.event()

        async def work() -> str:
            calls.append(1)
            began.set()
            if len(calls) == 1:
                await runtime.sleep(0.05)
                raise DeadlineExceededError(started=True)
            return "answer"

        fetch = runtime.wrap(cache, work)

        async def hurried() -> Any:
            with deadline(0.03):
                return await fetch()

        leader = runtime.spawn(hurried)
        await began.wait()
        followers = [runtime.spawn(fetch) for _ in range(2)]
        assert [await job for job in followers] == ["answer", "answer"]
        await leader.join()
        assert isinstance(leader.error, DeadlineExceededError)
        assert len(calls) == 2

    runtime.run(body)


def test_an_error_about_a_deadline_that_is_not_the_callers_is_shared(runtime: Any) -> None:
    async def body() -> None:
        error = DeadlineExceededError(started=True)
        cache, fn = Cache(ttl=60.0), Stuck(runtime, error)
        fetch = runtime.wrap(cache, fn.in_colour())
        jobs = [runtime.spawn(fetch) for _ in range(3)]
        await runtime.until(lambda: waiting(cache) == 2)
        fn.go.set()
        for job in jobs:
            await job.join()
            assert job.error is error
        assert fn.calls == 1

    runtime.run(body)


# --- a function that calls itself --------------------------------------------------------------------------------


def test_a_function_may_call_itself_with_the_same_key(runtime: Any) -> None:
    async def body() -> None:
        cache = Cache(ttl=60.0, key=lambda depth: "same")

        async def work(depth: int) -> int:
            return depth if depth == 3 else await fetch(depth + 1)

        fetch = runtime.wrap(cache, work)
        assert await fetch(0) == 3
        assert counts(cache) == {"misses": 4}
        assert await fetch(9) == 3

    runtime.run(body)


def test_a_function_may_call_itself_with_another_key(runtime: Any) -> None:
    async def body() -> None:
        async def work(n: int) -> int:
            return n if n < 2 else await fetch(n - 1) + await fetch(n - 2)

        cache = Cache(ttl=60.0)
        fetch = runtime.wrap(cache, work)
        assert await fetch(20) == 6765
        assert cache.misses == 21

    runtime.run(body)


def test_a_task_that_the_function_starts_and_waits_for_may_ask_for_the_same_key() -> None:
    cache = Cache(ttl=60.0)
    calls: list[int] = []

    @cache
    async def fetch() -> str:
        calls.append(1)
        if len(calls) == 1:
            return await asyncio.create_task(fetch())
        return "answer"

    assert asyncio.run(asyncio.wait_for(fetch(), 20)) == "answer"


def test_a_task_that_outlives_the_call_is_a_caller_like_others() -> None:
    cache = Cache(ttl=60.0)
    left: list[asyncio.Task[Any]] = []
    landed = asyncio.Event()

    async def later() -> str:
        await landed.wait()
        return await fetch()

    @cache
    async def fetch() -> str:
        left.append(asyncio.create_task(later()))
        return "answer"

    async def main() -> None:
        await fetch()
        landed.set()
        assert await left[0] == "answer"

    asyncio.run(main())
    assert counts(cache) == {"misses": 1, "hits": 1}


def test_marks_of_calls_that_are_over_do_not_pile_up() -> None:
    from resilience.cache._flight import under_way

    cache = Cache(ttl=60.0)
    depths: list[int] = []
    contexts: list[contextvars.Context] = []

    @cache
    def fetch(number: int) -> None:
        depths.append(len(under_way.get()))
        contexts.append(contextvars.copy_context())

    fetch(0)
    for number in range(1, 20):
        contexts[-1].run(fetch, number)
    assert depths == [1] * 20
    assert under_way.get() == ()


# --- forgetting --------------------------------------------------------------------------------------------------


def test_a_key_can_be_invalidated(runtime: Any) -> None:
    async def body() -> None:
        cache = Cache(ttl=60.0)
        fetch = runtime.wrap(cache, Counted())
        assert [await fetch("a"), await fetch("b")] == [1, 2]
        cache.invalidate(cache.key_of("a"))
        assert [await fetch("a"), await fetch("b")] == [3, 2]
        cache.invalidate(cache.key_of("no such key"))

    runtime.run(body)


def test_the_key_of_a_key_function_can_be_invalidated_as_it_is(runtime: Any) -> None:
    async def body() -> None:
        cache = Cache(ttl=60.0, key=lambda order: order["id"])
        fetch = runtime.wrap(cache, Counted())
        assert [await fetch({"id": "o-1"}), await fetch({"id": "o-2"})] == [1, 2]
        cache.invalidate("o-1")
        assert [await fetch({"id": "o-1"}), await fetch({"id": "o-2"})] == [3, 2]

    runtime.run(body)


@pytest.mark.parametrize("key", ["a-1", None, (), (("a-1",), ())])
def test_without_a_key_function_a_bare_key_is_refused_with_a_hint(key: Any) -> None:
    cache = Cache(ttl=60.0)
    fetch = cache(Counted())
    fetch("a-1")
    with pytest.raises(TypeError, match=r"is not the key of any call: .* use invalidate\(cache\.key_of\("):
        cache.invalidate(key)
    assert len(cache) == 1


def test_what_key_of_returns_equals_the_key_of_the_call() -> None:
    cache = Cache(ttl=60.0)
    kept = cache(Counted())
    kept("a", x=1, y=2)
    [(_, key)] = cache._entries._entries
    assert cache.key_of("a", y=2, x=1) == key
    assert hash(cache.key_of("a", y=2, x=1)) == hash(key)


def test_it_can_be_cleared(runtime: Any) -> None:
    async def body() -> None:
        cache = Cache(ttl=60.0)
        fetch = runtime.wrap(cache, Counted())
        assert [await fetch("a"), await fetch("b")] == [1, 2]
        cache.clear()
        assert len(cache) == 0
        assert [await fetch("a"), await fetch("b")] == [3, 4]

    runtime.run(body)


@pytest.mark.parametrize("forget", ["invalidate", "clear"])
def test_a_call_that_began_before_is_not_kept(runtime: Any, forget: str) -> None:
    async def body() -> None:
        cache, fn = Cache(ttl=60.0, key=lambda: "key"), Stuck(runtime, "old")
        fetch = runtime.wrap(cache, fn.in_colour())
        leader = runtime.spawn(fetch)
        await fn.began.wait()
        follower = runtime.spawn(fetch)
        await runtime.until(lambda: waiting(cache) == 1)
        cache.invalidate("key") if forget == "invalidate" else cache.clear()
        old_go, fn.go = fn.go, runtime.event()
        newcomer = runtime.spawn(fetch)
        await runtime.until(lambda: fn.calls == 2)
        old_go.set()
        assert [await leader, await follower] == ["old", "old"]
        assert len(cache) == 0
        late = runtime.spawn(fetch)
        await runtime.until(lambda: waiting(cache) == 1)
        fn.then = "new"
        fn.go.set()
        assert [await newcomer, await late, await fetch()] == ["new"] * 3
        assert fn.calls == 2

    runtime.run(body)


def test_a_call_for_another_key_is_kept(runtime: Any) -> None:
    async def body() -> None:
        cache, fn = Cache(ttl=60.0), Stuck(runtime)
        fetch = runtime.wrap(cache, fn.in_colour())
        leader = runtime.spawn(fetch, "a")
        await fn.began.wait()
        cache.invalidate(cache.key_of("b"))
        fn.go.set()
        assert [await leader, await fetch("a")] == ["answer", "answer"]
        assert fn.calls == 1

    runtime.run(body)


def test_a_result_that_is_invalidated_does_not_stand_in(runtime: Any, fake_clock: Any) -> None:
    async def body() -> None:
        fn = Counted("old")
        cache = Cache(ttl=8.0, stale_for=60.0)

        def work() -> Any:
            if fn.calls:
                cache.clear()
            return fn()

        fetch = runtime.wrap(cache, work)
        await fetch()
        fake_clock.advance(8.0)
        fn.then = ConnectionError("down")
        with pytest.raises(ConnectionError):
            await fetch()

    runtime.run(body)


# --- settings, and its place among others ------------------------------------------------------------------------


def test_the_constructor_and_the_settings_have_the_same_defaults() -> None:
    assert Cache(ttl=1.0).settings == CacheSettings(ttl=1.0)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="ttl must be a finite number of seconds > 0"):
        Cache(ttl=0.0)
    with pytest.raises(ConfigError, match="cannot be combined with on="):
        Cache(ttl=1.0, on=ValueError, classify=lambda outcome, context: Verdict.GOOD)


def test_settings_change_at_run_time_and_what_is_kept_stays(fake_clock: Any) -> None:
    cache = Cache(ttl=8.0)
    fetch = cache(Counted())
    assert fetch() == 1
    cache.reconfigure(ttl=2.0)
    assert fetch() == 1
    fake_clock.advance(2.0)
    assert fetch() == 2
    with pytest.raises(ConfigError):
        cache.reconfigure(ttl=-1.0)
    assert cache.settings.ttl == 2.0


def test_a_new_key_function_empties_the_cache_and_what_is_under_way() -> None:
    cache = Cache(ttl=60.0)

    @cache
    def fetch() -> int:
        cache.reconfigure(key=lambda: "key")
        return cache.misses

    assert [fetch(), fetch(), fetch()] == [1, 2, 3]


def test_a_pipeline_learns_whether_results_may_stand_in() -> None:
    assert not Cache(ttl=1.0).traits.replaces
    assert Cache(ttl=1.0, stale_for=1.0).traits.replaces


def test_generator_functions_are_refused() -> None:
    def stream() -> Generator[int, None, None]:
        yield 1

    for guard in (Cache(ttl=1.0), Pipeline("p", Cache(ttl=1.0))):
        with pytest.raises(ConfigError, match="Cache cannot guard a stream"):
            guard(stream)


def test_an_empty_cache_is_true() -> None:
    assert Cache(ttl=1.0)


def test_it_is_idle_when_it_is_as_a_new_one(fake_clock: Any) -> None:
    cache = Cache(ttl=8.0)
    seen: list[bool] = []

    @cache
    def fetch() -> None:
        seen.append(cache.is_idle)

    assert cache.is_idle
    fetch()
    assert seen == [False], "a call is under way"
    assert not cache.is_idle
    fake_clock.advance(8.0)
    assert cache.is_idle


def test_a_partial_and_a_callable_object_can_be_cached() -> None:
    fn = Counted()
    assert Cache(ttl=60.0)(partial(fn, "a"))() == 1


# --- many at once, memory, fork ----------------------------------------------------------------------------------


def test_threads_call_once_for_each_key() -> None:
    cache = Cache(ttl=60.0)
    calls: list[int] = []

    @cache
    def fetch(key: int) -> int:
        calls.append(key)
        return key

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(fetch, [number % 50 for number in range(2000)]))
    finally:
        sys.setswitchinterval(before)
    assert results == [number % 50 for number in range(2000)]
    assert sorted(calls) == list(range(50))
    assert cache.hits + cache.misses + cache.shared == 2000
    assert not cache._flights


def test_threads_that_invalidate_and_fail_block_nobody() -> None:
    cache = Cache(ttl=60.0, stale_for=1.0, max_entries=3)

    @cache
    def fetch(key: int) -> int:
        if key % 7 == 0:
            raise ConnectionError(key)
        return key

    def work(number: int) -> int | None:
        if number % 11 == 0:
            cache.invalidate(cache.key_of(number % 10))
        try:
            return fetch(number % 10)
        except ConnectionError:
            return None

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(work, range(2000)))
    finally:
        sys.setswitchinterval(before)
    assert results == [None if number % 10 in (0, 7) else number % 10 for number in range(2000)]
    assert not cache._flights
    assert len(cache) <= 3


def test_no_reference_cycle_keeps_a_shared_error_alive(runtime: Any) -> None:
    class Precious(Exception):
        pass

    alive: list[weakref.ref[BaseException]] = []

    async def body() -> None:
        cache = Cache(ttl=60.0)
        began, go = runtime.event(), runtime.event()

        async def fail() -> None:
            began.set()
            await go.wait()
            error = Precious()
            alive.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

        fetch = runtime.wrap(cache, fail)

        async def ask() -> None:
            try:
                await fetch()
            except Precious:
                pass

        leader = runtime.spawn(ask)
        await began.wait()
        follower = runtime.spawn(ask)
        await runtime.until(lambda: waiting(cache) == 1)
        with collector_off():
            go.set()
            await leader
            await follower
            assert len(alive) == 1
            assert alive[0]() is None

    runtime.run(body)


def test_a_call_leaves_no_garbage_behind() -> None:
    cache = Cache(ttl=60.0, stale_for=60.0)
    fetch = cache(lambda key: 1 // key)
    fetch(1)
    with collector_off():
        for key in range(10):
            if key:
                fetch(key)
            else:
                with pytest.raises(ZeroDivisionError):
                    fetch(key)
        cache.clear()
        left = [
            type(each)
            for each in gc.get_objects()
            if str(type(each).__module__).startswith("resilience.cache")
        ]
        assert {"Entry", "Flight", "Mark"}.isdisjoint(kind.__name__ for kind in left)


def test_a_task_that_outlives_a_call_does_not_keep_its_result_alive() -> None:
    class Result:
        pass

    contexts: list[contextvars.Context] = []
    cache = Cache(ttl=60.0)

    @cache
    def fetch() -> Result:
        contexts.append(contextvars.copy_context())
        return Result()

    result = weakref.ref(fetch())
    cache.clear()
    assert result() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_process_keeps_results_and_forgets_calls_under_way() -> None:
    cache = Cache(ttl=60.0)
    began, go = threading.Event(), threading.Event()

    @cache
    def fetch(key: str) -> str:
        if key == "slow" and not in_child:
            began.set()
            assert go.wait(20)
        return f"{key} in {os.getpid()}"

    in_child: list[bool] = []
    kept = fetch("kept")
    before = cache.misses
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(fetch, "slow")
        assert began.wait(20)
        follower = pool.submit(fetch, "slow")
        until(lambda: waiting(cache) == 1)

        (flight,) = cache._flights.values()

        def child() -> None:
            in_child.append(True)
            ok = (
                not flight.waiters
                and counts(cache) == {}
                and fetch("kept") == kept
                and fetch("slow") == f"slow in {os.getpid()}"
                and counts(cache) == {"hits": 1, "misses": 1}
            )
            os._exit(0 if ok else 1)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(30)
        assert process.exitcode == 0
        go.set()
        assert leader.result() == follower.result() == f"slow in {os.getpid()}"
    assert cache.misses == before + 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_lock_that_was_held_at_the_fork_is_free_in_the_child() -> None:
    cache = Cache(ttl=60.0)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with cache._lock:
            held.set()
            assert done.wait(20)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold)
        assert held.wait(20)
        process = multiprocessing.get_context("fork").Process(
            target=lambda: os._exit(0 if cache.call(lambda: 7) == 7 else 1)
        )
        process.start()
        process.join(10)
        if process.exitcode is None:
            process.kill()
            process.join()
        done.set()
    assert process.exitcode == 0


def fork_inside(call: Callable[[], int], fine: Callable[[], bool]) -> None:
    """Make *call*, which forks and returns as `os.fork` does; the child must end well and find it *fine*."""
    parent, code = os.getpid(), 1
    try:
        child = call()
        code = 0 if fine() else 1
    finally:
        if os.getpid() != parent:
            os._exit(code)  # whatever happens, the child must not go on with the tests
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_function_that_forks_can_go_on_in_the_child() -> None:
    cache = Cache(ttl=60.0)

    @cache
    def fetch() -> int:
        return os.fork()

    fork_inside(fetch, lambda: not cache._flights and cache.call(lambda: 7) == 7)


def test_a_decorator_without_parentheses_says_how_to_write_it() -> None:
    with pytest.raises(ConfigError, match=r"write @Cache\(ttl=\.\.\.\), with parentheses") as caught:
        Cache(lambda: "answer")  # type: ignore[arg-type, call-arg]  # what @Cache does
    assert [problem.setting for problem in caught.value.problems] == ["name"]


def test_a_missing_setting_is_still_a_type_error() -> None:
    with pytest.raises(TypeError, match="ttl"):
        Cache("prices")  # type: ignore[call-arg]  # that is the point
    with pytest.raises(TypeError, match="ttl"):
        Cache()  # type: ignore[call-arg]  # as above


def test_a_callable_name_beside_settings_is_listed_with_every_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        Cache(len, ttl=-1.0)  # type: ignore[arg-type]  # that is the point
    assert [problem.setting for problem in caught.value.problems] == ["name", "ttl"]
