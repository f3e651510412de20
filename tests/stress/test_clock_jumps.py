"""The system clock jumps by hours; no policy notices."""

import time
from collections.abc import Iterator

import pytest

from resilience import (
    Cache,
    CircuitBreaker,
    CircuitState,
    RateLimiter,
    RetryBudget,
    Timeout,
    deadline,
    remaining,
)


@pytest.fixture(params=[7200.0, -7200.0], ids=["two hours on", "two hours back"])
def jump(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Make the wall clock jump when the test says so."""
    real, real_ns = time.time, time.time_ns

    def now() -> None:
        monkeypatch.setattr(time, "time", lambda: real() + request.param)
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(request.param * 1e9))

    yield now
    monkeypatch.undo()


def test_an_open_circuit_stays_open_for_its_time(jump):
    breaker = CircuitBreaker("b", consecutive_failures=1, break_duration=60.0)
    with pytest.raises(ValueError, match="invalid"):
        breaker.call(int, "x")
    jump()
    assert breaker.state is CircuitState.OPEN
    assert 59.0 < breaker.try_acquire().retry_after <= 60.0 * 1.2


def test_a_drained_limiter_is_neither_refilled_nor_blocked(jump):
    limiter = RateLimiter("r", rate=50, burst=1)
    limiter.call(int)
    jump()
    refused = limiter.try_acquire()
    assert not refused
    time.sleep(refused.retry_after + 0.001)
    assert limiter.try_acquire()


def test_a_deadline_is_where_it_was(jump):
    with deadline(10.0):
        jump()
        assert 9.0 < remaining() <= 10.0


def test_a_timeout_is_not_used_up(jump):
    @Timeout(10.0)
    def left() -> float | None:
        jump()
        return remaining()

    assert 9.0 < left() <= 10.0


def test_a_cached_value_is_as_fresh_as_it_was(jump):
    calls = []
    cache = Cache("c", ttl=60.0)
    load = cache(lambda: calls.append(1))
    load()
    jump()
    load()
    assert calls == [1]


def test_a_budget_is_neither_filled_nor_emptied(jump):
    budget = RetryBudget.ratio(0.0, min_per_second=0.1, ttl=10.0)
    while budget.try_withdraw():
        pass
    jump()
    assert budget.level == 0
