"""Policies that take part in generated code by their flows."""

import asyncio
import gc
import linecache
import weakref
from dataclasses import replace

import pytest
import trio

from resilience import (
    Cache,
    CircuitBreaker,
    CircuitOpenError,
    ConcurrencyLimiter,
    DeadlineExceededError,
    Hedge,
    Keyed,
    Outcome,
    Pipeline,
    Priority,
    Retry,
    Timeout,
    Verdict,
    any_error_is_bad,
    bad_results,
    current_attempt,
    current_priority,
    deadline,
    priority_scope,
    remaining,
)
from resilience._runtime import adrive, drive
from resilience._runtime import compile as compiling
from resilience._runtime.flow import Dispose, Sleep
from resilience.backoff import constant
from resilience.deadline import current_deadline
from resilience.testing import FakeClock

from .dummies import Around, Race, again, nap, through, within

pytestmark = pytest.mark.skipif(not compiling.is_on(), reason="nothing is generated here")


@pytest.fixture(params=["generated", "driven"])
def way(request, monkeypatch):
    """Both ways through a policy."""
    if request.param == "driven":
        monkeypatch.setattr(compiling, "is_on", lambda: False)
    return request.param


@pytest.fixture(params=["sync", "asyncio", "trio"])
def call(request):
    """Call what a pipeline guards, a plain function or a coroutine function."""

    def call(pipeline, fn, *args):
        if request.param == "sync":
            return pipeline(fn)(*args)

        async def afn(*args):
            return fn(*args)

        if request.param == "trio":
            return trio.run(pipeline(afn), *args)
        return asyncio.run(pipeline(afn)(*args))

    return call


def keyed_breaker():
    return Keyed(factory=CircuitBreaker, key=lambda *_: "all")


def is_hot(guarded):
    return "step(*args, **kwargs)" in (compiling.source_of(guarded) or "")


def judge_all(outcome, context):
    """Judge values, too."""
    return any_error_is_bad(outcome, context)


def around(step, classify=None):
    """Return a policy of the user's own in the middle of others, and these."""
    places = ConcurrencyLimiter(limit=2)
    breaker = CircuitBreaker(consecutive_failures=99)
    retry = Retry(attempts=2, backoff=constant(0.0), budget=None)
    return Pipeline("p", retry, places, Around(step), breaker, classify=classify), places, breaker


def test_a_good_call_needs_no_driver(monkeypatch):
    pipeline, *_ = around(through)
    guarded = pipeline(lambda x: x)
    guarded(0)
    assert is_hot(guarded)
    monkeypatch.setattr(drive, "run", None)
    assert guarded(7) == 7


def test_a_good_call_of_a_coroutine_function_needs_no_driver(monkeypatch):
    pipeline, *_ = around(through)

    @pipeline
    async def guarded(x):
        return x

    asyncio.run(guarded(0))
    monkeypatch.setattr(adrive, "run", None)
    assert asyncio.run(guarded(7)) == 7


def test_it_sees_the_call_as_flows_do(way, call):
    seen = []

    def step(call, inner):
        seen.append((call.args, dict(call.kwargs), call.context, call.function is call.fn))
        return (yield from inner(call))

    pipeline, *_ = around(step)
    assert call(pipeline, lambda x: x, 7) == 7
    [(args, kwargs, context, is_same)] = seen
    assert (args, kwargs, context.attempt, is_same) == ((7,), {}, 1, True)


def test_a_further_attempt_has_its_number(way, call):
    attempts = []

    def step(call, inner):
        attempts.append(call.context.attempt)
        return (yield from inner(call))

    def fetch():
        if len(attempts) == 1:
            raise ConnectionError
        return 7

    assert call(around(step)[0], fetch) == 7
    assert attempts == [1, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_it_raises_comes_out_and_nothing_is_held(way, call, error, when):
    def step(call, inner):
        if when == "before":
            raise error
        yield from inner(call)
        raise error

    pipeline, places, breaker = around(step)
    with pytest.raises(error):
        call(pipeline, lambda: 7)
    retry = pipeline.policies[0]
    assert (retry.stops["cancelled"], places.inflight) == (1, 0)
    assert (breaker._circuit.good, breaker._circuit.cancelled) == ((0, 0) if when == "before" else (1, 0))


def test_what_it_raises_is_not_tried_again(way, call):
    calls = []

    def step(call, inner):
        calls.append(1)
        raise ConnectionError
        yield

    with pytest.raises(ConnectionError):
        call(around(step)[0], lambda: 7)
    assert calls == [1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_it_sees_what_cuts_the_call_short(way, call, error):
    seen = []

    def step(call, inner):
        try:
            return (yield from inner(call))
        except BaseException as struck:
            seen.append(type(struck))
            raise

    def fetch():
        raise error

    pipeline, places, _ = around(step)
    with pytest.raises(error):
        call(pipeline, fetch)
    assert seen == [error]
    assert places.inflight == 0


def test_it_sees_a_cancellation(way):
    seen = []

    def step(call, inner):
        try:
            return (yield from inner(call))
        except BaseException as struck:
            seen.append(type(struck))
            raise

    pipeline, places, breaker = around(step)

    @pipeline
    async def fetch():
        await asyncio.sleep(60.0)

    async def body():
        task = asyncio.create_task(fetch())
        await asyncio.sleep(0)
        assert places.inflight == 1
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(body())
    assert seen == [asyncio.CancelledError]
    assert (places.inflight, breaker._circuit.cancelled) == (0, 1)


def test_a_failure_while_it_cleans_up_leaves_nothing_held(call):
    def step(call, inner):
        try:
            return (yield from inner(call))
        except KeyboardInterrupt:
            raise ZeroDivisionError from None

    def fetch():
        raise KeyboardInterrupt

    pipeline, places, _ = around(step)
    with pytest.raises((KeyboardInterrupt, ZeroDivisionError)):
        call(pipeline, fetch)
    assert places.inflight == 0


@pytest.mark.parametrize("inside", [Timeout(5.0), CircuitBreaker()])
def test_a_deadline_that_it_sets_holds_inside_and_not_afterwards(way, call, inside):
    def step(call, inner):
        with deadline(1.0):
            return (yield from inner(call))

    with FakeClock():
        assert call(Pipeline("p", Retry(), Timeout(9.0), Around(step), inside), remaining) == 1.0
        assert current_deadline() is None


def test_it_sees_the_deadline_of_the_limit_around_it(way, call):
    seen = []

    def step(call, inner):
        seen.append((remaining(), call.context.deadline))
        outcome = yield from inner(call)
        seen.append((remaining(), call.context.deadline))
        return outcome

    with FakeClock(start=100.0):
        assert call(Pipeline("p", Timeout(3.0), Around(step), CircuitBreaker()), lambda: 7) == 7
        assert current_deadline() is None
    assert seen == [(3.0, 103.0)] * 2


def test_what_it_does_before_the_call_is_not_part_of_the_time_inside(way):
    with FakeClock() as clock:

        def step(call, inner):
            clock.advance(2.0)
            return (yield from inner(call))

        assert Pipeline("p", Around(step), Timeout(1.0))(remaining)() == 1.0


def test_a_priority_that_it_sets_holds_inside(way, call):
    def step(call, inner):
        with priority_scope(Priority.CRITICAL):
            return (yield from inner(call))

    assert call(Pipeline("p", Retry(), Around(step), CircuitBreaker()), current_priority) is Priority.CRITICAL
    assert current_priority() is Priority.NORMAL


@pytest.mark.parametrize("step", [again, nap(0.5), within(0.5), Race()])
def test_a_policy_that_wants_more_than_one_call_gets_it(way, step):
    calls = []

    def fetch():
        calls.append(1)
        if len(calls) == 1 and step is again:
            raise ConnectionError
        return 7

    with FakeClock():
        pipeline, places, _ = around(step)
        assert pipeline(fetch)() == 7
    assert places.inflight == 0
    assert len(calls) == (2 if step is again or isinstance(step, Race) else 1)


def test_a_place_around_it_is_held_while_it_does_something_after_the_call(way):
    held = []

    def step(call, inner):
        outcome = yield from inner(call)
        held.append(places.inflight)
        yield Sleep(0.1)
        held.append(places.inflight)
        return outcome

    with FakeClock():
        pipeline, places, _ = around(step)
        assert pipeline(lambda: 7)() == 7
    assert held == [1, 1]
    assert places.inflight == 0


def test_a_refusal_inside_of_it_is_its_to_see(way, call):
    seen = []

    def step(call, inner):
        outcome = yield from inner(call)
        seen.append(outcome.error)
        return Outcome("instead")

    pipeline, _, breaker = around(step)
    with breaker.isolate():
        assert call(pipeline, lambda: 7) == "instead"
    assert [type(error) for error in seen] == [CircuitOpenError]


def test_another_outcome_is_what_those_around_it_judge(way, call):
    def step(call, inner):
        outcome = yield from inner(call)
        return replace_value(outcome)

    def replace_value(outcome):
        return Outcome(outcome.value["rows"])

    judge = bad_results(lambda rows: not rows)
    outer = CircuitBreaker(consecutive_failures=9, classify=judge)
    pipeline = Pipeline("p", outer, Around(step), CircuitBreaker())
    assert call(pipeline, lambda: {"rows": []}) == []
    assert outer._circuit.good == 0


def test_only_policies_around_it_ask_about_what_it_passes_on(way, call):
    asked = []

    def step(call, inner):
        outcome = yield from inner(call)
        return Outcome("passed on") if outcome.value == 7 else outcome

    def judge(name):
        return bad_results(lambda value: asked.append((name, value)))

    inside, outside = CircuitBreaker(classify=judge("inside")), CircuitBreaker(classify=judge("outside"))
    assert call(Pipeline("p", outside, Around(step), inside), lambda: 7) == "passed on"
    assert asked == [("inside", 7), ("outside", "passed on")]


def test_a_bad_value_that_it_passes_on_settles_only_those_around_it(way, call):
    judge = bad_results(lambda value: value == 7)
    outside, inside = CircuitBreaker(consecutive_failures=9, classify=judge), CircuitBreaker()
    places = ConcurrencyLimiter(limit=1)
    assert call(Pipeline("p", places, outside, Around(through), inside), lambda: 7) == 7
    assert (inside._circuit.good, outside._circuit.good, places.inflight) == (1, 0, 0)


def test_two_of_them_stand_in_order(way, call):
    seen = []

    def noting(name):
        def step(call, inner):
            seen.append(f"{name} before")
            outcome = yield from inner(call)
            seen.append(f"{name} after")
            return outcome

        return Around(step)

    pipeline = Pipeline("p", noting("outer"), CircuitBreaker(), noting("inner"), Retry())
    assert call(pipeline, lambda: seen.append("call") or 7) == 7
    assert seen == ["outer before", "inner before", "call", "inner after", "outer after"]


def test_a_hedge_and_a_retry_keep_the_whole_pipeline_on_flows():
    hedge = Hedge(after=1.0, idempotent=True)
    for policy in (hedge, Keyed(factory=lambda: Pipeline(Hedge(after=1.0, idempotent=True)), key="x")):
        guarded = Pipeline("p", Retry(), policy, CircuitBreaker())(lambda x: x)
        assert compiling.source_of(guarded) is None


def test_a_hedge_without_a_retry_takes_part(way):
    places, breaker = ConcurrencyLimiter(limit=5), CircuitBreaker()
    attempts = []

    @Pipeline("p", places, Hedge(after=0.01, idempotent=True), breaker)
    async def fetch():
        attempts.append(current_attempt().attempt)
        await asyncio.sleep(60.0 if len(attempts) == 1 else 0.0)
        return 7

    assert is_hot(fetch) == (way == "generated")
    assert asyncio.run(fetch()) == 7
    assert attempts == [1, 2]
    assert (places.inflight, breaker._circuit.good, breaker._circuit.cancelled) == (0, 1, 1)


def test_a_policy_that_stands_alone_is_driven():
    assert compiling.source_of(Around(through)(lambda: 7)) is None
    assert compiling.source_of(Pipeline("p", Around(through), Cache(ttl=9.0))(lambda: 7)) is None


def test_it_sees_the_arguments_as_they_are_given(way, call):
    seen = []

    def step(call, inner):
        seen.append((call.args, dict(call.kwargs)))
        return (yield from inner(call))

    guarded = around(step)[0](lambda sku, currency="EUR": (sku, currency))
    assert [guarded("a"), guarded(sku="a")] == [("a", "EUR")] * 2
    assert seen == [(("a",), {}), ((), {"sku": "a"})]


def test_it_sees_the_arguments_as_they_are_given_also_where_a_reload_has_brought_it(way):
    seen = []

    def step(call, inner):
        seen.append((call.args, dict(call.kwargs)))
        return (yield from inner(call))

    retry = Retry(budget=None)
    pipeline = Pipeline("p", retry)
    guarded = pipeline(lambda sku, currency="EUR", *, day=1: (sku, currency, day))
    assert guarded("a") == ("a", "EUR", 1)
    pipeline.reload(retry, Around(step))
    assert [guarded("a"), guarded(sku="a")] == [("a", "EUR", 1)] * 2
    pipeline.reload(Around(step))
    assert guarded("a", "USD", day=2) == ("a", "USD", 2)
    assert seen == [(("a",), {}), ((), {"sku": "a"}), (("a", "USD"), {"day": 2})]


def test_a_key_is_made_from_the_arguments_as_they_are_given_also_after_a_reload():
    retry = Retry(budget=None)
    pipeline = Pipeline("p", retry)
    guarded = pipeline(lambda sku, currency="EUR": (sku, currency))
    guarded("a")
    pipeline.reload(Cache(ttl=9.0, key=lambda sku: sku), retry)
    assert guarded("a") == ("a", "EUR")


def test_a_reload_that_takes_it_away_within_a_call_makes_no_second_call(way, call):
    calls = []

    def fetch():
        calls.append(1)
        pipeline.reload(retry)
        raise ConnectionError

    retry = Retry(attempts=1, budget=None)
    pipeline = Pipeline("p", retry, Around(through), CircuitBreaker())
    with pytest.raises(ConnectionError):
        call(pipeline, fetch)
    assert calls == [1]


def test_settings_that_it_changes_before_it_calls_hold_inside(way, call):
    timeout = Timeout(1.0)

    def step(call, inner):
        timeout.reconfigure(duration=2.0)
        return (yield from inner(call))

    with FakeClock():
        assert call(Pipeline("p", Retry(), Around(step), timeout), remaining) == 2.0


def test_a_hit_of_a_cache_makes_no_call_and_takes_nothing(way, call):
    cache, breaker = Cache(ttl=60.0), CircuitBreaker()
    pipeline = Pipeline("p", cache, breaker)

    def fetch(x):
        return x

    guarded = pipeline(fetch)
    assert [guarded(1), guarded(1), guarded(2)] == [1, 1, 2]
    assert (cache.hits, cache.misses, breaker._circuit.good) == (1, 2, 2)


def test_a_policy_for_each_key_takes_part(way, call):
    keyed = Keyed(factory=lambda: CircuitBreaker(consecutive_failures=1), key=lambda host, **_: host)
    pipeline = Pipeline("p", Retry(attempts=1), keyed, ConcurrencyLimiter(limit=1))

    def fetch(host):
        if host == "a":
            raise ConnectionError
        return host

    with pytest.raises(ConnectionError):
        call(pipeline, fetch, "a")
    with pytest.raises(CircuitOpenError):
        call(pipeline, fetch, "a")
    assert call(pipeline, fetch, "b") == "b"


def test_a_flow_that_returns_no_outcome_is_told_so():
    def step(call, inner):
        return None
        yield

    with pytest.raises(TypeError, match="must return an Outcome, got None"):
        Pipeline("p", Retry(), Around(step))(lambda: 7)()


@pytest.mark.parametrize("answer", [None, Outcome(7)])
def test_a_step_that_is_no_generator_function_is_told_so(call, answer):
    places = ConcurrencyLimiter(limit=1)
    with pytest.raises(TypeError, match="a step must be a generator function"):
        call(Pipeline("p", places, Around(lambda call, inner: answer), Retry()), lambda: 7)
    assert places.inflight == 0


def test_what_it_disposes_of_when_cut_short_is_no_obstacle():
    def step(call, inner):
        try:
            return (yield from inner(call))
        except BaseException:
            yield Dispose(None)
            raise

    def fetch():
        raise KeyboardInterrupt

    pipeline, places, _ = around(step)
    with pytest.raises(KeyboardInterrupt):
        pipeline(fetch)()
    assert places.inflight == 0


@pytest.mark.parametrize("classify", [None, any_error_is_bad, judge_all])
@pytest.mark.parametrize("failures", [1, 2])
def test_an_error_that_passed_through_leaves_no_cycle_behind(failures, classify):
    class Passing(Exception):
        """An error that can be referred to weakly."""

    known = []
    pipeline, *_ = around(through, classify)

    @pipeline
    def fetch():
        if len(known) < failures:
            error = Passing()
            known.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

    def run():
        try:
            fetch()
        except Passing:
            pass

    gc.collect()
    gc.disable()
    try:
        run()
        assert [error() for error in known] == [None] * failures
    finally:
        gc.enable()


def test_a_function_whose_result_is_kept_and_refers_to_it_is_collected():
    def make():
        class Shop:
            @Cache(ttl=60.0)
            def label(self):
                return self

        Shop().label()
        return weakref.ref(Shop)

    shop = make()
    gc.collect()
    assert shop() is None


@pytest.mark.parametrize("name", ["step", "value", "Ended", "args", "kwargs"])
def test_a_parameter_may_have_any_name(name):
    namespace = {}
    exec(f"def fetch({name}):\n    return {name}", namespace)  # a function with such a parameter
    guarded = Pipeline("p", Retry(), Around(through), CircuitBreaker())(namespace["fetch"])
    assert [guarded(0), guarded(**{name: 1})] == [0, 1]
    assert is_hot(guarded)


def test_an_attempt_of_another_context_goes_through_flows(way, call):
    seen = []

    def step(call, inner):
        return (yield from inner(call.again(replace(call.context, attempt=4))))

    def note(call, inner):
        seen.append(call.context.attempt)
        return (yield from inner(call))

    assert call(Pipeline("p", Around(step), CircuitBreaker(), Around(note)), lambda: 7) == 7
    assert seen == [4]


def test_what_a_former_epoch_has_made_is_gone():
    pipeline, *_ = around(through)
    guarded = pipeline(lambda: 7)
    guarded()
    retry = pipeline.policies[0]
    names, files = len(guarded.__globals__), len(linecache.cache)
    for attempts in (2, 3, 4):
        retry.reconfigure(attempts=attempts)
        guarded()
    assert (len(guarded.__globals__), len(linecache.cache)) == (names, files)


@pytest.mark.parametrize("policy", [lambda: Around(through), lambda: Cache(ttl=60.0), keyed_breaker])
def test_a_function_that_its_own_value_refers_to_is_collected(policy):
    def make():
        class Shop:
            @Pipeline("p", Retry(), policy(), CircuitBreaker())
            def label(self):
                return self

        Shop().label()
        return weakref.ref(Shop)

    shop = make()
    gc.collect()
    assert shop() is None


# Time, in an event loop with real time: a fake clock has calls under a limit driven


def timed(step, *, outer=5.0, inner=1.0):
    """Return limits around and inside a policy of the user's own, and what they guard."""
    limits = Timeout(outer, name="outer"), Timeout(inner, name="inner")
    breaker, places = CircuitBreaker(), ConcurrencyLimiter(limit=1)
    pipeline = Pipeline("p", limits[0], places, Around(step), breaker, limits[1])
    return pipeline, *limits, places, breaker


def watching(seen):
    def step(call, inner):
        try:
            outcome = yield from inner(call)
        except BaseException as struck:
            seen.append(type(struck))
            raise
        seen.append(type(outcome.error))
        return outcome

    return step


@pytest.fixture(params=[0, 1])
def calls_before(request):
    """How many good calls there were: whether the code is there already."""
    return request.param


def run(pipeline, calls_before, seconds):
    """Call a coroutine function that takes some seconds, and look what is left behind in its task."""

    @pipeline
    async def fetch(seconds):
        await asyncio.sleep(seconds)
        return 7

    async def body():
        for _ in range(calls_before):
            await fetch(0.0)
        task = asyncio.current_task()
        try:
            return await fetch(seconds)
        finally:
            assert task.cancelling() == 0
            assert current_deadline() is None
            await asyncio.sleep(0)  # where a cancellation that is left would strike

    assert is_hot(fetch) == compiling.is_on()
    return asyncio.run(body())


def test_in_time_both_limits_let_it_pass(way, calls_before):
    seen = []
    pipeline, outer, inner, places, breaker = timed(watching(seen))
    assert run(pipeline, calls_before, 0.0) == 7
    assert (outer.timed_out, inner.timed_out, places.inflight) == (0, 0, 0)
    assert breaker._circuit.good == 1 + calls_before


def test_the_limit_around_it_cuts_what_is_inside_short(way, calls_before):
    seen = []
    pipeline, outer, _, places, breaker = timed(watching(seen), outer=0.02, inner=0.019)
    pipeline.reload(*pipeline.policies[:-1])
    with pytest.raises(TimeoutError, match="outer"):
        run(pipeline, calls_before, 60.0)
    assert seen == [type(None)] * calls_before + [asyncio.CancelledError]
    assert (outer.timed_out, places.inflight) == (1, 0)
    assert (breaker._circuit.cancelled, breaker._circuit.good) == (1, calls_before)


def test_the_limit_inside_it_is_an_outcome_for_it(way, calls_before):
    seen = []
    pipeline, outer, inner, places, breaker = timed(watching(seen), inner=0.02)
    with pytest.raises(TimeoutError, match="inner"):
        run(pipeline, calls_before, 60.0)
    assert seen == [type(None)] * calls_before + [TimeoutError]
    assert (outer.timed_out, inner.timed_out, places.inflight) == (0, 1, 0)
    assert breaker._circuit.ended[Verdict.TIMED_OUT] == 1


@pytest.mark.parametrize("error", [ZeroDivisionError, TimeoutError, KeyboardInterrupt])
def test_what_it_raises_within_a_limit_comes_out(way, calls_before, error):
    calls = []

    def step(call, inner):
        outcome = yield from inner(call)
        calls.append(1)
        if len(calls) > calls_before:
            raise error
        return outcome

    pipeline, outer, inner, places, breaker = timed(step)
    with pytest.raises(error):
        run(pipeline, calls_before, 0.0)
    assert (outer.timed_out, inner.timed_out, places.inflight) == (0, 0, 0)
    assert breaker._circuit.good == 1 + calls_before


@pytest.mark.parametrize("started", [False, True])
def test_a_deadline_that_ends_the_call_says_whether_it_was_started(way, started):
    def step(call, inner):
        if not started:
            yield Sleep(60.0)
        return (yield from inner(call))

    pipeline, places, _ = around(step)

    @pipeline
    async def fetch():
        await asyncio.sleep(60.0)

    with deadline(0.02), pytest.raises(DeadlineExceededError) as late:
        asyncio.run(fetch())
    assert late.value.started == started
    assert places.inflight == 0
