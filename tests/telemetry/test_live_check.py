"""Everything that is emitted is in the registry, and says what the registry says."""

import asyncio

import pytest

from resilience import (
    AdaptiveThrottle,
    Cache,
    CircuitBreaker,
    ConcurrencyLimiter,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimiter,
    Retry,
    RetryBudget,
    Timeout,
    Verdict,
    telemetry,
)
from resilience.backoff import constant
from resilience.errors import ConfigError, RejectedError
from resilience.limits import Aimd
from resilience.rates import Aimd as RateAimd
from resilience.telemetry._events import EVENTS
from resilience.telemetry._metrics import METRICS

from .otel import Otel, faults

NEEDS_OTHERS = ("resilience.idempotency.", "resilience.sli.", "resilience.slo.", "resilience.error_budget.")
"""What is emitted by parts that have their own tests."""


class Faulty:
    """An algorithm that cannot learn."""

    limit = rate = 10.0
    window = 1e-6
    quantile = None

    def on_sample(self, sample: object) -> None:
        raise ZeroDivisionError


def flaky(kinds: list[type[Exception] | None]):
    """A function that fails as listed."""
    plan = iter(kinds)

    def fetch(*args: object) -> int:
        kind = next(plan, None)
        if kind is not None:
            raise kind
        return 7

    return fetch


def exercise() -> list[object]:
    """Let every policy do everything that it tells of."""
    budget = RetryBudget(name="all")
    breaker = CircuitBreaker("all", consecutive_failures=2, failure_ratio=None, break_jitter=0.0)
    pipeline = Pipeline(
        "all",
        Fallback(value=0),
        Cache(ttl=60.0),
        Retry(attempts=3, backoff=constant(0.0), budget=budget),
        breaker,
        ConcurrencyLimiter(limit=Aimd()),
        Timeout(5.0),
    )
    guarded = pipeline(flaky([ConnectionError] * 9))
    for n in range(4):
        guarded(n)
    with breaker.isolate(), breaker.shadow():
        guarded("isolated")
    breaker.reset()
    try:
        pipeline.reload(Retry(), Retry())
    except ConfigError:
        pass
    pipeline.reload(*pipeline.policies)
    retry = Retry("all", attempts=2, backoff=constant(0.0), budget=None)
    with pytest.raises(ConnectionError):
        retry(flaky([ConnectionError] * 2))()

    limiter = RateLimiter("all", rate=RateAimd(start=10))
    limiter.pin(40.0)
    limiter.unpin()
    keyed_limiter = RateLimiter("all", rate=1, burst=1, key=lambda n: n)
    with pytest.raises(RejectedError):
        [keyed_limiter(lambda n: n)(1) for _ in range(3)]
    places = ConcurrencyLimiter("all", limit=4)
    places.pin(1)
    with places.guard():
        assert not places.try_acquire()
    broken = ConcurrencyLimiter("all", limit=Faulty())
    for _ in range(2):
        broken.try_acquire().settle()
    adaptive = RateLimiter("all", rate=Faulty())
    for _ in range(2):
        adaptive.try_acquire().settle(Verdict.GOOD)

    throttle = AdaptiveThrottle("all", floor=None, minimum_throughput=2, k=1.0)
    for _ in range(40):
        if permit := throttle.try_acquire():
            permit.settle(Verdict.THROTTLED)
    dry = RetryBudget(name="dry")
    while dry.try_withdraw():
        pass
    hedge = Hedge("all", after=0.0, idempotent=True, budget=dry)

    async def hedged() -> int:
        await asyncio.sleep(0.02)
        return 7

    asyncio.run(hedge.acall(hedged))
    keyed = Keyed("all", factory=lambda: CircuitBreaker(), key=lambda n: n, max_keys=1)
    [keyed(lambda n: n)(n) for n in range(3)]
    return [budget, pipeline, retry, limiter, keyed_limiter, places, broken, adaptive, throttle, hedge, keyed]


def test_everything_emitted_is_in_the_registry(otel: Otel) -> None:
    telemetry.configure(call_metrics=True, call_duration=True, spans=True)
    kept = exercise()
    assert kept
    assert faults(otel) == []


def test_every_metric_of_the_registry_is_emitted(otel: Otel) -> None:
    telemetry.configure(call_metrics=True, call_duration=True)
    kept = exercise()
    missing = {metric.name for metric in METRICS} - set(otel.metrics())
    assert kept
    assert {name for name in missing if not name.startswith(NEEDS_OTHERS)} == set()


def test_every_event_of_the_registry_is_emitted(otel: Otel) -> None:
    kept = exercise()
    missing = {event.name for event in EVENTS} - {record.event_name for record in otel.events()}
    assert kept
    assert {name for name in missing if not name.startswith(NEEDS_OTHERS)} == set()


def test_the_check_would_notice_what_is_not_in_the_registry(
    otel: Otel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = CircuitBreaker("seeded", consecutive_failures=1)
    monkeypatch.setattr("tests.telemetry.otel.METRIC", {})
    assert any("not in the registry" in fault for fault in faults(otel))
    assert kept


def test_the_check_would_notice_a_value_that_is_not_listed(
    otel: Otel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = CircuitBreaker("seeded")
    monkeypatch.setattr("tests.telemetry.otel.ATTRIBUTES", tuple(_without_members()))
    assert any("resilience.circuit_breaker.state is 'closed'" in fault for fault in faults(otel))
    assert kept


def _without_members():
    from dataclasses import replace

    from resilience.telemetry._registry import ATTRIBUTES

    return [replace(each, members=(("other", "Other."),)) if each.members else each for each in ATTRIBUTES]
