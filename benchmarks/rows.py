"""What is measured, and what each may cost: the one place where the gates are written down."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks import by_hand as hand
from benchmarks.measuring import (
    BLOCK,
    BY_HAND,
    CALL,
    CATCH,
    TWICE,
    Subject,
    aanswer,
    aempty,
    answer,
    empty,
)

from resilience import (
    CircuitBreaker,
    ConcurrencyLimiter,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    RetryBudget,
    Timeout,
    Verdict,
    bad_results,
    deadline,
    limits,
)

PLENTY = 1_000_000_000
SYNC, ASYNCIO = COLOURS = "sync", "asyncio"
STRICTLY = "{}, strictly"
WRITTEN = "{}, by hand"
NEW = sys.version_info >= (3, 13)


class Boom(Exception):
    """What the functions that fail raise."""


@dataclass(frozen=True)
class Ending:
    """
    How a guarded call ends, and what it is compared with: the empty closure, ending in the same way.

    Attributes:
        fn: Makes the function that is guarded, from the colour.
        statement: What the loop runs.
        bare: Makes the function in the empty closure, from the colour.
        bare_statement: What its loop runs.

    """

    fn: Callable[[str], Any]
    statement: str
    bare: Callable[[str], Any]
    bare_statement: str


@dataclass(frozen=True)
class Row:
    """
    One row of the table.

    Attributes:
        name: What is measured.
        make: Makes the policy.
        sync: Gate of the plain function; None to report only.
        asyncio: Gate of the coroutine function; None to report only.
        colours: For which it is measured.
        ending: How the call ends.
        use: Makes what the loop calls, from the policy, the function and the colour.
        statement: What the loop runs, if not the ending's.
        scope: Makes the block in which it is measured, apart from the others; None to be with them.
        is_late: Whether it is measured where deadlines are in use, so that all code looks for one: after
            those that are not.
        written: Makes what the loop calls from the function and the colour: the same job, written by hand.

    """

    name: str
    make: Callable[[], Policy]
    sync: float | None = None
    asyncio: float | None = None
    colours: tuple[str, ...] = COLOURS
    ending: Ending | None = None
    use: Callable[[Policy, Any, str], Any] = lambda policy, fn, _: policy(fn)
    statement: str | None = None
    scope: Callable[[], AbstractContextManager[Any]] | None = None
    is_late: bool = False
    written: Callable[[Any, str], Any] | None = None

    def gate(self, colour: str) -> float | None:
        return self.sync if colour == SYNC else self.asyncio

    def subject(self, colour: str) -> Subject:
        ending = self.ending or GOOD
        fn, bare = ending.fn(colour), ending.bare(colour)
        return Subject(
            name=self.name,
            f=self.use(self.make(), fn, colour),
            fn=fn,
            reference=_closure(bare, colour),
            statement=self.statement or ending.statement,
            reference_statement=ending.bare_statement,
        )

    def written_subject(self, colour: str) -> Subject:
        """Return the same job, written by hand."""
        assert self.written is not None
        subject = self.subject(colour)
        return replace(subject, name=WRITTEN.format(self.name), f=self.written(subject.fn, colour))

    def strict_subject(self, colour: str) -> Subject:
        """Return the same, compared with a closure whose function succeeds."""
        name, reference = STRICTLY.format(self.name), _closure(plain(colour), colour)
        return replace(self.subject(colour), name=name, reference=reference, reference_statement=CALL)


def _closure(fn, colour):
    return empty(fn) if colour == SYNC else aempty(fn)


def plain(colour):
    return answer if colour == SYNC else aanswer


def failing(colour):
    """Return a function that always fails."""

    def fails(x):
        raise Boom

    async def afails(x):
        raise Boom

    return fails if colour == SYNC else afails


def flaky(colour):
    """Return a function that fails every other time."""
    is_up = True

    def fails_once(x):
        nonlocal is_up
        is_up = not is_up
        if is_up:
            return x
        raise Boom

    async def afails_once(x):
        nonlocal is_up
        is_up = not is_up
        if is_up:
            return x
        raise Boom

    return fails_once if colour == SYNC else afails_once


GOOD = Ending(plain, CALL, plain, CALL)
REFUSED = Ending(plain, CATCH, failing, CATCH)
FAILED = Ending(failing, CATCH, failing, CATCH)
FLAKY = Ending(flaky, CALL, flaky, TWICE)


class NotThereError(Exception):
    """What a row measures is not part of the package."""


@contextmanager
def call_metrics():
    """Count and time every call, in the package's own counters."""
    try:
        from resilience.telemetry import configure
    except ImportError as error:
        raise NotThereError from error
    configure(call_metrics=True)
    try:
        yield
    finally:
        configure(call_metrics=False)


def in_time():
    """Set a deadline. It changes what every later call of the process costs, so it comes last."""
    return deadline(3600.0)


SCOPES = (None, call_metrics, in_time)
"""In what rows are measured, in this order."""


def disabled():
    breaker = CircuitBreaker("bench")
    breaker.disable()
    return breaker


def opened():
    breaker = CircuitBreaker(
        "bench", consecutive_failures=1, break_duration=3600.0, max_break_duration=3600.0
    )
    breaker.try_acquire().settle(Verdict.BAD)
    return breaker


def full():
    limiter = ConcurrencyLimiter("bench", limit=1)
    limiter.try_acquire()
    return limiter


def rate_limiter():
    return RateLimiter("bench", rate=PLENTY)


def concurrency_limiter():
    return ConcurrencyLimiter("bench", limit=1000)


def generous_retry():
    return Retry(backoff=lambda _: 0.0, budget=RetryBudget.ratio(1000))


def patient_breaker():
    """Return a breaker that counts failures and does not open."""
    breaker = CircuitBreaker("bench", failure_ratio=1.0, sampling_duration=86_400.0)
    breaker.call(answer, 1)
    return breaker


def three():
    return Pipeline("bench", Retry(), CircuitBreaker(), rate_limiter())


def whole():
    return Pipeline("bench", Retry(), CircuitBreaker(), rate_limiter(), concurrency_limiter())


def whole_in_time():
    return Pipeline("bench", Retry(), CircuitBreaker(), rate_limiter(), concurrency_limiter(), Timeout(10.0))


def timeout_alone():
    """Return a timeout that does not tell what is inside."""
    return Timeout(10.0, propagate=False)


def whole_in_time_alone():
    return Pipeline(
        "bench", Retry(), CircuitBreaker(), rate_limiter(), concurrency_limiter(), timeout_alone()
    )


def nothing():
    return Pipeline("bench", Timeout(None))


def breaker_and_limiter():
    return Pipeline("bench", patient_breaker(), concurrency_limiter())


def retry_and_breaker():
    return Pipeline("bench", generous_retry(), patient_breaker())


class Through(Policy):
    """A policy of a user's that lets every call pass."""

    kind = "through"
    settings = None

    def _configure(self, settings):
        """Nothing: it has none."""

    def step_for(self, binding):
        def step(call, inner):
            return (yield from inner(call))

        return step


def users_own():
    return Pipeline("bench", Retry(), Through("bench"), CircuitBreaker())


def by_hand(policy, fn, colour):
    return policy.call if colour == SYNC else policy.acall


def guard(policy, fn, colour):
    return policy.guard


def written(*jobs):
    wrap = hand.guarded(*jobs)
    return lambda fn, colour: wrap(fn, is_async=colour == ASYNCIO)


def guard_written(_fn, _colour):
    return hand.Places().guard


ROWS = (
    Row("disabled policy: Timeout(None)", partial(Timeout, None), 0.45, 0.75, written=written()),
    Row("disabled breaker, which goes on counting", disabled),
    Row("retry with budget", Retry, 0.60, 0.85, written=written(hand.RETRY)),
    Row("concurrency limiter", concurrency_limiter, 0.95, 1.10, written=written(hand.CONCURRENCY)),
    Row("rate limiter", rate_limiter, 1.25, 1.25, written=written(hand.RATE)),
    Row(
        "breaker, count window",
        partial(CircuitBreaker, sampling_calls=100),
        0.80,
        0.90,
        written=written(hand.BREAKER),
    ),
    Row("breaker, time window", CircuitBreaker, 1.30, 1.25, written=written(hand.TIMED_BREAKER)),
    Row("call metrics", nothing, 2.1, 1.7, scope=call_metrics, written=written(hand.METRICS_ALONE)),
    Row(
        "breaker, rate limiter, retry",
        three,
        2.3,
        colours=(SYNC,),
        written=written(hand.RETRY, hand.TIMED_BREAKER, hand.RATE),
    ),
    Row(
        "whole pipeline",
        whole,
        3.4 if NEW else 3.0,
        2.2,
        scope=call_metrics,
        written=written(hand.METRICS, hand.RETRY, hand.TIMED_BREAKER, hand.RATE, hand.CONCURRENCY),
    ),
    Row(
        "timeout, propagate=False",
        timeout_alone,
        asyncio=2.6,
        colours=(ASYNCIO,),
        is_late=True,
        written=written(hand.TIMEOUT_ALONE),
    ),
    Row(
        "whole pipeline, timeout, propagate=False",
        whole_in_time_alone,
        asyncio=3.5,
        colours=(ASYNCIO,),
        scope=call_metrics,
        is_late=True,
        written=written(
            hand.METRICS, hand.RETRY, hand.TIMED_BREAKER, hand.RATE, hand.CONCURRENCY, hand.TIMEOUT
        ),
    ),
    Row(
        "with policy.guard()",
        concurrency_limiter,
        3.3,
        3.3,
        use=guard,
        statement=BLOCK,
        written=guard_written,
    ),
    Row("with breaker.guard()", CircuitBreaker, 5, 3.5, use=guard, statement=BLOCK),
    Row("with rate_limiter.guard()", rate_limiter, 6, 5, use=guard, statement=BLOCK),
    Row("refusal, open breaker", opened, 5, 5, ending=REFUSED),
    Row("refusal, full limiter", full, 5, 5, ending=REFUSED),
    Row("failing call", breaker_and_limiter, 8, 8, ending=FAILED),
    Row("one failure, then success", retry_and_breaker, 15, 15, ending=FLAKY),
    Row("timeout", partial(Timeout, 10.0), colours=(ASYNCIO,), is_late=True),
    Row("whole pipeline, timeout", whole_in_time, colours=(ASYNCIO,), scope=call_metrics, is_late=True),
    Row("whole pipeline, no metrics", whole),
    Row("whole pipeline, timeout, no metrics", whole_in_time, colours=(ASYNCIO,), is_late=True),
    Row("retry with budget, deadlines in use", Retry, is_late=True),
    Row("a policy of a user's", users_own),
    Row("fixed limiter", concurrency_limiter),
    Row("adaptive limiter", lambda: ConcurrencyLimiter("bench", limit=limits.Aimd())),
    Row("result classifier", partial(CircuitBreaker, classify=bad_results(lambda value: value is None))),
    Row("Pipeline.standard", lambda: Pipeline.standard("bench", total_timeout=10.0), is_late=True),
    Row("policy.call(fn, ...)", CircuitBreaker, 6, 6, use=by_hand, statement=BY_HAND),
    Row("pipeline.call(fn, ...)", whole, use=by_hand, statement=BY_HAND),
    Row("a deadline in force", CircuitBreaker, scope=in_time, is_late=True),
    Row("timeout, a deadline in force", partial(Timeout, 10.0), scope=in_time, is_late=True),
)
"""Every row of the table of gates."""
