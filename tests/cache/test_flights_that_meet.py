"""Calls of cached functions that need each other: nobody waits for what waits for him."""

import asyncio
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilience.cache import Cache
from resilience.cache._flight import under_way
from resilience.deadline import deadline
from resilience.errors import DeadlineExceededError


def by_first(key: Any, *_: Any) -> Any:
    return key


def cache() -> Cache:
    return Cache(ttl=60.0, key=by_first)


def waiting(*caches: Cache) -> int:
    return sum(len(flight.waiters) for each in caches for flight in list(each._flights.values()))


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("shared", [True, False], ids=["one cache", "a cache each"])
def test_a_ring_of_calls_that_need_each_other_comes_to_an_end(runtime: Any, size: int, shared: bool) -> None:
    async def body() -> None:
        caches = [cache()] * size if shared else [cache() for _ in range(size)]
        began = [runtime.event() for _ in range(size)]
        fetches: list[Any] = []
        plain: list[int] = []

        async def work(key: int, following: int | None = None) -> list[int]:
            if following is None:
                plain.append(key)
                return [key]
            began[key].set()
            for event in began:
                await event.wait()
            return [key, *(await fetches[following](following))]

        fetches += [runtime.wrap(each, work) for each in ([caches[0]] if shared else caches)]
        fetches += [fetches[0]] * (size - len(fetches))
        jobs = [runtime.spawn(fetches[key], key, (key + 1) % size) for key in range(size)]
        await runtime.until(lambda: all(job.done() for job in jobs))
        results = [await job for job in jobs]
        # The last one to ask made the call itself; the others waited, and got what the next one brought.
        [last] = plain
        first = (last - 1) % size
        for key, result in enumerate(results):
            assert result == [each % size for each in range(key, first + 1 + size * (first < key))] + [last]
        assert all(not each._flights for each in caches)

    runtime.run(body)


def test_a_call_that_is_made_outside_of_the_flight_is_not_kept(runtime: Any) -> None:
    async def body() -> None:
        both = cache()
        began = {"a": runtime.event(), "b": runtime.event()}

        async def work(key: str, other: str | None = None) -> str:
            if other is None:
                return "plain"
            began[key].set()
            await began[other].wait()
            await fetch(other)
            return "whole"

        fetch = runtime.wrap(both, work)
        jobs = [runtime.spawn(fetch, "a", "b"), runtime.spawn(fetch, "b", "a")]
        await runtime.until(lambda: all(job.done() for job in jobs))
        assert [await fetch("a"), await fetch("b")] == ["whole", "whole"]
        assert (both.misses, both.shared, both.hits) == (3, 1, 2)

    runtime.run(body)


def test_two_calls_that_need_the_same_third_one_share_it(runtime: Any) -> None:
    async def body() -> None:
        both, go, calls = cache(), runtime.event(), []

        async def work(key: str, other: str | None = None) -> str:
            calls.append(key)
            if other is None:
                await go.wait()
                return key
            return key + await fetch(other)

        fetch = runtime.wrap(both, work)
        jobs = [runtime.spawn(fetch, "a", "c"), runtime.spawn(fetch, "b", "c")]
        await runtime.until(lambda: waiting(both) == 1)
        go.set()
        assert sorted([await job for job in jobs]) == ["ac", "bc"]
        assert sorted(calls) == ["a", "b", "c"]

    runtime.run(body)


def test_one_who_waits_no_longer_is_waited_for_again(runtime: Any) -> None:
    async def body() -> None:
        both, a_gave_up, b_began, go = cache(), runtime.event(), runtime.event(), runtime.event()

        async def work(key: str) -> str:
            if key == "a":
                await b_began.wait()
                with deadline(0.01), pytest.raises(DeadlineExceededError):
                    await fetch("b")
                a_gave_up.set()
                await go.wait()
                return "a"
            b_began.set()
            await a_gave_up.wait()
            return "b" + await fetch("a")

        fetch = runtime.wrap(both, work)
        jobs = [runtime.spawn(fetch, "a"), runtime.spawn(fetch, "b")]
        await a_gave_up.wait()
        await runtime.until(lambda: waiting(both) == 1)
        go.set()
        assert [await job for job in jobs] == ["a", "ba"]
        assert (both.misses, both.shared) == (2, 1)

    runtime.run(body)


def test_a_cancelled_wait_leaves_no_link_behind(async_runtime: Any) -> None:
    async def body() -> None:
        both, go = cache(), async_runtime.event()
        marks: list[Any] = []

        async def work(key: str) -> str:
            if key == "b":
                await go.wait()
                return key
            marks.extend(under_way.get())
            return await fetch("b")

        fetch = async_runtime.wrap(both, work)
        leader = async_runtime.spawn(fetch, "b")
        await async_runtime.until(lambda: len(both._flights) == 1)
        follower = async_runtime.spawn(fetch, "a")
        await async_runtime.until(lambda: waiting(both) == 1)
        [mark] = marks
        assert len(mark.awaits) == 1
        async_runtime.cancel(follower)
        await follower.join()
        assert mark.awaits == ()
        go.set()
        assert await leader == "b"

    async_runtime.run(body)


def test_tasks_inside_of_one_call_that_wait_for_another_are_counted() -> None:
    async def main() -> None:
        both, b_began, go = cache(), asyncio.Event(), asyncio.Event()
        marks: list[Any] = []

        @both
        async def fetch(key: str) -> str:
            if key == "b":
                b_began.set()
                await go.wait()
                return key
            marks.extend(under_way.get())
            first, second = (asyncio.ensure_future(fetch("b")) for _ in range(2))
            await asyncio.sleep(0)  # both have their turn
            assert waiting(both) == 2
            [mark] = marks
            assert len(mark.awaits) == 2
            first.cancel()
            await asyncio.wait([first])
            assert len(mark.awaits) == 1
            go.set()
            return key + await second

        leader = asyncio.ensure_future(fetch("b"))
        await b_began.wait()
        assert await fetch("a") == "ab"
        assert await leader == "b"
        assert marks[0].awaits == ()

    asyncio.run(main())


def test_a_ring_may_go_through_nested_flights_and_tasks() -> None:
    async def main() -> str:
        outer, inner = cache(), cache()
        inside, began = asyncio.Event(), asyncio.Event()

        @inner
        async def small(key: str, asks: bool) -> str:
            if not asks:
                return "small"
            inside.set()
            await began.wait()
            # In a task of its own: it runs inside of both flights all the same.
            return await asyncio.ensure_future(big("b", False))

        @outer
        async def big(key: str, asks: bool) -> str:
            if key == "a":
                return await small("s", True)
            if not asks:
                return "big"
            began.set()
            return await big("a", False)

        first = asyncio.ensure_future(big("a", True))
        await inside.wait()
        second = asyncio.ensure_future(big("b", True))
        done, _ = await asyncio.wait([first, second], timeout=20)
        assert len(done) == 2
        assert {first.result(), second.result()} == {"big"}
        return "done"

    assert asyncio.run(main()) == "done"


def test_threads_that_ask_for_each_others_keys_at_random_all_come_to_an_end() -> None:
    caches = [cache() for _ in range(2)]
    for each in caches:
        each.reconfigure(ttl=1e-9)

    def work(key: int, seed: int, depth: int) -> int:
        draws = random.Random(seed)
        if depth:
            for _ in range(2):
                fetches[draws.randrange(2)](draws.randrange(3), draws.randrange(1 << 30), depth - 1)
        return key

    fetches = [each(work) for each in caches]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(fetches[seed % 2], seed % 3, seed, 4) for seed in range(200)]
            results = [job.result(60) for job in jobs]
    finally:
        sys.setswitchinterval(before)
    assert results == [seed % 3 for seed in range(200)]
    assert all(not each._flights for each in caches)
