"""Many threads, or many tasks, on one policy object: no bound is broken and nothing is lost."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import pytest

from resilience import (
    Cache,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    ConcurrencyLimitedError,
    ConcurrencyLimiter,
    Keyed,
    RateLimiter,
    RejectedError,
    RetryBudget,
    _clock,
)

THREADS = 8


def together(work: Callable[[], object], threads: int = THREADS) -> None:
    """Run *work* in several threads that start at the same moment."""
    barrier = threading.Barrier(threads)

    def run() -> None:
        barrier.wait()
        work()

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def test_no_failure_is_lost(quick_switches: None):
    breaker = CircuitBreaker("b", minimum_throughput=10**9, sampling_duration=3600.0)
    each = 1500

    def work() -> None:
        for _ in range(each):
            with suppress(ValueError):
                breaker.call(int, "x")

    together(work)
    assert breaker._circuit._window.count(_clock.monotonic()) == (THREADS * each, THREADS * each, 0)


def test_no_success_is_lost(quick_switches: None):
    breaker = CircuitBreaker("b", sampling_duration=3600.0)
    each = 1500

    def work() -> None:
        for _ in range(each):
            breaker.call(int)

    together(work)
    assert breaker._circuit.good == THREADS * each


@pytest.mark.parametrize("probes", [1, 3])
def test_sixteen_threads_get_exactly_the_probes(probes: int, quick_switches: None):
    breaker = CircuitBreaker(
        "b", consecutive_failures=1, break_duration=0.01, break_jitter=0.0, probes=probes
    )
    with suppress(ValueError):
        breaker.call(int, "x")
    time.sleep(0.02)
    running: list[int] = []
    release = threading.Event()
    refused = []

    def probe() -> None:
        running.append(1)
        release.wait(10)

    def work() -> None:
        try:
            breaker.call(probe)
        except CircuitOpenError:
            refused.append(1)
        if len(refused) == 16 - probes:
            release.set()

    together(work, 16)
    assert (len(running), len(refused)) == (probes, 16 - probes)
    assert breaker.state is CircuitState.CLOSED


def test_a_thousand_tasks_get_exactly_the_probe():
    breaker = CircuitBreaker("b", consecutive_failures=1, break_duration=0.01, break_jitter=0.0)
    with suppress(ValueError):
        breaker.call(int, "x")
    time.sleep(0.02)
    calls = []

    @breaker
    async def probe() -> None:
        calls.append(1)
        await asyncio.sleep(0.05)

    async def main() -> list[object]:
        return await asyncio.gather(*(probe() for _ in range(1000)), return_exceptions=True)

    results = asyncio.run(main())
    assert len(calls) == 1
    assert sum(isinstance(result, CircuitOpenError) for result in results) == 999


@pytest.mark.parametrize("max_wait", [0.0, 0.05])
def test_a_rate_limit_holds_over_every_window(max_wait: float, quick_switches: None):
    rate, burst = 2000.0, 50
    limiter = RateLimiter("r", rate=rate, burst=burst, max_wait=max_wait)
    admitted: deque[float] = deque()
    real = limiter._machine.admit

    def admit(now: float, n: int = 1):  # the instant by which the limiter itself decided
        decision = real(now, n)
        if decision:
            admitted.append(now)
        return decision

    class Watched:
        def __getattr__(self, name: str):
            return admit if name == "admit" else getattr(machine, name)

    machine = limiter._machine
    watched = Watched()
    limiter._machine = watched  # type: ignore[assignment]  # it answers like the one it watches
    until = time.monotonic() + 0.6

    def work() -> None:
        while time.monotonic() < until:
            with suppress(RejectedError):
                limiter.call(int)

    together(work)
    instants = sorted(admitted)
    assert len(instants) > burst
    for width in (1, 10, burst, 2 * burst, 400):
        for first, last in zip(instants, instants[width:], strict=False):
            assert width + 1 <= burst + rate * (last - first) + 1 + 1e-3


def test_a_limiter_far_from_its_limit_refuses_nobody(quick_switches: None):
    limiter = RateLimiter("r", rate=1e9, burst=10**9)
    refused = []

    def work() -> None:
        for _ in range(800):
            if not limiter.try_acquire():
                refused.append(1)

    together(work)
    assert not refused


def test_in_flight_never_exceeds_the_limit(quick_switches: None):
    limiter = ConcurrencyLimiter("c", limit=3, max_queue=4, max_wait=0.02)
    running = [0]
    worst = [0]
    lock = threading.Lock()

    @limiter
    def work() -> None:
        with lock:
            running[0] += 1
            worst[0] = max(worst[0], running[0])
        time.sleep(0)
        with lock:
            running[0] -= 1

    def many() -> None:
        for _ in range(300):
            with suppress(ConcurrencyLimitedError):
                work()

    together(many)
    assert worst[0] <= 3
    assert (limiter.inflight, limiter.queued) == (0, 0)


def test_threads_and_tasks_of_two_loops_share_one_line():
    limiter = ConcurrencyLimiter("c", limit=1, max_queue=100, max_wait=10.0)
    done: list[str] = []

    @limiter
    def block() -> None:
        time.sleep(0.001)
        done.append("thread")

    @limiter
    async def suspend() -> None:
        await asyncio.sleep(0.001)
        done.append("task")

    async def main() -> None:
        await asyncio.gather(*(suspend() for _ in range(10)))

    workers = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(2)]
    workers += [threading.Thread(target=block) for _ in range(10)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(done) == ["task"] * 20 + ["thread"] * 10
    assert (limiter.inflight, limiter.queued) == (0, 0)


def test_a_budget_never_grants_more_than_it_holds(quick_switches: None):
    budget = RetryBudget.ratio(0.0, min_per_second=3.0, ttl=10.0, timeout_cost=1)
    start, granted = time.monotonic(), []

    def work() -> None:
        for _ in range(300):
            if budget.try_withdraw():
                granted.append(1)

    together(work)
    assert 30 <= len(granted) <= 30 + 3.0 * (time.monotonic() - start) + 1


def test_one_key_is_refreshed_by_one_caller(quick_switches: None):
    cache = Cache("c", ttl=60.0)
    calls = []

    @cache
    def load(key: str) -> str:
        calls.append(key)
        time.sleep(0.02)
        return key

    together(lambda: load("a"))
    assert calls == ["a"]


def test_one_key_has_one_policy(quick_switches: None):
    keyed = Keyed("k", factory=CircuitBreaker)
    seen: set[int] = set()
    together(lambda: seen.add(id(keyed["host"])))
    assert len(seen) == 1
