"""Ctrl-C at any moment: no permit leaks and no lock stays held."""

import gc
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from tests.collector import collector_off

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
    RetryBudget,
    Timeout,
    backoff,
    current_attempt,
    current_deadline,
)
from resilience._runtime import locked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs setitimer")


def interrupt(use: Callable[[], object], times: int = 20, seconds: float = 1.0) -> None:
    """
    Use it over and over for *seconds*, and on a slow machine for longer, until *times* interrupts struck.

    What earlier tests left is collected before: its finalisers are no part of a call, and an interrupt that
    strikes in one of them is only reported.
    """
    with collector_off():
        _interrupt(use, times, seconds)


def _interrupt(use: Callable[[], object], times: int, seconds: float) -> None:
    struck = 0
    enough = time.monotonic() + seconds
    too_long = enough + 20.0

    def goes_on() -> bool:
        now = time.monotonic()
        return now < enough or (struck < times and now < too_long)

    is_armed = False

    def strike(number: int, frame: object) -> None:
        nonlocal is_armed
        if is_armed and goes_on():  # others would strike the test run, in place of a call
            is_armed = False
            raise KeyboardInterrupt

    def calls() -> None:
        nonlocal is_armed
        # And again later: an interrupt in a finaliser is reported, and goes no further.
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0003, 0.05)
        while goes_on():
            is_armed = True
            with suppress(ConnectionError, RejectedError):
                use()
        is_armed = False

    # The timer of this process's own CPU time: the other one belongs to the test runner's time limit.
    before = signal.signal(signal.SIGVTALRM, strike)
    try:
        while goes_on():
            try:
                # In a function of its own: CPython 3.13 was seen to let an interrupt that strikes where a loop
                # jumps back pass by the handler around that loop.
                calls()
            except KeyboardInterrupt:
                struck += 1
    finally:
        is_armed = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert struck >= times


def is_free(lock: "threading.RLock") -> bool:
    """Whether another thread gets the lock. It is free afterwards, too, if it was."""
    answers: list[bool] = []

    def ask() -> None:
        answers.append(lock.acquire(timeout=1.0))
        if answers == [True]:
            lock.release()  # a thread that ended with it would keep it for ever

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()
    return answers == [True]


def test_what_earlier_tests_left_is_collected_before_interrupts_strike():
    uses: list[None] = []
    collected_after: list[int] = []

    class Left:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            collected_after.append(len(uses))

    def use() -> None:
        uses.append(None)
        if len(uses) == 1:
            kept = [[] for _ in range(10_000)]  # enough to wake a collector that is not off
            assert len(kept) == 10_000

    gc.collect()
    Left()
    interrupt(use, times=1, seconds=0.05)
    assert collected_after == [0]
    assert gc.isenabled()


def test_a_concurrency_slot_comes_back():
    limiter = ConcurrencyLimiter("c", limit=3)
    interrupt(lambda: limiter.call(int))
    assert limiter.inflight == 0
    assert is_free(limiter._lock)


@pytest.mark.parametrize("needs_locks", [False, True])
def test_generated_code_gives_back_what_it_took(needs_locks: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(locked, "_needs_locks", needs_locks)
    budget, limiter = RetryBudget.inflight(), ConcurrencyLimiter("c", limit=3)
    rates = RateLimiter(rate=1_000_000_000)
    use = Pipeline("p", Retry(budget=budget), CircuitBreaker(), rates, limiter)(lambda: None)
    use()
    interrupt(use, times=100)
    assert limiter.inflight == 0
    assert budget.limit == 3  # nothing is in flight
    assert all(is_free(each._lock) for each in (budget, rates, limiter))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_guarded_block_gives_its_slot_back():
    limiter = ConcurrencyLimiter("c", limit=3)

    def use() -> None:
        with limiter.guard():
            pass

    interrupt(use)
    assert limiter.inflight == 0


def test_a_probe_gives_its_place_back():
    breaker = CircuitBreaker(
        "b", consecutive_failures=1, break_duration=0.001, break_jitter=0.0, required_successes=1
    )

    def use() -> None:
        with suppress(ValueError):
            breaker.call(int, "x")
        time.sleep(0.001)

    interrupt(use)
    time.sleep(0.1)
    breaker.reconfigure(max_break_duration=0.001, break_duration=0.001)
    time.sleep(0.01)
    with suppress(RejectedError):
        breaker.call(int)
    assert breaker.state is CircuitState.CLOSED
    assert is_free(breaker._lock)


@pytest.mark.parametrize("propagate", [True, False])
def test_a_whole_pipeline_holds_nothing_afterwards(propagate):
    limiter = ConcurrencyLimiter(limit=3)
    whole = Pipeline(
        "whole",
        Timeout(5.0, propagate=propagate),
        Retry(backoff=backoff.constant(0.0)),
        RateLimiter(rate=1e6),
        limiter,
        Timeout(1.0, propagate=propagate),
    )
    turn = iter(range(10**9))

    def flaky() -> None:
        if next(turn) % 2:
            raise ConnectionError

    interrupt(lambda: whole.call(flaky))
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
    interrupt(lambda: whole.call(int), times=5)  # each call starts a thread, and waits more than it works
    assert current_attempt().attempt == 1
    assert current_deadline() is None
    assert is_free(hedge._lock)
    assert whole.call(int) == 0


def test_nobody_waits_for_a_refresh_that_was_interrupted():
    cache = Cache("c", ttl=0.0001)
    load = cache(lambda: 1)
    interrupt(load)
    assert load() == 1


# --- an interrupt that strikes while a thread is started ---


def start_struck_in_its_own_lock(thread: threading.Thread) -> None:
    """Let go of a lock for a moment and be struck there, as `threading.Thread.start` may be."""
    with (lock := threading.Lock()):
        lock.release()
        raise KeyboardInterrupt


def start_without_a_thread_left(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    "policy",
    [Hedge("h", after=1.0, idempotent=True, budget=None), Timeout(5.0, thread=True)],
    ids=["hedge", "timeout"],
)
def test_an_interrupt_of_a_starting_thread_comes_out_as_what_it_is(monkeypatch, policy):
    monkeypatch.setattr(threading.Thread, "start", start_struck_in_its_own_lock)
    with pytest.raises(KeyboardInterrupt):
        policy.call(int)


def test_an_interrupt_that_is_being_handled_is_not_raised_again_where_no_thread_is_left(monkeypatch):
    hedge = Hedge("h", after=1.0, idempotent=True, budget=None)
    monkeypatch.setattr(threading.Thread, "start", start_without_a_thread_left)
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert hedge.call(int) == 0
