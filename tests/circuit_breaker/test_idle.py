"""When a breaker is as a new one, so that a `Keyed` may drop it."""

import pytest

from resilience import CircuitBreaker
from resilience.testing import FakeClock


def fail(breaker: CircuitBreaker) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        breaker.call(int, "x")


def test_a_new_breaker_is_idle():
    assert CircuitBreaker("stock").is_idle


def test_results_in_the_window_make_it_busy_until_they_are_forgotten(fake_clock: FakeClock):
    breaker = CircuitBreaker("stock", sampling_duration=30.0)
    breaker.call(len, "four")
    assert not breaker.is_idle
    fake_clock.advance(31.0)
    assert breaker.is_idle


def test_an_open_breaker_is_not_idle(fake_clock: FakeClock):
    breaker = CircuitBreaker("stock", consecutive_failures=1)
    fail(breaker)
    fake_clock.advance(1000.0)
    assert not breaker.is_idle


def test_a_failure_in_a_row_is_not_forgotten_while_the_rule_is_on(fake_clock: FakeClock):
    counting, not_counting = CircuitBreaker("a", consecutive_failures=2), CircuitBreaker("b")
    for breaker in (counting, not_counting):
        fail(breaker)
    fake_clock.advance(1000.0)
    assert (counting.is_idle, not_counting.is_idle) == (False, True)


def test_orders_keep_it_busy():
    breaker = CircuitBreaker("stock")
    for order in (breaker.shadow(), breaker.isolate(), breaker.disable()):
        assert not breaker.is_idle
        order.end()
    assert breaker.is_idle
