"""Children forked while other threads hammer every policy: none hangs, and what was learnt is kept."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from resilience import (
    Cache,
    CircuitBreaker,
    CircuitState,
    ConcurrencyLimiter,
    Keyed,
    Pipeline,
    RateLimiter,
    RejectedError,
    Retry,
    RetryBudget,
    Timeout,
    backoff,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

Use = Callable[[], object]


def policies() -> dict[str, Use]:
    """A way to use each policy that has state, shared by all threads."""
    breaker = CircuitBreaker("breaker", minimum_throughput=1_000_000)
    slow = CircuitBreaker("slow", slow_call_duration=10.0)
    rate = RateLimiter("rate", rate=1e6, burst=1000, max_wait=0.01)
    keyed_rate = RateLimiter("keyed-rate", rate=1e6, burst=1000, key=lambda key: key)
    limiter = ConcurrencyLimiter("limiter", limit=2, max_queue=2, max_wait=0.01)
    budget = RetryBudget.ratio(1000.0, name="budget")
    retry = Retry("retry", budget=budget, backoff=backoff.constant(0.0))
    cache = Cache("cache", ttl=0.001)
    timeout = Timeout(5.0, name="timeout", thread=True)
    keyed = Keyed("keyed", factory=CircuitBreaker, key=lambda key: key, max_keys=4)
    whole = Pipeline(
        "whole", Timeout(5.0), Retry(backoff=backoff.constant(0.0)), CircuitBreaker(), RateLimiter(rate=1e6)
    )
    turn = iter(range(10**9))

    def flaky() -> int:
        number = next(turn)
        if number % 3 == 0:
            raise ConnectionError
        return number

    return {
        "breaker": lambda: breaker.call(flaky),
        "slow": lambda: slow.call(int),
        "rate": lambda: rate.call(int),
        "keyed-rate": lambda: keyed_rate.call(str, next(turn) % 7),
        "limiter": lambda: limiter.call(int),
        "retry": lambda: retry.call(flaky),
        "cache": lambda: cache.call(str, next(turn) % 3),
        "timeout": lambda: timeout.call(int),
        "keyed": lambda: keyed.call(str, next(turn) % 7),
        "whole": lambda: whole.call(flaky),
    }


@contextmanager
def hammered(use: Use, threads: int = 3) -> Iterator[None]:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with suppress(ConnectionError, RejectedError):
                use()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def child_is_well(work: Callable[[], bool], limit: float = 20.0) -> bool:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if work() else 3
        finally:
            os._exit(code)
    until = time.monotonic() + limit
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.002)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


def uses(use: Use, times: int = 30) -> bool:
    answered = 0
    for _ in range(times):
        with suppress(ConnectionError, RejectedError):
            use()
        answered += 1
    return answered == times


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", list(policies()))
def test_none_of_forty_children_of_a_hammered_policy_hangs(name: str, quick_switches: None):
    use = policies()[name]
    with hammered(use):
        assert all(child_is_well(lambda: uses(use)) for _ in range(40))


def test_an_open_circuit_is_open_in_the_child():
    breaker = CircuitBreaker("b", consecutive_failures=1)
    with pytest.raises(ValueError, match="invalid"):
        breaker.call(int, "x")
    assert child_is_well(lambda: breaker.state is CircuitState.OPEN)


def test_calls_in_flight_stay_with_the_parent():
    limiter = ConcurrencyLimiter("c", limit=1)
    with limiter.guard():
        assert child_is_well(lambda: limiter.inflight == 0 and limiter.call(int) == 0)
        assert limiter.inflight == 1


def test_what_a_limiter_owes_is_owed_in_the_child_too():
    limiter = RateLimiter("r", rate=0.001, burst=1)
    limiter.call(int)
    assert child_is_well(lambda: not limiter.try_acquire())


def test_a_child_may_run_a_loop_of_its_own():
    limiter = ConcurrencyLimiter("c", limit=1, max_queue=5, max_wait=5.0)

    @limiter
    async def work() -> int:
        await asyncio.sleep(0)
        return 1

    async def all_at_once() -> list[int]:
        return await asyncio.gather(*(work() for _ in range(4)))

    assert asyncio.run(all_at_once()) == [1, 1, 1, 1]
    assert child_is_well(lambda: asyncio.run(all_at_once()) == [1, 1, 1, 1])


def test_counters_start_at_zero_in_the_child():
    limiter = ConcurrencyLimiter("c", limit=1)
    limiter.call(int)
    assert limiter.counts.acquired == 1
    assert child_is_well(lambda: limiter.counts.acquired == 0)
