"""Retry on threads, under asyncio and under trio: how often, after which delay, paid by whom, and what comes out."""

import asyncio
import contextlib
import gc
import inspect
import itertools
import math
import multiprocessing
import os
import sys
import threading
import traceback
import weakref

import pytest
import trio
from tests.collector import collector_off
from tests.dependency import Dependency, Draws
from tests.doubles import Closeable, Slots, nap, raising

from resilience import current_attempt
from resilience._runtime import fork
from resilience._runtime.pipeline import Pipeline
from resilience.backoff import LONGEST, constant, exponential, full_jitter, linear, sequence
from resilience.deadline import deadline, usage
from resilience.errors import (
    CircuitOpenError,
    ConfigError,
    DeadlineExceededError,
    RateLimitedError,
    RejectedError,
)
from resilience.outcome import CallContext, Verdict, any_error_is_bad, bad_results
from resilience.retry import Retry, RetrySettings
from resilience.retry_budget import RetryBudget
from resilience.testing import FakeClock, delayed, fail_times, script

EXHAUSTED = "resilience.retry.exhausted"


def retrying(attempts=3, **settings):
    """A retry without delay, jitter or budget, unless they are given."""
    return Retry("stock", **{"attempts": attempts, "backoff": constant(0.0), "budget": None, **settings})


async def gives_up(runtime, retry, fetch=None, error=ConnectionError):
    """Make a call that fails in the end; return the error."""
    with pytest.raises(error) as caught:
        await runtime.call(retry, fetch or script(error))
    return caught.value


def notes(error):
    return getattr(error, "__notes__", [])


def bound(retry, runtime, fn, **context):
    """Guard *fn* for calls about which so much is known."""
    known = CallContext(**context)
    return runtime.wrap(
        lambda guarded: Pipeline("stock", retry).bind(guarded, context=lambda *args, **kwargs: known), fn
    )


# --- how often ---------------------------------------------------------------------------------------------------


def test_a_good_result_is_not_asked_for_again(runtime):
    fetch = script("here")

    async def body():
        return await runtime.wrap(retrying(), fetch)()

    assert runtime.run(body) == "here"
    assert fetch.calls == 1


@pytest.mark.parametrize("failures", [1, 2])
def test_it_calls_again_after_a_failure(runtime, failures):
    fetch = fail_times(failures, ConnectionError, then="here")

    async def body():
        return await runtime.wrap(retrying(), fetch)()

    assert runtime.run(body) == "here"
    assert fetch.calls == failures + 1


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_it_gives_up_after_so_many_attempts_the_first_included(runtime, attempts):
    fetch = script(ConnectionError)

    async def body():
        await gives_up(runtime, retrying(attempts), fetch)

    runtime.run(body)
    assert fetch.calls == attempts


def test_every_attempt_gets_the_same_arguments(runtime):
    seen = []

    def fetch(*args, **kwargs):
        seen.append((args, kwargs))
        raise ConnectionError

    async def body():
        with pytest.raises(ConnectionError):
            await runtime.call(retrying(2), fetch, "a-1", count=2)

    runtime.run(body)
    assert seen == [(("a-1",), {"count": 2})] * 2


def test_the_three_attempts_of_the_default_come_with_full_jitter(runtime, fake_clock):
    fetch = fail_times(2, ConnectionError, then="here")

    async def body():
        return await runtime.call(Retry(rng=Draws(0.5)), fetch)

    assert runtime.run(body) == "here"
    assert fake_clock.sleeps == [0.05, 0.1]


def test_no_attempt_begins_after_the_longest_duration(runtime, fake_clock):
    """retry-7 (failsafe-go): and the original error comes out."""
    fetch = script(delayed(1.0, ConnectionError("down")))

    async def body():
        retry = retrying(None, backoff=constant(1.0), max_duration=4.5)
        return await gives_up(runtime, retry, fetch)

    began = fake_clock.now()
    assert str(runtime.run(body)) == "down"
    assert fetch.calls == 3
    assert fake_clock.now() - began == pytest.approx(5.0)


def test_an_attempt_may_not_begin_at_the_very_end_of_the_longest_duration(runtime, fake_clock):
    fetch = script(ConnectionError)

    async def body():
        await gives_up(runtime, retrying(None, backoff=constant(1.0), max_duration=2.0), fetch)

    runtime.run(body)
    assert fetch.calls == 2


def test_a_stop_rule_of_ones_own_ends_the_retrying(runtime):
    fetch = script(ConnectionError)

    async def body():
        await gives_up(runtime, retrying(None, stop=lambda state: state.attempt_number == 4), fetch)

    runtime.run(body)
    assert fetch.calls == 4


# --- which outcomes ----------------------------------------------------------------------------------------------


def test_an_error_that_on_does_not_name_comes_out_at_once(runtime):
    """retry-7 (failsafe-go)."""
    error = KeyError("not found")
    fetch = script(error)

    async def body():
        assert await gives_up(runtime, retrying(on=ConnectionError), fetch, KeyError) is error

    runtime.run(body)
    assert fetch.calls == 1
    assert notes(error) == []


def test_an_error_that_on_does_not_name_ends_the_retrying_of_another(runtime):
    fetch = script(ConnectionError, KeyError, "never")

    async def body():
        await gives_up(runtime, retrying(on=ConnectionError), fetch, KeyError)

    runtime.run(body)
    assert fetch.calls == 2


def test_a_predicate_says_which_errors_to_retry(runtime):
    fetch = script(ValueError("later"), ValueError("never"))

    async def body():
        error = await gives_up(runtime, retrying(on=lambda error: "later" in str(error)), fetch, ValueError)
        assert str(error) == "never"

    runtime.run(body)
    assert fetch.calls == 2


def test_a_bad_result_is_retried(runtime):
    fetch = script([], [], ["row"])

    async def body():
        return await runtime.call(retrying(classify=bad_results(lambda rows: not rows)), fetch)

    assert runtime.run(body) == ["row"]


def test_the_last_result_is_returned_even_if_it_is_bad(runtime):
    fetch = script("first", "second", "third", "fourth")

    async def body():
        return await runtime.call(retrying(classify=bad_results(lambda _: True)), fetch)

    assert runtime.run(body) == "third"


def test_it_inherits_the_classifier_of_its_pipeline(runtime):
    fetch = script([], ["row"])

    async def body():
        pipeline = Pipeline("stock", retrying(), classify=bad_results(lambda rows: not rows))
        return await runtime.call(pipeline, fetch)

    assert runtime.run(body) == ["row"]


def test_its_own_classifier_wins_over_the_pipelines(runtime):
    fetch = script([], ["row"])

    async def body():
        pipeline = Pipeline("stock", retrying(on=OSError), classify=bad_results(lambda rows: not rows))
        return await runtime.call(pipeline, fetch)

    assert runtime.run(body) == []


def test_an_ignored_outcome_ends_the_retrying(runtime):
    def ignores_lookups(outcome, context):
        if isinstance(outcome.error, LookupError):
            return Verdict.IGNORED
        return any_error_is_bad(outcome, context)

    fetch = script(ConnectionError, LookupError, "never")

    async def body():
        await gives_up(runtime, retrying(classify=ignores_lookups), fetch, LookupError)

    runtime.run(body)
    assert fetch.calls == 2


def test_the_classifier_is_told_the_number_of_the_attempt(runtime):
    numbers = []

    def classify(outcome, context):
        numbers.append(context.attempt)
        return any_error_is_bad(outcome, context)

    async def body():
        await gives_up(runtime, retrying(classify=classify))

    runtime.run(body)
    assert numbers == [1, 2, 3]


def test_an_error_of_the_classifier_comes_out(runtime):
    def broken(outcome, context):
        raise LookupError("broken classifier")

    async def body():
        await gives_up(runtime, retrying(classify=broken), script("here"), LookupError)

    runtime.run(body)


@pytest.mark.parametrize("started", [False, True])
def test_a_missed_deadline_is_never_retried(runtime, started):
    fetch = script(DeadlineExceededError(started=started))

    async def body():
        await gives_up(runtime, retrying(on=Exception), fetch, DeadlineExceededError)

    runtime.run(body)
    assert fetch.calls == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_is_never_retried(error):
    """CX-4."""
    fetch = script(error)
    with pytest.raises(error):
        retrying().call(fetch)
    assert fetch.calls == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_no_exception_is_never_retried_in_a_task(error):
    """CX-4."""
    fetch = script(error)

    async def main():
        await retrying().acall(fetch.acall)

    with pytest.raises(error):
        asyncio.run(main())
    assert fetch.calls == 1


def test_a_cancelled_attempt_is_never_retried(async_runtime):
    """CX-4."""

    async def body():
        dependency = Dependency(async_runtime)
        retry = retrying()
        job = async_runtime.spawn(async_runtime.wrap(retry, dependency.ask))
        await dependency.called(1)
        async_runtime.cancel(job)
        await job.join()
        assert isinstance(job.error, async_runtime.cancelled)
        assert len(dependency.requests) == 1
        assert retry.stops["cancelled"] == 1

    async_runtime.run(body)


# --- refusals by inner policies ----------------------------------------------------------------------------------


def test_a_refusal_is_not_retried(runtime):
    refusal = RateLimitedError("limiter", 0.5)
    fetch = script(refusal)

    async def body():
        assert await gives_up(runtime, retrying(), fetch, RateLimitedError) is refusal

    runtime.run(body)
    assert fetch.calls == 1


def test_a_refusal_is_not_retried_because_every_error_is(runtime):
    fetch = script(RateLimitedError("limiter"))

    async def body():
        await gives_up(runtime, retrying(on=Exception), fetch, RateLimitedError)

    runtime.run(body)
    assert fetch.calls == 1


def test_a_refusal_that_on_names_is_retried(runtime):
    fetch = fail_times(2, RateLimitedError("limiter"), then="here")

    async def body():
        return await runtime.call(retrying(on=(ConnectionError, RateLimitedError)), fetch)

    assert runtime.run(body) == "here"


def test_the_last_real_error_is_raised_when_a_later_attempt_is_refused(runtime):
    real = ConnectionError("down")
    fetch = script(real, CircuitOpenError("breaker", 5.0))

    async def body():
        assert await gives_up(runtime, retrying(), fetch) is real

    runtime.run(body)
    assert notes(real) == ["resilience: gave up after 2 attempts: rejected"]


def test_a_refusal_that_is_retried_does_not_hide_the_last_real_error(runtime):
    real = ConnectionError("down")
    fetch = script(real, RateLimitedError("limiter"))

    async def body():
        retry = retrying(on=(ConnectionError, RateLimitedError))
        assert await gives_up(runtime, retry, fetch) is real

    runtime.run(body)
    assert fetch.calls == 3


def test_a_bad_result_in_between_does_not_hide_the_last_real_error(runtime):
    real = ConnectionError("down")
    fetch = script(real, [], CircuitOpenError("breaker"))

    async def body():
        retry = retrying(classify=bad_results(lambda rows: not rows))
        assert await gives_up(runtime, retry, fetch) is real

    runtime.run(body)


def test_the_refusal_is_raised_if_there_was_no_real_error(runtime):
    fetch = script([], CircuitOpenError("breaker"))

    async def body():
        retry = retrying(classify=bad_results(lambda rows: not rows))
        await gives_up(runtime, retry, fetch, CircuitOpenError)

    runtime.run(body)


def test_the_latest_of_several_refusals_is_raised(runtime, fake_clock):
    fetch = script(RateLimitedError("limiter", 3.0), RateLimitedError("limiter", 2.0))

    async def body():
        error = await gives_up(runtime, retrying(2, on=RateLimitedError), fetch, RateLimitedError)
        assert error.retry_after == 2.0

    runtime.run(body)


def test_an_attempt_that_had_no_time_to_begin_does_not_hide_the_last_real_error(runtime):
    real = ConnectionError("down")
    fetch = script(real, DeadlineExceededError(started=False))

    async def body():
        assert await gives_up(runtime, retrying(), fetch) is real

    runtime.run(body)
    assert notes(real) == ["resilience: gave up after 2 attempts: deadline exceeded"]


# --- what must not be done twice ---------------------------------------------------------------------------------


def test_a_call_that_must_not_be_made_twice_is_not(runtime):
    """retry-10 (Microsoft), by what the context says; PUT and DELETE will be idempotent here, as in RFC 9110."""
    fetch = script(ConnectionError)

    async def body():
        with pytest.raises(ConnectionError):
            await bound(retrying(), runtime, fetch, idempotent=False)()

    runtime.run(body)
    assert fetch.calls == 1


@pytest.mark.parametrize(
    "context",
    [{"idempotent": None}, {"idempotent": True}, {"idempotent": False, "idempotency_key": "order-42"}],
)
def test_a_call_that_may_be_made_twice_is(runtime, context):
    fetch = fail_times(1, ConnectionError, then="here")

    async def body():
        return await bound(retrying(), runtime, fetch, **context)()

    assert runtime.run(body) == "here"


def test_what_was_never_sent_may_be_tried_again(runtime):
    def refused_connection_was_not_sent(outcome, context):
        outcome.unsent = isinstance(outcome.error, ConnectionRefusedError)
        return any_error_is_bad(outcome, context)

    fetch = script(ConnectionRefusedError, ConnectionResetError, "never")

    async def body():
        retry = retrying(classify=refused_connection_was_not_sent)
        with pytest.raises(ConnectionResetError):
            await bound(retry, runtime, fetch, idempotent=False)()

    runtime.run(body)
    assert fetch.calls == 2


def test_a_refusal_that_on_names_is_retried_even_if_the_call_must_not_be_made_twice(runtime):
    fetch = fail_times(1, RateLimitedError("limiter"), then="here")

    async def body():
        return await bound(retrying(on=RateLimitedError), runtime, fetch, idempotent=False)()

    assert runtime.run(body) == "here"


# --- delays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        (constant(0.5), [0.5, 0.5, 0.5]),
        (linear(2.0, cap=None), [2.0, 4.0, 6.0]),
        (linear(0.123, cap=0.123), [0.123, 0.123, 0.123]),
        (exponential(1.0, cap=None), [1.0, 2.0, 4.0]),
        (exponential(1.0, cap=3.0), [1.0, 2.0, 3.0]),
        (sequence(0.1, 0.7), [0.1, 0.7, 0.7]),
        (full_jitter(base=1.0, cap=None), [0.25, 0.5, 1.0]),
        (lambda context: context.attempt * 0.5, [0.5, 1.0, 1.5]),
    ],
    ids=repr,
)
def test_the_backoff_decides_the_delays(runtime, fake_clock, backoff, delays):
    """retry-3, retry-4 and retry-5 (Polly)."""

    async def body():
        await gives_up(runtime, retrying(4, backoff=backoff, rng=Draws(0.25)))

    runtime.run(body)
    assert fake_clock.sleeps == pytest.approx(delays)


def test_a_delay_of_nothing_starts_no_timer(runtime, fake_clock):
    """retry-4 (Polly), whose attempts are numbered from 0; here the first retry is number 1."""
    numbers = []

    def no_delay(context):
        numbers.append(context.attempt)
        return 0.0

    async def body():
        await gives_up(runtime, retrying(backoff=no_delay))

    runtime.run(body)
    assert fake_clock.sleeps == []
    assert numbers == [1, 2]


def test_a_function_that_decides_no_delay_leaves_it_to_full_jitter(runtime, fake_clock):
    async def body():
        await gives_up(runtime, retrying(2, backoff=lambda context: None, rng=Draws(0.5)))

    runtime.run(body)
    assert fake_clock.sleeps == [0.05]


def test_the_function_of_a_backoff_is_told_the_context_of_the_call(runtime, fake_clock):
    seen = []

    def by_operation(context):
        seen.append(context.operation)
        return 0.0

    async def body():
        fetch = fail_times(1, ConnectionError)
        await bound(retrying(backoff=by_operation), runtime, fetch, operation="GET /stock")()

    runtime.run(body)
    assert seen == ["GET /stock"]


def test_what_the_function_of_a_backoff_raises_comes_out(runtime):
    def broken(context):
        raise LookupError("broken backoff")

    async def body():
        await gives_up(runtime, retrying(backoff=broken), script(ConnectionError), LookupError)

    runtime.run(body)


def test_each_call_draws_its_own_delays(runtime, fake_clock):
    retry = retrying(2, backoff=full_jitter(base=1.0), rng=Draws(0.25, 0.75))

    async def body():
        await gives_up(runtime, retry)
        await gives_up(runtime, retry)

    runtime.run(body)
    assert fake_clock.sleeps == [0.25, 0.75]


class Overloaded(Exception):
    def __init__(self, retry_after):
        super().__init__(retry_after)
        self.retry_after = retry_after


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        (0.0, 1.0),  # never less than our own delay
        (1.0, 1.0),
        (3.0, 3.0 + 1.0),  # our own delay on top keeps those apart who were told the same
        (6.0, 6.0 + 1.0),
        (math.inf, 1.0),  # no length of time
        (-1.0, 1.0),
    ],
)
def test_a_dependency_may_prolong_the_delay_by_the_window(runtime, fake_clock, asked, waited):
    """retry-8 (Microsoft), by the error's retry_after; there is no bound upstream."""

    async def body():
        await gives_up(runtime, retrying(2, backoff=constant(1.0)), script(Overloaded(asked)), Overloaded)

    runtime.run(body)
    assert fake_clock.sleeps == [waited]


@pytest.mark.parametrize("asked", [6.001, 60.0])
def test_a_dependency_that_asks_for_more_is_not_asked_early_but_given_up(runtime, fake_clock, asked):
    """idempotency-http H13: httpx-retries cuts Retry-After short, and sends early."""
    fetch, retry = script(Overloaded(asked)), retrying(2, backoff=constant(1.0))

    async def body():
        with pytest.raises(Overloaded) as caught:
            await runtime.call(retry, fetch)
        why = f"asked to stay away for {asked:g} s, longer than retry_after_window allows"
        assert caught.value.__notes__ == [f"resilience: gave up after 1 attempt: {why}"]

    runtime.run(body)
    assert (fetch.calls, fake_clock.sleeps) == (1, [])
    assert retry.stops["deadline_exceeded"] == 1


def test_giving_up_a_dependency_that_asks_for_too_much_costs_the_budget_nothing(runtime, fake_clock):
    budget = RetryBudget.ratio()
    before = budget.level
    retry = Retry(attempts=2, backoff=constant(1.0), budget=budget)

    async def body():
        with pytest.raises(Overloaded):
            await runtime.call(retry, script(Overloaded(60.0)))

    runtime.run(body)
    assert budget.level >= before


def test_without_a_window_the_dependency_is_waited_for_as_long_as_it_asks(runtime, fake_clock):
    retry = retrying(2, backoff=constant(1.0), retry_after_window=None)

    async def body():
        await gives_up(runtime, retry, script(Overloaded(600.0)), Overloaded)

    runtime.run(body)
    assert fake_clock.sleeps == [601.0]


def test_a_window_of_nothing_ignores_what_the_dependency_asks(runtime, fake_clock):
    retry = retrying(2, backoff=constant(1.0), retry_after_window=0.0)

    async def body():
        await gives_up(runtime, retry, script(Overloaded(600.0)), Overloaded)

    runtime.run(body)
    assert fake_clock.sleeps == [1.0]


def test_the_jitter_on_top_of_what_the_dependency_asks_is_drawn_once(runtime, fake_clock):
    retry = retrying(2, backoff=full_jitter(base=1.0), rng=Draws(0.5, 0.9))

    async def body():
        await gives_up(runtime, retry, script(Overloaded(3.0)), Overloaded)

    runtime.run(body)
    assert fake_clock.sleeps == [3.5]


def test_a_classifier_may_find_the_time_in_the_result(runtime, fake_clock):
    def throttled(outcome, context):
        outcome.retry_after = outcome.value
        return Verdict.THROTTLED if outcome.value else Verdict.GOOD

    async def body():
        return await runtime.call(retrying(backoff=constant(1.0), classify=throttled), script(2.0, 0))

    assert runtime.run(body) == 0
    assert fake_clock.sleeps == [3.0]


def test_the_retry_after_of_a_refusal_that_is_retried_is_heard(runtime, fake_clock):
    async def body():
        fetch = fail_times(1, RateLimitedError("limiter", 2.0))
        await runtime.call(retrying(backoff=constant(0.5), on=RateLimitedError), fetch)

    runtime.run(body)
    assert fake_clock.sleeps == [2.5]


# --- deadlines ---------------------------------------------------------------------------------------------------


def test_a_delay_that_does_not_fit_the_deadline_is_not_begun(runtime, fake_clock):
    fetch = script(ConnectionError)
    began = fake_clock.now()

    async def body():
        with deadline(1.0):
            error = await gives_up(runtime, retrying(backoff=constant(1.0)), fetch)
        assert notes(error) == ["resilience: gave up after 1 attempt: deadline exceeded"]

    runtime.run(body)
    assert fetch.calls == 1
    assert fake_clock.now() == began


def test_a_delay_that_fits_the_deadline_is_waited_out(runtime, fake_clock):
    fetch = fail_times(1, ConnectionError, then="here")

    async def body():
        with deadline(1.0):
            return await runtime.call(retrying(backoff=constant(0.9)), fetch)

    assert runtime.run(body) == "here"


def test_an_attempt_that_usually_takes_longer_than_is_left_is_not_begun(runtime, fake_clock):
    retry = retrying()
    fetch = script(*[ConnectionError, delayed(1.0, "here")] * 5, ConnectionError, "never")

    async def body():
        guarded = runtime.wrap(retry, fetch)
        for _ in range(5):
            assert await guarded() == "here"
        with deadline(0.9), pytest.raises(ConnectionError):
            await guarded()

    runtime.run(body)
    assert fetch.calls == 11
    assert retry.stops["deadline_exceeded"] == 1


def test_an_attempt_that_usually_fits_into_what_is_left_is_begun(runtime, fake_clock):
    fetch = script(*[ConnectionError, delayed(1.0, "here")] * 6)

    async def body():
        guarded = runtime.wrap(retrying(), fetch)
        for _ in range(5):
            await guarded()
        with deadline(1.1):
            return await guarded()

    assert runtime.run(body) == "here"


def test_what_is_usual_is_not_known_from_few_attempts(runtime, fake_clock):
    fetch = script(*[ConnectionError, delayed(1.0, "here")] * 4, ConnectionError, "at once")

    async def body():
        guarded = runtime.wrap(retrying(), fetch)
        for _ in range(4):
            await guarded()
        with deadline(0.9):
            return await guarded()

    assert runtime.run(body) == "at once"


def test_a_single_slow_attempt_is_not_what_is_usual(runtime, fake_clock):
    durations = [1.0, 0.1, 0.1, 0.1, 0.1, 0.1]
    outcomes = itertools.chain.from_iterable((ConnectionError, delayed(each, "here")) for each in durations)
    fetch = script(*outcomes)

    async def body():
        guarded = runtime.wrap(retrying(), fetch)
        for _ in range(5):
            await guarded()
        with deadline(0.9):
            return await guarded()

    assert runtime.run(body) == "here"


def test_an_attempt_that_became_too_late_during_the_delay_is_not_begun(runtime):
    fetch = script(ConnectionError("down"), "never")
    retry = retrying(backoff=constant(0.5), max_duration=1.0)

    async def body():
        with FakeClock(auto_advance=False) as clock:
            job = runtime.spawn(runtime.wrap(retry, fetch))
            await runtime.until(lambda: clock.sleeps == [0.5])
            clock.advance(2.0)
            await job.join()
        return job.error

    assert str(runtime.run(body)) == "down"
    assert fetch.calls == 1
    assert retry.stops["deadline_exceeded"] == 1


def test_after_a_bad_result_that_was_closed_only_the_missed_time_can_be_raised(runtime):
    fetch = script([], "never")
    classify = bad_results(lambda rows: not rows)
    retry = retrying(backoff=constant(0.5), max_duration=1.0, classify=classify)

    async def body():
        with FakeClock(auto_advance=False) as clock:
            job = runtime.spawn(runtime.wrap(retry, fetch))
            await runtime.until(lambda: clock.sleeps == [0.5])
            clock.advance(2.0)
            await job.join()
        return job.error

    error = runtime.run(body)
    assert isinstance(error, DeadlineExceededError)
    assert error.started


# --- budgets -----------------------------------------------------------------------------------------------------


def poor(tokens=1):
    """A budget that pays for so many further attempts, and earns nothing."""
    budget = RetryBudget.ratio(0.0, min_per_second=0.2, ttl=10.0)
    while budget.level > tokens:
        budget.try_withdraw()
    return budget


def test_a_budget_that_is_exhausted_stops_the_retrying_with_the_real_error(
    runtime, fake_clock, recorded_events
):
    """budget-3 (failsafe-go), where the last error was lost; one event."""
    fetch = script(ConnectionError)
    retry = retrying(5, budget=poor(1))

    async def body():
        error = await gives_up(runtime, retry, fetch)
        assert notes(error) == ["resilience: gave up after 2 attempts: budget exhausted"]

    runtime.run(body)
    assert fetch.calls == 2
    assert retry.stops["budget_exhausted"] == 1
    (event,) = recorded_events.named(EXHAUSTED)
    assert event.attributes == {
        "resilience.retry.stop_reason": "budget_exhausted",
        "error.type": "ConnectionError",
    }


def test_nothing_is_slept_for_an_attempt_that_nobody_pays_for(runtime, fake_clock):
    async def body():
        await gives_up(runtime, retrying(backoff=constant(1.0), budget=poor(0)))

    runtime.run(body)
    assert fake_clock.sleeps == []


def test_without_a_budget_every_attempt_is_made(runtime, fake_clock):
    fetch = script(ConnectionError)

    async def body():
        await gives_up(runtime, retrying(50, budget=None), fetch)

    runtime.run(body)
    assert fetch.calls == 50


def test_no_budget_must_be_written_out(runtime, fake_clock):
    fetch = script(ConnectionError)
    retry = Retry(f"a retry with a budget of its own, {runtime.name}", attempts=50, backoff=constant(0.0))

    async def body():
        await gives_up(runtime, retry, fetch)

    runtime.run(body)
    assert fetch.calls < 10
    assert retry.stops["budget_exhausted"] == 1


def test_attempts_that_helped_are_given_back(runtime, fake_clock):
    budget = poor(1)
    retry = retrying(2, budget=budget)

    async def body():
        for _ in range(10):
            assert await runtime.call(retry, fail_times(1, ConnectionError, then="here")) == "here"

    runtime.run(body)
    assert budget.level == 1


def test_a_timeout_costs_what_the_budget_asks_for_timeouts(runtime, fake_clock):
    failed, timed_out = (RetryBudget.ratio(0.0, min_per_second=1.0, timeout_cost=2) for _ in range(2))

    async def body():
        await gives_up(runtime, retrying(2, budget=failed))
        await gives_up(runtime, retrying(2, budget=timed_out), error=TimeoutError)

    runtime.run(body)
    assert (failed.level, timed_out.level) == (9, 8)


def test_one_budget_serves_every_retry_of_the_same_name(runtime, fake_clock):
    name = f"a budget of two retries, {runtime.name}"
    first, second = (Pipeline(name, Retry(attempts=9, backoff=constant(0.0))) for _ in range(2))
    fetch, other = script(ConnectionError), script(ConnectionError)

    async def body():
        await gives_up(runtime, first, fetch)
        await gives_up(runtime, second, other)

    runtime.run(body)
    assert fetch.calls == 3
    assert other.calls == 1


def test_one_retry_in_two_pipelines_has_two_budgets(runtime, fake_clock):
    retry = Retry(attempts=9, backoff=constant(0.0))
    pipelines = [Pipeline(f"pipeline {number} of one retry, {runtime.name}", retry) for number in (1, 2)]
    fetches = [script(ConnectionError), script(ConnectionError)]

    async def body():
        for pipeline, fetch in zip(pipelines, fetches, strict=True):
            await gives_up(runtime, pipeline, fetch)

    runtime.run(body)
    assert [fetch.calls for fetch in fetches] == [3, 3]


def test_alone_a_retry_uses_the_budget_of_its_own_name(runtime, fake_clock):
    name = f"a budget of a retry alone, {runtime.name}"
    fetch, other = script(ConnectionError), script(ConnectionError)

    async def body():
        await gives_up(runtime, Retry(name, attempts=9, backoff=constant(0.0)), fetch)
        await gives_up(runtime, Pipeline(name, Retry(attempts=9, backoff=constant(0.0))), other)

    runtime.run(body)
    assert fetch.calls == 3
    assert other.calls == 1


@pytest.mark.parametrize("ending", ["cancelled", "too late"])
def test_an_attempt_that_was_paid_for_but_not_made_is_not_in_flight(async_runtime, ending):
    budget = RetryBudget.inflight(0.2, min_concurrency=1)
    retry = retrying(backoff=constant(0.5), budget=budget, max_duration=1.0)

    async def body():
        with FakeClock(auto_advance=False) as clock:
            job = async_runtime.spawn(async_runtime.wrap(retry, script(ConnectionError)))
            await async_runtime.until(lambda: clock.sleeps == [0.5])
            assert budget.level == 0
            if ending == "cancelled":
                async_runtime.cancel(job)
            else:
                clock.advance(2.0)
            await job.join()

    async_runtime.run(body)
    assert budget.level == 1


def test_attempts_are_in_flight_while_they_are_made(runtime, fake_clock):
    budget = RetryBudget.inflight(0.2, min_concurrency=1)
    levels = []

    def fetch():
        levels.append(budget.level)
        raise ConnectionError

    async def body():
        await gives_up(runtime, retrying(budget=budget), fetch)

    runtime.run(body)
    assert levels == [1, 0, 0]
    assert budget.level == 1


def test_the_failures_of_attempts_that_nobody_asks_to_repeat_count_too(runtime, fake_clock):
    budget = RetryBudget.grpc(max_tokens=4, token_ratio=0.1)

    async def body():
        for _ in range(2):
            await gives_up(runtime, retrying(1, budget=budget))
        fetch = script(ConnectionError)
        await gives_up(runtime, retrying(9, budget=budget), fetch)
        assert fetch.calls == 1

    runtime.run(body)


def test_a_call_deposits_once_however_many_attempts_it_makes(runtime, fake_clock):
    budget = RetryBudget.ratio(1.0)

    async def body():
        await gives_up(runtime, retrying(3, budget=budget))

    runtime.run(body)
    assert budget.calls == 1


def test_a_budget_may_be_taken_away_at_run_time(runtime, fake_clock):
    retry = retrying(5, budget=poor(0))
    fetch = script(ConnectionError)

    async def body():
        alone, in_a_pipeline = runtime.wrap(retry, fetch), runtime.wrap(Pipeline("stock", retry), fetch)
        for guarded in (alone, in_a_pipeline):
            with pytest.raises(ConnectionError):
                await guarded()
        assert fetch.calls == 2
        retry.reconfigure(budget=None)
        for guarded in (alone, in_a_pipeline):
            with pytest.raises(ConnectionError):
                await guarded()

    runtime.run(body)
    assert fetch.calls == 12


# --- what comes out ----------------------------------------------------------------------------------------------


def test_the_error_that_comes_out_is_the_last_one_itself(runtime):
    """RE-1."""
    errors = [ConnectionError(number) for number in range(3)]

    async def body():
        assert await gives_up(runtime, retrying(), script(*errors)) is errors[2]

    runtime.run(body)
    assert errors[2].__cause__ is None
    assert errors[2].__context__ is None


def test_its_traceback_leads_to_where_it_was_raised(runtime):
    """RE-2."""

    def deep_inside():
        raise ConnectionError

    def fetch():
        deep_inside()

    async def body():
        error = await gives_up(runtime, retrying(), fetch)
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names[-2:] == ["fetch", "deep_inside"]

    runtime.run(body)


def test_a_cause_stays(runtime):
    """RE-2."""
    cause = KeyError("cause")

    def fetch():
        raise ConnectionError from cause

    async def body():
        assert (await gives_up(runtime, retrying(), fetch)).__cause__ is cause

    runtime.run(body)


def test_one_note_says_why_it_gave_up(runtime):
    async def body():
        assert notes(await gives_up(runtime, retrying())) == [
            "resilience: gave up after 3 attempts: attempts exhausted"
        ]

    runtime.run(body)


def test_an_error_of_the_only_attempt_has_no_note(runtime):
    async def body():
        assert notes(await gives_up(runtime, retrying(1))) == []

    runtime.run(body)


def test_an_error_that_is_raised_again_and_again_keeps_one_note(runtime):
    constant_error = ConnectionError("down")
    constant_error.add_note("the user's own")

    async def body():
        for _ in range(3):
            await gives_up(runtime, retrying(), script(constant_error))

    runtime.run(body)
    assert notes(constant_error) == [
        "the user's own",
        "resilience: gave up after 3 attempts: attempts exhausted",
    ]


def test_the_note_of_an_error_that_passes_two_retries_is_that_of_the_last(runtime):
    inner, outer = retrying(2), retrying(3)

    async def body():
        error = await gives_up(runtime, outer, runtime.guarded(inner, raising(ConnectionError())))
        assert notes(error) == ["resilience: gave up after 3 attempts: attempts exhausted"]

    runtime.run(body)


def test_an_error_that_takes_no_note_comes_out_all_the_same(runtime):
    class Frozen(Exception):
        def __setattr__(self, name, value):
            if name == "__notes__":
                raise AttributeError(name)
            super().__setattr__(name, value)

    async def body():
        await gives_up(runtime, retrying(), script(Frozen()), Frozen)

    runtime.run(body)


def test_the_traceback_of_a_constant_error_does_not_grow(runtime):
    constant_error = ConnectionError("down")
    depths = []

    def fetch():
        raise constant_error.with_traceback(None)

    async def body():
        guarded = runtime.wrap(retrying(), fetch)
        for _ in range(5):
            with contextlib.suppress(ConnectionError):
                await guarded()
            depths.append(len(traceback.extract_tb(constant_error.__traceback__)))

    runtime.run(body)
    assert len(set(depths[1:])) == 1  # the first call finds no generated code yet


def test_an_error_put_aside_and_raised_in_the_end_has_its_traceback_once(runtime):
    slots = Slots(1)

    def fetch():
        slots.limit = 0
        raise ConnectionError

    async def body():
        error = await gives_up(runtime, Pipeline("stock", retrying(), slots), fetch)
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names.count("fetch") == 1
        assert names[-1] == "fetch"

    runtime.run(body)


class Precious:
    """Something in a frame, whose life tells that of the frame."""


def precious_failures(times, alive):
    """A function that fails so often, each time with something precious in its frame."""

    def fetch():
        precious = Precious()
        alive.append(weakref.ref(precious))
        if len(alive) <= times:
            raise ConnectionError
        return "here"

    return fetch


@pytest.mark.parametrize("times", [99, 2], ids=["exhaustion", "success"])
def test_no_frame_of_a_failed_attempt_lives_on(runtime, times):
    """RE-3 after exhaustion, RE-4 after a final success: gc is off, and still nothing is left."""
    alive = []
    retry = retrying()

    async def body():
        guarded = runtime.wrap(retry, precious_failures(times, alive))
        with collector_off():
            with contextlib.suppress(ConnectionError):
                assert await guarded() == "here"
            assert [each() for each in alive] == [None] * 3

    runtime.run(body)


def test_no_frame_of_a_failed_attempt_lives_on_when_a_later_one_is_refused(runtime):
    """RE-3."""
    alive = []
    limited = Slots(1)

    async def body():
        fetch = precious_failures(1, alive)

        def once():
            limited.limit = 0
            return fetch()

        guarded = runtime.wrap(Pipeline("stock", retrying(), limited), once)
        with collector_off():
            with contextlib.suppress(ConnectionError):
                await guarded()
            assert [each() for each in alive] == [None]

    runtime.run(body)


def test_no_frame_of_a_failed_attempt_lives_on_after_a_cancellation(async_runtime):
    """RE-3."""
    alive = []

    async def body():
        with FakeClock(auto_advance=False) as clock:
            guarded = async_runtime.wrap(retrying(backoff=constant(1.0)), precious_failures(9, alive))

            async def work():
                with contextlib.suppress(async_runtime.cancelled):
                    await guarded()

            with collector_off():
                job = async_runtime.spawn(work)
                await async_runtime.until(lambda: bool(clock.sleeps))
                async_runtime.cancel(job)
                await job.join()
                assert [each() for each in alive] == [None]

    async_runtime.run(body)


# --- results that nobody will see --------------------------------------------------------------------------------


def test_discarded_results_are_closed_and_the_last_one_is_not(runtime):
    """retry-2 (Polly): five retries; the first five results are closed, the last is open."""
    results = [Closeable() for _ in range(6)]

    async def body():
        retry = retrying(6, classify=bad_results(lambda _: True))
        assert await runtime.call(retry, script(*results)) is results[5]

    runtime.run(body)
    assert [each.closed for each in results] == [1] * 5 + [0]


def test_a_result_is_closed_before_the_delay(runtime, fake_clock):
    result = Closeable()
    seen = []

    def delay(context):
        return 1.0

    def again():
        seen.append((result.closed, fake_clock.now()))
        return result

    began = fake_clock.now()

    async def body():
        await runtime.call(retrying(2, backoff=delay, classify=bad_results(lambda _: True)), again)

    runtime.run(body)
    assert seen == [(0, began), (1, began + 1.0)]


class AsyncCloseable:
    def __init__(self, error=None):
        self.closed = 0
        self.error = error

    async def aclose(self):
        self.closed += 1
        if self.error is not None:
            raise self.error

    def close(self):
        raise AssertionError("the async way is the one to take")


@pytest.mark.parametrize("error", [None, OSError("reset")], ids=["well", "badly"])
def test_async_results_are_closed_the_async_way_and_whatever_that_raises_is_dropped(async_runtime, error):
    result = AsyncCloseable(error)

    async def body():
        retry = retrying(2, classify=bad_results(lambda value: value is result))
        return await async_runtime.call(retry, script(result, "here"))

    assert async_runtime.run(body) == "here"
    assert result.closed == 1


def test_what_closing_a_result_raises_is_dropped(runtime):
    class Broken:
        def close(self):
            raise OSError("reset")

    async def body():
        retry = retrying(2, classify=bad_results(lambda value: value != "here"))
        return await runtime.call(retry, script(Broken(), "here"))

    assert runtime.run(body) == "here"


def test_what_cannot_be_closed_is_just_dropped(runtime):
    async def body():
        return await runtime.call(
            retrying(2, classify=bad_results(lambda rows: not rows)), script([], ["row"])
        )

    assert runtime.run(body) == ["row"]


# --- inside an attempt -------------------------------------------------------------------------------------------


def test_the_function_can_ask_which_attempt_it_is(runtime):
    numbers = []

    def fetch():
        numbers.append(current_attempt().attempt)
        raise ConnectionError

    async def body():
        await gives_up(runtime, retrying(), fetch)

    runtime.run(body)
    assert numbers == [1, 2, 3]
    assert current_attempt().attempt == 1


def test_a_further_attempt_knows_what_is_known_about_the_call(runtime):
    seen = []

    def fetch():
        seen.append(current_attempt().operation)
        raise ConnectionError

    async def body():
        with pytest.raises(ConnectionError):
            await bound(retrying(2), runtime, fetch, operation="GET /stock")()

    runtime.run(body)
    assert seen[1] == "GET /stock"


def test_attempts_of_concurrent_calls_do_not_see_each_other(runtime):
    async def body():
        dependency = Dependency(runtime)
        numbers = []

        async def fetch():
            if current_attempt().attempt == 1:
                raise ConnectionError
            await dependency.ask()
            numbers.append(current_attempt().attempt)
            return "here"

        guarded = runtime.wrap(retrying(2), fetch)
        jobs = [runtime.spawn(guarded) for _ in range(3)]
        await dependency.called(3)
        assert current_attempt().attempt == 1
        for request in dependency.requests:
            request.answer()
        assert [await job for job in jobs] == ["here"] * 3
        assert numbers == [2, 2, 2]

    runtime.run(body)


def test_a_retry_inside_a_further_attempt_has_its_own_numbers(runtime):
    numbers = []

    def innermost():
        numbers.append(current_attempt().attempt)
        raise ConnectionError

    async def body():
        inner = runtime.guarded(retrying(2), innermost)
        await gives_up(runtime, retrying(2), inner)

    runtime.run(body)
    # A first attempt opens no block, so the function sees that of the attempt around it.
    assert numbers == [1, 2, 2, 2]


def test_a_retry_goes_on_within_the_time_left(runtime, fake_clock):
    seen = []

    async def body():
        async def fetch():
            seen.append(current_attempt().deadline)
            raise ConnectionError

        with deadline(10.0):
            await gives_up(runtime, retrying(2, backoff=constant(1.0)), fetch)

    began = fake_clock.now()
    runtime.run(body)
    assert seen[1] == began + 10.0


# --- cancellation ------------------------------------------------------------------------------------------------


def test_a_call_that_is_cancelled_before_it_begins_is_never_made(async_runtime):
    """retry-1 (Polly)."""
    fetch = script("here")

    async def body():
        guarded = async_runtime.wrap(retrying(), fetch)

        async def work():
            await async_runtime.checkpoint()
            return await guarded()

        job = async_runtime.spawn(work)
        async_runtime.cancel(job)
        await job.join()

    async_runtime.run(body)
    assert fetch.calls == 0


def test_a_cancellation_during_the_delay_ends_the_call_at_once(async_runtime):
    """retry-1 (Polly): one call, and a cancellation."""
    fetch = script(ConnectionError)
    retry = retrying(backoff=constant(60.0))

    async def body():
        with FakeClock(auto_advance=False) as clock:
            began = clock.now()
            job = async_runtime.spawn(async_runtime.wrap(retry, fetch))
            await async_runtime.until(lambda: clock.sleeps == [60.0])
            async_runtime.cancel(job)
            await job.join()
            assert isinstance(job.error, async_runtime.cancelled)
            assert clock.now() == began

    async_runtime.run(body)
    assert fetch.calls == 1
    assert retry.stops["cancelled"] == 1


def test_a_cancellation_during_a_real_delay_ends_the_call_at_once(async_runtime):
    """retry-1 (Polly)."""
    fetch = script(ConnectionError)

    async def body():
        job = async_runtime.spawn(async_runtime.wrap(retrying(backoff=constant(60.0)), fetch))
        await async_runtime.until(lambda: fetch.calls == 1)
        async_runtime.cancel(job)
        await job.join()
        assert isinstance(job.error, async_runtime.cancelled)

    async_runtime.run(body)


def test_a_call_that_succeeds_although_it_is_cancelled_returns_its_result(async_runtime):
    """retry-1 (Polly)."""

    async def body():
        dependency = Dependency(async_runtime)

        async def stubborn():
            try:
                await dependency.ask()
            except async_runtime.cancelled:
                return "here"

        job = async_runtime.spawn(async_runtime.wrap(retrying(), stubborn))
        await dependency.called(1)
        async_runtime.cancel(job)
        await job.join()
        assert (job.value, job.error) == ("here", None)

    async_runtime.run(body)


def test_a_cancelled_call_is_no_success_for_the_budget(async_runtime, fake_clock):
    budget = RetryBudget.ratio(0.0, min_per_second=0.2)

    async def body():
        dependency = Dependency(async_runtime)
        retry = retrying(budget=budget)
        job = async_runtime.spawn(async_runtime.wrap(retry, dependency.ask))
        (await dependency.called(1)).fail()
        await dependency.called(2)
        async_runtime.cancel(job)
        await job.join()

    async_runtime.run(body)
    assert budget.level == 1
    assert budget.good == 0


# --- streams -----------------------------------------------------------------------------------------------------


def numbers_after(failures, then=(1, 2, 3), broken=False):
    """A stream that fails so often before its first item, and perhaps once more after its last."""
    begun = []

    async def stream():
        begun.append(True)
        if len(begun) <= failures:
            raise ConnectionError
        for number in then:
            yield number
        if broken:
            raise ConnectionError

    return stream, begun


async def read(items):
    return [item async for item in items]


def test_a_stream_that_fails_before_its_first_item_is_begun_again(runtime):
    """DE-5."""
    stream, begun = numbers_after(2)

    async def body():
        return await read(runtime.wrap(retrying(), stream)())

    assert runtime.run(body) == [1, 2, 3]
    assert len(begun) == 3


def test_a_stream_that_keeps_failing_before_its_first_item_raises_the_last_error(runtime):
    """DE-5."""
    stream, begun = numbers_after(9)

    async def body():
        with pytest.raises(ConnectionError):
            await read(runtime.wrap(retrying(), stream)())

    runtime.run(body)
    assert len(begun) == 3


def test_a_stream_that_fails_after_its_first_item_is_not_begun_again(runtime):
    """DE-5: its reader has seen the first items already."""
    stream, begun = numbers_after(0, broken=True)
    items = []

    async def body():
        with pytest.raises(ConnectionError):
            async for item in runtime.wrap(retrying(), stream)():
                items.append(item)

    runtime.run(body)
    assert items == [1, 2, 3]
    assert len(begun) == 1


def test_an_empty_stream_is_a_good_one(runtime):
    stream, begun = numbers_after(0, then=())

    async def body():
        return await read(runtime.wrap(retrying(), stream)())

    assert runtime.run(body) == []
    assert len(begun) == 1


def test_a_gate_inside_holds_only_the_attempt_that_is_read(runtime):
    stream, _ = numbers_after(2)
    slots = Slots(1)

    async def body():
        items = runtime.wrap(Pipeline("stock", retrying(), slots), stream)()
        assert await anext(items) == 1
        assert slots.used == 1
        await read(items)
        assert slots.used == 0

    runtime.run(body)


def test_a_gate_that_finds_an_error_good_gives_back_what_it_holds_for_the_next_attempt(runtime):
    stream, _ = numbers_after(2)
    slots = Slots(1)
    slots._classify = lambda outcome, context: Verdict.GOOD

    async def body():
        return await read(runtime.wrap(Pipeline("stock", retrying(), slots), stream)())

    assert runtime.run(body) == [1, 2, 3]
    assert slots.used == 0
    assert slots.verdicts == [Verdict.GOOD] * 3


def test_an_error_of_a_classifier_gives_back_what_the_attempt_holds(runtime):
    stream, _ = numbers_after(2)
    slots = Slots(1)
    slots._classify = lambda outcome, context: Verdict.GOOD

    def broken(outcome, context):
        if context.attempt == 2:
            raise LookupError("broken classifier")
        return any_error_is_bad(outcome, context)

    async def body():
        with pytest.raises(LookupError):
            await read(runtime.wrap(Pipeline("stock", retrying(classify=broken), slots), stream)())

    runtime.run(body)
    assert slots.used == 0


# --- many at once ------------------------------------------------------------------------------------------------


def failing_twice(seen):
    def fetch(key):
        seen[key] = seen.get(key, 0) + 1
        if seen[key] < 3:
            raise ConnectionError
        return key

    return fetch


def test_one_retry_serves_many_calls_at_once(runtime):
    retry = retrying()
    guard = failing_twice({})

    async def body():
        guarded = runtime.wrap(retry, guard)

        def one(key):
            async def work():
                return await guarded(key)

            return work

        return await runtime.gather(*[one(key) for key in range(32)])

    assert runtime.run(body) == list(range(32))
    assert (retry.calls, retry.retries) == (32, 64)


def test_one_retry_serves_threads_asyncio_and_trio_at_once():
    retry = retrying(backoff=constant(0.001))
    fetch = failing_twice({})
    answers = []

    async def afetch(key):
        return fetch(key)

    guarded, aguarded = retry(fetch), retry(afetch)

    async def many(kind):
        for number in range(50):
            answers.append(await aguarded((kind, number)))

    def threads():
        for number in range(50):
            answers.append(guarded(("threads", number)))

    workers = [
        threading.Thread(target=work)
        for work in (threads, lambda: asyncio.run(many("asyncio")), lambda: trio.run(many, "trio"))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert sorted(answers) == sorted(
        (kind, number) for kind in ("threads", "asyncio", "trio") for number in range(50)
    )
    assert (retry.calls, retry.retries, retry.stops["success"]) == (150, 300, 150)


def test_no_call_of_eight_threads_is_counted_wrong():
    retry = retrying(2)
    threads, calls = 8, 500

    def work():
        guarded = retry(raising(ConnectionError()))
        for _ in range(calls):
            with contextlib.suppress(ConnectionError):
                guarded()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(before)
    assert (retry.calls, retry.retries) == (threads * calls, threads * calls)
    assert retry.stops["attempts_exhausted"] == threads * calls


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_process_counts_from_zero():
    retry = retrying(2)
    with pytest.raises(ConnectionError):
        retry.call(raising(ConnectionError()))

    def child():
        fresh = (retry.calls, retry.retries, sum(retry.stops.values())) == (0, 0, 0)
        works = retry.call(fail_times(1, ConnectionError, then="here")) == "here"
        os._exit(0 if fresh and works and retry.retries == 1 else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    assert process.exitcode == 0
    assert retry.calls == 1


def test_a_retry_that_nobody_uses_any_more_is_forgotten():
    before = len(fork._followers)
    retry = retrying()
    retry(len)("four")
    forgotten = weakref.ref(retry)
    del retry
    gc.collect()
    assert forgotten() is None
    assert len(fork._followers) <= before


# --- what is counted and reported --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "settings", "outcome"),
    [
        ("success", {}, "here"),
        ("attempts_exhausted", {}, ConnectionError),
        ("not_retryable", {"on": ConnectionError}, KeyError),
        ("rejected", {}, CircuitOpenError("breaker")),
        ("deadline_exceeded", {}, DeadlineExceededError()),
        ("deadline_exceeded", {"backoff": constant(1.0), "max_duration": 0.5}, ConnectionError),
    ],
)
def test_why_no_further_attempt_was_made_is_counted(runtime, fake_clock, reason, settings, outcome):
    retry = retrying(**settings)

    async def body():
        with contextlib.suppress(Exception):
            await runtime.call(retry, script(outcome))

    runtime.run(body)
    assert {name for name, times in retry.stops.items() if times} == {reason}
    assert retry.stops[reason] == 1


def test_giving_up_is_reported_once(runtime, recorded_events):
    async def body():
        await gives_up(runtime, retrying())

    runtime.run(body)
    (event,) = recorded_events.named(EXHAUSTED)
    assert event.policy == "stock"
    assert event.attributes == {
        "resilience.retry.stop_reason": "attempts_exhausted",
        "error.type": "ConnectionError",
    }


def test_giving_up_on_results_is_reported_without_an_error(runtime, recorded_events):
    async def body():
        await runtime.call(retrying(classify=bad_results(lambda _: True)), script("bad"))

    runtime.run(body)
    (event,) = recorded_events.named(EXHAUSTED)
    assert event.attributes == {"resilience.retry.stop_reason": "attempts_exhausted"}


@pytest.mark.parametrize("outcome", ["here", KeyError, CircuitOpenError("breaker")], ids=repr)
def test_what_was_not_given_up_is_not_reported(runtime, recorded_events, outcome):
    async def body():
        with contextlib.suppress(KeyError, RejectedError):
            await runtime.call(retrying(on=ConnectionError), script(outcome))

    runtime.run(body)
    assert recorded_events == []


# --- settings ----------------------------------------------------------------------------------------------------


def test_the_constructor_and_the_settings_have_the_same_defaults():
    assert Retry().settings == RetrySettings()


def test_the_constructor_takes_every_setting():
    taken = inspect.signature(Retry).parameters.keys()
    assert taken - RetrySettings.__dataclass_fields__.keys() == {"name", "on", "classify", "rng"}
    assert RetrySettings.__dataclass_fields__.keys() <= taken


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"attempts": 0}, "attempts"),
        ({"attempts": 2.0}, "attempts"),
        ({"attempts": True}, "attempts"),
        ({"attempts": None}, "attempts"),
        ({"backoff": 0.5}, "backoff"),
        ({"backoff": full_jitter}, "backoff"),
        ({"backoff": None}, "backoff"),
        ({"budget": 10}, "budget"),
        ({"budget": RetryBudget}, "budget"),
        ({"max_duration": 0}, "max_duration"),
        ({"max_duration": math.nan}, "max_duration"),
        ({"max_duration": math.inf}, "max_duration"),
        ({"max_duration": -1.0}, "max_duration"),
        ({"stop": 3}, "stop"),
        ({"retry_after_window": -1.0}, "retry_after_window"),
        ({"retry_after_window": math.inf}, "retry_after_window"),
        ({"on": "ConnectionError"}, "on"),
        ({"on": KeyboardInterrupt}, "on"),
        ({"on": ()}, "on"),
        ({"classify": 7}, "classify"),
        ({"on": KeyError, "classify": any_error_is_bad}, "classify"),
        ({"name": " "}, "name"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, setting):
    with pytest.raises(ConfigError) as caught:
        Retry(**settings)
    assert [problem.setting for problem in caught.value.problems] == [setting]


def test_one_error_lists_every_problem():
    with pytest.raises(ConfigError) as caught:
        Retry(attempts=-1, backoff=3, budget=3, max_duration=0, stop=3, retry_after_window=-1)
    assert [problem.setting for problem in caught.value.problems] == [
        "attempts",
        "backoff",
        "budget",
        "max_duration",
        "stop",
        "retry_after_window",
    ]


@pytest.mark.parametrize("bound", [{"max_duration": 1.0}, {"stop": lambda state: True}])
def test_attempts_without_number_need_another_bound(bound):
    assert Retry(attempts=None, **bound).settings.attempts is None


def test_new_settings_hold_for_what_is_guarded_already(runtime):
    fetch = script(ConnectionError)
    retry = retrying(1)

    async def body():
        guarded = runtime.wrap(retry, fetch)
        with pytest.raises(ConnectionError):
            await guarded()
        retry.reconfigure(attempts=4)
        with pytest.raises(ConnectionError):
            await guarded()

    runtime.run(body)
    assert fetch.calls == 5


def test_a_call_under_way_keeps_the_settings_it_began_with(runtime):
    retry = retrying(2)

    async def body():
        dependency = Dependency(runtime)
        job = runtime.spawn(runtime.wrap(retry, dependency.ask))
        first = await dependency.called(1)
        retry.reconfigure(attempts=9)
        first.fail()
        (await dependency.called(2)).fail()
        await job.join()
        assert isinstance(job.error, ConnectionError)

    runtime.run(body)


@pytest.mark.parametrize("change", [{"attempts": 0}, {"attempt": 3}])
def test_new_settings_that_cannot_work_change_nothing(change):
    retry = retrying()
    before = retry.settings
    with pytest.raises(ConfigError):
        retry.reconfigure(**change)
    assert retry.settings is before


def test_the_longest_delay_there_is_is_a_day(runtime, fake_clock):
    async def body():
        await gives_up(runtime, retrying(2, backoff=lambda context: 1e9))

    runtime.run(body)
    assert fake_clock.sleeps == [LONGEST]


def test_a_real_delay_takes_its_time(runtime):
    fetch = fail_times(1, ConnectionError, then="here")

    async def body():
        return await runtime.call(retrying(backoff=constant(0.01)), fetch)

    assert runtime.run(body) == "here"


def test_an_attempt_that_sleeps_by_the_packages_clock_needs_no_real_time(runtime, fake_clock):
    async def body():
        async def fetch():
            await nap(runtime, 3_600.0)
            raise ConnectionError

        await gives_up(runtime, retrying(), fetch)

    runtime.run(body)


class Zeros(list[float]):
    """A source of chance that is false, being empty."""

    draws = 0

    def random(self) -> float:
        self.draws += 1
        return 0.0


def test_a_source_of_chance_that_is_false_is_used_all_the_same():
    chance = Zeros()
    retry = Retry(attempts=2, backoff=full_jitter(), budget=None, rng=chance)
    with pytest.raises(ConnectionError):
        retry.call(raising(ConnectionError()))
    assert chance.draws == 1


@pytest.mark.parametrize("wrong", [7, "dice", object(), 0])
def test_what_has_no_random_method_is_refused_with_every_other_problem(wrong):
    with pytest.raises(ConfigError, match=r"rng must have a random\(\) method or be None") as caught:
        Retry("", attempts=0, rng=wrong)
    assert [problem.setting for problem in caught.value.problems] == ["name", "attempts", "rng"]
    with pytest.raises(ConfigError, match="Retry: rng must have"):
        Retry(rng=wrong)


@pytest.mark.parametrize("is_used", [True, False])
def test_further_attempts_are_timed_only_where_deadlines_are_in_use(monkeypatch, is_used: bool) -> None:
    monkeypatch.setattr(usage, "used", is_used)
    retry = Retry(attempts=2, backoff=constant(0.0), budget=None)
    failures = itertools.cycle([True, False])

    @retry
    def fetch() -> int:
        if next(failures):
            raise ConnectionError
        return 7

    assert [fetch() for _ in range(9)] == [7] * 9
    assert (retry._durations.median() is not None) == is_used


def test_a_deadline_that_comes_into_use_within_an_attempt_leaves_that_one_untimed(monkeypatch) -> None:
    monkeypatch.setattr(usage, "used", False)
    retry = Retry(attempts=2, backoff=constant(0.0), budget=None)
    calls: list[int] = []

    @retry
    def fetch() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError
        with deadline(5.0):
            return 7

    assert fetch() == 7
    assert usage.used
    assert len(retry._durations._values) == 0
