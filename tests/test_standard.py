"""The golden path: what it is made of, what can be replaced, and how it behaves in an outage."""

import asyncio
import math

import pytest
from tests.dependency import Dependency
from tests.doubles import raising

from resilience import (
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    ConcurrencyLimiter,
    ConfigError,
    Pipeline,
    Retry,
    RetryBudget,
    Timeout,
    deadline,
)
from resilience._runtime import budgets
from resilience._runtime import pipeline as runtime_pipeline
from resilience.backoff import constant
from resilience.errors import DeadlineExceededError
from resilience.limits import Aimd
from resilience.outcome import bad_results
from resilience.standard import ATTEMPT_TIMEOUT, TOTAL_TIMEOUT
from resilience.testing import delayed, fail_times, script

QUICK = {"backoff": constant(0.0), "budget": None}


def problems(**parts):
    with pytest.raises(ConfigError) as caught:
        Pipeline.standard("stock", **parts)
    return [(problem.setting, problem.rule) for problem in caught.value.problems]


# --- what it is made of ------------------------------------------------------------------------------------------


def test_it_is_total_timeout_retry_breaker_adaptive_limit_and_attempt_timeout():
    """composition-6 (Microsoft): the defaults are valid."""
    pipeline = Pipeline.standard("stock")
    kinds = [policy.kind for policy in pipeline.policies]
    assert kinds == ["timeout", "retry", "circuit_breaker", "concurrency_limiter", "timeout"]
    total, _, breaker, limiter, attempt = pipeline.policies
    assert (total.settings.duration, attempt.settings.duration) == (TOTAL_TIMEOUT, ATTEMPT_TIMEOUT)
    settings = breaker.settings
    assert (settings.failure_ratio, settings.break_duration, settings.break_factor) == (0.9, 1.0, 1.0)
    assert isinstance(limiter.settings.limit, Aimd)


def test_no_two_share_a_limit_that_learns():
    first, second = (Pipeline.standard("stock").policies[3].settings.limit for _ in range(2))
    assert first is not second


def test_a_call_waits_for_a_place_for_a_third_of_the_total_but_at_most_a_second():
    waits = [
        Pipeline.standard("stock", total_timeout=total).policies[-2].settings.max_wait
        for total in (0.6, 3.0, 60.0, None)
    ]
    assert waits == [pytest.approx(0.2), 1.0, 1.0, 1.0]


def test_a_burst_at_the_start_is_served_in_turn(fake_clock):
    pipeline = Pipeline.standard("stock")
    fetch = script(*[delayed(0.05, number) for number in range(100)]).acall

    async def main():
        return await asyncio.gather(*(pipeline.acall(fetch) for _ in range(100)))

    assert sorted(asyncio.run(main())) == list(range(100))


def test_all_its_policies_have_its_name():
    pipeline = Pipeline.standard("stock")
    assert {policy.name for policy in (pipeline, *pipeline.policies)} == {"stock"}


def test_it_is_a_pipeline_of_the_class_it_was_asked_of():
    class Own(Pipeline):
        pass

    assert type(Pipeline.standard("stock")) is Pipeline
    assert type(Own.standard("stock")) is Own
    assert isinstance(Pipeline.standard("stock"), runtime_pipeline.Pipeline)


def test_two_of_them_share_nothing_but_the_budget():
    first, second = Pipeline.standard("stock"), Pipeline.standard("stock")
    assert not {id(policy) for policy in first.policies} & {id(policy) for policy in second.policies}


def test_every_part_can_be_replaced():
    total, attempt = Timeout(9.0), Timeout(2.0)
    retry, breaker = Retry(attempts=2), CircuitBreaker(consecutive_failures=3)
    limiter = ConcurrencyLimiter(limit=5)
    pipeline = Pipeline.standard(
        "stock",
        total_timeout=total,
        retry=retry,
        circuit_breaker=breaker,
        concurrency_limiter=limiter,
        attempt_timeout=attempt,
    )
    assert pipeline.policies == (total, retry, breaker, limiter, attempt)


def test_the_timeouts_may_be_given_in_seconds():
    pipeline = Pipeline.standard("stock", total_timeout=2.0, attempt_timeout=0.5)
    assert [pipeline.policies[place].settings.duration for place in (0, -1)] == [2.0, 0.5]


@pytest.mark.parametrize(("total", "attempt"), [(0.6, 0.2), (3.0, 1.0), (60.0, 1.0), (None, 1.0)])
def test_an_attempt_has_a_third_of_the_total_but_at_most_a_second(total, attempt):
    pipeline = Pipeline.standard("stock", total_timeout=total)
    assert pipeline.policies[-1].settings.duration == pytest.approx(attempt)


PARTS = ["total_timeout", "retry", "circuit_breaker", "concurrency_limiter", "attempt_timeout"]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_can_be_left_out(part):
    assert len(Pipeline.standard("stock", **{part: None}).policies) == 4


def test_with_every_part_left_out_it_is_just_the_call(runtime):
    pipeline = Pipeline.standard(
        "stock",
        total_timeout=None,
        retry=None,
        circuit_breaker=None,
        concurrency_limiter=None,
        attempt_timeout=None,
    )

    async def body():
        return await runtime.call(pipeline, lambda: "here")

    assert runtime.run(body) == "here"


def test_it_describes_itself():
    description = Pipeline.standard("stock").describe()
    lines = [line.strip() for line in description.splitlines()]
    assert lines[0] == "pipeline 'stock'"
    assert "2. retry 'stock' (name from the pipeline)" in lines
    assert "budget = by name (default)" in lines
    assert "duration = 3.0 (set)" in lines


# --- what cannot work --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempt", [3.0, Timeout(3.0), 2.0])
@pytest.mark.parametrize("total", [2.0, Timeout(2.0)])
def test_an_attempt_not_shorter_than_the_whole_is_refused_in_the_words_of_its_author(total, attempt):
    """composition-6 (Microsoft)."""
    with pytest.raises(ConfigError) as caught:
        Pipeline.standard("stock", total_timeout=total, attempt_timeout=attempt)
    seconds = attempt.settings.duration if isinstance(attempt, Timeout) else attempt
    assert str(caught.value) == (
        "Pipeline.standard 'stock': attempt_timeout must be > 0 and less than the total_timeout of 2 s, "
        f"got {seconds}"
    )


def test_a_window_that_holds_less_than_two_attempts_is_refused():
    """composition-6 (Microsoft)."""
    breaker = CircuitBreaker(sampling_duration=1.5)
    assert problems(circuit_breaker=breaker) == [
        ("sampling_duration", "must be at least 2 s, twice the timeout inside it")
    ]


def test_both_mistakes_are_reported_at_once():
    """composition-6 (Microsoft)."""
    breaker = CircuitBreaker(sampling_duration=1.5)
    found = problems(total_timeout=2.0, circuit_breaker=breaker, attempt_timeout=3.0)
    assert sorted(setting for setting, _ in found) == ["attempt_timeout", "sampling_duration"]


def test_a_misspelt_part_is_an_error():
    """composition-6 (Microsoft)."""
    with pytest.raises(TypeError, match="total_timout"):
        Pipeline.standard("stock", total_timout=2.0)


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, math.inf, True, "2"])
def test_a_timeout_that_is_none_is_refused_under_its_own_name(seconds):
    rule = "must be a finite number of seconds > 0"
    assert [setting for setting, _ in problems(total_timeout=seconds)] == ["total_timeout"]
    assert [setting for setting, _ in problems(attempt_timeout=seconds)] == ["attempt_timeout"]
    assert problems(total_timeout=seconds)[0][1].startswith(rule)


def test_a_wrong_name_and_judge_are_reported_with_the_parts():
    with pytest.raises(ConfigError) as caught:
        Pipeline.standard("", retry=3, on=int)
    assert [problem.setting for problem in caught.value.problems] == ["name", "on", "retry"]
    with pytest.raises(ConfigError, match="name must be a non-empty string, got None"):
        Pipeline.standard(None)


def test_every_part_of_the_wrong_kind_is_reported():
    found = problems(total_timeout=-1, retry=3, circuit_breaker=Retry(), attempt_timeout=-1)
    assert [setting for setting, _ in found] == [
        "total_timeout",
        "attempt_timeout",
        "retry",
        "circuit_breaker",
    ]


@pytest.mark.parametrize("name", ["", " ", 7])
def test_it_needs_a_name(name):
    with pytest.raises(ConfigError):
        Pipeline.standard(name)


# --- how it behaves ----------------------------------------------------------------------------------------------


def test_a_failure_is_retried_and_the_caller_sees_nothing_of_it(runtime, fake_clock):
    fetch = fail_times(2, ConnectionError, then="here")
    pipeline = Pipeline.standard(f"golden, {runtime.name}")

    async def body():
        return await runtime.wrap(pipeline, fetch)()

    assert runtime.run(body) == "here"
    assert fetch.calls == 3


def test_a_slow_attempt_is_cut_off_and_retried(async_runtime, fake_clock):
    fetch = script(delayed(60.0), "here")

    async def body():
        return await async_runtime.call(Pipeline.standard("stock", retry=Retry(**QUICK)), fetch)

    began = fake_clock.now()
    assert async_runtime.run(body) == "here"
    assert fake_clock.now() - began == pytest.approx(ATTEMPT_TIMEOUT)


def test_the_whole_ends_in_time_however_the_attempts_end(async_runtime, fake_clock):
    fetch = script(delayed(60.0))

    async def body():
        retry = Retry(attempts=50, **QUICK)
        with pytest.raises(TimeoutError):
            await async_runtime.call(Pipeline.standard("stock", retry=retry), fetch)

    began = fake_clock.now()
    async_runtime.run(body)
    assert fake_clock.now() - began <= TOTAL_TIMEOUT + 1e-6
    assert fetch.calls == 3


def test_the_caller_may_have_less_time(async_runtime, fake_clock):
    fetch = script(delayed(60.0))

    async def body():
        with deadline(0.5), pytest.raises(DeadlineExceededError):
            await async_runtime.call(Pipeline.standard("stock", retry=Retry(**QUICK)), fetch)

    began = fake_clock.now()
    async_runtime.run(body)
    assert fake_clock.now() - began == pytest.approx(0.5)
    assert fetch.calls == 1


def test_an_outage_opens_the_circuit_after_twenty_calls(runtime, fake_clock):
    pipeline = Pipeline.standard("stock", retry=None)

    async def body():
        for _ in range(20):
            with pytest.raises(ConnectionError):
                await runtime.call(pipeline, raising(ConnectionError()))
        with pytest.raises(CircuitOpenError):
            await runtime.call(pipeline, lambda: "here")

    runtime.run(body)
    assert pipeline.policies[1].state is CircuitState.OPEN


def test_in_an_outage_retries_stay_a_tenth_of_the_calls(runtime, fake_clock):
    """The budget that is inherited by name: a share of 0.1, and a floor of two attempts."""
    fetch = script(ConnectionError)
    pipeline = Pipeline.standard(f"an outage, {runtime.name}", circuit_breaker=None)

    async def body():
        for _ in range(100):
            with pytest.raises(ConnectionError):
                await runtime.call(pipeline, fetch)

    runtime.run(body)
    assert 100 + 2 <= fetch.calls <= 100 + 10 + 2


def test_the_default_budget_has_the_name_that_was_asked_for():
    budget = budgets.named("a default budget")
    assert isinstance(budget, RetryBudget)
    assert budget.name == "a default budget"
    assert budget is budgets.named("a default budget")


def test_the_judge_is_that_of_every_part(runtime, fake_clock):
    pipeline = Pipeline.standard(
        "stock",
        retry=Retry(**QUICK),
        circuit_breaker=CircuitBreaker(consecutive_failures=3),
        classify=bad_results(lambda rows: not rows),
    )
    fetch = script([])

    async def body():
        assert await runtime.call(pipeline, fetch) == []

    runtime.run(body)
    assert fetch.calls == 3
    assert pipeline.policies[2].state is CircuitState.OPEN


def test_on_says_for_every_part_which_errors_are_bad(runtime, fake_clock):
    pipeline = Pipeline.standard(
        "stock", retry=Retry(**QUICK), circuit_breaker=CircuitBreaker(consecutive_failures=1), on=OSError
    )
    fetch = script(KeyError)

    async def body():
        with pytest.raises(KeyError):
            await runtime.call(pipeline, fetch)

    runtime.run(body)
    assert fetch.calls == 1
    assert pipeline.policies[2].state is CircuitState.CLOSED


def test_a_cancelled_call_gives_everything_back(async_runtime, fake_clock):
    pipeline = Pipeline.standard("stock", circuit_breaker=CircuitBreaker(consecutive_failures=1))

    async def body():
        dependency = Dependency(async_runtime)
        job = async_runtime.spawn(async_runtime.wrap(pipeline, dependency.ask))
        await dependency.called(1)
        async_runtime.cancel(job)
        await job.join()
        assert isinstance(job.error, async_runtime.cancelled)
        assert len(dependency.requests) == 1
        assert pipeline.policies[2].state is CircuitState.CLOSED

    async_runtime.run(body)
