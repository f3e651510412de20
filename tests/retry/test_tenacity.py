"""tenacity's ``stop_*``, ``wait_*`` and ``retry_*`` objects in a `Retry`, with our clock and our rules around them."""

import subprocess
import sys
import threading

import pytest
import tenacity
import tenacity.asyncio
from tests.dependency import Draws
from tests.doubles import raising

from resilience._runtime.pipeline import Pipeline
from resilience.backoff import LONGEST, constant
from resilience.deadline import deadline
from resilience.errors import CircuitOpenError, ConfigError, DeadlineExceededError
from resilience.outcome import any_error_is_bad
from resilience.retry import Retry
from resilience.retry_budget import RetryBudget
from resilience.testing import delayed, fail_times, script


def retrying(**settings):
    """A retry without delay, jitter, budget or number of attempts, unless they are given."""
    return Retry("stock", **{"attempts": 9, "backoff": constant(0.0), "budget": None, **settings})


def failures(runtime, outcome=ConnectionError, error=ConnectionError, **settings):
    """Make a call that fails until the retry gives up; return how often it was made."""
    fetch = script(outcome)

    async def body():
        with pytest.raises(error):
            await runtime.call(retrying(**settings), fetch)

    runtime.run(body)
    return fetch.calls


def slow_enough(state):
    return state.seconds_since_start >= 2.5


# --- stop --------------------------------------------------------------------------------------------------------


def test_stop_after_attempt(runtime):
    assert failures(runtime, stop=tenacity.stop_after_attempt(4)) == 4


def test_stop_after_attempt_takes_the_place_of_a_number_of_attempts(runtime):
    assert failures(runtime, attempts=None, stop=tenacity.stop_after_attempt(4)) == 4


def test_a_number_of_attempts_holds_beside_a_stop_rule(runtime):
    assert failures(runtime, attempts=3, stop=tenacity.stop_after_attempt(7)) == 3


def test_stop_after_delay_reads_our_clock(runtime, fake_clock):
    stop = tenacity.stop_after_delay(2.5)
    assert failures(runtime, backoff=constant(1.0), stop=stop) == 4
    assert fake_clock.sleeps == [1.0] * 3


def test_stop_after_delay_counts_the_attempts_too(runtime, fake_clock):
    outcome = delayed(1.0, ConnectionError())
    assert failures(runtime, outcome, stop=tenacity.stop_after_delay(2.5)) == 3


@pytest.mark.parametrize("settings", [{"stop": tenacity.stop_after_delay(2.5)}, {"stop": slow_enough}])
def test_a_decorated_function_counts_its_first_attempt_too(runtime, fake_clock, settings):
    fetch = script(delayed(1.0, ConnectionError()))

    async def body():
        guarded = runtime.wrap(retrying(**settings), fetch)
        with pytest.raises(ConnectionError):
            await guarded()

    runtime.run(body)
    assert fetch.calls == 3


def test_stop_before_delay_knows_the_delay_to_come(runtime, fake_clock):
    stop = tenacity.stop_before_delay(2.5)
    assert failures(runtime, backoff=constant(1.0), stop=stop) == 3
    assert fake_clock.sleeps == [1.0] * 2


def test_stop_when_event_set(runtime):
    event = threading.Event()
    event.set()
    assert failures(runtime, stop=tenacity.stop_when_event_set(event)) == 1


def test_either_of_two_stop_rules_stops(runtime, fake_clock):
    stop = tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(10)
    assert failures(runtime, backoff=constant(1.0), stop=stop) == 3
    stop = tenacity.stop_after_attempt(7) | tenacity.stop_after_delay(1.5)
    assert failures(runtime, backoff=constant(1.0), stop=stop) == 3


def test_both_of_two_stop_rules_stop(runtime, fake_clock):
    stop = tenacity.stop_after_attempt(2) & tenacity.stop_after_delay(3.5)
    assert failures(runtime, backoff=constant(1.0), stop=stop) == 5


def test_a_stop_rule_that_never_stops_leaves_it_to_the_number_of_attempts(runtime):
    assert failures(runtime, attempts=3, stop=tenacity.stop_never) == 3


# --- wait --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wait", "delays"),
    [
        (tenacity.wait_none(), []),
        (tenacity.wait_fixed(0.5), [0.5, 0.5, 0.5]),
        (tenacity.wait_incrementing(start=1, increment=2), [1.0, 3.0, 5.0]),
        (tenacity.wait_exponential(multiplier=1, max=3), [1.0, 2.0, 3.0]),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(2)), [1.0, 2.0, 2.0]),
        (tenacity.wait_fixed(1) + tenacity.wait_incrementing(0, 1), [1.0, 2.0, 3.0]),
        (tenacity.wait_combine(tenacity.wait_fixed(1), tenacity.wait_fixed(2)), [3.0, 3.0, 3.0]),
        (sum([tenacity.wait_fixed(1), tenacity.wait_fixed(2)]), [3.0, 3.0, 3.0]),
        (tenacity.wait_random(1, 1) + tenacity.wait_random(0, 0), [1.0, 1.0, 1.0]),
    ],
    ids=["none", "fixed", "incrementing", "exponential", "chain", "plus", "combine", "sum", "random"],
)
def test_wait_objects_decide_the_delays(runtime, fake_clock, wait, delays):
    failures(runtime, attempts=4, backoff=wait)
    assert fake_clock.sleeps == delays


def test_random_waits_stay_in_their_range(runtime, fake_clock):
    failures(runtime, backoff=tenacity.wait_random(1, 2) + tenacity.wait_random_exponential(max=1))
    assert len(fake_clock.sleeps) == 8
    assert all(1.0 <= delay <= 3.0 for delay in fake_clock.sleeps)


def test_a_wait_object_may_look_at_the_error(runtime, fake_clock):
    wait = tenacity.wait_exception(lambda error: error.args[0])
    failures(runtime, ConnectionError(0.7), attempts=2, backoff=wait)
    assert fake_clock.sleeps == [0.7]


def test_a_wait_object_sees_the_whole_state_of_the_call(runtime, fake_clock):
    seen = []

    class Spy(tenacity.wait.wait_base):
        def __call__(self, state):
            seen.append(
                (state.attempt_number, state.seconds_since_start, state.idle_for, state.args, state.kwargs)
            )
            assert isinstance(state.outcome.exception(), ConnectionError)
            return 2.0

    async def body():
        fetch = script(delayed(1.0, ConnectionError()))
        with pytest.raises(ConnectionError):
            await runtime.call(retrying(attempts=3, backoff=Spy()), fetch, "a-1", count=2)

    runtime.run(body)
    assert seen == [
        (1, pytest.approx(1.0), 0.0, ("a-1",), {"count": 2}),
        (2, pytest.approx(4.0), 2.0, ("a-1",), {"count": 2}),
    ]


def test_what_the_dependency_asks_for_prolongs_a_wait(runtime, fake_clock):
    class Overloaded(Exception):
        retry_after = 3.0

    failures(runtime, Overloaded, Overloaded, attempts=2, backoff=tenacity.wait_fixed(1))
    assert fake_clock.sleeps == [4.0]


def test_a_wait_is_bounded_by_the_deadline(runtime, fake_clock):
    fetch = script(ConnectionError)

    async def body():
        with deadline(1.0), pytest.raises(ConnectionError):
            await runtime.call(retrying(backoff=tenacity.wait_fixed(2)), fetch)

    runtime.run(body)
    assert fetch.calls == 1


@pytest.mark.parametrize(
    ("answer", "waited"), [(float("inf"), [LONGEST]), (float("nan"), []), (-1.0, [])], ids=repr
)
def test_a_wait_that_is_no_length_of_time_is_none_or_the_longest(runtime, fake_clock, answer, waited):
    class Odd(tenacity.wait.wait_base):
        def __call__(self, state):
            return answer

    failures(runtime, attempts=2, backoff=Odd())
    assert fake_clock.sleeps == waited


# --- retry -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "calls"),
    [
        (tenacity.retry_if_exception_type(ConnectionError), 3),
        (tenacity.retry_if_exception_type(KeyError), 1),
        (tenacity.retry_if_exception_type((KeyError, OSError)), 3),
        (tenacity.retry_if_not_exception_type(KeyError), 3),
        (tenacity.retry_if_not_exception_type(ConnectionError), 1),
        (tenacity.retry_if_exception(lambda error: "down" in str(error)), 3),
        (tenacity.retry_if_exception_message(match="up"), 1),
        (tenacity.retry_if_exception_cause_type(KeyError), 1),
        (tenacity.retry_never, 1),
        (tenacity.retry_always, 3),
    ],
    ids=[
        "type", "other type", "types", "not type", "not this type", "predicate", "message", "cause", "never",
        "always",
    ],
)  # fmt: skip
def test_retry_objects_decide_which_errors_are_retried(runtime, on, calls):
    assert failures(runtime, ConnectionError("down"), attempts=3, on=on) == calls


@pytest.mark.parametrize(
    ("on", "calls"),
    [
        (tenacity.retry_if_exception_type(KeyError) | tenacity.retry_if_exception_type(OSError), 3),
        (tenacity.retry_if_exception_type(OSError) & tenacity.retry_if_exception_message(message="down"), 3),
        (tenacity.retry_if_exception_type(OSError) & tenacity.retry_if_exception_message(message="up"), 1),
        (tenacity.retry_any(tenacity.retry_never, tenacity.retry_if_exception_type(OSError)), 3),
        (tenacity.retry_all(tenacity.retry_always, tenacity.retry_never), 1),
    ],
    ids=["or", "and", "and not", "any", "all"],
)
def test_retry_objects_combine(runtime, on, calls):
    assert failures(runtime, ConnectionError("down"), attempts=3, on=on) == calls


def test_a_retry_object_may_look_at_results(runtime):
    fetch = script([], ConnectionError, ["row"])
    on = tenacity.retry_if_result(lambda rows: not rows) | tenacity.retry_if_exception_type(ConnectionError)

    async def body():
        return await runtime.call(retrying(on=on), fetch)

    assert runtime.run(body) == ["row"]
    assert fetch.calls == 3


def test_a_retry_object_that_looks_at_results_only_lets_errors_out(runtime):
    on = tenacity.retry_if_result(lambda rows: not rows)
    assert failures(runtime, on=on) == 1


def test_a_retry_object_is_not_asked_about_refusals_and_missed_deadlines(runtime):
    asked = []
    on = tenacity.retry_if_exception(lambda error: asked.append(error) or True)
    for error in (CircuitOpenError("breaker"), DeadlineExceededError()):
        assert failures(runtime, error, type(error), on=on) == 1
    assert asked == []


def test_a_timeout_that_a_retry_object_retries_costs_what_a_timeout_costs(runtime, fake_clock):
    budget = RetryBudget.ratio(0.0, min_per_second=1.0, timeout_cost=2)
    on = tenacity.retry_if_exception_type(TimeoutError)
    failures(runtime, TimeoutError, TimeoutError, attempts=2, on=on, budget=budget)
    assert budget.level == 8


def test_a_retry_object_wins_over_the_classifier_of_the_pipeline(runtime):
    fetch = fail_times(1, ConnectionError, then="here")
    on = tenacity.retry_if_exception_type(ConnectionError)

    async def body():
        pipeline = Pipeline("stock", retrying(on=on), on=KeyError)
        return await runtime.call(pipeline, fetch)

    assert runtime.run(body) == "here"


# --- all together ------------------------------------------------------------------------------------------------


def test_everything_of_tenacity_at_once(runtime, fake_clock):
    fetch = fail_times(3, ConnectionError, then="here")
    retry = Retry(
        "stock",
        attempts=None,
        stop=tenacity.stop_after_attempt(5) | tenacity.stop_after_delay(30),
        backoff=tenacity.wait_exponential(multiplier=0.5) + tenacity.wait_random(0, 0),
        on=tenacity.retry_if_exception_type(ConnectionError),
        budget=None,
        rng=Draws(0.5),
    )

    async def body():
        return await runtime.call(retry, fetch)

    assert runtime.run(body) == "here"
    assert fake_clock.sleeps == [0.5, 1.0, 2.0]


def test_the_error_itself_comes_out_and_no_retry_error(runtime):
    error = ConnectionError("down")

    async def body():
        with pytest.raises(ConnectionError) as caught:
            await runtime.call(retrying(stop=tenacity.stop_after_attempt(2)), raising(error))
        assert caught.value is error

    runtime.run(body)


def test_a_stream_is_begun_again_by_tenacitys_rules(runtime):
    begun = []

    async def stream():
        begun.append(True)
        if len(begun) < 3:
            raise ConnectionError
        yield "row"

    async def body():
        retry = retrying(on=tenacity.retry_if_exception_type(ConnectionError), backoff=tenacity.wait_none())
        return [item async for item in runtime.wrap(retry, stream)()]

    assert runtime.run(body) == ["row"]


@pytest.mark.parametrize(
    "settings",
    [
        {"backoff": tenacity.stop_after_attempt(3)},
        {"backoff": tenacity.retry_always},
        {"stop": tenacity.wait_fixed(1)},
        {"stop": tenacity.retry_always},
        {"on": tenacity.stop_after_attempt(3)},
        {"on": tenacity.asyncio.retry_if_result(lambda rows: not rows)},
        {"on": tenacity.retry_always | tenacity.asyncio.retry_if_result(lambda rows: not rows)},
    ],
    ids=[
        "stop as backoff",
        "retry as backoff",
        "wait as stop",
        "retry as stop",
        "stop as on",
        "async",
        "partly async",
    ],
)
def test_an_object_in_the_wrong_place_is_refused(settings):
    with pytest.raises(ConfigError) as caught:
        Retry(**settings)
    assert [problem.setting for problem in caught.value.problems] == list(settings)


def test_a_retry_object_cannot_be_combined_with_a_classifier():
    with pytest.raises(ConfigError, match="cannot be combined with on="):
        Retry(on=tenacity.retry_always, classify=any_error_is_bad)


def test_without_its_objects_tenacity_is_not_imported():
    program = (
        "import sys; from resilience import Retry; "
        "f = iter([OSError(), None]); "
        "ask = Retry(backoff=lambda context: 0.0, stop=None)(lambda: (_ for _ in ()).throw(e) if (e := next(f)) else 1); "
        "assert ask() == 1; "
        "sys.exit('tenacity' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
