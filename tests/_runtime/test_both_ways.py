"""Generated code and flows decide, count, report and raise alike, whatever happens."""

import asyncio
import warnings
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from types import FunctionType
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from resilience import (
    AdaptiveThrottle,
    Cache,
    CircuitBreaker,
    CircuitOpenError,
    ConcurrencyLimitedError,
    ConcurrencyLimiter,
    ConfigWarning,
    DeadlineExceededError,
    Fallback,
    Keyed,
    Outcome,
    Pipeline,
    RateLimitedError,
    RateLimiter,
    RejectedError,
    Retry,
    RetryBudget,
    Timeout,
    Verdict,
    any_error_is_bad,
    bad_results,
    current_attempt,
    listen,
)
from resilience._runtime import adrive, drive, locked
from resilience._runtime import compile as compiling
from resilience._runtime.flow import Sleep
from resilience.backoff import constant
from resilience.concurrency_limiter._machine import Bulkhead
from resilience.deadline import check_deadline, current_deadline, deadline, remaining
from resilience.limits import Aimd, Vegas
from resilience.testing import FakeClock

from .dummies import Around, again, nap, through

pytestmark = pytest.mark.skipif(not compiling.is_on(), reason="nothing is generated here")


class Overloaded(Exception):
    retry_after = 0.5


class Draws:
    """Chance that is the same both ways."""

    def random(self):
        return 0.25


OUTCOMES = {
    "good": None,
    "bad": ConnectionError,
    "timeout": TimeoutError,
    "throttled": Overloaded,
    "cut": KeyboardInterrupt,
    "slow": None,
    "slow and bad": ConnectionError,
    "bad value": None,
    "value that throttles": None,
    "value of which nothing is learnt": None,
    "value that cannot be judged": None,
    "value without a verdict": None,
    "value that is bad within a limit": None,
}

VERDICTS = {
    "bad value": Verdict.BAD,
    "value that throttles": Verdict.THROTTLED,
    "value of which nothing is learnt": Verdict.IGNORED,
    "value without a verdict": None,
}


def finds_bad(value):
    if value == "value that cannot be judged":
        raise LookupError
    return value == "bad value"


def judging(asked):
    """Return a classifier that looks at everything, and notes in *asked* which values it has seen."""

    def classify(outcome, context):
        if outcome.is_error:
            return any_error_is_bad(outcome, context)
        asked.add((outcome.value, context))
        if outcome.value == "value that throttles":
            outcome.retry_after = 0.3
        if outcome.value == "value that is bad within a limit":
            return Verdict.GOOD if context.deadline is None else Verdict.BAD
        finds_bad(outcome.value)
        return VERDICTS.get(outcome.value, Verdict.GOOD)

    return classify


JUDGES = {
    "no value": lambda asked: None,
    "results": lambda asked: bad_results(finds_bad, on=(ConnectionError, TimeoutError)),
    "all": judging,
}

SLOW = 0.4
"""Seconds that take the time of the inner limit up, and three times that of the outer one."""

DEADLINES = [0.01, 0.1, 0.35, 0.9, 20.0]
"""Seconds: less than any call takes, less than a retry waits, and less than, between and more than the limits."""

LIMITS = {"none": (), "outer": ("outer",), "inner": ("inner",), "both": ("outer", "inner")}

TOLD = {"all": ("outer", "inner"), **LIMITS}
"""Which limits tell what is inside how long there is."""


def limits_of(given_settings):
    """Return the limits of time around all others, and those inside."""
    told = TOLD[given_settings.get("told", "all")]
    made = [
        Timeout(1.0 if name == "outer" else 0.3, name=name, propagate=name in told)
        for name in LIMITS[given_settings.get("time", "none")]
    ]
    return [each for each in made if each.name == "outer"], [each for each in made if each.name == "inner"]


LEARNING = {
    "aimd": lambda: Aimd(initial=2, window=0.5),
    "aimd that rests": lambda: Aimd(initial=1, window=0.0, patience=None),
    "vegas": lambda: Vegas(initial=2, window=0.0),
    "vegas with a quantile": lambda: Vegas(initial=2, window=0.0, quantile=0.5),
}


def late(call, inner):
    """Take a while before and after the call, and look at the time there is."""
    Seen.now.append(("before", remaining(), call.context))
    Seen.clock.advance(0.05)
    outcome = yield from inner(call)
    Seen.clock.advance(0.05)
    Seen.now.append(("after", remaining(), repr(outcome)))
    return outcome


def hurried(call, inner):
    """Give what is inside little time."""
    with deadline(0.2):
        return (yield from inner(call))


def napping_after(call, inner):
    """Sleep after the call."""
    outcome = yield from inner(call)
    yield Sleep(0.3)
    return outcome


def replacing(call, inner):
    """Answer with something else than what came."""
    outcome = yield from inner(call)
    return Outcome("replaced") if outcome.is_error else Outcome(error=ConnectionError())


def marking(call, inner):
    """Say of every outcome when to come back."""
    outcome = yield from inner(call)
    outcome.retry_after = 0.4
    return outcome


def failing_first(call, inner):
    """Raise instead of calling."""
    raise ZeroDivisionError
    yield


def failing_last(call, inner):
    """Raise after the call."""
    yield from inner(call)
    raise ZeroDivisionError


def counting(call, inner):
    """Tell an attempt from another by its context."""
    attempt = call.again(replace(call.context, attempt=call.context.attempt + 5))
    outcome = yield from inner(attempt)
    call.adopt(attempt)
    return outcome


def noting(call, inner):
    """Take note of how it went, whatever it was."""
    try:
        outcome = yield from inner(call)
    except BaseException as error:
        Seen.now.append(type(error).__name__)
        raise
    Seen.now.append(repr(outcome))
    return outcome


def breaker_of_a_key():
    return CircuitBreaker(consecutive_failures=2, rng=Draws())


ENDS = {
    "good",
    "a classifier must return a Verdict, got None",
    *(ConnectionError, TimeoutError, Overloaded, KeyboardInterrupt, LookupError, ZeroDivisionError),
    *(CircuitOpenError, RateLimitedError, ConcurrencyLimitedError, DeadlineExceededError),
}
"""All that calls may end in: results, what the function and classifiers and steps raise, and refusals."""


class Seen:
    """
    What policies see of one schedule.

    Attributes:
        now: What is seen.
        clock: The clock.
        ends: How calls ended, over all schedules: "good", or the type of the error, or the text of one that
            says what somebody did wrong.
        attempts: How often the function ran as which attempt, over all schedules.
        written: Of how many functions there was generated code, and of how many there was none.

    """

    now: list
    clock: FakeClock
    ends: Counter = Counter()
    attempts: Counter = Counter()
    written: Counter = Counter()


OWN = {
    "nothing": lambda: None,
    **{
        flow.__name__: lambda flow=flow: Around(flow, "own")
        for flow in (
            through, again, late, hurried, napping_after, replacing, marking, failing_first, failing_last,
            counting, noting,
        )
    },
    "napping first": lambda: Around(nap(0.3), "own"),
    "keyed": lambda: Keyed("own", factory=breaker_of_a_key, key=lambda: "a"),
    "cache": lambda: Cache("own", ttl=0.2, stale_for=1.0),
    "rate by key": lambda: RateLimiter("own", rate=5, burst=3, key=lambda: "a", max_wait=0.2),
    "shares": lambda: ConcurrencyLimiter("own", limit=2, shares={"a": 0.5}, share_of=lambda: "a"),
    "fallback": lambda: Fallback("own", value="instead"),
}  # fmt: skip

outcomes = st.lists(st.sampled_from(sorted(OUTCOMES)), min_size=1, max_size=4)
steps = st.one_of(
    st.tuples(st.just("call"), outcomes),
    st.tuples(st.just("call within a call"), outcomes),
    st.tuples(st.just("call within a deadline"), st.tuples(outcomes, st.sampled_from(DEADLINES))),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.05, 0.3, 1.0, 4.0])),
    st.tuples(st.just("pin"), st.integers(1, 3)),
    st.tuples(st.just("unpin"), st.none()),
    st.tuples(st.just("reset"), st.none()),
    st.tuples(st.just("isolate for a call"), outcomes),
    st.tuples(st.just("hold a place for a call"), outcomes),
    st.tuples(st.just("reconfigure within a call"), outcomes),
    st.tuples(st.just("reconfigure and call within a call"), outcomes),
    st.tuples(st.just("reconfigure within a further attempt"), outcomes),
    st.tuples(st.just("change the time within a further attempt"), outcomes),
    st.tuples(st.just("change the time within a call"), outcomes),
    st.tuples(st.just("tell otherwise"), st.none()),
    st.tuples(st.just("tell otherwise within a call"), outcomes),
    st.tuples(st.just("reload"), st.booleans()),
    st.tuples(st.just("block"), outcomes),
    st.tuples(st.just("block within a call"), outcomes),
)
settings = st.fixed_dictionaries(
    {
        "breaker": st.sampled_from(
            [
                {"consecutive_failures": 2},
                {"minimum_throughput": 3, "sampling_duration": 2.0},
                {"minimum_throughput": 3, "sampling_calls": 5},
                {"on": ConnectionError, "consecutive_failures": 2, "open_on_throttle": True},
                {"slow_call_duration": 0.05, "minimum_throughput": 2},
            ]
        ),
        "attempts": st.sampled_from([1, 3]),
        "budget": st.sampled_from(["none", "ratio", "refund", "grpc", "inflight"]),
        "delay": st.sampled_from([0.0, 0.1]),
        "max_duration": st.sampled_from([None, 0.15]),
        "on": st.sampled_from([None, (ConnectionError, RejectedError)]),
        "burst": st.sampled_from([2, 50]),
        "limit": st.sampled_from([1, 2, *LEARNING]),
        "order": st.sampled_from(["retry first", "breaker first"]),
        "is_async": st.booleans(),
        "time": st.sampled_from(sorted(LIMITS)),
        "told": st.sampled_from(sorted(TOLD)),
        "keeps": st.booleans(),
        "by hand": st.booleans(),
        "judge": st.sampled_from(sorted(JUDGES)),
        "breaker's judge": st.sampled_from(sorted(JUDGES)),
        "own": st.sampled_from(sorted(OWN)),
        "own too": st.sampled_from(sorted(OWN)),
        "place of own": st.integers(0, 5),
        "place of own too": st.integers(0, 6),
    }
)


def make(given_settings, asked=None):
    """Return the pipeline and its parts; its classifiers note in *asked* what they are asked about."""
    asked = set() if asked is None else asked
    judge = JUDGES[given_settings.get("judge", "no value")](asked)
    breakers = dict(given_settings["breaker"])
    if given_settings.get("breaker's judge", "no value") != "no value":
        breakers.pop("on", None)
        breakers["classify"] = JUDGES[given_settings["breaker's judge"]](asked)
    budgets = {
        "none": lambda: None,
        "ratio": lambda: RetryBudget.ratio(0.5),
        "refund": lambda: RetryBudget.refund(20, initial=20),
        "grpc": lambda: RetryBudget.grpc(),
        "inflight": lambda: RetryBudget.inflight(min_concurrency=1),
    }
    # A policy that calls again around a retry should say so, and a pipeline would not take it then.
    calls_again = "again" in (given_settings.get("own"), given_settings.get("own too"))
    budget = None if calls_again else budgets[given_settings["budget"]]()
    retry = Retry(
        "retry",
        attempts=given_settings["attempts"],
        backoff=constant(given_settings.get("delay", 0.1)),
        budget=budget,
        max_duration=given_settings.get("max_duration"),
        on=given_settings.get("on"),
        rng=Draws(),
    )
    breaker = CircuitBreaker("breaker", rng=Draws(), break_duration=0.5, **breakers)
    limiter = RateLimiter("limiter", rate=5, burst=given_settings["burst"])
    limit = given_settings["limit"]
    places = ConcurrencyLimiter("places", limit=LEARNING[limit]() if limit in LEARNING else limit)
    gates = [breaker, limiter, places]
    policies = (
        [retry, *gates] if given_settings["order"] == "retry first" else [breaker, retry, limiter, places]
    )
    outer, inner = limits_of(given_settings)
    policies = [*outer, *policies, *inner]
    for number in ("own", "own too"):
        if (own := OWN[given_settings.get(number, "nothing")]()) is not None:
            policies.insert(given_settings[f"place of {number}"], own)
    return (
        Pipeline("both", *policies, classify=judge),
        retry,
        breaker,
        limiter,
        places,
        budget,
    )


def history(given_settings, schedule):
    """Everything that can be seen of one schedule."""
    seen, asked = [], set()
    with FakeClock(start=1_000.0) as clock, ExitStack() as stack:
        # Generated code may end a window of many calls a few calls late: here it always looks at the clock.
        stack.enter_context(patch.object(Bulkhead, "looked", lambda _: None))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", ConfigWarning)  # a fallback may stand anywhere here
        Seen.now, Seen.clock = seen, clock
        pipeline, retry, breaker, limiter, places, budget = make(given_settings, asked)
        stack.callback(listen(lambda event: seen.append((event.name, event.policy, dict(event.attributes)))))
        limits = [limit for limit in pipeline.policies if isinstance(limit, Timeout)]
        outer = [limit for limit in limits if limit.name == "outer"]
        inner = [limit for limit in limits if limit.name == "inner"]
        script = []
        inside = []

        def tell_otherwise():
            for limit in limits:
                limit.reconfigure(propagate=not limit.settings.propagate)

        def play():
            outcome = script.pop(0) if script else "good"
            seen.append((current_attempt().attempt, remaining(), clock()))
            Seen.attempts[current_attempt().attempt] += 1
            clock.advance(SLOW if outcome.startswith("slow") else 0.02)
            if given_settings.get("keeps"):
                check_deadline()
            acts, inside[:] = inside[:], []
            for act in acts:
                act()
            error = OUTCOMES[outcome]
            if error is not None:
                raise error
            return outcome

        async def aplay():
            return play()

        guarded, aguarded = pipeline(play), pipeline(aplay)
        if given_settings.get("by hand"):
            guarded, aguarded = partial(pipeline.call, play), partial(pipeline.acall, aplay)

        def block():
            with breaker.guard(), limiter.guard(), places.guard():
                return play()

        async def ablock():
            async with breaker.guard(), limiter.guard(), places.guard():
                return play()

        def call(outcomes, *, is_async=False, within=(guarded, aguarded)):
            script[:] = outcomes
            try:
                result = asyncio.run(within[1]()) if is_async else within[0]()
            except BaseException as error:  # whatever it is, it is to be the same
                Seen.ends[str(error) if type(error) is TypeError else type(error)] += 1
                seen.append(
                    (type(error).__name__, getattr(error, "__notes__", []), type(error.__context__).__name__)
                )
            else:
                Seen.ends["good"] += 1
                seen.append(result)

        for kind, value in schedule:
            if kind == "call":
                call(value, is_async=given_settings["is_async"])
            elif kind == "block":
                call(value, is_async=given_settings["is_async"], within=(block, ablock))
            elif kind == "block within a call":
                inside.append(lambda outcomes=value: call(outcomes, within=(block, ablock)))
                call(["good"], is_async=given_settings["is_async"])
            elif kind == "call within a call":
                inside.append(lambda outcomes=value: call(outcomes))
                call(["good"], is_async=given_settings["is_async"])
            elif kind == "call within a deadline":
                outcomes, seconds = value
                with deadline(seconds):
                    call(outcomes, is_async=given_settings["is_async"])
                    seen.append(remaining())
                    call(["good"], is_async=given_settings["is_async"])
            elif kind == "wait":
                clock.advance(value)
            elif kind == "pin":
                places.pin(value)
            elif kind == "unpin":
                places.unpin()
            elif kind == "reset":
                breaker.reset()
            elif kind == "isolate for a call":
                with breaker.isolate():
                    call(value)
            elif kind == "hold a place for a call":
                permit = places.try_acquire()
                call(value)
                if permit:
                    permit.release()
            elif kind == "change the time within a call":
                inside.append(lambda: [limit.reconfigure(duration=0.35) for limit in inner])
                call(value)
            elif kind == "tell otherwise":
                tell_otherwise()
            elif kind == "tell otherwise within a call":
                inside.append(tell_otherwise)
                call(value, is_async=given_settings["is_async"])
            elif kind == "reconfigure within a further attempt":
                inside.append(lambda: inside.append(lambda: retry.reconfigure(attempts=2)))
                call(value, is_async=given_settings["is_async"])
                inside.clear()
            elif kind == "change the time within a further attempt":
                inside.append(
                    lambda: inside.append(lambda: [limit.reconfigure(duration=0.35) for limit in inner])
                )
                call(value, is_async=given_settings["is_async"])
                inside.clear()
            elif kind == "reconfigure and call within a call":
                inside.append(lambda: retry.reconfigure(attempts=2))
                inside.append(lambda: call(["bad"]))  # for which the code is made anew
                call(value)
            elif kind == "reconfigure within a call":
                inside.append(lambda: retry.reconfigure(attempts=2))
                call(value)
            else:
                kept = [retry, breaker, limiter, places] if value else [breaker, places]
                kept = [*outer, *kept, *inner]
                pipeline.reload(*kept, *[own for own in pipeline.policies if own.name == "own"])
            assert current_deadline() is None
            assert current_attempt().attempt == 1
            seen.append(sorted(asked, key=repr))
            asked.clear()
            seen.append([limit.timed_out for limit in limits])
            seen.append(state(retry, breaker, limiter, places, budget))
            seen += [
                tuple(reading)
                for own in pipeline.policies
                if own.name == "own"
                for part in dict.fromkeys((own, *own.parts))
                for reading in part.readings()
            ]
        if isinstance(guarded, FunctionType):
            Seen.written["Replay(" in pipeline.source(guarded)] += 1
    return seen


def state(retry, breaker, limiter, places, budget):
    counts = [
        (gate.counts.acquired, gate.counts.waited, gate.counts.rejected, gate.counts.cancelled)
        for gate in (breaker, limiter, places)
    ]
    circuit = breaker._circuit
    return (
        (retry.calls, retry.retries, dict(retry.stops), retry.delay),
        (
            breaker.state,
            breaker.failure_ratio,
            circuit.good,
            dict(circuit.ended),
            circuit.ignored,
            circuit.cancelled,
        ),
        limiter.remaining(),
        (places.inflight, places.limit),
        counts,
        None if budget is None else (budget.level, budget.calls, budget.good, budget.refunded, budget.denied),
    )


@profile(max_examples=5 * profile().max_examples)  # 10 000 in the profile `thorough`
@given(settings, st.lists(steps, max_size=12))
@example(
    {
        "breaker": {"consecutive_failures": 2}, "attempts": 3, "budget": "ratio", "burst": 50, "limit": 2,
        "order": "retry first", "is_async": False,
    },
    [("call within a call", ["bad", "timeout"])],
)  # fmt: skip
@example(  # a call under way keeps the settings that it began with
    {
        "breaker": {"consecutive_failures": 2}, "attempts": 1, "budget": "none", "burst": 50, "limit": 2,
        "order": "retry first", "is_async": False,
    },
    [
        ("call", ["bad"]), ("call", ["bad"]), ("call within a call", ["bad"]),
        ("reconfigure within a call", ["bad"]), ("reset", None), ("call within a call", ["bad"]),
    ],
)  # fmt: skip
@example(  # also where a value is found bad, and a flow goes on
    {
        "breaker": {"consecutive_failures": 2}, "attempts": 1, "budget": "none", "burst": 50, "limit": 1,
        "order": "retry first", "is_async": False, "time": "inner", "judge": "all", "own": "fallback",
        "place of own": 5,
    },
    [("change the time within a call", ["bad value"])],
)  # fmt: skip
def play_both_ways(given_settings, schedule):
    with patch.object(locked, "_needs_locks", False):
        generated = history(given_settings, schedule)
    with patch.object(locked, "_needs_locks", True):
        with_locks = history(given_settings, schedule)
    with patch.object(compiling, "is_on", lambda: False):
        driven = history(given_settings, schedule)
    assert generated == driven
    assert with_locks == driven


def test_both_ways_everything_is_the_same():
    Seen.ends.clear(), Seen.attempts.clear(), Seen.written.clear()
    play_both_ways()
    # Else all that was compared might be one error, of a schedule or a function that does not work.
    refusals = {CircuitOpenError, RateLimitedError, ConcurrencyLimitedError}
    assert {"good", ConnectionError, TimeoutError, *refusals} <= set(Seen.ends) <= ENDS
    assert max(Seen.ends.values()) < 0.8 * Seen.ends.total()
    assert Seen.ends["good"] > 0.1 * Seen.ends.total()
    assert Seen.attempts[2] > 0.01 * Seen.attempts.total()
    assert Seen.written[True] > 0.3 * Seen.written.total()


@example(  # what an inner step says of a value that is found bad further out
    {
        "breaker": {"consecutive_failures": 2}, "attempts": 3, "budget": "none", "delay": 0.0,
        "max_duration": None, "on": None, "burst": 2, "limit": 1, "order": "retry first", "is_async": False,
        "time": "both", "told": "all", "keeps": False, "by hand": False, "judge": "all",
        "breaker's judge": "all", "own": "again", "own too": "marking", "place of own": 2,
        "place of own too": 4,
    },
    [("call", ["bad value"])],
)  # fmt: skip
@given(settings, st.lists(steps, max_size=12))
def test_a_call_by_hand_is_like_one_of_a_decorated_function(given_settings, schedule):
    decorated = history({**given_settings, "by hand": False}, schedule)
    by_hand = history({**given_settings, "by hand": True}, schedule)
    assert decorated == by_hand


GATES = {
    "breaker": lambda: CircuitBreaker(rng=Draws(), consecutive_failures=2, break_duration=0.5),
    "breaker of calls": lambda: CircuitBreaker(rng=Draws(), sampling_calls=4, minimum_throughput=2),
    "rate": lambda: RateLimiter(rate=5, burst=3),
    "places": lambda: ConcurrencyLimiter(limit=1),
    "aimd": lambda: ConcurrencyLimiter(limit=Aimd(initial=2, window=0.5)),
    "vegas": lambda: ConcurrencyLimiter(limit=Vegas(initial=2, window=0.0)),
    "throttle": lambda: AdaptiveThrottle(rng=Draws(), minimum_throughput=3, floor=None),
}


def readings(gate):
    return sorted(repr(reading) for reading in gate.readings())


def uses(gate, play):
    """All the ways of making one call under a gate."""

    def block():
        with gate.guard():
            return play()

    async def aplay():
        return play()

    async def ablock():
        async with gate.guard():
            return play()

    guarded, aguarded = gate(play), gate(aplay)
    return {
        "decorated": guarded,
        "by hand": lambda: gate.call(play),
        "block": block,
        "async, decorated": lambda: asyncio.run(aguarded()),
        "async, by hand": lambda: asyncio.run(gate.acall(aplay)),
        "async, block": lambda: asyncio.run(ablock()),
    }


def course(make, use, schedule):
    """What a gate decides and counts in one use of it."""
    seen = []
    with FakeClock(start=1_000.0) as clock:
        gate, script = make(), []

        def play():
            outcome = script.pop(0)
            clock.advance(SLOW if outcome.startswith("slow") else 0.02)
            if script:
                act()
            if OUTCOMES[outcome] is not None:
                raise OUTCOMES[outcome]

        call = uses(gate, play)[use]

        def act():
            try:
                call()
            except BaseException as error:  # whatever it is, it is to be the same
                seen.append(type(error).__name__)
            seen.append(readings(gate))

        for outcomes in schedule:
            # The others within the first; not where a loop would run in another one.
            script[:] = outcomes[:1] if use.startswith("async") else outcomes
            act()
            script.clear()
            clock.advance(0.1 * len(outcomes))
    return seen


@pytest.mark.parametrize("name", GATES)
@given(st.lists(outcomes, max_size=10))
def test_a_block_counts_and_decides_like_a_call(name, schedule):
    plain = course(GATES[name], "decorated", schedule)
    assert course(GATES[name], "by hand", schedule) == plain
    assert course(GATES[name], "block", schedule) == plain
    single = course(GATES[name], "async, decorated", schedule)
    assert course(GATES[name], "async, by hand", schedule) == single
    assert course(GATES[name], "async, block", schedule) == single


@pytest.mark.parametrize("needs_locks", [False, True])
@pytest.mark.parametrize("told", TOLD)
@pytest.mark.parametrize("within", [None, 5.0, 0.5, 0.2])
def test_the_schedules_run_generated_code(within, told, needs_locks):
    with FakeClock(), patch.object(locked, "_needs_locks", needs_locks):
        pipeline, *_ = make(
            {
                "breaker": {"consecutive_failures": 2}, "attempts": 3, "budget": "ratio", "burst": 50, "limit": 2,
                "order": "retry first", "time": "both", "told": told,
            }
        )  # fmt: skip
        guarded = pipeline(lambda: 7)
        guarded()  # the first call comes before its code
        assert ("._lock:" in pipeline.source(guarded)) == needs_locks
        with patch.object(drive, "run", side_effect=AssertionError("driven as a flow")), deadline(within):
            guarded()  # and another one before that of a process which knows deadlines
            assert guarded() == 7


@pytest.mark.parametrize("is_async", [False, True])
def test_further_attempts_run_generated_code(is_async):
    script = [None, ConnectionError, ConnectionError, TimeoutError, ConnectionError, None]

    def play():
        outcome = script.pop(0)
        if outcome is not None:
            raise outcome
        return 7

    async def aplay():
        return play()

    with FakeClock():
        pipeline, retry, *_ = make(
            {
                "breaker": {"minimum_throughput": 50}, "attempts": 3, "budget": "grpc", "burst": 50, "limit": 2,
                "order": "retry first", "delay": 0.0,
            }
        )  # fmt: skip
        guarded = pipeline(aplay if is_async else play)

        def call():
            return asyncio.run(guarded()) if is_async else guarded()

        call()  # the first call comes before its code
        driven = AssertionError("driven as a flow")
        with (
            patch.object(drive, "run", side_effect=driven),
            patch.object(adrive, "run", side_effect=driven),
        ):
            with pytest.raises(TimeoutError) as caught:
                call()
            assert call() == 7
    assert caught.value.__notes__ == ["resilience: gave up after 3 attempts: attempts exhausted"]
    assert retry.retries == 3
