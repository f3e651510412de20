"""
Who is measured side by side, with what settings: as close to ours as each allows.

Three attempts, windows of 100 calls or 30 s, a ratio of one half; rates and limits so high that nobody
refuses. A mark says where a peer does less than the row says; what marks mean stands in `MARKS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.other_arounds import (
    LONG,
    asyncio_timeout,
    grit_fallback,
    grit_pipeline,
    grit_retry,
    grit_timeout,
    interlock_fallback,
    interlock_pipeline,
    interlock_retry,
    interlock_timeout,
    nopanic_budgeted,
    nopanic_fallback,
    nopanic_pipeline,
    nopanic_retry,
    nopanic_timeout,
    pyresilience_budgeted,
    pyresilience_fallback,
    pyresilience_pipeline,
    pyresilience_retry,
    pyresilience_timeout,
    stamina_retry,
    tenacity_retry,
)
from benchmarks.other_gates import (
    HIGH,
    MANY,
    aiolimiter_rate,
    circuitbreaker_breaker,
    grit_breaker,
    grit_bulkhead,
    grit_rate,
    interlock_breaker,
    interlock_bulkhead,
    limits_rate,
    nopanic_breaker,
    nopanic_bulkhead,
    nopanic_rate,
    pybreaker_breaker,
    pyresilience_breaker,
    pyresilience_bulkhead,
    pyresilience_rate,
    semaphore,
)

from resilience import CircuitBreaker, ConcurrencyLimiter, Fallback, Pipeline, RateLimiter, Retry, Timeout

US = "resilience"

MARKS = {
    "a": "no lock: counts can get lost between threads",
    "b": "no window: failures in a row only",
    "c": "no limit on probes in half-open state",
    "d": "holds a lock while the function runs: one call at a time",
    "e": "limits threads and tasks apart, or only one of them",
    "f": "no decorator of its own: called in the smallest wrapper that does the job",
    "g": "no retry budget",
    "h": "no rate limiter of its own: retry and breaker alone",
    "i": "refuses calls under contention, although far from the limit",
    "j": "counts in fixed windows: up to twice the rate at their border",
}
"""What a peer's row does not do, though ours does."""


@dataclass(frozen=True)
class Contender:
    """
    One library in one row.

    Attributes:
        name: The library, and the variant if there are several.
        make: Makes the decorator.
        marks: Where it does less than the row says.
        sync: Whether it guards plain functions.
        asyncio: Whether it guards coroutine functions.

    """

    name: str
    make: Callable[[], Callable[[Any], Any]]
    marks: str = ""
    sync: bool = True
    asyncio: bool = True

    @property
    def is_ours(self) -> bool:
        return self.name.startswith(US)


def our_limiter():
    return RateLimiter("bench", rate=HIGH)


def our_pipeline(**retry):
    return Pipeline("bench", Retry(**retry), CircuitBreaker(), our_limiter())


PEERS: Mapping[str, tuple[Contender, ...]] = {
    "retry": (
        Contender(US, lambda: Retry(budget=None)),
        Contender("nopanic", nopanic_retry),
        Contender("pyresilience", pyresilience_retry),
        Contender("grit-toolkit", grit_retry),
        Contender("interlock-cb", interlock_retry),
        Contender("tenacity", tenacity_retry),
        Contender("stamina", stamina_retry),
    ),
    "retry with a budget": (
        Contender(US, Retry),
        Contender("nopanic", nopanic_budgeted),
        Contender("pyresilience", pyresilience_budgeted),
    ),
    "breaker, window of time": (
        Contender(US, CircuitBreaker),
        Contender("nopanic", nopanic_breaker),
        Contender("interlock-cb", lambda: interlock_breaker("TIME_BASED")),
    ),
    "breaker, window of calls": (
        Contender(US, lambda: CircuitBreaker(sampling_calls=100)),
        Contender("pyresilience", pyresilience_breaker, "c"),
        Contender("interlock-cb", lambda: interlock_breaker("COUNT_BASED")),
    ),
    "breaker, failures in a row": (
        Contender(US, lambda: CircuitBreaker(failure_ratio=None, consecutive_failures=5)),
        Contender("grit-toolkit", grit_breaker),
        Contender("pybreaker", pybreaker_breaker, "d", asyncio=False),
        Contender("circuitbreaker", circuitbreaker_breaker, "ac"),
    ),
    "rate limiter": (
        Contender(US, our_limiter),
        Contender("nopanic", nopanic_rate),
        Contender("pyresilience", pyresilience_rate),
        Contender("grit-toolkit", grit_rate, "i"),
        Contender("limits", limits_rate, "efj"),
        Contender("aiolimiter", aiolimiter_rate, "ef", sync=False),
    ),
    "concurrency limiter": (
        Contender(US, lambda: ConcurrencyLimiter(limit=MANY)),
        Contender("nopanic", nopanic_bulkhead, "e"),
        Contender("pyresilience", pyresilience_bulkhead, "e"),
        Contender("grit-toolkit", grit_bulkhead, "e"),
        Contender("interlock-cb", interlock_bulkhead, "e"),
        Contender("asyncio.Semaphore", semaphore, "ef", sync=False),
    ),
    "timeout": (
        Contender(US, lambda: Timeout(LONG), sync=False),
        Contender("nopanic", nopanic_timeout, sync=False),
        Contender("pyresilience", pyresilience_timeout, sync=False),
        Contender("grit-toolkit", grit_timeout, sync=False),
        Contender("interlock-cb", interlock_timeout, sync=False),
        Contender("asyncio.timeout", asyncio_timeout, "f", sync=False),
    ),
    "fallback": (
        Contender(US, lambda: Fallback(value=None)),
        Contender("nopanic", nopanic_fallback),
        Contender("pyresilience", pyresilience_fallback),
        Contender("grit-toolkit", grit_fallback),
        Contender("interlock-cb", interlock_fallback),
    ),
    "pipeline: retry, breaker, rate limiter": (
        Contender(US, our_pipeline),
        Contender("nopanic", nopanic_pipeline, "g"),
        Contender("pyresilience", pyresilience_pipeline, "cg"),
        Contender("grit-toolkit", grit_pipeline, "bgi"),
        Contender("interlock-cb", interlock_pipeline, "gh"),
    ),
}
"""For each row, everybody who offers it; ours first."""
