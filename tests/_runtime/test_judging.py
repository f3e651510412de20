"""Values that somebody may find bad, in generated code."""

import asyncio
import gc
import weakref

import pytest
from tests.collector import collector_off

from resilience import (
    CircuitBreaker,
    ConcurrencyLimiter,
    Pipeline,
    Retry,
    Timeout,
    Verdict,
    bad_results,
    deadline,
)
from resilience._runtime import compile as compiling
from resilience.backoff import constant
from resilience.deadline import current_deadline
from resilience.errors import DeadlineExceededError
from resilience.testing import FakeClock

pytestmark = pytest.mark.skipif(not compiling.is_on(), reason="nothing is generated here")


@pytest.fixture(params=["generated", "driven"])
def way(request, monkeypatch):
    """Both ways through a policy."""
    if request.param == "driven":
        monkeypatch.setattr(compiling, "is_on", lambda: False)
    return request.param


def is_hot(guarded):
    return "except " in (compiling.source_of(guarded) or "")


def whole(**judge):
    return Pipeline(
        "whole",
        Timeout(60.0),
        Retry(attempts=2, backoff=constant(0.0), budget=None),
        CircuitBreaker(consecutive_failures=9),
        ConcurrencyLimiter(limit=2),
        **judge,
    )


def test_a_classifier_is_asked_once_for_all_policies():
    asked = []
    guarded = whole(classify=bad_results(asked.append))(lambda: 7)
    assert guarded() == 7
    assert is_hot(guarded)
    assert asked == [7]


def test_a_general_classifier_is_asked_once_for_each_deadline_it_is_told():
    told = []

    def classify(outcome, context):
        told.append(context.deadline)
        return Verdict.GOOD

    pipeline = Pipeline(
        "p", CircuitBreaker(), Retry(), Timeout(5.0), ConcurrencyLimiter(), Timeout(1.0), classify=classify
    )
    with FakeClock(start=100.0):
        guarded = pipeline(lambda: 7)
        assert guarded() == 7
        assert is_hot(guarded)
    assert told == [105.0, None]


@pytest.mark.parametrize(("seconds", "expected"), [(3.0, [103.0, 103.0]), (9.0, [105.0, 109.0])])
@pytest.mark.parametrize("value", [7, None])
def test_a_general_classifier_is_told_the_callers_deadline(way, seconds, expected, value):
    told = []

    def classify(outcome, context):
        told.append(context.deadline)
        return Verdict.BAD if outcome.value is None else Verdict.GOOD

    pipeline = Pipeline("p", CircuitBreaker(), Timeout(5.0), ConcurrencyLimiter(), classify=classify)
    with FakeClock(start=100.0), deadline(seconds):
        assert pipeline(lambda: value)() == value
    assert set(told) == set(expected)


@pytest.mark.parametrize("limits", [[], [Timeout(20.0)]])
@pytest.mark.parametrize("values", [[7], [None, 7]])
def test_a_deadline_of_a_task_does_not_keep_a_general_classifier_from_being_asked(way, limits, values):
    told = []

    def classify(outcome, context):
        told.append(context.deadline)
        return Verdict.BAD if outcome.value is None else Verdict.GOOD

    async def fetch():
        await asyncio.sleep(0)
        return values.pop(0)

    values = list(values)
    retry = Retry(attempts=2, backoff=constant(0.0), budget=None)
    pipeline = Pipeline("p", *limits, retry, ConcurrencyLimiter(limit=1), classify=classify)
    guarded = pipeline(fetch)

    async def main():
        with deadline(10.0):
            until = current_deadline()
            return await guarded(), until

    value, until = asyncio.run(main())
    assert value == 7
    assert set(told) == {until}
    assert is_hot(guarded) == (way == "generated")
    assert pipeline.policies[-1].inflight == 0


@pytest.mark.parametrize("limits", [[], [Timeout(20.0)]])
def test_a_task_is_cut_short_while_it_waits_to_replace_a_bad_value(way, limits):
    retry = Retry(attempts=2, backoff=constant(5.0), budget=None)
    places = ConcurrencyLimiter(limit=1)
    pipeline = Pipeline("p", *limits, retry, places, classify=lambda outcome, context: Verdict.BAD)

    @pipeline
    async def fetch():
        return 7

    async def main():
        task = asyncio.current_task()
        with deadline(10.0):
            until = asyncio.timeout(0.05)
            with pytest.raises(TimeoutError):
                async with until:
                    await fetch()
        return task.cancelling()

    assert asyncio.run(main()) == 0
    assert (retry.stops["cancelled"], places.inflight) == (1, 0)


@pytest.mark.parametrize("limits", [[], [Timeout(20.0)]])
@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError])
def test_an_interrupted_classifier_leaves_no_deadline_of_its_task_behind(limits, error):
    def interrupted(value):
        raise error

    places = ConcurrencyLimiter(limit=1)
    pipeline = Pipeline("p", *limits, places, classify=bad_results(interrupted))

    @pipeline
    async def fetch():
        return 7

    async def main():
        task = asyncio.current_task()
        with deadline(0.05), pytest.raises(error):
            await fetch()
        await asyncio.sleep(0.1)  # past the deadline, which nobody keeps any more
        return task.cancelling()

    assert asyncio.run(main()) == 0
    assert places.inflight == 0


@pytest.mark.parametrize("limits", [[], [Timeout(20.0)]])
@pytest.mark.parametrize("value", [7, None])
def test_an_attempt_that_comes_too_late_is_cut_short_though_values_are_judged(way, limits, value):
    pipeline = Pipeline("p", *limits, CircuitBreaker(), classify=bad_results(lambda value: value is None))

    @pipeline
    async def fetch(seconds):
        await asyncio.sleep(seconds)
        return value

    async def main():
        with deadline(0.05):
            assert await fetch(0.0) is value
            with pytest.raises(DeadlineExceededError):
                await fetch(5.0)
        await asyncio.sleep(0)
        return asyncio.current_task().cancelling()

    assert asyncio.run(main()) == 0


def test_further_attempts_are_judged_and_know_which_they_are(way):
    attempts = []

    def classify(outcome, context):
        attempts.append(context.attempt)
        return Verdict.BAD

    breaker = CircuitBreaker(consecutive_failures=9)
    retry = Retry(attempts=3, backoff=constant(0.0), budget=None)
    pipeline = Pipeline("p", retry, breaker, classify=classify)
    assert pipeline(lambda: 7)() == 7
    assert dict.fromkeys(attempts) == dict.fromkeys([1, 2, 3])
    assert breaker._circuit.ended[Verdict.BAD] == 3


def test_an_attempt_after_an_error_is_judged_too(way):
    values = [OSError(), None, 7]

    def fetch():
        value = values.pop(0)
        if isinstance(value, OSError):
            raise value
        return value

    retry = Retry(attempts=3, backoff=constant(0.0), budget=None)
    pipeline = Pipeline("p", retry, CircuitBreaker(), classify=bad_results(lambda value: value is None))
    assert pipeline(fetch)() == 7
    assert retry.retries == 2


def test_blocks_and_calls_by_hand_are_judged(way):
    breaker = CircuitBreaker(consecutive_failures=9, classify=bad_results(lambda value: value is None))
    for _ in range(2):
        assert breaker.call(lambda: 7) == 7
        assert breaker.call(lambda: None) is None
        with breaker.guard():
            """Return nothing, as blocks do."""
    assert (breaker._circuit.ended[Verdict.BAD], breaker._circuit.good) == (4, 2)


@pytest.mark.parametrize("is_general", [False, True])
def test_a_classifier_that_leads_back_to_the_function_is_collected_with_it(is_general):
    class Judge:
        def is_bad(self, value):
            return False

        def classify(self, outcome, context):
            return Verdict.GOOD

    def make():
        judge = Judge()
        classify = judge.classify if is_general else bad_results(judge.is_bad)
        judge.guarded = CircuitBreaker(classify=classify)(lambda: 7)
        assert [judge.guarded() for _ in range(3)] == [7, 7, 7]
        assert is_hot(judge.guarded)
        return weakref.ref(judge)

    known = make()
    gc.collect()
    assert known() is None


def test_policies_ask_their_own_classifier_and_what_bounds_time_asks_nobody():
    asked = []

    def judge(name):
        return bad_results(lambda value: asked.append(name))

    limiter = ConcurrencyLimiter(classify=judge("limiter"))
    pipeline = Pipeline("p", Timeout(1.0), CircuitBreaker(on=OSError), limiter, classify=judge("pipeline"))
    pipeline(lambda: 7)()
    assert asked == ["limiter"]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_bad_value_is_tried_again_and_a_good_one_comes_out(way, is_async):
    values = [None, 7]

    def fetch():
        return values.pop(0)

    async def afetch():
        return values.pop(0)

    pipeline = whole(classify=bad_results(lambda value: value is None))
    if is_async:
        assert asyncio.run(pipeline(afetch)()) == 7
    else:
        assert pipeline(fetch)() == 7
    _, retry, breaker, places = pipeline.policies
    assert (retry.retries, breaker._circuit.good, places.inflight) == (1, 1, 0)


def test_a_bad_value_that_only_counts_is_returned_without_a_flow(monkeypatch):
    breaker = CircuitBreaker("b", consecutive_failures=9, classify=bad_results(lambda value: value is None))
    guarded = breaker(lambda: None)
    guarded()
    monkeypatch.setattr("resilience._runtime.drive.run", None)
    assert guarded() is None
    assert breaker._circuit.ended[Verdict.BAD] == 2


class NoTruth:
    def __bool__(self):
        raise ArithmeticError("neither true nor false")


@pytest.mark.parametrize(
    ("classify", "error"),
    [
        (bad_results(lambda value: value["x"]), TypeError),
        (bad_results(lambda value: NoTruth()), ArithmeticError),
        (lambda outcome, context: None, TypeError),
        (lambda outcome, context: outcome.value["x"], TypeError),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_classifier_raises_comes_out_and_teaches_nothing(way, classify, error, is_async):
    pipeline = whole(classify=classify)

    async def fetch():
        return 7

    with pytest.raises(error):
        asyncio.run(pipeline(fetch)()) if is_async else pipeline(lambda: 7)()
    _, retry, breaker, places = pipeline.policies
    assert (retry.stops["cancelled"], breaker._circuit.cancelled, places.inflight) == (1, 1, 0)
    assert current_deadline() is None


@pytest.mark.parametrize("is_async", [False, True])
def test_an_interrupted_classifier_gives_back_what_is_held(is_async):
    def interrupted(value):
        raise KeyboardInterrupt

    pipeline = whole(classify=bad_results(interrupted))

    async def fetch():
        return 7

    guarded = pipeline(fetch if is_async else lambda: 7)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(guarded()) if is_async else guarded()
    assert is_hot(guarded)
    _, retry, breaker, places = pipeline.policies
    assert (retry.stops["cancelled"], breaker._circuit.cancelled, places.inflight) == (1, 1, 0)
    assert current_deadline() is None


@pytest.mark.parametrize("judge", [bad_results(lambda value: True), lambda outcome, context: Verdict.BAD])
def test_a_coroutine_is_no_value_to_judge(way, judge):
    async def fetch():
        """Never runs."""

    pipeline = whole(classify=judge)
    with pytest.raises(TypeError, match="returned a coroutine"):
        pipeline(lambda: fetch())()
    assert pipeline.policies[3].inflight == 0


NAMES = [
    "outcome",
    "is_good",
    "GOOD",
    "PLAIN",
    "CallContext",
    "Outcome",
    "value",
    "is_bad_3",
    "classify_3",
    "at",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "classify", [bad_results(lambda value: value == 0), lambda outcome, context: Verdict.GOOD]
)
def test_a_parameter_may_have_any_name(name, classify):
    namespace = {}
    exec(f"def fetch({name}):\n    return {name}", namespace)  # a function with such a parameter
    pipeline = Pipeline("p", Timeout(9.0), Retry(attempts=1), CircuitBreaker(), classify=classify)
    guarded = pipeline(namespace["fetch"])
    assert [guarded(0), guarded(1)] == [0, 1]
    assert is_hot(guarded)


def test_a_change_of_settings_within_the_first_call_leaves_that_call_alone(way):
    retry = Retry("r", attempts=1, backoff=constant(0.0), budget=None)
    pipeline, calls = Pipeline("p", retry, classify=bad_results(lambda value: value is None)), []

    @pipeline
    def fetch():
        calls.append(1)
        retry.reconfigure(attempts=2)

    fetch()
    assert len(calls) == 1


def test_what_a_classifier_raises_leaves_no_cycle_behind():
    class Unjudged(Exception):
        """An error that can be referred to weakly."""

    def fail(value):
        raise Unjudged

    pipeline = whole(classify=bad_results(fail))

    @pipeline
    async def fetch():
        return 7

    async def body():
        try:
            await fetch()
        except Unjudged as error:
            return weakref.ref(error)

    with collector_off():
        assert asyncio.run(body())() is None
