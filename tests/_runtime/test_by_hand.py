"""`call` and `acall` go through one generated function for each policy."""

import asyncio
import copy
import functools
import weakref
from unittest.mock import patch

import pytest

from resilience import (
    AdaptiveThrottle,
    CircuitBreaker,
    ConcurrencyLimiter,
    Fallback,
    Pipeline,
    RateLimiter,
    Retry,
    Timeout,
)
from resilience._runtime import adrive, drive
from resilience._runtime import compile as compiling
from resilience.errors import CircuitOpenError
from resilience.priority import usage
from resilience.telemetry import configure

pytestmark = pytest.mark.skipif(not compiling.is_on(), reason="nothing is generated here")


@pytest.fixture(autouse=True)
def nobody_has_said_a_priority(monkeypatch):
    """Whatever ran before in this process: from the first block on, throttles are driven."""
    monkeypatch.setattr(usage, "used", False)


POLICIES = {
    "breaker": lambda: CircuitBreaker("p"),
    "places": lambda: ConcurrencyLimiter("p"),
    "rate": lambda: RateLimiter("p"),
    "throttle": lambda: AdaptiveThrottle("p"),
    "retry": lambda: Retry("p"),
    "fallback": lambda: Fallback("p", value=None),
    "timeout": lambda: Timeout(10.0, name="p"),
    "timeout that does not tell": lambda: Timeout(10.0, name="p", propagate=False),
    "pipeline": lambda: Pipeline(
        "p", Retry(), CircuitBreaker(), RateLimiter(), ConcurrencyLimiter(), Timeout(1.0)
    ),
}


def double(x, *, times=2):
    return x * times


async def adouble(x, *, times=2):
    return x * times


class Doubler:
    def plain(self, x):
        return 2 * x

    async def later(self, x):
        return 2 * x

    def __call__(self, x):
        return 2 * x


@functools.wraps(double)
def noted(x):
    return 2 * x


PLAIN = {
    "function": double,
    "lambda": lambda x: 2 * x,
    "method": Doubler().plain,
    "object": Doubler(),
    "builtin": [1, 2, 3, 4].__getitem__,
    "partial": functools.partial(double, times=2),
    "decorated": noted,
    "guarded": CircuitBreaker("inner")(double),
}
ASYNC = {
    "function": adouble,
    "lambda": lambda x: adouble(x),
    "future": lambda x: _future(2 * x),
    "method": Doubler().later,
    "partial": functools.partial(adouble, times=2),
}


def _future(value):
    future = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future


@pytest.fixture(params=POLICIES)
def policy(request):
    return POLICIES[request.param]()


def test_a_call_that_goes_well_is_not_driven(policy):
    policy.call(double, 1)
    with patch.object(drive, "run", side_effect=AssertionError("driven as a flow")):
        assert policy.call(double, 2, times=3) == 6


def test_an_awaited_call_that_goes_well_is_not_driven(policy):
    async def body():
        await policy.acall(adouble, 1)
        with patch.object(adrive, "run", side_effect=AssertionError("driven as a flow")):
            return await policy.acall(adouble, 2, times=3)

    assert asyncio.run(body()) == 6


@pytest.mark.parametrize("fn", PLAIN.values(), ids=PLAIN)
def test_whatever_can_be_called_is_called(fn):
    assert CircuitBreaker("p").call(fn, 2) in (3, 4)


@pytest.mark.parametrize("fn", ASYNC.values(), ids=ASYNC)
def test_whatever_returns_an_awaitable_is_awaited(fn):
    async def body():
        return await CircuitBreaker("p").acall(fn, 2)

    assert asyncio.run(body()) == 4


def test_arguments_may_be_called_like_those_of_the_generated_function():
    def named(**kwargs):
        return kwargs

    given = {"policy": 1, "args": 3, "kwargs": 4, "self": 5, "value": 6, "plan": 7}
    assert CircuitBreaker("p").call(named, **given) == given


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in ("fallback", "timeout")])
def test_a_plain_function_that_returns_a_coroutine_is_refused_each_time(name):
    policy = POLICIES[name]()
    for _ in range(2):
        assert policy.call(double, 1) == 2
        with pytest.raises(TypeError, match="returned a coroutine"):
            policy.call(lambda: adouble(1))


def test_what_cannot_be_awaited_is_refused_and_nothing_is_learnt():
    breaker = CircuitBreaker("p", consecutive_failures=1)
    for _ in range(2):
        with pytest.raises(TypeError, match=r"double returned 2, which cannot be awaited: use call\(\)"):
            asyncio.run(breaker.acall(double, 1))
    assert breaker.state.value == "closed"


def test_a_policy_without_a_name_takes_that_of_the_first_function_called():
    breaker = CircuitBreaker()
    breaker.call(double, 1)
    breaker.call(len, "four")
    assert breaker.name == f"{__name__}.double"


def test_a_change_of_settings_is_followed():
    breaker = CircuitBreaker("p", consecutive_failures=5)
    breaker.call(double, 1)
    breaker.reconfigure(consecutive_failures=1)
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 / 0)
    with pytest.raises(CircuitOpenError):
        breaker.call(double, 1)


def test_a_pipeline_that_is_reloaded_during_a_call_settles_what_it_gave_out():
    places = ConcurrencyLimiter("places")
    pipeline = Pipeline("p", places)

    def reloads():
        pipeline.reload(CircuitBreaker("new"), places)
        raise KeyError

    pipeline.call(double, 1)
    with pytest.raises(KeyError):
        pipeline.call(reloads)
    assert places.is_idle
    assert pipeline.call(double, 1) == 2


def test_a_retry_that_is_changed_during_a_call_goes_on():
    retry = Retry("p", attempts=2, backoff=lambda _: 0.0, budget=None)
    calls = []

    def fails():
        calls.append(retry.reconfigure(attempts=3))
        raise ConnectionError

    retry.call(double, 1)
    with pytest.raises(ConnectionError):
        retry.call(fails)
    assert len(calls) == 2


def fail():
    raise KeyError


@pytest.mark.parametrize("fn", [double, fail], ids=["good", "failing"])
@pytest.mark.parametrize("metrics", [False, True], ids=["", "metrics"])
@pytest.mark.parametrize("name", ["breaker", "places", "rate", "timeout"])
def test_a_policy_by_which_calls_were_made_goes_away_by_itself(no_gc, name, metrics, fn):
    configure(call_metrics=metrics)
    try:
        policy = POLICIES[name]()
        for _ in range(2):
            try:
                policy.call(fn, *([1] if fn is double else []))
            except KeyError:
                pass
        reference = weakref.ref(policy)
        del policy
        assert reference() is None
    finally:
        configure(call_metrics=False)


@pytest.mark.parametrize("name", ["throttle", "retry", "pipeline", "fallback"])
def test_a_policy_whose_calls_went_well_goes_away_by_itself(no_gc, name):
    policy = POLICIES[name]()
    policy.call(double, 1)
    policy.call(double, 1)
    reference = weakref.ref(policy)
    del policy
    assert reference() is None


def test_a_function_that_was_called_is_not_kept(policy, no_gc):
    def fn():
        return 1

    policy.call(fn)
    reference = weakref.ref(fn)
    del fn
    assert reference() is None


def test_a_shallow_copy_calls_under_the_same_state():
    breaker = CircuitBreaker("p", consecutive_failures=1)
    breaker.call(double, 1)
    twin = copy.copy(breaker)
    with pytest.raises(KeyError):
        twin.call(fail)
    with pytest.raises(CircuitOpenError):
        breaker.call(double, 1)
