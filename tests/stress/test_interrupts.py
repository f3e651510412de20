"""Ctrl-C at any moment: no permit leaks and no lock stays held."""

import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from resilience import (
    Cache,
    CircuitBreaker,
    CircuitState,
    ConcurrencyLimiter,
    Hedge,
    Pipeline,
    RateLimiter,
    RejectedError,
    Retry,
    Timeout,
    backoff,
    current_attempt,
    current_deadline,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs setitimer")


def interrupted(use: Callable[[], object], seconds: float = 1.0) -> int:
    """Use it over and over while interrupts strike; return how many did."""
    struck = 0

    def strike(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    # The timer of this process's own CPU time: the other one belongs to the test runner's time limit.
    before = signal.signal(signal.SIGVTALRM, strike)
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            try:
                # And again later: an interrupt in a finaliser is reported, and goes no further.
                signal.setitimer(signal.ITIMER_VIRTUAL, 0.0003, 0.05)
                while True:
                    with suppress(ConnectionError, RejectedError):
                        use()
            except KeyboardInterrupt:
                struck += 1
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    return struck


def is_free(lock: "threading.RLock") -> bool:
    answers: list[bool] = []

    def ask() -> None:
        answers.append(lock.acquire(timeout=1.0))

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()
    return answers == [True]


def test_a_concurrency_slot_comes_back():
    limiter = ConcurrencyLimiter("c", limit=3)
    assert interrupted(lambda: limiter.call(int)) > 20
    assert limiter.inflight == 0
    assert is_free(limiter._lock)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_guarded_block_gives_its_slot_back():
    limiter = ConcurrencyLimiter("c", limit=3)

    def use() -> None:
        with limiter.guard():
            pass

    assert interrupted(use) > 20
    assert limiter.inflight == 0


def test_a_probe_gives_its_place_back():
    breaker = CircuitBreaker(
        "b", consecutive_failures=1, break_duration=0.001, break_jitter=0.0, required_successes=1
    )

    def use() -> None:
        with suppress(ValueError):
            breaker.call(int, "x")
        time.sleep(0.001)

    assert interrupted(use) > 20
    time.sleep(0.1)
    breaker.reconfigure(max_break_duration=0.001, break_duration=0.001)
    time.sleep(0.01)
    with suppress(RejectedError):
        breaker.call(int)
    assert breaker.state is CircuitState.CLOSED
    assert is_free(breaker._lock)


def test_a_whole_pipeline_holds_nothing_afterwards():
    limiter = ConcurrencyLimiter(limit=3)
    whole = Pipeline(
        "whole",
        Timeout(5.0),
        Retry(backoff=backoff.constant(0.0)),
        RateLimiter(rate=1e6),
        limiter,
        Timeout(1.0),
    )
    turn = iter(range(10**9))

    def flaky() -> None:
        if next(turn) % 2:
            raise ConnectionError

    assert interrupted(lambda: whole.call(flaky)) > 20
    assert limiter.inflight == 0
    assert current_attempt().attempt == 1
    assert current_deadline() is None
    assert whole.call(int) == 0


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # strikes in threading's own finalisers
def test_an_interrupted_hedge_leaves_no_attempt_and_no_deadline_behind():
    hedge = Hedge("h", after=0.0001, idempotent=True)
    whole = Pipeline("hedged", Timeout(5.0), hedge)
    assert interrupted(lambda: whole.call(int), seconds=2.0) > 3  # each call starts a thread
    assert current_attempt().attempt == 1
    assert current_deadline() is None
    assert is_free(hedge._lock)
    assert whole.call(int) == 0


def test_nobody_waits_for_a_refresh_that_was_interrupted():
    cache = Cache("c", ttl=0.0001)
    load = cache(lambda: 1)
    assert interrupted(load) > 20
    assert load() == 1
