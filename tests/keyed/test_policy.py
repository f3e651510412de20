"""Keyed on threads, under asyncio and under trio: one policy for each key, who makes room, and who overflows."""

import gc
import inspect
import multiprocessing
import os
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from resilience._core.permit import NEVER
from resilience._runtime.flow import Call, Flow, Inner
from resilience._runtime.gate import Gate
from resilience._runtime.pipeline import Pipeline
from resilience._runtime.policy import Binding, Policy, Step, Traits
from resilience.backoff import constant
from resilience.cache import Cache
from resilience.circuit_breaker import CircuitBreaker
from resilience.deadline import deadline
from resilience.errors import ConcurrencyLimitedError, ConfigError
from resilience.fallback import Fallback
from resilience.keyed import Keyed, KeyedSettings
from resilience.keyed._entry import MOST_BINDINGS
from resilience.outcome import Verdict
from resilience.rate_limiter import RateLimiter
from resilience.retry import Retry


class Slots(Gate):
    """A gate that lets *limit* calls pass at once and says whether it is as a new one."""

    __slots__ = ("limit", "seen", "used")

    kind = "slots"
    error = ConcurrencyLimitedError
    settling_frees = True

    def __init__(self, name: str | None = None, *, limit: int = 1_000) -> None:
        super().__init__(name)
        self.limit = limit
        self.used = 0
        self.seen: list[Verdict] = []

    @property
    def settings(self) -> int:
        return self.limit

    @property
    def traits(self) -> Traits:
        return Traits(rank=7)

    @property
    def is_idle(self) -> bool:
        return not self.used and not self.seen

    def _configure(self, settings: int) -> None:
        self.limit = settings

    def _admit(self, now: float, ask: Any) -> Any:
        if self.used >= self.limit:
            return NEVER
        self.used += 1
        return object()

    def _settle(self, token: Any, verdict: Verdict, now: float, started: float, retry_after: Any) -> None:
        self.used -= 1
        if verdict is not Verdict.GOOD:
            self.seen.append(verdict)

    def _release(self, token: Any, now: float, **_: Any) -> None:
        self.used -= 1


class Silent(Slots):
    """A gate that does not say whether it is idle."""

    __slots__ = ()
    is_idle = None  # type: ignore[assignment]  # says nothing


class Around(Policy):
    """A policy without state, which counts its calls and the steps that were made."""

    __slots__ = ("calls", "steps")

    kind = "around"

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.calls = 0
        self.steps: list[Binding] = []

    @property
    def settings(self) -> None:
        return None

    def _configure(self, settings: None) -> None: ...

    def step_for(self, binding: Binding) -> Step:
        self.steps.append(binding)

        def step(call: Call, inner: Inner) -> Flow:
            self.calls += 1
            return (yield from inner(call))

        return step


def echo(key: Hashable, *args: Any) -> Any:
    return key


# --- a policy for each key ---------------------------------------------------------------------------------------


def test_each_key_has_a_policy_of_its_own(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed("hosts", factory=Around, key=lambda key: key)
        call = runtime.wrap(keyed, echo)
        assert [await call("a"), await call("b"), await call(key="a")] == ["a", "b", "a"]
        assert (keyed["a"].calls, keyed["b"].calls, keyed.overflow.calls) == (2, 1, 0)
        assert keyed["a"] is keyed["a"]
        assert keyed["a"] is not keyed["b"]
        assert len(keyed) == 2

    runtime.run(body)


def test_a_refusal_for_one_key_is_none_for_another(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed("hosts", factory=partial(Slots, limit=1), key=lambda key: key)
        began, go = runtime.event(), runtime.event()

        async def work(key: str) -> str:
            if key == "slow":
                began.set()
                await go.wait()
            return key

        call = runtime.wrap(keyed, work)
        job = runtime.spawn(call, "slow")
        await began.wait()
        with pytest.raises(ConcurrencyLimitedError):
            await call("slow")
        assert await call("fast") == "fast"
        go.set()
        assert await job == "slow"

    runtime.run(body)


def test_one_call_goes_through_the_policy_of_its_key(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed(factory=Around, key=lambda key: key)
        assert await runtime.call(keyed, echo, "a") == "a"
        assert keyed["a"].calls == 1

    runtime.run(body)


def test_a_policy_is_used_by_key_as_any_policy(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed("hosts", factory=partial(Slots, limit=1))
        async with runtime.guard(keyed["a"]):
            with pytest.raises(ConcurrencyLimitedError):
                await runtime.call(keyed["a"], echo, "a")
            assert await runtime.call(keyed["b"], echo, "b") == "b"
        permit = keyed["a"].try_acquire()
        assert permit
        assert not keyed["a"].try_acquire()
        permit.settle()
        assert keyed["a"].try_acquire()

    runtime.run(body)


def test_the_factory_may_take_the_key() -> None:
    limits = {"eu": 1, "us": 2}
    keyed = Keyed(factory=lambda host: Slots(limit=limits.get(host, 0)))
    assert [keyed["eu"].limit, keyed["us"].limit, keyed["elsewhere"].limit] == [1, 2, 0]
    assert keyed.overflow.limit == 0, "the overflow policy is made with None as the key"


def test_an_argument_with_a_default_is_not_for_the_key() -> None:
    keyed = Keyed(factory=Slots)
    assert keyed["a"].name == "slots"


def test_its_policies_work_in_a_pipeline(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed(factory=Around, key=lambda key: key)
        pipeline = Pipeline("p", Fallback(value="instead", on=KeyError), keyed, Around())

        def work(key: str) -> str:
            if key == "missing":
                raise KeyError(key)
            return key

        call = runtime.wrap(pipeline, work)
        assert [await call("a"), await call("missing")] == ["a", "instead"]
        assert list(keyed) == ["a", "missing"]

    runtime.run(body)


def test_the_factory_may_make_pipelines(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed(
            factory=lambda: Pipeline(Fallback(value="instead"), Slots(limit=1)), key=lambda key: key
        )

        def fail(key: str) -> str:
            raise KeyError(key)

        call = runtime.wrap(keyed, fail)
        assert await call("a") == "instead"
        slots = keyed["a"].policies[1]
        assert isinstance(slots, Slots)
        assert slots.seen == [Verdict.BAD]

    runtime.run(body)


def test_one_inside_another_keeps_keys_apart(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed(
            factory=lambda: Keyed(factory=Around, key=lambda host, path: path), key=lambda host, path: host
        )

        def work(host: str, path: str) -> str:
            return host + path

        call = runtime.wrap(keyed, work)
        assert [await call("eu", "/a"), await call("eu", "/b"), await call("us", "/a")] == [
            "eu/a",
            "eu/b",
            "us/a",
        ]
        assert {host: list(keyed[host]) for host in keyed} == {"eu": ["/a", "/b"], "us": ["/a"]}

    runtime.run(body)


def test_the_classifier_of_a_pipeline_reaches_the_policies(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed(factory=Slots, key=lambda key: key)
        pipeline = Pipeline("p", keyed, classify=lambda outcome, context: Verdict.THROTTLED)
        await runtime.wrap(pipeline, echo)("a")
        assert keyed["a"].seen == [Verdict.THROTTLED]

    runtime.run(body)


# --- the key of a call -------------------------------------------------------------------------------------------


def test_an_argument_is_found_by_its_name_however_it_is_given() -> None:
    keyed = Keyed(factory=Around, key="host")

    @keyed
    def fetch(path: str, host: str = "default", /) -> str:
        return path

    @keyed
    def fetch_named(path: str, *more: str, host: str = "named default") -> str:
        return path

    @keyed
    def fetch_any(path: str, **options: str) -> str:
        return path

    fetch("/", "by position")
    fetch("/")
    fetch_named("/", "x", "y", host="by name")
    fetch_named("/", "x", "y")
    fetch_any("/", host="among options")
    assert list(keyed) == ["by position", "default", "by name", "named default", "among options"]
    with pytest.raises(TypeError, match=r"fetch_any: the call has no argument 'host' to be its key"):
        fetch_any("/")


def test_an_argument_of_a_method_is_found() -> None:
    keyed = Keyed(factory=Around, key="host")

    class Client:
        @keyed
        def fetch(self, host: str) -> str:
            return host

        def plain(self, host: str) -> str:
            return host

        @classmethod
        def shared(cls, host: str) -> str:
            return host

        @keyed
        @staticmethod
        def static(host: str) -> str:
            return host

    client = Client()
    client.fetch("decorated")
    keyed.call(client.plain, "bound")
    keyed.call(Client().plain, "bound too")
    keyed.call(Client.shared, "class")
    client.static("static")
    assert list(keyed) == ["decorated", "bound", "bound too", "class", "static"]


def test_self_can_be_the_key() -> None:
    keyed = Keyed(factory=Around, key="self")

    class Client:
        def fetch(self) -> int:
            return 1

    client = Client()
    keyed.call(client.fetch)
    assert list(keyed) == [client]


def test_an_argument_of_a_partial_and_of_an_object_is_found() -> None:
    keyed = Keyed(factory=Around, key="host")

    class Fetch:
        __slots__ = ()
        __hash__ = None  # type: ignore[assignment]  # cannot be a key

        def __call__(self, host: str) -> str:
            return host

    def fetch(path: str, host: str) -> str:
        return path

    keyed.call(partial(fetch, "/"), "after a partial")
    keyed.call(partial(fetch, host="of the partial"), "/")
    keyed.call(Fetch(), "of an object")
    assert list(keyed) == ["after a partial", "of the partial", "of an object"]


def test_a_function_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []

    def look(function: Callable[..., Any]) -> inspect.Signature:
        looks.append(function)
        return signature(function)

    signature = inspect.signature

    class Client:
        def fetch(self, host: str) -> str:
            return host

    keyed = Keyed(factory=Around, key="host")
    monkeypatch.setattr(inspect, "signature", look)
    for host in "abc":
        keyed.call(Client().fetch, host)
    assert looks.count(Client.fetch) == 1


def test_a_function_that_is_gone_is_forgotten() -> None:
    keyed = Keyed(factory=Around, key="host")

    def fetch(host: str) -> str:
        return host

    keyed.call(fetch, "a")
    gone = weakref.ref(fetch)
    del fetch
    gc.collect()
    assert gone() is None


def test_an_argument_is_found_under_a_deadline(async_runtime: Any) -> None:
    keyed = Keyed(factory=Around, key="host")

    @keyed
    def plain(host: str) -> str:
        return host

    @keyed
    async def fetch(host: str) -> str:
        return host

    async def body() -> None:
        with deadline(20.0):
            assert [plain("a"), await fetch("b"), await keyed.acall(fetch, "c")] == ["a", "b", "c"]

    async_runtime.run(body)
    assert list(keyed) == ["a", "b", "c"]


def test_an_argument_of_a_generator_function_is_found(async_runtime: Any) -> None:
    keyed = Keyed(factory=Around, key="host")

    @keyed
    def plain(host: str) -> Generator[str, None, None]:
        yield host

    @keyed
    async def stream(host: str) -> AsyncGenerator[str, None]:
        yield host

    async def body() -> None:
        assert [*plain("a")] == ["a"]
        assert [item async for item in stream("b")] == ["b"]

    async_runtime.run(body)
    assert list(keyed) == ["a", "b"]


def test_a_function_without_that_argument_is_refused() -> None:
    keyed = Keyed(factory=Around, key="host")
    for fn in (lambda path: path, lambda *host: host, staticmethod(lambda path: path)):
        with pytest.raises(ConfigError, match="key must be the name of an argument of"):
            keyed(fn)
    for fn in (lambda path: path, lambda *host: host):
        with pytest.raises(TypeError, match="no argument 'host'"):
            Pipeline("p", keyed)(fn)("/")


def test_a_function_that_does_not_tell_its_arguments_has_none() -> None:
    with pytest.raises(TypeError, match="no argument 'host'"):
        Keyed(factory=Around, key="host").call(max, 1, 2)


def test_without_a_key_functions_are_refused_and_policies_asked_for() -> None:
    keyed = Keyed(factory=Around)
    for use in (lambda: keyed(echo), lambda: keyed.call(echo, "a")):
        with pytest.raises(ConfigError, match=r"key must be given to guard functions"):
            use()
    assert keyed["a"].call(echo, "a") == "a"


def test_a_key_that_is_taken_away_is_missed(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed(factory=Around, key=lambda key: key)
        call = runtime.wrap(keyed, echo)
        keyed.reconfigure(key=None)
        with pytest.raises(ConfigError, match="key must be given"):
            await call("a")

    runtime.run(body)


def test_what_cannot_be_a_key_is_a_type_error_that_names_the_function(runtime: Any) -> None:
    def fetch(hosts: list[str]) -> None:
        pytest.fail("called")

    async def body() -> None:
        call = runtime.wrap(Keyed(factory=Around, key=lambda hosts: hosts), fetch)
        with pytest.raises(TypeError, match=r"fetch: \['eu'\] cannot be a key: unhashable type: 'list'"):
            await call(["eu"])

    runtime.run(body)


def test_an_error_of_the_key_function_comes_out(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed(factory=Around, key=lambda key: {}[key])
        with pytest.raises(KeyError):
            await runtime.wrap(keyed, echo)("a")
        assert len(keyed) == 0

    runtime.run(body)


# --- who makes room, and who overflows ---------------------------------------------------------------------------


def test_an_idle_policy_makes_room(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed(factory=Slots, key=lambda key: key, max_keys=2)
        call = runtime.wrap(keyed, echo)
        for key in "abac":
            await call(key)
        assert list(keyed) == ["a", "c"]
        assert (keyed.evicted, keyed.overflowed) == (1, 0)

    runtime.run(body)


def test_a_policy_that_has_learnt_something_keeps_its_place(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed(factory=Slots, key=lambda key: key, max_keys=2)

        def work(key: str) -> str:
            if key == "bad":
                raise ValueError(key)
            return key

        call = runtime.wrap(keyed, work)
        with pytest.raises(ValueError, match="bad"):
            await call("bad")
        for key in "abc":
            await call(key)
        assert list(keyed) == ["bad", "c"]
        assert keyed.evicted == 2

    runtime.run(body)


def test_a_policy_with_a_call_under_way_keeps_its_place(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed(factory=Around, key=lambda key: key, max_keys=1)
        began, go = runtime.event(), runtime.event()

        async def work(key: str) -> str:
            if key == "slow":
                began.set()
                await go.wait()
            return key

        call = runtime.wrap(keyed, work)
        job = runtime.spawn(call, "slow")
        await began.wait()
        assert await call("other") == "other"
        assert list(keyed) == ["slow"]
        assert (keyed.overflow.calls, keyed.overflowed) == (1, 1)
        go.set()
        assert await job == "slow"
        assert await call("other") == "other"
        assert list(keyed) == ["other"]
        assert (keyed.overflow.calls, keyed.overflowed) == (1, 1)

    runtime.run(body)


def test_keys_without_a_policy_share_one(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed(factory=Silent, key=lambda key: key, max_keys=1)
        call = runtime.wrap(keyed, echo)
        for key in "abcb":
            await call(key)
        assert list(keyed) == ["a"]
        assert keyed["b"] is keyed["c"] is keyed.overflow
        assert keyed["a"] is not keyed.overflow
        assert keyed.overflowed == 5

    runtime.run(body)


def test_a_gate_that_does_not_say_that_it_is_idle_keeps_its_place() -> None:
    keyed = Keyed(factory=lambda: Pipeline(Around(), Silent()), max_keys=1)
    first = keyed["a"]
    assert keyed["b"] is keyed.overflow
    assert keyed["a"] is first


def test_a_pipeline_is_idle_when_all_its_policies_are() -> None:
    keyed = Keyed(factory=lambda: Pipeline(Around(), Slots()), max_keys=1)
    slots = keyed["a"].policies[1]
    assert isinstance(slots, Slots)
    slots.seen.append(Verdict.BAD)
    assert keyed["b"] is keyed.overflow
    slots.seen.clear()
    assert keyed["b"] is not keyed.overflow


def test_a_circuit_breaker_makes_room_when_it_has_forgotten(fake_clock: Any) -> None:
    keyed = Keyed(factory=partial(CircuitBreaker, consecutive_failures=1), key=lambda key: key, max_keys=1)

    def fail(key: str) -> None:
        raise ConnectionError(key)

    with pytest.raises(ConnectionError):
        keyed.call(fail, "a")
    assert keyed["b"] is keyed.overflow
    fake_clock.advance(3600.0)
    assert keyed["b"] is keyed.overflow, "a half-open circuit is none that is closed"
    keyed.call(echo, "a")
    fake_clock.advance(3600.0)
    assert keyed["b"] is not keyed.overflow


def test_a_rate_limiter_makes_room_when_all_its_permits_are_free(fake_clock: Any) -> None:
    keyed = Keyed(factory=partial(RateLimiter, rate=1, burst=5), key=lambda key: key, max_keys=1)
    for _ in range(3):
        keyed.call(echo, "a")
    fake_clock.advance(2.5)
    assert keyed["b"] is keyed.overflow
    fake_clock.advance(0.6)
    assert keyed["b"] is not keyed.overflow


def test_one_inside_another_is_idle_when_all_its_policies_are() -> None:
    keyed = Keyed(factory=lambda: Keyed(factory=Slots), max_keys=1)
    assert keyed.is_idle
    inner = keyed["a"]
    inner["x"].seen.append(Verdict.BAD)
    assert not inner.is_idle
    assert not keyed.is_idle
    assert keyed["b"] is keyed.overflow
    inner["x"].seen.clear()
    keyed.overflow.overflow.seen.append(Verdict.BAD)
    assert not keyed.is_idle
    assert keyed["b"] is not keyed.overflow


def test_caches_make_room_when_what_they_keep_is_over(fake_clock: Any) -> None:
    keyed = Keyed(factory=lambda: Cache(ttl=8.0), key=lambda key: key, max_keys=1)
    keyed.call(echo, "a")
    keyed.call(echo, "b")
    assert list(keyed) == ["a"]
    fake_clock.advance(8.0)
    keyed.call(echo, "b")
    assert list(keyed) == ["b"]


def test_a_policy_that_lost_its_place_is_set_free() -> None:
    keyed = Keyed(factory=Slots, max_keys=1)
    first = weakref.ref(keyed["a"])
    keyed["b"].call(echo, "b")
    gc.collect()
    assert first() is None


def test_a_cancelled_call_leaves_its_policy_idle(async_runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed(factory=Slots, key=lambda key: key, max_keys=1)
        began = async_runtime.event()

        async def work(key: str) -> None:
            began.set()
            await async_runtime.sleep(60)

        job = async_runtime.spawn(async_runtime.wrap(keyed, work), "a")
        await began.wait()
        assert not keyed.is_idle
        async_runtime.cancel(job)
        await job.join()
        assert isinstance(job.error, async_runtime.cancelled)
        assert keyed.is_idle
        assert keyed["b"] is not keyed.overflow

    async_runtime.run(body)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_call_leaves_its_policy_idle(error: type[BaseException]) -> None:
    keyed = Keyed(factory=Slots, key=lambda: "a")

    def work() -> None:
        raise error

    with pytest.raises(error):
        keyed.call(work)
    assert keyed.is_idle


# --- streams -----------------------------------------------------------------------------------------------------


def test_a_policy_keeps_its_place_until_its_stream_ends(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed(factory=Around, key=lambda key: key, max_keys=1)

        async def stream(key: str) -> AsyncGenerator[int, None]:
            for number in range(2):
                yield number

        source = runtime.wrap(keyed, stream)("a")
        assert await anext(source) == 0
        assert keyed["b"] is keyed.overflow
        assert [item async for item in source] == [1]
        assert keyed["b"] is not keyed.overflow

    runtime.run(body)


def test_a_policy_is_idle_after_a_stream_that_was_left_or_failed(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed(factory=Slots, key=lambda key: key, max_keys=1)

        async def stream(key: str) -> AsyncGenerator[int, None]:
            if key == "at once":
                raise ConnectionResetError
            yield 0
            raise ConnectionAbortedError

        fetch = runtime.wrap(keyed, stream)
        source = fetch("left")
        await anext(source)
        assert not keyed.is_idle
        await source.aclose()
        assert keyed.is_idle
        source = fetch("failed")
        await anext(source)
        with pytest.raises(ConnectionAbortedError):
            await anext(source)
        keyed["failed"].seen.clear()
        assert keyed.is_idle
        with pytest.raises(ConnectionResetError):
            await anext(fetch("at once"))
        keyed["at once"].seen.clear()
        assert keyed.is_idle

    runtime.run(body)


def test_a_policy_is_idle_after_a_stream_that_was_tried_again(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed(factory=Around, key=lambda key: key)
        failures = [ConnectionResetError(), ConnectionResetError()]

        async def stream(key: str) -> AsyncGenerator[int, None]:
            if failures:
                raise failures.pop()
            yield 0

        retry = Retry(attempts=3, backoff=constant(0.0), budget=None)
        assert [item async for item in runtime.wrap(Pipeline("p", retry, keyed), stream)("a")] == [0]
        assert keyed.is_idle

    runtime.run(body)


def test_streams_are_refused_where_its_policies_refuse_them() -> None:
    def stream(key: str) -> Generator[int, None, None]:
        yield 1

    for factory in (lambda: Cache(ttl=1.0), lambda: Pipeline(Around(), Cache(ttl=1.0))):
        with pytest.raises(ConfigError, match="Cache cannot guard a stream"):
            Keyed(factory=factory, key="key")(stream)


# --- its place among others --------------------------------------------------------------------------------------


def test_its_policies_have_its_name() -> None:
    keyed = Keyed("hosts", factory=Slots)
    assert keyed["a"].name == keyed["b"].name == keyed.overflow.name == "hosts"


def test_a_name_of_the_factorys_own_stays() -> None:
    assert Keyed("hosts", factory=lambda: Slots("own"))["a"].name == "own"


def test_its_policies_get_the_name_it_gets_later() -> None:
    keyed = Keyed(factory=Slots, key=lambda key: key)
    first = keyed["a"]
    Pipeline("stock", keyed)
    assert [keyed.name, first.name, keyed.overflow.name, keyed["b"].name] == ["stock"] * 4


def test_a_pipeline_sees_what_its_policies_are() -> None:
    class Repeats(Around):
        __slots__ = ()

        @property
        def traits(self) -> Traits:
            return Traits(repeats=True)

    assert Keyed(factory=Slots).traits == Slots().traits
    with pytest.raises(ConfigError, match="retry inside a retry"):
        Pipeline("p", Repeats(), Keyed(factory=Repeats))
    with pytest.raises(ConfigError, match="retry inside a retry"):
        Pipeline("p", Keyed(factory=lambda: Pipeline(Around(), Repeats())), Repeats())


def test_a_step_is_made_once_for_a_key_and_a_place_of_use(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed("hosts", factory=Around, key=lambda key: key)
        calls = [runtime.wrap(keyed, echo), runtime.wrap(keyed, lambda key: key)]
        for call in calls * 3:
            await call("a")
        assert len(keyed["a"].steps) == 1
        assert keyed["a"].steps[0].name == "hosts"

    runtime.run(body)


def test_steps_of_many_classifiers_do_not_pile_up() -> None:
    keyed = Keyed(factory=Slots, key=lambda key: key)
    judges: list[Callable[..., Verdict]] = [
        lambda outcome, context, verdict=verdict: verdict for verdict in [*Verdict] * MOST_BINDINGS
    ]
    for judge in judges:
        Pipeline("p", keyed).bind(echo, classify=judge)("a")
        assert len(keyed._places.entries()["a"]._steps) <= MOST_BINDINGS
    bad = [verdict for verdict in [*Verdict] * MOST_BINDINGS if verdict is not Verdict.GOOD]
    assert keyed["a"].seen == [verdict for verdict in bad if verdict is not Verdict.IGNORED]


# --- settings ----------------------------------------------------------------------------------------------------


def broken_factory() -> Slots:
    raise LookupError("no such host")


def two_arguments(one: Any, two: Any) -> Slots:
    return Slots()


def named_argument(*, host: str) -> Slots:
    return Slots()


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"factory": "Slots"}, "factory"),
        ({"factory": two_arguments}, "factory"),
        ({"factory": named_argument}, "factory"),
        ({"factory": broken_factory}, "factory"),
        ({"factory": dict}, "factory"),
        ({"key": "not a name"}, "key"),
        ({"key": ""}, "key"),
        ({"key": 3}, "key"),
        *[({"max_keys": wrong}, "max_keys") for wrong in (0, -1, 1.5, True, None)],
        ({"name": ""}, "name"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Keyed(**{"factory": Slots, **settings})
    assert [problem.setting for problem in caught.value.problems] == [setting]


def test_an_error_of_the_factory_is_the_cause_of_the_config_error() -> None:
    with pytest.raises(ConfigError, match=r"must make a policy, but raised LookupError") as caught:
        Keyed(factory=broken_factory)
    assert isinstance(caught.value.__cause__, LookupError)


def test_wrong_settings_in_the_factory_are_reported_as_they_are() -> None:
    with pytest.raises(ConfigError) as caught:
        Keyed(factory=lambda: Cache(ttl=-1.0))
    assert caught.value.subject == "Cache"


def test_a_factory_that_does_not_tell_its_arguments_is_called_without() -> None:
    class Opaque:
        __signature__ = "none"

        def __call__(self) -> Slots:
            return Slots()

    assert isinstance(Keyed(factory=Opaque())["a"], Slots)


def test_a_factory_that_makes_one_policy_for_all_is_refused_at_the_first_key() -> None:
    one = Slots()
    keyed = Keyed(factory=lambda: one)
    with pytest.raises(ConfigError, match="must make a new policy each time"):
        keyed["a"]
    with pytest.raises(ConfigError, match="must make a new policy each time"):
        keyed["a"]


def test_an_error_of_the_factory_for_one_key_comes_out(runtime: Any) -> None:
    async def body() -> None:
        known = {None: 1, "eu": 2}
        keyed = Keyed(factory=lambda host: Slots(limit=known[host]), key=lambda key: key)
        call = runtime.wrap(keyed, echo)
        with pytest.raises(KeyError):
            await call("us")
        assert await call("eu") == "eu"
        assert list(keyed) == ["eu"]

    runtime.run(body)


def test_the_constructor_and_the_settings_have_the_same_defaults() -> None:
    assert Keyed(factory=Slots).settings == KeyedSettings(factory=Slots)


def test_a_new_factory_changes_settings_and_keeps_state() -> None:
    keyed = Keyed("hosts", factory=partial(Slots, limit=1))
    first = keyed["a"]
    permit = first.try_acquire()
    assert permit
    keyed.reconfigure(factory=partial(Slots, limit=2))
    assert keyed["a"] is first
    assert (first.used, first.limit, keyed.overflow.limit, keyed["b"].limit) == (1, 2, 2, 2)


def test_a_new_factory_may_make_another_kind(runtime: Any) -> None:
    async def body() -> None:
        keyed = Keyed("hosts", factory=Slots, key=lambda key: key)
        call = runtime.wrap(keyed, echo)
        await call("a")
        keyed.reconfigure(factory=lambda key: Around())
        await call("a")
        await call("b")
        assert [type(keyed[key]) for key in "ab"] == [Around, Around]
        assert isinstance(keyed.overflow, Around)
        assert keyed["a"].calls == 1
        assert keyed["a"].name == keyed.overflow.name == "hosts"

    runtime.run(body)


@pytest.mark.parametrize("factory", [broken_factory, dict, lambda key: Slots() if key is None else 1 // 0])
def test_a_new_factory_that_fails_changes_nothing(factory: Callable[..., Any]) -> None:
    keyed = Keyed(factory=partial(Slots, limit=1))
    first, settings = keyed["a"], keyed.settings
    with pytest.raises((ConfigError, ZeroDivisionError)):
        keyed.reconfigure(factory=factory)
    assert keyed["a"] is first
    assert keyed.settings is settings
    assert keyed["b"].limit == keyed.overflow.limit == 1


@pytest.mark.parametrize("breaks", ["raises", "makes no policy", "makes one for all", "is interrupted"])
@pytest.mark.parametrize("fails_at", [0, 1, 2, 3])
def test_a_factory_that_fails_in_the_middle_leaves_the_whole_pipeline_as_it_was(
    breaks: str, fails_at: int
) -> None:
    first = Slots(limit=1)
    keyed = Keyed(factory=partial(Slots, limit=1), key=lambda key: key)
    other = Keyed(factory=partial(Slots, limit=1), key=lambda key: key)
    pipeline = Pipeline("p", first, other, keyed)
    policies = {key: keyed[key] for key in "abc"}
    theirs = other["a"]
    settings, version = keyed.settings, keyed._version
    made: list[Slots] = []

    def factory() -> Any:
        made.append(Slots(limit=2))
        if len(made) <= fails_at:
            return made[-1]
        if breaks == "raises":
            raise ZeroDivisionError
        if breaks == "is interrupted":
            raise KeyboardInterrupt
        return made[0] if breaks == "makes one for all" and fails_at else "no policy"

    expected = KeyboardInterrupt if breaks == "is interrupted" else ConfigError
    with pytest.raises(expected):
        pipeline.reload(
            Slots(limit=2),
            Keyed(factory=partial(Slots, limit=2), key=lambda key: key),
            # The new one makes an overflow policy of its own when it is made.
            _with_factory(keyed, factory),
        )
    assert keyed.settings is settings
    assert keyed._version == version
    assert {key: keyed[key] for key in "abc"} == policies
    assert other["a"] is theirs
    everyone = [first, *policies.values(), keyed.overflow, keyed["new"], theirs, other.overflow, other["new"]]
    assert {each.limit for each in everyone} == {1}


def _with_factory(keyed: Keyed[Any], factory: Callable[[], Any]) -> Keyed[Any]:
    """Return one whose factory is *factory*, which was not called yet."""
    new = Keyed(factory=partial(Slots, limit=2), key=keyed.settings.key)
    new._settings = replace(new.settings, factory=factory)
    return new


def test_a_new_factory_is_called_once_for_each_key_and_once_for_the_overflow_policy() -> None:
    keyed = Keyed(factory=Slots)
    for key in "abc":
        keyed[key]
    asked: list[Any] = []

    def factory(key: Any) -> Slots:
        asked.append(key)
        return Slots(limit=2)

    keyed.reconfigure(factory=factory)
    assert asked == [None, "a", "b", "c"]


def test_a_policy_that_refuses_its_new_settings_leaves_all_as_they_were() -> None:
    class Stubborn(Slots):
        __slots__ = ("refuses",)

        def _configure(self, settings: Any) -> None:
            if getattr(self, "refuses", False) and settings == 2:
                raise KeyboardInterrupt
            super()._configure(settings)

    keyed = Keyed(factory=partial(Stubborn, limit=1))
    for key in "abc":
        keyed[key]
    keyed["b"].refuses = True
    policies, settings = {key: keyed[key] for key in "abc"}, keyed.settings
    with pytest.raises(KeyboardInterrupt):
        keyed.reconfigure(factory=partial(Stubborn, limit=2), max_keys=7)
    assert keyed.settings is settings
    assert {key: keyed[key] for key in "abc"} == policies
    assert {each.limit for each in [*policies.values(), keyed.overflow, keyed["new"]]} == {1}


def test_policies_of_another_kind_go_again_when_one_refuses() -> None:
    class Stubborn(Slots):
        def _configure(self, settings: Any) -> None:
            raise KeyboardInterrupt

    keyed = Keyed(factory=lambda key: Stubborn() if key == "b" else Slots())
    policies = {key: keyed[key] for key in "ab"}
    with pytest.raises(KeyboardInterrupt):
        keyed.reconfigure(factory=lambda key: Stubborn(limit=2) if key == "b" else Around())
    assert {key: keyed[key] for key in "ab"} == policies
    assert isinstance(keyed.overflow, Slots)


def test_what_its_policies_cannot_take_is_reported_before_anything_changes() -> None:
    keyed = Keyed(factory=partial(RateLimiter, rate=5))
    limiter = keyed["a"]
    with pytest.raises(ConfigError, match="make a new limiter"):
        keyed.reconfigure(factory=partial(RateLimiter, rate=5, key=lambda: "k"))
    assert keyed["a"] is limiter
    assert limiter.settings.key is None


def test_a_policy_made_by_an_old_factory_is_not_taken() -> None:
    entered, go = threading.Event(), threading.Event()

    def slow(key: Any) -> Slots:
        if key is not None:
            entered.set()
            assert go.wait(20)
        return Slots(limit=1)

    keyed = Keyed(factory=slow)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: keyed["a"])
        assert entered.wait(20)
        keyed.reconfigure(factory=partial(Slots, limit=2))
        go.set()
        assert asked.result().limit == 2


def test_fewer_keys_take_effect_as_policies_become_idle() -> None:
    keyed = Keyed(factory=Slots, max_keys=3)
    for key in "abc":
        keyed[key].seen.append(Verdict.BAD)
    keyed.reconfigure(max_keys=1)
    assert len(keyed) == 3
    assert keyed["d"] is keyed.overflow
    for key in "abc":
        keyed[key].seen.clear()
    assert keyed["d"] is not keyed.overflow
    assert list(keyed) == ["d"]


def test_another_setting_calls_no_factory() -> None:
    made: list[Slots] = []

    def factory() -> Slots:
        made.append(Slots())
        return made[-1]

    keyed = Keyed(factory=factory)
    keyed["a"]
    keyed.reconfigure(max_keys=7)
    assert len(made) == 2


def test_a_new_factory_may_come_with_another_number_of_keys() -> None:
    keyed = Keyed(factory=Silent)
    keyed["a"]
    keyed.reconfigure(factory=lambda: Silent(), max_keys=1)
    assert keyed["b"] is keyed.overflow


def test_a_reload_of_a_pipeline_keeps_the_policies() -> None:
    keyed = Keyed(factory=partial(Slots, limit=1), key=lambda key: key)
    pipeline = Pipeline("p", keyed)
    first = keyed["a"]
    pipeline.reload(Keyed(factory=partial(Slots, limit=5), key=lambda key: key, max_keys=7))
    assert pipeline.policies == (keyed,)
    assert keyed["a"] is first
    assert (first.limit, keyed.settings.max_keys) == (5, 7)


def test_it_can_be_asked_for_its_keys() -> None:
    keyed = Keyed(factory=Slots)
    assert keyed
    assert list(keyed) == []
    keyed["a"], keyed["b"], keyed["a"]
    assert list(keyed) == ["b", "a"]
    assert "a" in keyed
    assert "c" not in keyed
    assert len(keyed) == 2


# --- many at once, fork ------------------------------------------------------------------------------------------


@pytest.fixture
def fast_switching() -> Generator[None, None, None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("fast_switching")
def test_threads_that_race_for_a_key_get_one_policy() -> None:
    made: list[Slots] = []

    def factory() -> Slots:
        made.append(Slots())
        return made[-1]

    keyed = Keyed(factory=factory)
    barrier = threading.Barrier(8)

    def ask(round_: int) -> list[Slots]:
        barrier.wait(20)
        return [keyed[(round_, number)] for number in range(20)]

    with ThreadPoolExecutor(8) as pool:
        for round_ in range(10):
            answers = list(pool.map(ask, [round_] * 8))
            assert all(answer == answers[0] for answer in answers)
    assert len(keyed) == 200


@pytest.mark.usefixtures("fast_switching")
def test_threads_never_take_a_policy_that_is_in_use() -> None:
    keyed = Keyed(factory=partial(Slots, limit=1), key=lambda key: key, max_keys=4)
    at_work: dict[int, int] = {}
    lock = threading.Lock()
    clashes: list[int] = []

    @keyed
    def work(key: int) -> None:
        with lock:
            at_work[key] = at_work.get(key, 0) + 1
            if at_work[key] > 1:
                clashes.append(key)
        for _ in range(20):
            pass
        with lock:
            at_work[key] -= 1

    def call(number: int) -> None:
        try:
            work(number % 3)
            keyed[number].try_acquire()
        except ConcurrencyLimitedError:
            pass

    for number in range(3):
        keyed[number].seen.append(Verdict.BAD)  # they stay
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(1000)))
    assert clashes == []
    assert all(not entry.passages for entry in keyed._places.entries().values())
    assert not keyed._overflow.passages


@pytest.mark.usefixtures("fast_switching")
def test_threads_that_reconfigure_and_call_agree_in_the_end() -> None:
    keyed = Keyed(factory=partial(Slots, limit=10_000), key=lambda key: key, max_keys=5)
    call = keyed(lambda key: key)

    def work(number: int) -> int:
        if number % 50 == 0:
            keyed.reconfigure(factory=partial(Slots, limit=10_000 + number))
        return call(number % 9)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(1000))) == [number % 9 for number in range(1000)]
    keyed.reconfigure(factory=partial(Slots, limit=7))
    assert {keyed[key].limit for key in keyed} == {7}
    assert keyed.is_idle
    assert len(keyed) <= 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_process_can_use_it() -> None:
    keyed = Keyed(factory=Around, key=lambda key: key, max_keys=1)
    began, go = threading.Event(), threading.Event()

    @keyed
    def work(key: str) -> str:
        if key.startswith("slow"):
            began.set()
            assert go.wait(20)
        return key

    def hold() -> None:
        with keyed._lock:
            held.set()
            assert go.wait(20)

    held = threading.Event()
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(work, "slow")]
        assert began.wait(20)
        began.clear()
        jobs.append(pool.submit(work, "slow too"))
        assert began.wait(20)
        assert keyed.overflowed == 1
        holder = pool.submit(hold)
        assert held.wait(20)

        def child() -> None:
            ok = (
                keyed.overflowed == 0
                and keyed.is_idle
                and work("other") == "other"
                and list(keyed) == ["other"]
            )
            os._exit(0 if ok and keyed.evicted == 1 else 1)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(20)
        if process.exitcode is None:
            process.kill()
            process.join()
        go.set()
        assert [job.result() for job in jobs] == ["slow", "slow too"]
        holder.result()
    assert process.exitcode == 0


def fork_inside(call: Callable[[], int], fine: Callable[[], bool]) -> None:
    """Make *call*, which forks and returns as `os.fork` does; the child must end well and find it *fine*."""
    parent, code = os.getpid(), 1
    try:
        child = call()
        code = 0 if fine() else 1
    finally:
        if os.getpid() != parent:
            os._exit(code)  # whatever happens, the child must not go on with the tests
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_function_that_forks_leaves_its_policy_idle_in_the_child() -> None:
    keyed = Keyed(factory=Around, key=lambda: "a")
    fork_inside(lambda: keyed.call(os.fork), lambda: keyed.is_idle)


def test_a_decorator_without_parentheses_says_how_to_write_it() -> None:
    with pytest.raises(ConfigError, match=r"write @Keyed\(factory=\.\.\.\), with parentheses") as caught:
        Keyed(lambda: "answer")  # type: ignore[arg-type, call-arg]  # what @Keyed does
    assert [problem.setting for problem in caught.value.problems] == ["name"]


def test_a_missing_factory_is_still_a_type_error() -> None:
    with pytest.raises(TypeError, match="factory"):
        Keyed("hosts")  # type: ignore[call-arg]  # that is the point
    with pytest.raises(TypeError, match="factory"):
        Keyed()  # type: ignore[call-arg]  # as above
