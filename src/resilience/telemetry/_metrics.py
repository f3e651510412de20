"""Every metric: what it counts, in which unit, and how many series it has."""

from typing import Any, Final

from resilience.telemetry._registry import BOUNDS, ERROR, NAME, SLO, Instrument, Metric
from resilience.telemetry._values import MOST_ERROR_TYPES


def _metric(
    instrument: Instrument, name: str, unit: str, brief: str, more: tuple[str, ...], given: Any
) -> Metric:
    """Make a metric whose series have the owner's name and *more* attributes."""
    attributes = given.pop("attributes", (given.get("owner", NAME), *more))
    return Metric(name=name, instrument=instrument, unit=unit, brief=brief, attributes=attributes, **given)


def _counter(name: str, unit: str, brief: str, *more: str, **given: Any) -> Metric:
    return _metric("counter", name, unit, brief, more, given)


def _level(name: str, unit: str, brief: str, *more: str, **given: Any) -> Metric:
    return _metric("updowncounter", name, unit, brief, more, given)


def _gauge(name: str, unit: str, brief: str, *more: str, **given: Any) -> Metric:
    return _metric("gauge", name, unit, brief, more, given)


def _histogram(name: str, unit: str, brief: str, *more: str, **given: Any) -> Metric:
    return _metric("histogram", name, unit, brief, more, given)


METRICS: Final[tuple[Metric, ...]] = (
    _counter(
        "resilience.attempts",
        "{attempt}",
        "Attempts at calls that may be repeated; a probe of a half-open circuit is of another type as well.",
        "resilience.attempt.type",
        bound=4,
    ),
    _counter(
        "resilience.calls",
        "{call}",
        "Calls to guarded functions, by how they ended for the caller.",
        "resilience.outcome",
        bound=4,
        opt_in="call_metrics=True",
    ),
    _counter(
        "resilience.call.buckets",
        "{call}",
        "Calls that succeeded or failed within a bound of time, waits and retries included; cumulative.",
        "resilience.call.bound",
        bound=len(BOUNDS) + 1,
        opt_in="call_metrics=True",
    ),
    _counter(
        "resilience.call.time",
        "s",
        "Time taken by calls that succeeded or failed, waits and retries included.",
        opt_in="call_metrics=True",
    ),
    _histogram(
        "resilience.call.duration",
        "s",
        "Duration of protected calls including waits and retries, with exemplars.",
        optional=((ERROR, "If the call failed."),),
        bound=MOST_ERROR_TYPES + 2,
        opt_in="call_duration=True",
    ),
    _counter(
        "resilience.circuit_breaker.calls",
        "{call}",
        "Calls seen by the circuit breaker.",
        "resilience.outcome",
        bound=5,
    ),
    _counter(
        "resilience.circuit_breaker.spared",
        "{call}",
        "Calls let pass in shadow mode that would have been rejected.",
    ),
    _level(
        "resilience.circuit_breaker.status",
        "1",
        "1 for the current state and 0 for each other; of keyed breakers, how many are in each.",
        "resilience.circuit_breaker.state",
        bound=5,
    ),
    _counter(
        "resilience.circuit_breaker.time",
        "s",
        "Time spent in each state.",
        "resilience.circuit_breaker.state",
        bound=5,
    ),
    _counter(
        "resilience.circuit_breaker.transitions",
        "{transition}",
        "State transitions.",
        "resilience.circuit_breaker.state",
        "resilience.circuit_breaker.previous_state",
        bound=20,
    ),
    _counter(
        "resilience.retry.calls",
        "{call}",
        "Calls finished by the retry policy.",
        "resilience.retry.stop_reason",
        bound=7,
    ),
    _counter("resilience.retry.delay", "s", "Time put between attempts."),
    _level("resilience.retry_budget.usage", "{token}", "Tokens in use."),
    _level("resilience.retry_budget.limit", "{token}", "Token capacity."),
    _counter("resilience.retry_budget.grants", "{attempt}", "Attempts paid by the retry budget."),
    _counter("resilience.retry_budget.rejections", "{attempt}", "Attempts denied by the retry budget."),
    _counter("resilience.retry_budget.refunds", "{token}", "Tokens given back by calls that ended well."),
    _counter(
        "resilience.rate_limiter.requests",
        "{request}",
        "Requests for a rate limit permit.",
        "resilience.limiter.result",
        bound=5,
    ),
    _gauge(
        "resilience.rate_limiter.limit",
        "{request}/s",
        "Current permitted rate, of each key if keys are kept apart; absent without a limit.",
    ),
    _counter(
        "resilience.rate_limiter.limit_changes",
        "{change}",
        "Changes of the limit, learnt or ordered.",
        "resilience.limiter.change",
        bound=2,
    ),
    _level("resilience.rate_limiter.queue.usage", "{request}", "Requests waiting for a permit."),
    _counter(
        "resilience.rate_limiter.wait.time",
        "s",
        "Time spent waiting for a permit, however the waiting ended.",
    ),
    _counter(
        "resilience.rate_limiter.overflows",
        "{request}",
        "Permits of keys that share one entry, because there were too many.",
    ),
    _counter(
        "resilience.concurrency_limiter.requests",
        "{request}",
        "Requests for a concurrency permit.",
        "resilience.limiter.result",
        bound=5,
    ),
    _level("resilience.concurrency_limiter.limit", "{request}", "Current concurrency limit."),
    _counter(
        "resilience.concurrency_limiter.limit_changes",
        "{change}",
        "Changes of the limit, learnt or ordered.",
        "resilience.limiter.change",
        bound=2,
    ),
    _level("resilience.concurrency_limiter.queue.usage", "{request}", "Requests waiting for a permit."),
    _counter(
        "resilience.concurrency_limiter.wait.time",
        "s",
        "Time spent waiting for a permit, however the waiting ended.",
    ),
    _level("resilience.concurrency_limiter.usage", "{request}", "Permits held."),
    _counter(
        "resilience.throttle.calls",
        "{call}",
        "Calls seen by the adaptive throttle.",
        "resilience.outcome",
        bound=5,
    ),
    _counter(
        "resilience.throttle.rejections", "{call}", "Calls shed, by priority.", "resilience.priority", bound=5
    ),
    _counter("resilience.throttle.spared", "{call}", "Calls let pass only because a few always are."),
    _gauge(
        "resilience.throttle.rejection_ratio",
        "1",
        "Share of calls of normal priority that would be rejected now.",
        combine="max",
    ),
    _counter(
        "resilience.timeout.timeouts",
        "{timeout}",
        "Calls that used up their time; not those that the caller's own deadline ended.",
    ),
    _counter(
        "resilience.timeout.rejections", "{call}", "Calls rejected because too many threads were left behind."
    ),
    _level(
        "resilience.timeout.abandoned", "{thread}", "Threads at work for callers that have stopped waiting."
    ),
    _counter(
        "resilience.hedge.wins",
        "{call}",
        "Calls that ended well, by the attempt that was first.",
        "resilience.attempt.type",
        bound=2,
    ),
    _counter(
        "resilience.hedge.denials",
        "{attempt}",
        "Further attempts that were due and not started.",
        "resilience.hedge.denial_reason",
        bound=2,
    ),
    _level(
        "resilience.hedge.abandoned",
        "{attempt}",
        "Attempts at work that have lost, or whose caller has stopped waiting.",
    ),
    _gauge(
        "resilience.hedge.delay",
        "s",
        "Time after which a further attempt starts; absent while it is not known.",
        combine="max",
    ),
    _counter("resilience.fallback.replacements", "{call}", "Calls whose outcome was replaced."),
    _counter(
        "resilience.cache.requests", "{request}", "Requests to the cache.", "resilience.cache.result", bound=3
    ),
    _counter(
        "resilience.cache.stale_results", "{result}", "Requests that got a result that was no longer fresh."
    ),
    _level("resilience.cache.usage", "{entry}", "Results kept."),
    _level("resilience.cache.limit", "{entry}", "Results that may be kept."),
    _level("resilience.keyed.usage", "{key}", "Keys that have a policy of their own."),
    _level("resilience.keyed.limit", "{key}", "Keys that may have a policy of their own."),
    _counter("resilience.keyed.evictions", "{key}", "Keys that lost their policy to others."),
    _counter(
        "resilience.keyed.overflows",
        "{call}",
        "Times a key was served by the policy that all keys without one share.",
    ),
    _counter(
        "resilience.idempotency.requests",
        "{request}",
        "Requests seen by the idempotency layer.",
        "resilience.idempotency.result",
        bound=7,
    ),
    _counter(
        "resilience.sli.events", "{event}", "Valid SLI events.", "resilience.sli.result", owner=SLO, bound=2
    ),
    _gauge(
        "resilience.slo.objective",
        "1",
        "Target ratio of good events.",
        "resilience.slo.window",
        owner=SLO,
        combine="max",
    ),
    _gauge(
        "resilience.error_budget.burn_rate",
        "1",
        "Process-local burn rate over a window; absent while it is not known.",
        "resilience.slo.window",
        owner=SLO,
        bound=7,
        combine="max",
    ),
    _gauge(
        "resilience.error_budget.utilization",
        "1",
        "Process-local fraction of the error budget spent in the window; absent while it is not known.",
        "resilience.slo.window",
        owner=SLO,
        bound=7,
        combine="max",
    ),
)

METRIC: Final = {metric.name: metric for metric in METRICS}
