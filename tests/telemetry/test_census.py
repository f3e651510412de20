"""Who counts is read, and what those counted that are gone is kept."""

import gc
import threading

import pytest

from resilience import CircuitBreaker, ConcurrencyLimiter, Retry
from resilience._runtime import census
from resilience._runtime.census import OTHER, Reading

from .otel import Otel


class Doorman:
    kind = "cache"

    def __init__(self, name: str | None = "door", guests: int = 0) -> None:
        self.name = name
        self.guests = guests
        census.enroll(self)

    def readings(self):
        yield Reading("resilience.cache.stale_results", self.guests)
        yield Reading("resilience.cache.usage", 5, is_level=True)

    def __del__(self, leave=census.leave):
        leave(self)


class Broken(Doorman):
    def readings(self):
        yield Reading("resilience.cache.stale_results", 1)
        raise ZeroDivisionError


def stale(otel: Otel, name: str = "door") -> float | None:
    return otel.value("resilience.cache.stale_results", name)


def test_series_begin_at_zero(otel: Otel) -> None:
    kept = Retry("fresh")
    series = otel.series("resilience.retry.calls", "fresh")
    assert len(series) == 7
    assert set(series.values()) == {0}
    assert kept


def test_owners_of_one_kind_and_name_are_one_series(otel: Otel) -> None:
    kept = Doorman(guests=3), Doorman(guests=4)
    assert stale(otel) == 7
    assert otel.value("resilience.cache.usage", "door") == 10
    assert kept


def test_what_a_collected_owner_counted_is_kept_and_its_levels_are_not(otel: Otel) -> None:
    kept, gone = Doorman(guests=3), Doorman(guests=4)
    assert stale(otel) == 7
    del gone
    assert stale(otel) == 7
    assert otel.value("resilience.cache.usage", "door") == 5
    kept.guests += 1
    assert stale(otel) == 8


def test_what_was_counted_between_two_collections_is_kept_as_well(otel: Otel) -> None:
    Doorman(guests=4)
    assert stale(otel) == 4


def test_an_owner_in_a_reference_cycle_is_kept_likewise(otel: Otel) -> None:
    gone = Doorman(guests=4)
    gone.itself = gone
    del gone
    gc.collect()
    assert stale(otel) == 4


def test_a_policy_that_is_gone_leaves_its_totals(otel: Otel) -> None:
    breaker = CircuitBreaker("gone")
    breaker.call(len, "four")
    del breaker
    gc.collect()
    assert otel.value("resilience.circuit_breaker.calls", "gone", outcome="success") == 1
    assert otel.series("resilience.circuit_breaker.status", "gone") == {}


def test_one_without_a_name_that_counted_nothing_is_not_reported(otel: Otel) -> None:
    kept = Doorman(name=None)
    assert stale(otel, "cache") is None
    kept.guests = 1
    assert stale(otel, "cache") == 1


def test_one_that_cannot_be_read_hides_nobody(otel: Otel) -> None:
    kept = Broken(), Doorman(guests=2)
    assert stale(otel) == 2
    assert kept


def test_one_that_cannot_be_read_when_it_goes_keeps_what_it_said_last(otel: Otel) -> None:
    gone = Doorman(guests=2)
    assert stale(otel) == 2
    gone.__class__ = Broken
    del gone
    gc.collect()
    assert stale(otel) == 2


def test_a_total_never_falls(otel: Otel) -> None:
    kept = Doorman(guests=5)
    assert stale(otel) == 5
    kept.guests -= 1  # as generated code does, where a later policy refuses the call
    assert stale(otel) == 5
    kept.guests += 2
    assert stale(otel) == 6


def test_enrolling_twice_is_once(otel: Otel) -> None:
    kept = Doorman(guests=2)
    census.enroll(kept)
    assert stale(otel) == 2


def test_leaving_without_having_come_changes_nothing(otel: Otel) -> None:
    census.leave(object())
    assert stale(otel) is None


def test_names_are_made_valid(otel: Otel) -> None:
    kept = Doorman("shop.<locals>.get stock", 1), Doorman("x" * 70 + ".end", 1)
    assert stale(otel, "shop._locals_.get_stock") == 1
    assert stale(otel, "x" * 60 + ".end") == 1
    assert kept


def test_beyond_the_bound_names_are_one(otel: Otel) -> None:
    gc.collect()
    otel.metrics()  # names of policies that are alive
    census.labels.most = len(census.labels._known) + 2
    kept = [Doorman(f"door-{n}", 1) for n in range(5)]
    assert stale(otel, "door-1") == 1
    assert stale(otel, OTHER) == 3
    assert kept


def test_no_total_is_lost_while_owners_come_and_go_and_others_read(otel: Otel) -> None:
    def churn() -> None:
        for _ in range(200):
            Doorman(guests=1)

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    seen = []
    while any(thread.is_alive() for thread in threads):
        seen.append(stale(otel) or 0)
    for thread in threads:
        thread.join()
    assert seen == sorted(seen)
    assert stale(otel) == 800


def test_a_limiter_tells_its_limit_its_places_and_its_line(otel: Otel) -> None:
    limiter = ConcurrencyLimiter("places", limit=3)
    with limiter.guard():
        assert otel.value("resilience.concurrency_limiter.usage", "places") == 1
    assert otel.value("resilience.concurrency_limiter.usage", "places") == 0
    assert otel.value("resilience.concurrency_limiter.limit", "places") == 3
    assert otel.value("resilience.concurrency_limiter.queue.usage", "places") == 0
    limiter.pin(2)
    assert otel.value("resilience.concurrency_limiter.limit_changes", "places", change="decrease") == 1
    assert otel.value("resilience.concurrency_limiter.limit_changes", "places", change="increase") == 0


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_what_is_no_finite_number_is_left_out(otel: Otel, number: float) -> None:
    kept = Doorman(guests=number)
    assert stale(otel) is None
    assert kept
