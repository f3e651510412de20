"""What every policy is: its name, its judge, its settings, and one object for every caller."""

import gc
import threading
import weakref
from dataclasses import dataclass

import pytest

from resilience import (
    AdaptiveThrottle,
    Cache,
    CircuitBreaker,
    CircuitState,
    ConcurrencyLimiter,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimiter,
    Retry,
    Timeout,
)
from resilience._core.check import Check
from resilience._runtime.policy import NO_TRAITS, Binding, Policy, Traits
from resilience.errors import ConfigError, ConfigWarning, LoadShedError
from resilience.limits import Aimd
from resilience.outcome import CallContext, Outcome, Verdict
from resilience.rates import Cubic
from resilience.testing import fail_times

from .dummies import Around, Turnstile, TurnstileSettings, again, through


def fetch() -> str:
    return "fetched"


def test_all_that_is_wrong_with_a_change_of_settings_is_listed_at_once() -> None:
    timeout = Timeout(0.8)
    with pytest.raises(ConfigError) as caught:
        timeout.reconfigure(bogus=1, duration=-1)
    assert [problem.setting for problem in caught.value.problems] == ["bogus", "duration"]
    assert timeout.settings.duration == 0.8


# --- names ---


def test_a_policy_keeps_the_name_it_was_given() -> None:
    policy = Turnstile("stock")
    policy(fetch)
    policy.call(len, "")
    assert policy.name == "stock"
    assert repr(policy) == "<Turnstile 'stock'>"


def test_a_policy_without_a_name_takes_that_of_the_first_function_it_guards() -> None:
    policy = Turnstile()
    assert policy.name == "turnstile"
    policy(fetch)
    policy(test_a_policy_keeps_the_name_it_was_given)
    assert policy.name == f"{__name__}.fetch"


def test_a_call_names_a_policy_too() -> None:
    policy = Turnstile()
    policy.call(fetch)
    assert policy.name == f"{__name__}.fetch"


def test_a_refusal_carries_the_name() -> None:
    policy = Turnstile("stock")
    with policy.guard(), pytest.raises(LoadShedError) as caught:
        policy.call(fetch)
    assert caught.value.policy == "stock"


@pytest.mark.parametrize("name", ["", "  ", 7, b"stock", object()])
def test_a_wrong_name_is_refused(name: object) -> None:
    with pytest.raises(ConfigError, match="name must be a non-empty string or None"):
        Turnstile(name)


@pytest.mark.parametrize(
    ("decorator", "written"),
    [
        (CircuitBreaker, "@CircuitBreaker()"),
        (Retry, "@Retry()"),
        (Hedge, "@Hedge(idempotent=...)"),
        (RateLimiter, "@RateLimiter()"),
        (ConcurrencyLimiter, "@ConcurrencyLimiter()"),
        (AdaptiveThrottle, "@AdaptiveThrottle()"),
        (Fallback, "@Fallback(value=...)"),
        (Cache, "@Cache(ttl=...)"),
        (Keyed, "@Keyed(factory=...)"),
        (Pipeline, "@Pipeline(Retry(...), Timeout(...))"),
    ],
)
def test_a_decorator_without_parentheses_is_refused_with_how_to_write_it(decorator, written: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decorator(fetch)
    problem = caught.value.problems[0]
    assert problem.setting == "name"
    assert problem.value is fetch
    assert problem.rule == f"must be a non-empty string or None (write {written}, with parentheses)"


@pytest.mark.parametrize(
    ("policy", "written"),
    [
        (CircuitBreaker, "CircuitBreaker(consecutive_failures=...)"),
        (Retry, "Retry(attempts=...)"),
        (Hedge, "Hedge(after=...)"),
        (RateLimiter, "RateLimiter(rate=...)"),
        (ConcurrencyLimiter, "ConcurrencyLimiter(limit=...)"),
        (AdaptiveThrottle, "AdaptiveThrottle(k=...)"),
        (Pipeline, "Pipeline(Retry(...), Timeout(...))"),
    ],
)
def test_a_number_in_place_of_the_name_is_refused_with_what_it_was_meant_for(policy, written: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policy(5)
    assert caught.value.problems[0].rule == f"must be a non-empty string or None (write {written})"


def test_an_empty_name_gets_no_hint() -> None:
    with pytest.raises(ConfigError) as caught:
        Retry("")
    assert str(caught.value) == "Retry: name must be a non-empty string or None, got ''"


# --- judging ---


@pytest.mark.parametrize(
    "on", [7, "error", int, BaseException, KeyboardInterrupt, (), (KeyError, int), [KeyError]]
)
def test_a_wrong_match_is_refused(on: object) -> None:
    with pytest.raises(
        ConfigError, match="on must be an exception type, a tuple of exception types, or a predicate"
    ):
        Turnstile(on=on)


def test_what_cannot_be_called_cannot_classify() -> None:
    with pytest.raises(ConfigError, match="classify must be callable"):
        Turnstile(classify="bad")


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Turnstile("", on=int, classify=7)
    assert [problem.setting for problem in caught.value.problems] == ["name", "on", "classify", "classify"]
    assert caught.value.subject == "Turnstile"


def test_on_and_classify_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="cannot be combined with on="):
        Turnstile(on=KeyError, classify=lambda outcome, context: Verdict.GOOD)


@pytest.mark.parametrize(
    "on", [ConnectionError, (ConnectionError, KeyError), lambda error: "down" in str(error)]
)
def test_on_says_which_errors_are_bad(runtime, on) -> None:
    gate = Turnstile(on=on)

    async def body() -> None:
        for error in (ConnectionError("down"), ValueError("wrong")):
            with pytest.raises(type(error)):
                await runtime.call(gate, fail_times(1, error))

    runtime.run(body)
    assert gate.ended == [Verdict.BAD, Verdict.GOOD]


def test_a_classifier_judges_values_and_errors(runtime) -> None:
    seen = []

    def classify(outcome: Outcome, context: CallContext) -> Verdict:
        seen.append((outcome.value, type(outcome.error)))
        return Verdict.THROTTLED

    gate = Turnstile(classify=classify)

    async def body() -> None:
        await runtime.call(gate, lambda: 429)
        with pytest.raises(KeyError):
            await runtime.call(gate, fail_times(1, KeyError))

    runtime.run(body)
    assert seen == [(429, type(None)), (None, KeyError)]
    assert gate.ended == [Verdict.THROTTLED] * 2


def test_a_classifier_may_leave_a_hint(runtime) -> None:
    def classify(outcome: Outcome, context: CallContext) -> Verdict:
        outcome.retry_after = 2.5
        return Verdict.THROTTLED

    gate = Turnstile(classify=classify)
    runtime.run(lambda: runtime.call(gate, fetch))
    assert gate.retry_after == [2.5]


@pytest.mark.parametrize("answer", [None, True, "good"])
def test_a_classifier_must_return_a_verdict(runtime, answer: object) -> None:
    gate = Turnstile(classify=lambda outcome, context: answer)
    with pytest.raises(TypeError, match="a classifier must return a Verdict, got"):
        runtime.run(lambda: runtime.call(gate, fetch))
    assert gate.inside == 0
    assert gate.ended == ["cancelled"]


def test_a_classifier_that_fails_is_heard_and_gives_the_permit_back(runtime) -> None:
    def broken(outcome: Outcome, context: CallContext) -> Verdict:
        raise ZeroDivisionError

    gate = Turnstile(classify=broken)
    with pytest.raises(ZeroDivisionError):
        runtime.run(lambda: runtime.call(gate, fetch))
    assert gate.inside == 0


def test_its_own_classifier_comes_before_the_pipelines() -> None:
    good = lambda outcome, context: Verdict.GOOD
    bad = lambda outcome, context: Verdict.BAD
    outcome = Outcome(1)
    assert Turnstile(classify=bad).judge(Binding("p", good))(outcome, CallContext()) is Verdict.BAD
    assert Turnstile().judge(Binding("p", bad))(outcome, CallContext()) is Verdict.BAD
    assert Turnstile().judge(Binding("p"))(outcome, CallContext()) is Verdict.GOOD


# --- settings ---


@dataclass(frozen=True, slots=True, kw_only=True)
class DialSettings:
    level: int = 1

    def __post_init__(self) -> None:
        check = Check("Dial")
        check.whole("level", self.level)
        check.done()


class Dial(Policy):
    kind = "dial"

    def __init__(self, level: int = 1, classify=None) -> None:
        super().__init__(None, classify=classify)
        self._settings = DialSettings(level=level)

    @property
    def settings(self) -> DialSettings:
        return self._settings

    def _configure(self, settings: DialSettings) -> None:
        self._settings = settings

    def step_for(self, binding: Binding):
        return through


def test_settings_can_be_changed_at_run_time() -> None:
    dial = Dial()
    dial.reconfigure(level=5)
    assert dial.settings == DialSettings(level=5)


@pytest.mark.parametrize("changes", [{"level": 0}, {"volume": 3}, {"volume": 3, "level": 2}])
def test_a_wrong_change_changes_nothing(changes: dict[str, int]) -> None:
    dial = Dial()
    with pytest.raises(ConfigError):
        dial.reconfigure(**changes)
    assert dial.settings.level == 1


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="Dial: volume is not a setting, got 3"):
        Dial().reconfigure(volume=3)


def test_a_policy_takes_the_settings_and_the_judge_of_another() -> None:
    bad = lambda outcome, context: Verdict.BAD
    dial, other = Dial(), Dial(level=7, classify=bad)
    dial.take_settings(other)
    assert dial.settings.level == 7
    assert dial.judge(Binding("dial"))(Outcome(1), CallContext()) is Verdict.BAD


def test_a_policy_says_little_about_itself_unless_it_must() -> None:
    dial = Dial()
    assert dial.traits is NO_TRAITS
    assert dial.traits == Traits()
    assert dial.parts == (dial,)
    assert dial.call(fetch) == "fetched"


# --- many callers ---


def test_a_policy_is_bound_once_for_all_its_functions() -> None:
    policy = Around(through)
    policy(fetch)
    policy.call(fetch)
    policy.call(len, "")
    assert len(policy.bindings) == 1


def test_with_a_classifier_of_the_pipeline_it_is_bound_anew() -> None:
    policy = Around(through)
    judge = lambda outcome, context: Verdict.GOOD
    other = lambda outcome, context: Verdict.BAD
    policy.flow_for("f", judge)
    policy.flow_for("g", judge)
    policy.flow_for("h", other)
    assert [binding.classify for binding in policy.bindings] == [judge, other]
    assert [binding.name for binding in policy.bindings] == ["f", "f"]


def test_one_policy_serves_many_threads() -> None:
    gate = Turnstile(limit=8)
    results = []

    def work() -> None:
        results.extend(gate.call(lambda: 1) for _ in range(200))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(results) == 1600
    assert gate.inside == 0


# --- what is left behind ---


class Local:
    """Something that only a frame of the failed function refers to."""


POLICIES = {
    "through": lambda: Around(through),
    "gate": lambda: Turnstile(limit=1),
    "again": lambda: Around(again),
    "queue": lambda: Turnstile(limit=1, max_wait=1.0),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_a_failed_call_keeps_no_frame_alive(runtime, fake_clock, no_gc, policy, error) -> None:
    left: list[weakref.ref[Local]] = []
    guard = policy()

    async def broken() -> None:
        local = Local()
        left.append(weakref.ref(local))
        raise error

    async def body() -> None:
        fetch = runtime.wrap(guard, broken)
        try:
            await fetch()
        except BaseException:
            pass
        assert left
        assert [reference for reference in left if reference() is not None] == []

    runtime.run(body)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("items", [0, 1])
def test_a_failed_stream_keeps_no_frame_alive(runtime, fake_clock, no_gc, policy, items) -> None:
    left: list[weakref.ref[Local]] = []
    guard = policy()

    async def broken():
        local = Local()
        left.append(weakref.ref(local))
        for item in range(items):
            yield item
        raise KeyError

    async def body() -> None:
        stream = runtime.wrap(guard, broken)
        try:
            async for _ in stream():
                pass
        except KeyError:
            pass
        assert left
        assert [reference for reference in left if reference() is not None] == []

    runtime.run(body)


def test_a_guarded_block_that_failed_keeps_no_frame_alive(runtime, no_gc) -> None:
    left: list[weakref.ref[Local]] = []
    gate = Turnstile()

    async def broken() -> None:
        local = Local()
        left.append(weakref.ref(local))
        async with runtime.guard(gate):
            raise KeyError

    async def body() -> None:
        try:
            await broken()
        except KeyError:
            pass
        assert left[0]() is None

    runtime.run(body)


def test_a_result_is_not_kept(runtime, no_gc) -> None:
    gate = Turnstile()

    async def body() -> None:
        result = await runtime.call(gate, Local)
        reference = weakref.ref(result)
        del result
        assert reference() is None

    runtime.run(body)


def test_a_policy_that_nobody_uses_goes_away(no_gc) -> None:
    gate = Turnstile()
    gate.call(fetch)
    reference = weakref.ref(gate)
    del gate
    gc.collect()
    assert reference() is None


def test_the_settings_of_a_double_are_frozen() -> None:
    with pytest.raises(AttributeError):
        TurnstileSettings().limit = 2


def test_a_copy_has_the_settings_and_has_seen_nothing():
    class Draws:
        def random(self):
            return 0.5

    rng = Draws()
    policies = [
        CircuitBreaker("b", consecutive_failures=1, rng=rng, on=KeyError),
        Retry("r", attempts=2, rng=rng),
        RateLimiter("l", rate=10, burst=3),
        AdaptiveThrottle("t", k=3.0),
        Timeout(1.0, name="o"),
        Hedge("h", after=1.0, idempotent=True),
        Fallback("f", value=1),
        Cache("c", ttl=1.0, key=len),
        Keyed("k", factory=CircuitBreaker, key=len),
    ]
    for policy in policies:
        made = policy.copy()
        assert made is not policy
        assert (type(made), made.name, made.settings) == (type(policy), policy.name, policy.settings)
        assert made._classify is policy._classify
    assert policies[0].copy()._random is rng
    with pytest.raises(KeyError):
        policies[0].call({}.__getitem__, "k")
    assert policies[0].state is CircuitState.OPEN
    assert policies[0].copy().state is CircuitState.CLOSED


def test_a_copy_has_a_limit_and_a_rate_of_its_own():
    limited = ConcurrencyLimiter(limit=Aimd(initial=7))
    rated = RateLimiter(rate=Cubic(scale=0.5))
    assert limited.copy().limit == limited.limit == 7
    assert limited.copy().settings.limit is not limited.settings.limit
    assert rated.copy().settings.rate is not rated.settings.rate


def test_a_copy_has_the_settings_of_one_moment():
    class Changing(RateLimiter):
        """One that is reconfigured by somebody else each time it is looked at."""

        is_changing = False

        @property
        def settings(self):
            found = super().settings
            if self.is_changing:
                self.is_changing = False
                self.reconfigure(rate=found.rate * 2, burst=found.burst * 2)
                self.is_changing = True
            return found

    limiter = Changing("l", rate=100.0, burst=10)
    limiter.is_changing = True
    made = limiter.copy().settings
    assert made.rate == 10.0 * made.burst


def test_a_copy_of_a_pipeline_is_made_of_copies():
    breaker = CircuitBreaker(consecutive_failures=1)
    pipeline = Pipeline.standard("stock")
    pipeline.reload(Retry(), breaker, on=KeyError)
    made = pipeline.copy()
    assert type(made) is type(pipeline)
    assert made.name == "stock"
    assert [type(policy) for policy in made.policies] == [Retry, CircuitBreaker]
    assert breaker not in made.policies
    assert made._classify is pipeline._classify


def test_a_copy_of_a_pipeline_gives_its_warnings_no_second_time():
    with pytest.warns(ConfigWarning, match="fallback"):
        pipeline = Pipeline("stock", Retry(), Fallback(value=1))
    made = pipeline.copy()  # a warning would be an error here
    assert made.call(lambda: 7) == 7
    assert made.policies[0].name == "stock"
