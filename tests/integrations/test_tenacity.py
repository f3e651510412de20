"""Our budget, circuits, deadlines and Retry-After under tenacity's own @retry, sync and async."""

import asyncio
import gc

import pytest
import tenacity

from resilience import CircuitBreaker, CircuitOpenError, Outcome, RetryBudget, Verdict, deadline
from resilience.backoff import constant, sequence
from resilience.errors import ConfigError, DeadlineExceededError
from resilience.integrations.tenacity import (
    Paid,
    retry_if_bad,
    stop_before_deadline,
    stop_while_open,
    wait_backoff,
    wait_retry_after,
)

PLAIN = {"sleep": lambda seconds: None, "reraise": True}


class Throttled(Exception):
    def __init__(self, retry_after):
        super().__init__("429")
        self.retry_after = retry_after


class Ledger:
    """A budget that writes down what it is told."""

    def __init__(self, pays=True):
        self.pays = pays
        self.told = []

    def deposit(self):
        self.told.append("deposit")

    def try_withdraw(self, verdict=Verdict.BAD):
        self.told.append(("withdraw", verdict))
        return int(self.pays)

    def fail(self, verdict=Verdict.BAD):
        self.told.append(("fail", verdict))

    def release(self):
        self.told.append("release")

    def finish(self, *, good, charges=0):
        self.told.append(("finish", good, charges))


def failing(times, error=None):
    left = [error or OSError("down")] * times

    def fn():
        if left:
            raise left.pop()
        return "up"

    return fn


def state(attempt=1, error=None, value=None, sleep=0.0):
    made = tenacity.RetryCallState(None, None, (), {})
    made.attempt_number = attempt
    made.upcoming_sleep = sleep
    made.outcome = tenacity.Future(attempt)
    if error is not None:
        made.outcome.set_exception(error)
    else:
        made.outcome.set_result(value)
    return made


# --- the budget ---


def test_a_call_that_goes_well_is_told_to_the_budget() -> None:
    budget = Ledger()
    paid = Paid(budget)
    assert tenacity.retry(retry=paid.retry(), stop=paid.stop(), **PLAIN)(failing(0))() == "up"
    assert budget.told == ["deposit", ("finish", True, 0)]


def test_each_further_attempt_is_paid_for_and_its_end_is_told() -> None:
    budget = Ledger()
    paid = Paid(budget)
    assert tenacity.retry(retry=paid.retry(), stop=paid.stop(), **PLAIN)(failing(2))() == "up"
    again = [("withdraw", Verdict.BAD), "release"]
    assert budget.told == ["deposit", *again, *again, ("finish", True, 2)]


def test_a_budget_that_does_not_pay_ends_the_attempts() -> None:
    budget = Ledger(pays=False)
    paid = Paid(budget)
    with pytest.raises(OSError, match="down"):
        tenacity.retry(retry=paid.retry(), stop=paid.stop(), **PLAIN)(failing(9, TimeoutError("down")))()
    assert budget.told == ["deposit", ("withdraw", Verdict.TIMED_OUT), ("finish", False, 0)]


def test_when_tenacity_stops_by_itself_nothing_is_withdrawn() -> None:
    budget = Ledger()
    paid = Paid(budget)
    stop = paid.stop(tenacity.stop_after_attempt(2))
    with pytest.raises(OSError, match="down"):
        tenacity.retry(retry=paid.retry(), stop=stop, **PLAIN)(failing(9))()
    paid_for = [("withdraw", Verdict.BAD), "release"]
    assert budget.told == ["deposit", *paid_for, ("fail", Verdict.BAD), ("finish", False, 1)]


def test_an_error_that_is_not_retried_is_told_as_a_failure() -> None:
    budget = Ledger()
    paid = Paid(budget)
    retry = paid.retry(tenacity.retry_if_exception_type(KeyError))
    with pytest.raises(OSError, match="down"):
        tenacity.retry(retry=retry, stop=paid.stop(), **PLAIN)(failing(1))()
    assert budget.told == ["deposit", ("fail", Verdict.BAD), ("finish", False, 0)]


def test_under_asyncio_it_is_the_same_and_a_cancelled_wait_is_told_too() -> None:
    budget = Ledger()
    paid = Paid(budget)

    @tenacity.retry(retry=paid.retry(), stop=paid.stop(), wait=tenacity.wait_fixed(60))
    async def fetch():
        raise OSError("down")

    async def main():
        task = asyncio.create_task(fetch())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    gc.collect()
    assert budget.told == ["deposit", ("withdraw", Verdict.BAD), "release", ("finish", False, 1)]


def test_a_real_budget_bounds_the_attempts_of_many_calls() -> None:
    budget = RetryBudget.ratio(0.1, min_per_second=0.1)
    paid = Paid(budget)
    sent = 0

    @tenacity.retry(retry=paid.retry(), stop=paid.stop(tenacity.stop_after_attempt(5)), **PLAIN)
    def fetch():
        nonlocal sent
        sent += 1
        raise OSError("down")

    for _ in range(100):
        with pytest.raises(OSError, match="down"):
            fetch()
    assert 100 < sent < 120


def test_half_of_it_says_what_is_missing() -> None:
    stop = Paid(Ledger()).stop()
    with pytest.raises(TypeError, match="needs Paid"):
        tenacity.retry(stop=stop, **PLAIN)(failing(1))()


# --- what is retried ---


@pytest.mark.parametrize(
    "error, retried",
    [
        (OSError(), True),
        (TimeoutError(), True),
        (Throttled(1.0), True),
        (CircuitOpenError("a", 1.0), False),
        (DeadlineExceededError(started=True), False),
        (None, False),
    ],
)
def test_refusals_and_missed_deadlines_are_not_retried(error, retried) -> None:
    assert retry_if_bad()(state(error=error, value=7)) is retried


def test_a_classifier_judges_results_too() -> None:
    def classify(outcome: Outcome[object], context: object) -> Verdict:
        return Verdict.BAD if outcome.value == "busy" else Verdict.GOOD

    assert retry_if_bad(classify)(state(value="busy"))
    assert not retry_if_bad(classify)(state(value="fine"))


def test_an_interrupt_is_not_retried() -> None:
    assert not retry_if_bad()(state(error=KeyboardInterrupt()))


# --- when it stops ---


def test_it_stops_before_a_wait_that_the_deadline_would_cut() -> None:
    stop = stop_before_deadline()
    assert not stop(state(sleep=1000.0))
    with deadline(5.0):
        assert not stop(state(sleep=1.0))
        assert stop(state(sleep=5.0))


def test_it_stops_while_the_circuit_is_open_for_longer_than_the_wait(fake_clock) -> None:
    breaker = CircuitBreaker(consecutive_failures=1, break_duration=10.0, break_jitter=0.0)
    stop = stop_while_open(breaker)
    assert not stop(state(sleep=1.0))
    with pytest.raises(OSError, match="down"):
        breaker.call(failing(1))
    assert stop(state(sleep=1.0))
    assert not stop(state(sleep=10.5))
    fake_clock.advance(10.0)
    assert not stop(state(sleep=0.1))
    breaker.isolate()
    assert stop(state(sleep=1000.0))


def test_they_combine_with_tenacitys_own() -> None:
    stop = stop_before_deadline() | tenacity.stop_after_attempt(2)
    assert [stop(state(attempt=number)) for number in (1, 2)] == [False, True]
    retry = retry_if_bad() & tenacity.retry_if_exception_type(OSError)
    assert [retry(state(error=error)) for error in (OSError(), KeyError())] == [True, False]
    wait = wait_backoff(constant(1.0)) + tenacity.wait_fixed(2.0)
    assert wait(state()) == 3.0


# --- how long it waits ---


def test_a_backoff_of_ours_gives_the_delays_of_each_call() -> None:
    wait = wait_backoff(sequence(0.1, 0.2, 0.4))
    call = state()
    delays = []
    for number in (1, 2, 3):
        call.attempt_number = number
        delays.append(wait(call))
    assert delays == [0.1, 0.2, 0.4]
    assert wait(state()) == 0.1


@pytest.mark.parametrize(
    "asked, window, waited",
    [(None, 5.0, 0.2), (0.1, 5.0, 0.2), (3.0, 5.0, 3.2), (60.0, 5.0, 5.4), (60.0, None, 60.2)],
)
def test_retry_after_prolongs_the_wait_within_its_window(asked, window, waited) -> None:
    wait = wait_retry_after(tenacity.wait_fixed(0.2), window=window)
    assert wait(state(error=Throttled(asked))) == pytest.approx(waited)


def test_retry_after_is_found_in_responses_by_a_classifier() -> None:
    import httpx2

    from resilience.integrations.httpx import http_verdict

    wait = wait_retry_after(wait_backoff(constant(0.0)), classify=http_verdict)
    assert wait(state(value=httpx2.Response(429, headers={"Retry-After": "3"}))) == 3.0
    assert wait(state(value=httpx2.Response(200))) == 0.0


@pytest.mark.parametrize(
    "make, setting",
    [
        (lambda: Paid(3), "budget"),
        (lambda: stop_while_open("breaker"), "breaker"),
        (lambda: wait_backoff(0.5), "backoff"),
        (lambda: wait_retry_after(window=-1.0), "window"),
        (lambda: wait_retry_after(window=float("nan")), "window"),
    ],
)
def test_a_wrong_setting_is_named(make, setting) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert [problem.setting for problem in caught.value.problems] == [setting]
