"""The generated function: that it is the decorated one, and does what the flows do."""

import asyncio
import gc
import inspect
import linecache
import os
import pickle
import subprocess
import sys
import threading
import traceback
import weakref
from contextlib import suppress
from fractions import Fraction

import pytest
from tests.doubles import clock_replaced

from resilience import (
    CircuitBreaker,
    CircuitOpenError,
    ConcurrencyLimitedError,
    ConcurrencyLimiter,
    Fallback,
    Hedge,
    Pipeline,
    RateLimiter,
    Retry,
    RetryBudget,
    Timeout,
    Verdict,
    deadline,
)
from resilience._runtime import compile as compiling
from resilience._runtime.watch import watch
from resilience.backoff import constant
from resilience.concurrency_limiter._queue import Ticket
from resilience.errors import DeadlineExceededError
from resilience.limits import Aimd
from resilience.telemetry._watcher import Watcher
from resilience.testing import FakeClock

pytestmark = [
    pytest.mark.skipif(not compiling.is_on(), reason="nothing is generated here"),
    pytest.mark.usefixtures("mode"),
]


def whole(name="whole", **settings):
    return Pipeline(
        name,
        Retry(attempts=3, backoff=constant(0.0), budget=RetryBudget.ratio(1.0, min_per_second=100.0)),
        CircuitBreaker(**settings),
        RateLimiter(rate=1e6, burst=10_000),
        ConcurrencyLimiter(limit=10),
    )


def is_hot(guarded):
    source = compiling.source_of(guarded)
    return source is not None and "except " in source


# What it looks like


def plain(a, b=2):
    return a, b


def positional(a, b=2, /, c=3):
    return a, b, c


def keyword(*, a, b=2):
    return a, b


def rest(a, *args, b=2, **kwargs):
    return a, args, b, kwargs


def only(a, /):
    return a


def starred(*args):
    return args


@pytest.mark.parametrize(
    ("fn", "args", "kwargs"),
    [
        (plain, (1,), {}),
        (plain, (), {"b": 5, "a": 1}),
        (positional, (1,), {}),
        (positional, (1, 5), {"c": 7}),
        (keyword, (), {"a": 1}),
        (keyword, (), {"b": 5, "a": 1}),
        (rest, (1, 2, 3), {"b": 4, "c": 5}),
        (rest, (), {"a": 1, "z": 2}),
        (only, (1,), {}),
        (starred, (1, 2), {}),
    ],
)
def test_it_has_the_signature_of_the_function(fn, args, kwargs):
    guarded = whole()(fn)
    assert is_hot(guarded)
    assert guarded(*args, **kwargs) == fn(*args, **kwargs)
    running = guarded.__globals__.get("present", guarded)  # what calls are handed on to, under locks
    assert (
        inspect.signature(running, follow_wrapped=False).parameters.keys()
        == inspect.signature(fn).parameters.keys()
    )
    assert inspect.signature(guarded) == inspect.signature(fn)
    assert (guarded.__name__, guarded.__doc__, guarded.__module__) == (fn.__name__, fn.__doc__, fn.__module__)


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"c": 3}), ((1,), {"a": 2})])
def test_wrong_arguments_are_the_callers_error_and_nobody_elses(args, kwargs):
    pipeline = whole()
    with pytest.raises(TypeError, match=r"plain\(\)"):
        pipeline(plain)(*args, **kwargs)
    assert pipeline.policies[0].calls == 0


def test_defaults_are_the_very_objects_of_the_function():
    nothing = object()

    def fetch(value=nothing):
        return value

    assert whole()(fetch)() is nothing


OWN = [
    "fn", "clock", "error", "value", "first", "slow", "plan", "task", "loop", "block", "until", "now", "began",
    "cell_2", "circuit_2", "tally_1", "queue_1", "Exception", "isinstance", "type", "dict", "wrapper", "replay",
]  # fmt: skip


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("stars", ["", "*", "**"])
def test_a_parameter_may_have_any_name(name, stars):
    namespace = {"calls": []}
    exec(
        f"def fetch({stars}{name}):\n    calls.append(1)\n    if len(calls) == 2: raise KeyError\n    return {name}",
        namespace,
    )  # a function with such a parameter, which fails once
    pipeline = Pipeline("p", Timeout(9.0), CircuitBreaker())
    guarded = pipeline(namespace["fetch"])
    assert is_hot(guarded)
    args, kwargs = {"": ((7,), {}), "*": ((7, 8), {}), "**": ((), {"a": 7})}[stars]
    expected = {"": 7, "*": (7, 8), "**": {"a": 7}}[stars]
    assert guarded(*args, **kwargs) == expected
    with pytest.raises(KeyError):
        guarded(*args, **kwargs)
    assert guarded(*args, **kwargs) == expected
    with pipeline.policies[1].isolate(), pytest.raises(CircuitOpenError):
        guarded(*args, **kwargs)


@pytest.mark.parametrize("name", OWN)
def test_a_parameter_of_a_coroutine_function_may_have_any_name(name):
    namespace = {}
    exec(f"async def fetch(*, {name}):\n    return {name}", namespace)  # a function with such a parameter
    guarded = Pipeline("p", Timeout(9.0), Retry(), CircuitBreaker(), Timeout(1.0))(namespace["fetch"])
    assert is_hot(guarded)

    async def main():
        return [await guarded(**{name: number}) for number in range(3)]

    assert asyncio.run(main()) == [0, 1, 2]


@pytest.mark.parametrize("name", ["deadline", "outer", "key", "cuts", "cancels", "loops"])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_parameter_may_have_any_name_while_a_deadline_is_in_force(name, is_async):
    namespace = {}
    text = f"def fetch({name}):\n    if {name} == 0: raise KeyError\n    return {name}"
    exec("async " * is_async + text, namespace)  # a function with such a parameter, which fails for 0
    guarded = Pipeline("p", Timeout(9.0), CircuitBreaker())(namespace["fetch"])

    async def once(value):
        return await guarded(value) if is_async else guarded(value)

    async def main():
        with deadline(9.0):
            assert is_hot(guarded)
            for _ in range(2):
                with pytest.raises(KeyError):
                    await once(0)
                assert await once(7) == 7

    asyncio.run(main())


def test_a_lambda_and_a_method_are_guarded_as_well():
    class Service:
        @whole()
        def fetch(self, x):
            return self, x

    service = Service()
    assert service.fetch(1) == (service, 1)
    guarded = whole()(lambda x: x)
    assert is_hot(guarded)
    assert guarded(1) == 1


def test_its_text_can_be_read_and_stands_in_tracebacks():
    @whole()
    def fetch(x):
        if x:
            raise KeyboardInterrupt

    fetch(0)
    with pytest.raises(KeyboardInterrupt) as caught:
        fetch(1)
    lines = [entry.line for entry in traceback.extract_tb(caught.value.__traceback__)]
    assert "value = fn(x)" in lines
    assert compiling.source_of(fetch).startswith("def fetch(x):\n")


def test_a_policy_shows_the_text():
    pipeline = whole()
    guarded = pipeline(plain)
    assert pipeline.source(guarded) == compiling.source_of(guarded)
    assert (
        pipeline.source(Timeout(lambda context: 1.0)(plain))
        == "# plain: no text; each call is driven step by step\n"
    )
    with pytest.raises(TypeError, match="takes a function that a policy has decorated"):
        pipeline.source(plain)


def test_its_code_can_be_a_key_of_a_dict():  # as profilers use it
    try:
        watch.put(Watcher({}, None, None))
        guarded = whole()(lambda: 7)
        guarded()
        assert {guarded.__globals__.get("present", guarded).__code__: 7}
    finally:
        watch.put(None)


def test_its_text_goes_with_it():
    def fetch():
        return 1

    guarded = whole()(fetch)
    guarded()
    filename = guarded.__globals__.get("present", guarded).__code__.co_filename
    assert filename in linecache.cache
    gone = weakref.ref(guarded)
    del guarded
    assert gone() is None
    assert filename not in linecache.cache


@pytest.mark.parametrize(
    "policy",
    [
        Timeout(1.0, thread=True),
        Timeout(lambda context: 1.0),
        Pipeline(Retry(), Hedge(after=1.0, idempotent=True), CircuitBreaker()),
        RateLimiter(rate=10, algorithm="fixed_window"),
        RateLimiter(rate=10, key=lambda: 1),
        ConcurrencyLimiter(limit=2, shares={"a": 0.5}, share_of=lambda: "a"),
    ],
    ids=repr,
)
def test_what_has_no_success_path_in_statements_goes_the_slow_way(policy):
    guarded = policy(lambda: 7)
    assert compiling.source_of(guarded) is None
    assert guarded() == 7


def test_errors_alone_may_be_judged_in_any_way():
    guarded = CircuitBreaker(on=KeyError)(lambda: 7)
    assert is_hot(guarded)


def test_the_environment_can_say_no():
    program = (
        "from resilience import Retry; from resilience._runtime import compile as c;"
        "f = Retry()(lambda: 7); print(f(), c.source_of(f))"
    )
    env = {**os.environ, "RESILIENCE_COMPILE": "0"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )  # our own interpreter
    assert ran.stdout.split() == ["7", "None"]


# What it does


def test_a_failure_is_retried_and_every_gate_learns_of_it_once():
    pipeline = whole()
    retry, breaker, limiter, places = pipeline.policies
    calls = []

    @pipeline
    def fetch(x):
        calls.append(x)
        if len(calls) < 3:
            raise ConnectionError
        return x

    assert fetch("a") == "a"
    assert calls == ["a"] * 3
    assert (retry.calls, retry.retries, retry.stops["success"]) == (1, 2, 1)
    assert limiter.counts.acquired == places.counts.acquired == 3
    assert (breaker._circuit.good, sum(breaker._circuit.ended.values())) == (1, 2)
    assert places.inflight == 0


def test_a_last_failure_is_the_functions_own_error_without_a_context():
    @whole()
    def fetch():
        raise KeyError("k")

    with pytest.raises(KeyError) as caught:
        fetch()
    assert caught.value.__context__ is None
    assert any("gave up after 3 attempts" in note for note in caught.value.__notes__)


def test_a_refusal_of_a_later_gate_gives_back_what_the_earlier_ones_gave():
    breaker, limiter, places = CircuitBreaker(), RateLimiter(rate=1, burst=5), ConcurrencyLimiter(limit=1)
    guarded = Pipeline(breaker, limiter, places)(lambda: 7)
    with places.guard(), pytest.raises(ConcurrencyLimitedError):
        guarded()
    assert limiter.remaining() == 5
    assert limiter.counts.acquired == 1  # by the flow, which gave back too
    assert guarded() == 7
    assert limiter.remaining() == 4


@pytest.mark.parametrize("escape", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_failure_gives_everything_back(escape):
    pipeline = whole()
    retry, breaker, _, places = pipeline.policies

    def fetch():
        assert places.inflight == 1
        raise escape

    with pytest.raises(escape):
        pipeline(fetch)()
    assert places.inflight == 0
    assert (breaker._circuit.cancelled, breaker._circuit.good) == (1, 0)
    assert (retry.calls, retry.stops["cancelled"]) == (1, 1)


def test_a_cancelled_task_gives_everything_back():
    pipeline = whole()
    places = pipeline.policies[3]

    @pipeline
    async def fetch():
        await asyncio.sleep(60)

    async def main():
        task = asyncio.create_task(fetch())
        await asyncio.sleep(0.01)
        assert places.inflight == 1
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert places.inflight == 0

    assert is_hot(fetch)
    asyncio.run(main())


def test_a_plain_function_that_returns_a_coroutine_is_refused_and_holds_nothing():
    async def later():
        return 1

    pipeline = whole()
    with pytest.raises(TypeError, match="returned a coroutine: decorate the async function itself"):
        pipeline(lambda: later())()
    assert pipeline.policies[3].inflight == 0
    assert pipeline.policies[1]._circuit.good == 0


def test_a_function_in_c_may_import_something():
    pipeline, breaker, said = whole(), CircuitBreaker("by hand"), pickle.dumps(Fraction(1, 2))
    read = pipeline(pickle.loads)
    for _ in range(3):  # the first call generates the code that the next ones run
        assert (
            read(said)
            == pipeline.call(pickle.loads, said)
            == breaker.call(pickle.loads, said)
            == Fraction(1, 2)
        )
    assert breaker._circuit.good == 3


def test_an_open_circuit_refuses_and_lets_pass_again():
    breaker = CircuitBreaker(consecutive_failures=1)
    guarded = breaker(lambda: 7)
    assert guarded() == 7
    with breaker.isolate(), pytest.raises(CircuitOpenError):
        guarded()
    assert guarded() == 7


def test_a_deadline_that_has_passed_is_seen():
    guarded = whole()(lambda: 7)
    with deadline(60):
        assert guarded() == 7
    with deadline(1e-9), pytest.raises(DeadlineExceededError):
        guarded()


def test_it_calls_itself_as_often_as_there_are_places():
    places = ConcurrencyLimiter(limit=3)

    @places
    def fetch(depth):
        return places.inflight if depth == 1 else fetch(depth - 1)

    assert fetch(3) == 3
    with pytest.raises(ConcurrencyLimitedError):
        fetch(4)
    assert places.inflight == 0


def test_a_reload_changes_the_text_and_not_the_function():
    pipeline = Pipeline("p", Retry())
    guarded = pipeline(lambda: 7)
    before = compiling.source_of(guarded)
    limiter = ConcurrencyLimiter(limit=1)
    pipeline.reload(Retry(), limiter)
    with limiter.guard(), pytest.raises(ConcurrencyLimitedError):
        guarded()
    assert guarded() == 7
    assert compiling.source_of(guarded) != before
    pipeline.reload(Hedge(after=1.0, idempotent=True))
    assert guarded() == 7
    assert not is_hot(guarded)
    pipeline.reload(Retry())
    assert guarded() == 7
    assert is_hot(guarded)


def test_a_call_under_way_while_everything_changes_gives_back_what_it_took():
    limiter = ConcurrencyLimiter(limit=1)
    pipeline = Pipeline("p", limiter)

    def fetch(first):
        if first:
            pipeline.reload(Retry(), limiter)
            with pytest.raises(ConcurrencyLimitedError):
                guarded(False)
        return 7

    guarded = pipeline(fetch)
    assert guarded(True) == 7
    assert limiter.inflight == 0
    assert guarded(False) == 7


@pytest.mark.timeout(60)
def test_eight_threads_lose_no_count_and_no_place():
    pipeline = whole()
    retry, breaker, _, places = pipeline.policies
    calls, threads = 2_000, 8

    @pipeline
    def fetch(n):
        if n % 50 == 0:
            raise ConnectionError
        return n

    refused = []

    def work():
        for n in range(1, calls + 1):
            try:
                fetch(n)
            except ConnectionError:
                pass
            except ConcurrencyLimitedError:
                refused.append(n)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert places.inflight == 0
    assert retry.calls == calls * threads
    assert sum(retry.stops.values()) == retry.calls
    assert retry.stops["success"] == calls * threads * 49 // 50
    assert breaker._circuit.good == retry.stops["success"]


# What happens meanwhile


def test_one_who_joins_the_line_before_a_later_gate_refuses_is_woken():
    first, second = ConcurrencyLimiter("first", limit=1), ConcurrencyLimiter("second", limit=1)
    late = Ticket(2)

    class Joined:
        """Places that are taken; somebody joins the line of the first limiter while they are looked at."""

        started = 1.0
        inflight = limit = 1

        @property
        def ceiling(self):
            if late not in first._line:
                first._line.join(late)
                assert not late.woken
            return 1.0

    second._bulkhead.cell = Joined()
    guarded = Pipeline(first, second)(lambda: 7)
    with pytest.raises(ConcurrencyLimitedError):
        guarded()
    assert late.woken
    assert first.inflight == 0


def test_one_in_line_is_woken_though_an_interrupt_strikes_right_after_the_call():
    limiter = ConcurrencyLimiter(limit=Aimd(initial=1))
    late = Ticket(2)

    def read():
        if late in limiter._line:
            raise KeyboardInterrupt
        return 0.0

    def fetch(*, strikes):
        if strikes:
            limiter._line.join(late)

    guarded = limiter(fetch)
    with clock_replaced(read):
        guarded(strikes=False)
        with pytest.raises(KeyboardInterrupt):
            guarded(strikes=True)
    assert late.woken
    assert limiter.inflight == 0


def test_a_reload_that_fails_half_way_leaves_no_code_of_the_settings_that_were_taken_for_a_moment():
    calls = []

    class Stubborn(ConcurrencyLimiter):
        def take_settings(self, other):
            guarded(fails=False)  # generates code, with settings that are given back below
            raise RuntimeError("not now")

    pipeline = Pipeline("p", Retry(attempts=1, budget=None), Stubborn(limit=2))

    @pipeline
    def guarded(*, fails):
        calls.append(fails)
        if fails:
            raise ConnectionError

    with pytest.raises(RuntimeError, match="not now"):
        pipeline.reload(Retry(attempts=3, backoff=constant(0.0), budget=None), Stubborn(limit=9))
    assert is_hot(guarded)
    with pytest.raises(ConnectionError):
        guarded(fails=True)
    assert calls.count(True) == 1


def test_a_call_that_began_under_a_fixed_limit_does_not_mislead_one_that_learns():
    samples = []

    class Learning:
        limit, window = 5, 0.0

        def on_sample(self, sample):
            samples.append(sample)

    limiter = ConcurrencyLimiter(limit=5)

    @limiter
    def fetch():
        limiter.reconfigure(limit=Learning())
        raise TimeoutError

    with FakeClock(), pytest.raises(TimeoutError):
        fetch()
    assert [sample.mean for sample in samples] == [0.0]


def test_a_classifier_need_not_be_hashable():
    class Judge:
        __hash__ = None

        def __call__(self, outcome, context):
            return Verdict.GOOD

    guarded = CircuitBreaker(classify=Judge())(lambda: 7)
    assert is_hot(guarded)
    assert guarded() == 7


def test_a_function_that_shows_another_signature_than_it_has_gets_what_it_was_given():
    def fetch(*args, **kwargs):
        return args, kwargs

    fetch.__signature__ = inspect.signature(lambda x: x)
    guarded = whole()(fetch)
    assert compiling.source_of(guarded) is None
    assert guarded(1, 2, y=3) == ((1, 2), {"y": 3})


class Held:
    """Something that lives as long as what holds it."""


def recursive():
    held = Held()

    @Pipeline("p", Retry(), CircuitBreaker(), ConcurrencyLimiter(limit=5))
    def guarded(n):
        return held and n and guarded(n - 1)

    guarded(1)
    return weakref.ref(held)


def judged_by_its_owner():
    class Client:
        def __init__(self):
            self.fetch = CircuitBreaker(on=self.is_bad)(self.get)

        def is_bad(self, error):
            return isinstance(error, OSError)

        def get(self):
            return 7

    client = Client()
    client.fetch()
    return weakref.ref(client)


def falls_back_on_itself():
    held = Held()

    @Pipeline(
        "p", Fallback(handler=lambda _: held and guarded), Retry(backoff=constant(0.0)), CircuitBreaker()
    )
    def guarded():
        raise ConnectionError

    assert guarded() is not None
    return weakref.ref(held)


@pytest.mark.parametrize("make", [recursive, judged_by_its_owner, falls_back_on_itself])
def test_a_function_that_leads_back_to_itself_is_collected(make):
    gone = make()
    gc.collect()
    gc.collect()
    assert gone() is None


def test_what_earlier_code_looked_up_goes_with_it():
    retry = Retry(attempts=2)
    guarded = Pipeline("p", retry)(lambda: 7)
    guarded()
    names = len(guarded.__globals__)
    for attempts in range(3, 20):
        retry.reconfigure(attempts=attempts)
        guarded()
    assert len(guarded.__globals__) == names


def test_a_call_under_way_uses_what_its_code_was_made_with():
    retry = Retry(attempts=1, budget=None)

    @Pipeline("p", retry)
    def guarded():
        calls.append(1)
        if len(calls) == 1:
            retry.reconfigure(attempts=3)
            with suppress(ConnectionError):
                guarded()
        raise ConnectionError

    calls = []
    with pytest.raises(ConnectionError):
        guarded()
    assert len(calls) == 1 + 3
