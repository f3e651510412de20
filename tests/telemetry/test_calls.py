"""Calls by outcome and latency, counted alike in generated code and in flows."""

import asyncio

import pytest

from resilience import (
    CircuitBreaker,
    ConcurrencyLimiter,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    Timeout,
    deadline,
    telemetry,
)
from resilience.backoff import constant
from resilience.errors import DeadlineExceededError, RejectedError
from resilience.telemetry._registry import BOUNDS

from .otel import Otel

ENDINGS = ("success", "failure", "rejected", "cancelled")


@pytest.fixture(params=["generated", "flows"])
def counted(request: pytest.FixtureRequest, otel: Otel, monkeypatch: pytest.MonkeyPatch) -> Otel:
    """Calls are counted, in generated code and in flows."""
    if request.param == "flows":
        monkeypatch.setenv("RESILIENCE_COMPILE", "0")
    telemetry.configure(call_metrics=True)
    return otel


def calls(otel: Otel, name: str) -> dict[str, float]:
    """How many calls ended how, but for zeros."""
    counts = {ending: otel.value("resilience.calls", name, outcome=ending) or 0 for ending in ENDINGS}
    return {ending: count for ending, count in counts.items() if count}


def buckets(otel: Otel, name: str) -> list[float | None]:
    texts = [*(f"{bound:g}" for bound in BOUNDS), "+Inf"]
    return [otel.value("resilience.call.buckets", name, bound=text) for text in texts]


class Answers:
    """A function that takes time, and raises where it is told to."""

    def __init__(self, clock, *steps: tuple[float, BaseException | None]) -> None:
        self._clock = clock
        self._steps = list(steps)

    def __call__(self) -> int:
        seconds, error = self._steps.pop(0)
        self._clock.advance(seconds)
        if error is not None:
            raise error
        return 7


@pytest.mark.parametrize(
    "parts",
    [
        lambda: [Retry(attempts=2, backoff=constant(0.0), budget=None)],
        lambda: [CircuitBreaker(), ConcurrencyLimiter(limit=3)],
        lambda: [Timeout(20.0), RateLimiter(rate=1000)],
        lambda: [CircuitBreaker(), Timeout(None)],
    ],
)
def test_calls_are_counted_by_outcome_and_time(counted: Otel, fake_clock, parts) -> None:
    pipeline = Pipeline("inventory", *parts())
    answers = Answers(fake_clock, (0.003, None), (0.004, None), (0.2, None), (0.6, None), (11.0, None))

    @pipeline
    def fetch() -> int:
        return answers()

    for _ in range(5):
        fetch()
    assert calls(counted, "inventory") == {"success": 5}
    assert buckets(counted, "inventory") == [2, 2, 2, 2, 2, 2, 3, 3, 4, 4, 4, 4, 4, 4, 5]
    assert counted.value("resilience.call.time", "inventory") == pytest.approx(11.807)


def test_a_call_that_is_retried_is_one_with_all_its_time(counted: Otel, fake_clock) -> None:
    pipeline = Pipeline("retried", Retry(attempts=3, backoff=constant(2.0), budget=None), CircuitBreaker())
    answers = Answers(
        fake_clock,
        *[(0.0, None)] * 2,
        (1.0, ConnectionError()), (1.0, ConnectionError()), (0.5, None),
        *[(0.1, ConnectionError())] * 3,
    )  # fmt: skip

    @pipeline
    def fetch() -> int:
        return answers()

    fetch()
    fetch()
    fetch()
    with pytest.raises(ConnectionError):
        fetch()
    assert calls(counted, "retried") == {"success": 3, "failure": 1}
    assert counted.value("resilience.call.time", "retried") == pytest.approx(6.5 + 4.3)


@pytest.mark.parametrize("make", [lambda: CircuitBreaker("alone"), lambda: Retry("alone", attempts=1)])
def test_a_failure_is_counted_once_with_its_time(counted: Otel, fake_clock, make) -> None:
    policy: Policy = make()
    answers = Answers(fake_clock, (0.0, None), (0.0, None), (0.3, ConnectionError()))

    @policy
    def fetch() -> int:
        return answers()

    fetch()
    fetch()
    with pytest.raises(ConnectionError):
        fetch()
    assert calls(counted, "alone") == {"success": 2, "failure": 1}
    assert counted.value("resilience.call.time", "alone") == pytest.approx(0.3)


def test_a_refused_call_is_rejected_and_takes_no_time(counted: Otel) -> None:
    breaker = CircuitBreaker("refusing")
    guarded = breaker(lambda: 7)
    guarded()
    guarded()
    with breaker.isolate():
        for _ in range(3):
            with pytest.raises(RejectedError):
                guarded()
    assert calls(counted, "refusing") == {"success": 2, "rejected": 3}
    assert buckets(counted, "refusing")[-1] == 2


def test_a_call_without_any_time_left_is_rejected(counted: Otel, fake_clock) -> None:
    def late() -> int:
        raise DeadlineExceededError

    with pytest.raises(DeadlineExceededError), deadline(10.0):
        Retry("late", attempts=1).call(late)
    assert calls(counted, "late") == {"rejected": 1}


def test_a_call_that_is_cut_short_is_cancelled(counted: Otel) -> None:
    plan = [None, None, KeyboardInterrupt()]

    @CircuitBreaker("cut")
    def fetch() -> int:
        error = plan.pop(0)
        if error is not None:
            raise error
        return 7

    fetch()
    fetch()
    with pytest.raises(KeyboardInterrupt):
        fetch()
    assert calls(counted, "cut") == {"success": 2, "cancelled": 1}


def test_a_task_that_is_cancelled_is_a_cancelled_call(counted: Otel) -> None:
    @CircuitBreaker("task")
    async def fetch(seconds: float) -> int:
        await asyncio.sleep(seconds)
        return 7

    async def main() -> None:
        await fetch(0.0)
        await fetch(0.0)
        task = asyncio.create_task(fetch(60.0))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert calls(counted, "task") == {"success": 2, "cancelled": 1}


def test_what_a_classifier_finds_good_is_a_success_and_what_it_finds_bad_a_failure(counted: Otel) -> None:
    from resilience import bad_results

    @Retry("judged", attempts=1, classify=bad_results(lambda value: value < 0))
    def fetch(value: int) -> int:
        return value

    fetch(1)
    fetch(-1)
    assert calls(counted, "judged") == {"success": 1, "failure": 1}

    @CircuitBreaker("excused", on=ConnectionError)
    def missing() -> int:
        raise KeyError

    with pytest.raises(KeyError):
        missing()
    assert calls(counted, "excused") == {"success": 1}


def test_calls_go_by_the_pipelines_classifier_though_none_of_its_policies_does(counted: Otel) -> None:
    from resilience import bad_results

    breaker = CircuitBreaker("own", on=OSError)

    @Pipeline("outside", breaker, classify=bad_results(lambda value: value < 0))
    def fetch(value: int) -> int:
        return value

    fetch(1)
    fetch(-1)
    assert calls(counted, "outside") == {"success": 1, "failure": 1}


def test_a_classifier_that_fails_is_not_asked_in_vain(counted: Otel) -> None:
    def broken(outcome: object, context: object) -> object:
        raise ZeroDivisionError

    @Timeout(5.0, name="broken")
    def fetch() -> int:
        return 7

    pipeline = Pipeline("broken", Timeout(5.0), classify=broken)
    assert pipeline.call(fetch) == 7
    assert calls(counted, "broken")["success"] >= 1


def test_a_stream_is_one_call_that_ends_when_it_was_read(counted: Otel, fake_clock) -> None:
    @CircuitBreaker("stream")
    def lines():
        yield 1
        fake_clock.advance(3.0)
        yield 2

    stream = lines()
    next(stream)
    assert calls(counted, "stream") == {}
    assert list(stream) == [2]
    assert calls(counted, "stream") == {"success": 1}
    assert counted.value("resilience.call.time", "stream") == pytest.approx(3.0)
    abandoned = lines()
    next(abandoned)
    abandoned.close()
    assert calls(counted, "stream") == {"success": 1, "cancelled": 1}


def test_a_call_by_hand_is_counted_as_well(counted: Otel) -> None:
    breaker = CircuitBreaker("by-hand")
    breaker.call(len, "four")
    assert calls(counted, "by-hand") == {"success": 1}


def test_a_pipeline_within_a_pipeline_is_not_counted_by_itself(counted: Otel) -> None:
    inner = Pipeline("inner", CircuitBreaker())
    outer = Pipeline("outer", Retry(budget=None), inner)
    guarded = outer(lambda: 7)
    guarded()
    guarded()
    assert calls(counted, "outer") == {"success": 2}
    assert calls(counted, "inner") == {}


def test_it_can_be_switched_on_and_off_for_what_is_guarded_already(otel: Otel) -> None:
    guarded = CircuitBreaker("switched")(lambda: 7)
    guarded()
    guarded()
    telemetry.configure(call_metrics=True)
    guarded()
    guarded()
    assert calls(otel, "switched") == {"success": 2}
    telemetry.configure(call_metrics=False)
    guarded()
    assert calls(otel, "switched") == {"success": 2}


def test_generated_code_stays_generated(otel: Otel) -> None:
    telemetry.configure(call_metrics=True)
    breaker = CircuitBreaker("written")
    assert "bisect" in breaker.source(breaker(lambda: 7))
