"""
How each algorithm of the reference vectors is asked of this package's own machines.

An adapter translates and nothing else: its constructor takes the vector's *params*, each operation
takes an *input* and reports what the machine answered. None of them repeats an algorithm: where an
adapter would have to, the algorithm belongs into the table of exceptions.

Values that the package does not publish are read from the machines' insides. What it does not offer
at all, such as a second bucket count, is a `TypeError`, which fails the vector.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any, TypeVar
from unittest.mock import patch

import tenacity

from resilience import _clock, backoff
from resilience._core.permit import Refusal
from resilience._core.window import CountWindow, TimeWindow
from resilience._runtime.flow import Call, Sleep
from resilience.circuit_breaker._machine import Circuit
from resilience.circuit_breaker._settings import CircuitBreakerSettings
from resilience.circuit_breaker._state import CircuitState
from resilience.concurrency_limiter._machine import Bulkhead, Slot
from resilience.concurrency_limiter._settings import ConcurrencyLimiterSettings
from resilience.deadline import decode_nanoseconds, encode_nanoseconds
from resilience.errors import ConfigError
from resilience.outcome import Outcome, Verdict
from resilience.rate_limiter._machine import FixedWindow, Gcra
from resilience.rate_limiter._settings import RateLimiterSettings
from resilience.retry import Retry
from resilience.retry_budget import RetryBudget
from resilience.retry_budget._grpc import GrpcBudget
from resilience.retry_budget._inflight import InflightBudget
from resilience.retry_budget._ratio import SLICES, RatioBudget
from resilience.retry_budget._refund import RefundBudget
from resilience.retry_budget._settings import GrpcSettings, InflightSettings, RatioSettings, RefundSettings
from resilience.retry_budget._tokens import TOKEN
from resilience.throttle import rejection_probability

A = TypeVar("A", bound=type)
Report = dict[str, Any]

ADAPTERS: dict[str, Callable[..., object]] = {}


def adapts(algorithm: str) -> Callable[[A], A]:
    """Register the adapter of *algorithm*."""

    def register(adapter: A) -> A:
        ADAPTERS[algorithm] = adapter
        return adapter

    return register


def only(name: str, value: object, offered: object) -> None:
    """Refuse a parameter whose value the package does not offer."""
    if value != offered:
        raise TypeError(f"{name} must be {offered!r}, got {value!r}")


# --- retry quotas and budgets ---


class Bucket:
    """A `RefundBudget` asked for any number of tokens, which here is a setting and there an argument."""

    def __init__(self, capacity: int, initial: int) -> None:
        self.settings = RefundSettings(
            capacity=capacity, initial=initial, refill_per_second=0, cost=1, timeout_cost=1, throttle_cost=1
        )
        self.budget = RefundBudget(self.settings, 0.0)

    def take(self, n: int) -> bool:
        try:
            settings = replace(self.settings, cost=n)
        except ConfigError:
            return False  # refused when it is set up: no bucket of this size can ever pay that
        self.budget.configure(settings, 0.0)
        return self.budget.try_withdraw(Verdict.BAD, 0.0) > 0

    def give(self, n: int) -> None:
        self.budget.refund(n, 0.0)

    def tokens(self) -> float:
        return self.budget._tokens / TOKEN


@adapts("aws_retry_quota")
class AwsRetryQuota:
    def __init__(self, capacity: int) -> None:
        self.bucket = Bucket(capacity, capacity)

    def acquire(self, n: int) -> Report:
        return {"ok": self.bucket.take(n), "available": self.bucket.tokens()}

    def release(self, n: int) -> Report:
        self.bucket.give(n)
        return {"available": self.bucket.tokens()}


@adapts("bounded_token_bucket")
class BoundedTokenBucket:
    def __init__(self, limit: int, initial: int) -> None:
        self.bucket = Bucket(limit, initial)

    def put(self, n: int) -> Report:
        self.bucket.give(n)
        return {"count": self.bucket.tokens()}

    def try_get(self, n: int) -> Report:
        return {"ok": self.bucket.take(n), "count": self.bucket.tokens()}


@adapts("aws_standard_quota")
class AwsStandardQuota:
    VERDICTS = {"error": Verdict.BAD, "timeout": Verdict.TIMED_OUT, "throttle": Verdict.THROTTLED}

    def __init__(
        self,
        capacity: int,
        cost: int,
        timeout_cost: int,
        throttle_cost: int,
        no_retry_reward: float,
        initial: int | None = None,
    ) -> None:
        self.charges = 0
        self.budget: RefundBudget | None = None
        try:
            settings = RefundSettings(
                capacity=capacity,
                initial=capacity if initial is None else initial,
                reward=no_retry_reward,
                refill_per_second=0,
                cost=cost,
                timeout_cost=timeout_cost,
                throttle_cost=throttle_cost,
            )
        except ConfigError:
            return  # every operation then reports the error
        self.budget = RefundBudget(settings, 0.0)

    def fail(self, kind: str) -> Report:
        charge = self.budget.try_withdraw(self.VERDICTS[kind], 0.0) if self.budget else 0
        self.charges += charge
        return self._report() | {"ok": charge > 0}

    def finish(self, status: int) -> Report:
        good = 200 <= status < 300
        if self.budget and good and not self.charges:
            self.budget.collect(1, 1)
        elif self.budget:
            self.budget.finish(good, self.charges, 0.0)
        self.charges = 0
        return self._report()

    def new_request(self) -> Report:
        self.charges = 0
        return self._report()

    def repeat_calls(self, calls: int, retries_per_call: int, kind: str, final_status: int) -> Report:
        granted = []
        for _ in range(calls):
            granted += [self.fail(kind)["ok"] for _ in range(retries_per_call)]
            self.finish(final_status)
        return self._report() | {"all_ok": all(granted)}

    def _report(self) -> Report:
        if self.budget is None:
            return {"available": None, "error": True}
        return {"available": self.budget._tokens / TOKEN, "error": False}


@adapts("grpc_throttle")
class GrpcThrottle:
    def __init__(self, max_tokens: int, token_ratio: float) -> None:
        self.budget = GrpcBudget(GrpcSettings(max_tokens=max_tokens, token_ratio=token_ratio), 0.0)

    def failure(self) -> Report:
        return self._report(self.budget.try_withdraw(Verdict.BAD, 0.0))

    def success(self) -> Report:
        self.budget.collect(1, 1)
        return self._report(self.budget.try_withdraw(Verdict.IGNORED, 0.0))  # a hedge asks, nothing failed

    def _report(self, charge: int) -> Report:
        return {"tokens": self.budget._tokens / TOKEN, "retry_allowed": charge > 0}


def ratio_budget(ttl: float, min_per_sec: float, percent: float, now: float = 0.0) -> RatioBudget:
    settings = RatioSettings(
        ratio=percent,
        min_per_second=min_per_sec,
        ttl=ttl,
        refund=False,
        cost=1,
        timeout_cost=1,
        throttle_cost=1,
    )
    return RatioBudget(settings, now)


@adapts("finagle_retry_budget")
class FinagleRetryBudget:
    def __init__(
        self, ttl: float | None = None, min_per_sec: float | None = None, percent: float | None = None
    ) -> None:
        if ttl is not None and min_per_sec is not None and percent is not None:
            self.budget = ratio_budget(ttl, min_per_sec, percent)

    def step(self, ttl: float, min_per_sec: float, percent: float) -> Report:
        try:
            ratio_budget(ttl, min_per_sec, percent)
        except ConfigError:
            return {"error": True}
        return {"error": False}

    def deposit(self) -> Report:
        return self.deposit_n(1)

    def deposit_n(self, n: int) -> Report:
        self.budget.collect(n, 0)
        return self.balance()

    def withdraw(self) -> Report:
        ok = self.budget.try_withdraw(Verdict.BAD, 0.0) > 0
        return self.balance() | {"ok": ok}

    def balance(self) -> Report:
        return {"balance": self.budget.level(0.0)}

    def deposit_then_withdraw_n(self, n: int) -> Report:
        granted = 0
        for _ in range(n):
            self.budget.collect(1, 0)
            granted += self.budget.try_withdraw(Verdict.BAD, 0.0) > 0
        return self.balance() | {"granted": granted}


class Deposits:
    """A `RatioBudget` whose deposits are made at an instant, not merely counted."""

    def __init__(self, ttl: float, min_per_sec: float, percent: float) -> None:
        self.budget = ratio_budget(ttl, min_per_sec, percent)

    def put(self, t: float, n: int) -> None:
        self.budget.level(t)
        self.budget.collect(n, 0)
        self.budget.level(t)

    def take(self, t: float, n: int) -> bool:
        if n > 1 and self.budget.level(t) < n:
            return False
        return all(self.budget.try_withdraw(Verdict.BAD, t) for _ in range(n))


@adapts("leaky_token_bucket")
class LeakyTokenBucket:
    def __init__(self, ttl: float, reserve: int, slots: int) -> None:
        only("slots", slots, SLICES)
        self.deposits = Deposits(ttl, reserve / ttl, 1.0)

    def put(self, t: float, n: int) -> Report:
        self.deposits.put(t, n)
        return {}

    def try_get(self, t: float, n: int) -> Report:
        return {"ok": self.deposits.take(t, n)}


@adapts("tower_tps_budget")
class TowerTpsBudget:
    def __init__(
        self, ttl: float | None = None, min_per_sec: float | None = None, percent: float | None = None
    ) -> None:
        if ttl is not None and min_per_sec is not None and percent is not None:
            self.deposits = Deposits(ttl, min_per_sec, percent)

    def step(self, percent: float) -> Report:
        budget = ratio_budget(10.0, 0.0, percent)
        budget.collect(100_000, 0)
        return {"effective_percent": budget.level(0.0) / 100_000}

    def deposit(self, t: float) -> Report:
        self.deposits.put(t, 1)
        return {}

    def withdraw(self, t: float) -> Report:
        return {"ok": self.deposits.take(t, 1)}


@adapts("concurrency_retry_budget")
class ConcurrencyRetryBudget:
    def __init__(self, max_rate: float, min_concurrency: int, executions: int, inflight: int) -> None:
        self.budget = InflightBudget(InflightSettings(ratio=1.0, min_concurrency=inflight), 0.0)
        self.budget.collect(executions - inflight, 0)  # executions count the extras as well
        for _ in range(inflight):
            self.budget.try_withdraw(Verdict.BAD, 0.0)
        self.budget.configure(InflightSettings(ratio=max_rate, min_concurrency=min_concurrency), 0.0)

    def release(self) -> Report:
        self.budget.release()
        return {}


def _try(self: ConcurrencyRetryBudget) -> Report:
    return {"ok": self.budget.try_withdraw(Verdict.BAD, 0.0) > 0}


setattr(ConcurrencyRetryBudget, "try", _try)  # a name that no def can have


@adapts("envoy_retry_budget")
class EnvoyRetryBudget:
    def __init__(self, budget_percent: float, min_retry_concurrency: int) -> None:
        self.settings = InflightSettings(ratio=budget_percent / 100, min_concurrency=min_retry_concurrency)

    def step(self, active: int, min_retry_concurrency: int | None = None) -> Report:
        settings = self.settings
        if min_retry_concurrency is not None:
            settings = replace(settings, min_concurrency=min_retry_concurrency)
        budget = InflightBudget(settings, 0.0)
        budget.collect(active, 0)
        return {"max": budget.limit(0.0)}


class Unavailable(Exception):
    """UNAVAILABLE, or whatever code the vector lets the client retry."""


class Internal(Exception):
    """INTERNAL, which it does not."""


class GrpcServer:
    """A server that answers the n-th request as the vector says, behind a `Retry`."""

    def __init__(
        self, max_attempts: int, budget: RetryBudget | None, oks: list[int], fatals: list[int], retryable: str
    ) -> None:
        self.retry = Retry(attempts=max_attempts, backoff=backoff.constant(0), budget=budget, on=Unavailable)
        self.oks, self.fatals, self.retryable = oks, fatals, retryable
        self.last = -1

    def answer(self) -> str:
        self.last += 1
        if self.last in self.oks:
            return "OK"
        raise Internal if self.last in self.fatals else Unavailable

    def call(self) -> Report:
        try:
            code = self.retry.call(self.answer)
        except Internal:
            code = "INTERNAL"
        except Unavailable:
            code = self.retryable
        return {"code": code, "last_server_index": self.last}


@adapts("grpc_retry_with_throttle")
class GrpcRetryWithThrottle:
    def __init__(
        self, max_tokens: int, token_ratio: float, max_attempts: int, server_ok_indices: list[int]
    ) -> None:
        self.budget = RetryBudget.grpc(max_tokens, token_ratio)
        self.server = GrpcServer(max_attempts, self.budget, server_ok_indices, [], "UNAVAILABLE")

    def call(self) -> Report:
        report = self.server.call()
        assert self.budget.level >= 0  # counts what was deposited without asking
        return report | {"tokens_after": self.budget._machine._tokens / TOKEN}


@adapts("grpc_retry_attempts")
class GrpcRetryAttempts:
    def __init__(
        self, max_attempts: int, server_ok_indices: list[int], server_fatal_indices: list[int]
    ) -> None:
        self.server = GrpcServer(
            max_attempts, None, server_ok_indices, server_fatal_indices, "ALREADY_EXISTS"
        )

    def call(self) -> Report:
        return self.server.call()


# --- backoff ---


@adapts("aws_backoff")
class AwsBackoff:
    PER_SECOND = {"ms": 1000, "s": 1}

    def __init__(
        self,
        base: float,
        multiplier: float,
        max_backoff: float,
        random: float | str,
        retry_after_window: float | None = None,
        retry_after_mode: str | None = None,
        unit: str = "ms",
    ) -> None:
        self.delays = backoff.full_jitter(base, factor=multiplier, cap=max_backoff).start()
        self.ends = (0.0, 1.0) if random == "uniform[0,1)" else (float(random), float(random))
        self.window = retry_after_window
        if retry_after_mode is not None:
            only("retry_after_mode", retry_after_mode, "cap_max")
        self.cap = max_backoff if retry_after_mode == "cap_max" else None
        self.per_second = self.PER_SECOND[unit]

    def step(self, attempt: int, retry_after: str | None = None) -> Report:
        least, most = (self._delay(attempt, draw, retry_after) for draw in self.ends)
        return {"delay_min": least, "delay_max": most} | ({"delay": least} if least == most else {})

    def _delay(self, attempt: int, draw: float, retry_after: str | None) -> float:
        own = self.delays.before(attempt, draw)
        try:
            hint = None if retry_after is None else int(retry_after) / self.per_second
        except ValueError:
            hint = None
        # At most the cap in all is at most what is left to the cap on top of our own.
        window = self.window if self.cap is None else max(0.0, self.cap - own)
        return backoff.honour(hint, own, window)


@adapts("backoff_sequence")
class BackoffSequence:
    def __init__(
        self,
        kind: str,
        start: float,
        multiplier: float = 2.0,
        offset: float = 0.0,
        min: float | None = None,  # noqa: A002  # the vectors' name
        max: float | None = None,  # noqa: A002  # the vectors' name
        until: float | None = None,
    ) -> None:
        self.backoff: Any
        if kind == "const":
            self.backoff = backoff.constant(start)
        elif kind == "exponential" and min is not None:
            # A schedule with a floor is tenacity's, which a Retry takes as it is.
            longest = backoff.LONGEST if max is None else max
            self.backoff = tenacity.wait_exponential(start, longest, multiplier, min)
        elif kind == "exponential":
            self.backoff = backoff.exponential(start, factor=multiplier, cap=max)
        else:
            only("kind", kind, "linear" if until is None else "linear_take_until")
            self.backoff = backoff.linear(start, step=offset, cap=max)
        self.stop = None if until is None else tenacity.stop_after_delay(until)

    def step(self, n: int) -> Report:
        retry = Retry(attempts=n + 1, backoff=self.backoff, stop=self.stop, budget=None)
        delays = delays_of(retry)
        return {"delay": delays[n - 1] if len(delays) == n else None}


def delays_of(retry: Retry) -> list[float]:
    """Return how long *retry* waits before each further attempt of a call that always fails."""
    slept: list[float] = []
    flow = retry.flow_for("always failing")(Call(lambda: None, (), {}))
    reply: Outcome[None] | None = None
    with patch.object(_clock, "monotonic", lambda: sum(slept)):
        while True:
            try:
                command = flow.send(reply)
            except StopIteration:
                return slept
            reply = None
            if isinstance(command, Sleep):
                slept.append(command.seconds)
            elif isinstance(command, Call):
                reply = Outcome(error=ConnectionError())


@adapts("jitter_formula")
class JitterFormula:
    def __init__(self, base: float, cap: float) -> None:
        self.base, self.cap = base, cap

    def step(self, kind: str, n: int = 0, prev: float | None = None) -> Report:
        least, most = (self._delay(kind, n, prev, draw) for draw in (0.0, 1.0))
        return {"min": least, "max": most}

    def _delay(self, kind: str, n: int, prev: float | None, draw: float) -> float:
        if kind == "decorrelated":
            delays = backoff.decorrelated_jitter(self.base, cap=self.cap).start()
            delays._previous = prev
            return delays.before(1, draw)
        jitter = {"full": backoff.full_jitter, "equal": backoff.equal_jitter}[kind]
        return jitter(self.base, cap=self.cap).start().before(n + 1, draw)


@adapts("grpc_backoff")
class GrpcBackoff:
    def __init__(self, initial: float, max: float, multiplier: float, jitter: float) -> None:  # noqa: A002  # the vectors' name
        around = backoff.exponential(initial, factor=multiplier, cap=max)
        self.delays = backoff.proportional_jitter(around, share=jitter).start()

    def step(self, n: int) -> Report:
        return {"min": self.delays.before(n, 0.0), "max": self.delays.before(n, 1.0)}


@adapts("polly_jitter")
class PollyJitter:
    def __init__(self, type: str, base: float) -> None:  # noqa: A002  # the vectors' name
        around = {"constant": backoff.constant(base), "linear": backoff.linear(base, cap=None)}[type]
        self.delays = backoff.proportional_jitter(around, share=0.25).start()

    def step(self, attempt: int, random: float) -> Report:
        return {"delay": self.delays.before(attempt + 1, random)}


@adapts("polly_decorrelated_jitter_v2")
class PollyDecorrelatedJitterV2:
    def __init__(self, base: float = 1.0, p_factor: float = 4.0, rp_scaling: float = 1 / 1.4) -> None:
        only("p_factor", p_factor, 4.0)
        only("rp_scaling", round(rp_scaling, 12), round(1 / 1.4, 12))
        self.delays = backoff.smooth_jitter(base, cap=None).start()

    def step(self, attempt: int, random: float | None = None, base: float | None = None) -> Report:
        if random is not None:
            return {"delay": self.delays.before(attempt + 1, random)}
        assert base is not None
        return self._bounds(base, attempt)

    def _bounds(self, base: float, attempt: int) -> Report:
        """The bounds that `smooth_jitter` promises, if no combination of draws leaves them."""
        found = []
        for last in range(11):
            for draw in range(11):
                delays = backoff.smooth_jitter(base, cap=None).start()
                if attempt:
                    delays.before(attempt, last / 10)
                found.append(delays.before(attempt + 1, draw / 10))
        low, high = 0.0, 4 * base * 2**attempt
        return {"min": min(low, *found), "max": max(high, *found)}


# --- deadlines ---


@adapts("grpc_timeout_encode")
class GrpcTimeoutEncode:
    def step(self, ns: int) -> Report:
        return {"header": encode_nanoseconds(ns)}


@adapts("grpc_timeout_decode")
class GrpcTimeoutDecode:
    def step(self, header: str) -> Report:
        try:
            ns = decode_nanoseconds(header)
        except ValueError:
            return {"error": True, "ns": None}
        return {"error": False, "ns": ns}


# --- breaker windows and trip rules ---


@adapts("consecutive_failures")
class ConsecutiveFailures:
    def __init__(self, n: int, dead_for: float) -> None:
        settings = CircuitBreakerSettings(
            failure_ratio=None,
            consecutive_failures=n,
            break_duration=dead_for,
            max_break_duration=dead_for,
            break_jitter=0.0,
        )
        self.circuit = Circuit(settings, 0.0)
        self.now = 0.0

    def failure(self) -> Report:
        self._call(Verdict.BAD)
        return {"trip": next((change.retry_after for change in self.circuit.history.drain()), None)}

    def success(self) -> Report:
        self._call(Verdict.GOOD)
        return {"trip": None}

    def revived(self) -> Report:
        self.now += self.circuit.settings.max_break_duration
        self._call(Verdict.GOOD)  # the probe
        self.circuit.history.drain()
        return {"trip": None}

    def _call(self, verdict: Verdict) -> None:
        token = self.circuit.admit(self.now)
        if not isinstance(token, Refusal):
            self.circuit.settle(token, verdict, self.now)


def trips(total: int, bad: int, minimum: int, failure_ratio: float) -> bool:
    """Whether a circuit opens that sees so many results, of which so many are bad."""
    # Good ones first: then the share only rises, and it opens on the last result or not at all.
    settings = CircuitBreakerSettings(failure_ratio=failure_ratio, minimum_throughput=minimum)
    circuit = Circuit(settings, 0.0)
    for number in range(total):
        token = circuit.admit(0.0)
        if isinstance(token, Refusal):
            break
        circuit.settle(token, Verdict.GOOD if number < total - bad else Verdict.BAD, 0.0)
    return circuit.state is CircuitState.OPEN


def exact(number: float) -> Fraction:
    """The number that somebody wrote, not the float that it became."""
    return Fraction(Decimal(str(number)))


@adapts("failure_ratio_breaker")
class FailureRatioBreaker:
    def step(self, throughput: int, min_throughput: int, failure_rate: float, threshold: float) -> Report:
        # A rate that is no whole number of these calls is one of so many times as many.
        bad = exact(failure_rate) * throughput
        times = bad.denominator
        return {"trip": trips(throughput * times, int(bad * times), min_throughput * times, threshold)}


class Timed:
    """A `TimeWindow` and the time it was last told."""

    def __init__(self, window: float, buckets: int) -> None:
        self.window = TimeWindow(window, buckets)
        self.now = 0.0

    def add(self, t: float, *, ok: bool, n: int = 1) -> None:
        self.now = t
        for _ in range(n):
            self.window.add(t, bad=not ok)

    def count(self, t: float | None = None) -> tuple[int, int]:
        self.now = self.now if t is None else t
        total, bad, _ = self.window.count(self.now)
        return total, bad


@adapts("success_rate_window")
class SuccessRateWindow:
    def __init__(self, window: float, buckets: int) -> None:
        self.results = Timed(window, buckets)

    def record(self, ok: bool, t: float, n: int = 1) -> Report:
        self.results.add(t, ok=ok, n=n)
        return self._report()

    def should_trip(self, min_requests: int, threshold: float) -> Report:
        total, bad = self.results.count()
        # Linkerd opens below a share of successes, this package at a share of failures; the least
        # minimum here is one, because no result never opens either.
        above = math.nextafter(float(1 - exact(threshold)), 1.0)
        return self._report() | {"trip": trips(total, bad, max(1, min_requests), above)}

    def _report(self) -> Report:
        total, bad = self.results.count()
        return {"ratio": (total - bad) / total if total else None, "totals": [total - bad, total]}


@adapts("rolling_health")
class RollingHealth:
    def __init__(self, window: float, buckets: int) -> None:
        self.results = Timed(window, buckets)

    def record(self, ok: bool, t: float) -> Report:
        self.results.add(t, ok=ok)
        return {}

    def health(self, t: float) -> Report:
        total, bad = self.results.count(t)
        return {"throughput": total, "failure_rate": bad / total if total else 0.0}


@adapts("count_window")
class CountWindowed:
    def __init__(self, size: int) -> None:
        self.window = CountWindow(size)

    def record(self, ok: bool) -> Report:
        self.window.add(0.0, bad=not ok)
        total, bad, _ = self.window.count(0.0)
        return {"total": total, "failed": bad, "failure_rate_pct": 100 * bad / total}


@adapts("timed_window")
class TimedWindow:
    def __init__(self, buckets: int, window: float, aligned: bool) -> None:
        only("aligned", aligned, True)
        self.results = Timed(window, buckets)

    def record_n(self, t: float, ok: int, fail: int) -> Report:
        self.results.add(t, ok=True, n=ok)
        self.results.add(t, ok=False, n=fail)
        total, bad = self.results.count()
        return {"ok": total - bad, "fail": bad}


# --- concurrency limits ---


@adapts("simple_limiter")
class SimpleLimiter:
    def __init__(self, limit: int, partitions: dict[str, float]) -> None:
        only("partitions", partitions, {})
        self.bulkhead = Bulkhead(ConcurrencyLimiterSettings(limit=limit), 0.0)
        self.slots: list[Slot] = []

    def acquire_n(self, p: str, n: int) -> Report:  # without partitions p is any name
        slots = [slot for _ in range(n) if isinstance(slot := self.bulkhead.admit(0.0), Slot)]
        self.slots += slots
        return {"granted": len(slots), "inflight": self.bulkhead.inflight}

    def release(self, p: str) -> Report:
        self.bulkhead.settle(self.slots.pop(), Verdict.GOOD, 0.0)
        return {"inflight": self.bulkhead.inflight}


# --- client-side throttling ---


@adapts("adaptive_throttle")
class AdaptiveThrottling:
    def __init__(
        self, success_threshold: float, max_rejection: float, min_executions: int, padding: float
    ) -> None:
        self.rule = partial(
            rejection_probability,
            k=1 / success_threshold,
            minimum=min_executions,
            padding=padding,
            cap=max_rejection,
        )

    def step(self, total: int, ok: int, draw: float = 0.0) -> Report:
        p = self.rule(total, ok)
        return {"p": p, "reject": draw < p}


@adapts("envoy_admission_control")
class EnvoyAdmissionControl:
    def __init__(self, max_rejection: float, padding: float) -> None:
        self.rule = partial(rejection_probability, padding=padding, cap=max_rejection)

    def step(self, total: int, ok: int, threshold: float, aggression: float) -> Report:
        del aggression  # no counterpart: see the table of exceptions
        return {"p": self.rule(total, ok, 1 / threshold)}


# --- rate limiting ---


@adapts("gcra")
class GcraLimiter:
    def __init__(self, rate_per_s: float, burst: int) -> None:
        self.limiter = Gcra(RateLimiterSettings(rate=rate_per_s, burst=burst), 0.0)

    def step(self, t: float, n: int) -> Report:
        answer = self.limiter.admit(t, n) if n else None
        refused = isinstance(answer, Refusal)
        return {
            "limited": refused,
            "remaining": self.limiter.remaining(t),
            "reset_after": self.limiter.reset_after(t),
            "retry_after": answer.retry_after if refused and answer.retry_after is not None else -1,
        }


@adapts("smooth_limiter")
class SmoothLimiter:
    def __init__(self, interval_ms: float) -> None:
        self.limiter = Gcra(RateLimiterSettings(rate=1, per=interval_ms / 1000, burst=1), 0.0)

    def step(self, t_ms: float, n: int, times: int = 1) -> Report:
        now = t_ms / 1000
        for _ in range(n * times):  # one by one: a burst of one never has two at once
            permit = self.limiter.reserve(now)
        due = self.limiter.wait_for(now)
        return {"wait_ms": permit.wait * 1000, "next_free_ms": t_ms + due * 1000}


class Hits:
    """Requests that are counted in hits, as gubernator does: none of them is a look."""

    def __init__(self, limiter: Gcra | FixedWindow) -> None:
        self.limiter = limiter

    def step(self, t_ms: float, hits: int) -> Report:
        now = t_ms / 1000
        over = hits > 0 and isinstance(self.limiter.admit(now, hits), Refusal)
        return {"remaining": self.limiter.remaining(now), "status": "OVER" if over else "UNDER"}


@adapts("fixed_reset_bucket")
class FixedResetBucket(Hits):
    def __init__(
        self, limit: int, duration_ms: float, drain: bool = False
    ) -> None:  # drain: see the exceptions
        settings = RateLimiterSettings(rate=limit, per=duration_ms / 1000, algorithm="fixed_window")
        super().__init__(FixedWindow(settings, 0.0))


@adapts("leaky_bucket")
class LeakyBucket(Hits):
    def __init__(self, limit: int, duration_ms: float, burst: int) -> None:
        super().__init__(Gcra(RateLimiterSettings(rate=limit, per=duration_ms / 1000, burst=burst), 0.0))
