"""From a function to a guarded function: same name, same signature, same colour; streams are guarded too."""

import asyncio
import functools
import gc
import inspect
import types
from unittest.mock import AsyncMock, Mock

import pytest
import trio

from resilience import _clock
from resilience._runtime.flow import Dispose
from resilience._runtime.pipeline import Pipeline
from resilience._runtime.wrap import name_of
from resilience.deadline import deadline
from resilience.errors import ConfigError, DeadlineExceededError, LoadShedError
from resilience.outcome import CallContext, Outcome, Verdict
from resilience.testing import fail_times

from .dummies import Around, NoStream, Turnstile, again, through

gate = Turnstile("module", limit=100)


@pytest.fixture
def turnstile() -> Turnstile:
    return Turnstile(limit=2)


# --- what a guarded function looks like ---


def charge(amount: int, /, currency: str = "EUR", *tags: str, urgent: bool = False, **more: object) -> tuple:
    """Charge it."""
    return amount, currency, tags, urgent, more


async def acharge(amount: int, currency: str = "EUR") -> tuple:
    """Charge it later."""
    return amount, currency


def count(to: int) -> "types.GeneratorType":
    """Count."""
    yield from range(to)


async def acount(to: int) -> "types.AsyncGeneratorType":
    """Count slowly."""
    for number in range(to):
        yield number


@pytest.mark.parametrize("fn", [charge, acharge, count, acount], ids=lambda fn: fn.__name__)
def test_a_guarded_function_keeps_name_doc_module_and_signature(fn) -> None:
    guarded = gate(fn)
    assert guarded is not fn
    for attribute in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__"):
        assert getattr(guarded, attribute) == getattr(fn, attribute)
    assert inspect.signature(guarded) == inspect.signature(fn)
    assert guarded.__wrapped__ is fn


@pytest.mark.parametrize(
    "ask",
    [inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction],
    ids=lambda ask: ask.__name__,
)
def test_a_guarded_function_keeps_its_colour(ask) -> None:
    for fn in (charge, acharge, count, acount):
        assert ask(gate(fn)) == ask(fn)


def test_arguments_arrive_as_they_were_given() -> None:
    assert gate(charge)(1, "USD", "a", "b", urgent=True, self=2, fn=3) == (
        1,
        "USD",
        ("a", "b"),
        True,
        {"self": 2, "fn": 3},
    )
    assert gate.call(charge, 1, fn=3) == (1, "EUR", (), False, {"fn": 3})
    assert asyncio.run(gate(acharge)(1, currency="USD")) == (1, "USD")
    assert asyncio.run(gate.acall(acharge, 1, currency="USD")) == (1, "USD")


def test_a_decorated_function_still_raises_its_own_type_error(turnstile: Turnstile) -> None:
    with pytest.raises(TypeError, match=r"charge\(\) missing 1 required positional argument"):
        turnstile(charge)()
    assert turnstile.inside == 0


# --- what can be guarded ---


class Service:
    def __init__(self) -> None:
        self.base = 10

    @gate
    def plain(self, n: int) -> int:
        return self.base + n

    @gate
    async def later(self, n: int) -> int:
        return self.base + n

    @gate
    def stream(self, n: int):
        yield from range(self.base, self.base + n)

    @gate
    @classmethod
    def made_outside(cls, n: int) -> tuple[str, int]:
        return cls.__name__, n

    @classmethod
    @gate
    def made_inside(cls, n: int) -> tuple[str, int]:
        return cls.__name__, n

    @gate
    @staticmethod
    def static_outside(n: int) -> int:
        return n

    @staticmethod
    @gate
    async def static_inside(n: int) -> int:
        return n


class Derived(Service):
    pass


def test_methods_are_guarded() -> None:
    service = Service()
    assert service.plain(1) == 11
    assert asyncio.run(service.later(1)) == 11
    assert list(service.stream(2)) == [10, 11]
    assert Service.plain(service, 2) == 12
    assert gate.call(service.plain, 3) == 13
    assert gate(service.plain)(3) == 13


def test_classmethods_and_staticmethods_are_guarded_on_either_side() -> None:
    assert Derived.made_outside(1) == Derived().made_outside(1) == ("Derived", 1)
    assert Derived.made_inside(1) == Derived().made_inside(1) == ("Derived", 1)
    assert Service.static_outside(1) == Service().static_outside(1) == 1
    assert asyncio.run(Service.static_inside(1)) == 1


def test_partials_are_guarded_in_their_colour() -> None:
    assert gate(functools.partial(charge, 1))("USD") == (1, "USD", (), False, {})
    guarded = gate(functools.partial(acharge, 1))
    assert inspect.iscoroutinefunction(guarded)
    assert asyncio.run(guarded("USD")) == (1, "USD")
    assert inspect.signature(guarded) == inspect.signature(functools.partial(acharge, 1))
    assert list(gate(functools.partial(count, 3))()) == [0, 1, 2]


def test_a_partial_goes_by_the_name_of_its_function() -> None:
    assert gate(functools.partial(functools.partial(charge, 1), "USD")).__name__ == "charge"
    policy = Turnstile()
    policy(functools.partial(charge, 1))
    assert policy.name == f"{__name__}.charge"


class Plain:
    def __call__(self, n: int) -> int:
        return n + 1


class Async:
    async def __call__(self, n: int) -> int:
        return n + 1


class Streaming:
    def __call__(self, n: int):
        yield from range(n)


class AsyncStreaming:
    async def __call__(self, n: int):
        for number in range(n):
            yield number


def test_callable_objects_are_guarded_in_their_colour() -> None:
    assert gate(Plain())(1) == gate.call(Plain(), 1) == 2
    assert inspect.iscoroutinefunction(gate(Async()))
    assert asyncio.run(gate(Async())(1)) == asyncio.run(gate.acall(Async(), 1)) == 2
    assert asyncio.run(gate(functools.partial(Async(), 1))()) == 2
    assert list(gate(Streaming())(2)) == [0, 1]
    assert inspect.isasyncgenfunction(gate(AsyncStreaming()))


def test_a_callable_object_goes_by_the_name_of_its_class() -> None:
    assert gate(Plain()).__name__ == "Plain"
    policy = Turnstile()
    policy(Plain())
    assert policy.name == f"{__name__}.Plain"


def test_notes_on_a_function_are_kept_and_the_state_of_an_object_is_not_copied() -> None:
    def noted() -> None: ...

    noted.note = "kept"
    assert gate(noted).note == "kept"
    counting = Plain()
    counting.calls = 0
    assert not hasattr(gate(counting), "calls")
    assert gate(counting).__wrapped__ is counting


def test_builtins_are_guarded() -> None:
    assert gate.call(len, "four") == 4
    assert gate(len)("four") == 4


def test_mocks_are_guarded_in_their_colour() -> None:
    assert gate.call(Mock(return_value=7), 1) == 7
    assert asyncio.run(gate.acall(AsyncMock(return_value=7), 1)) == 7
    guarded = gate(AsyncMock(return_value=7))
    assert asyncio.run(guarded(1)) == 7


@pytest.mark.parametrize("what", [Service, int, None, 7, "charge", property(charge)])
def test_what_is_no_function_is_refused_with_its_name(what) -> None:
    with pytest.raises(TypeError, match="Turnstile guards functions and callable objects, got "):
        gate(what)


def test_a_coroutine_function_is_not_for_call(turnstile: Turnstile) -> None:
    for fn in (acharge, functools.partial(acharge, 1), Async(), Service().later):
        with pytest.raises(TypeError, match=r"use acall\(\)"):
            turnstile.call(fn, 1)
    assert turnstile.changes == 0


def test_acall_takes_what_returns_an_awaitable(turnstile: Turnstile) -> None:
    assert asyncio.run(turnstile.acall(lambda n: acharge(n), 1)) == (1, "EUR")
    for fn in (count, acount, 7):
        with pytest.raises(TypeError, match=r"acall\(\) takes a function that returns an awaitable"):
            asyncio.run(turnstile.acall(fn, 1))


def test_a_plain_function_is_not_for_acall_and_nothing_is_learnt(turnstile: Turnstile) -> None:
    with pytest.raises(TypeError, match=r"charge returned .*, which cannot be awaited: use call\(\)"):
        asyncio.run(turnstile.acall(charge, 1))
    assert turnstile.inside == 0
    assert turnstile.ended == ["cancelled"]


def test_a_builtin_without_a_module_has_its_qualified_name() -> None:
    assert name_of([].append) == "list.append"


def test_a_plain_function_that_returns_a_coroutine_is_refused_and_nothing_is_learnt(
    turnstile: Turnstile,
) -> None:
    def sneaky() -> object:
        return acharge(1)

    with pytest.raises(TypeError, match=r"sneaky returned a coroutine: decorate the async function itself"):
        turnstile(sneaky)()
    assert turnstile.inside == 0
    assert turnstile.ended == ["cancelled"]


def test_a_generator_function_is_guarded_by_call_as_well(turnstile: Turnstile) -> None:
    assert list(turnstile.call(count, 3)) == [0, 1, 2]

    async def read() -> list[int]:
        return [number async for number in turnstile.call(acount, 3)]

    assert asyncio.run(read()) == [0, 1, 2]
    assert turnstile.ended == [Verdict.GOOD] * 2


@pytest.mark.parametrize("fn", [count, acount, Streaming()])
def test_a_policy_that_cannot_guard_a_stream_says_so_at_once(fn) -> None:
    policy = NoStream(through)
    with pytest.raises(ConfigError, match="must not be a generator function: NoStream cannot guard a stream"):
        policy(fn)
    with pytest.raises(ConfigError):
        Pipeline("p", Pipeline("inner", gate, policy))(fn)


def test_a_policy_that_cannot_guard_a_stream_guards_functions() -> None:
    assert Pipeline("p", NoStream(through)).call(len, "four") == 4


# --- a call in each runtime ---


def test_a_value_comes_back_and_is_good(runtime, turnstile: Turnstile) -> None:
    async def body() -> None:
        fetch = runtime.wrap(turnstile, lambda n: n + 1)
        assert await fetch(1) == 2
        assert await runtime.call(turnstile, lambda n: n + 1, 2) == 3

    runtime.run(body)
    assert turnstile.ended == [Verdict.GOOD] * 2
    assert turnstile.inside == 0


def test_an_error_comes_out_as_it_is_and_is_bad(runtime, turnstile: Turnstile) -> None:
    error = ConnectionError("down")

    async def body() -> None:
        with pytest.raises(ConnectionError) as caught:
            await runtime.call(turnstile, fail_times(1, error))
        assert caught.value is error

    runtime.run(body)
    assert turnstile.ended == [Verdict.BAD]
    assert turnstile.inside == 0
    assert error.__context__ is None
    assert error.__cause__ is None


@pytest.mark.parametrize("error", [StopIteration(1), StopAsyncIteration(), GeneratorExit()])
def test_errors_that_steer_generators_pass_a_plain_function_unharmed(turnstile: Turnstile, error) -> None:
    with pytest.raises(type(error)) as caught:
        turnstile.call(fail_times(1, error))
    assert caught.value is error
    assert turnstile.inside == 0


def test_a_traceback_leads_from_the_caller_to_the_function(runtime, turnstile: Turnstile) -> None:
    async def broken() -> None:
        raise KeyError

    async def body() -> None:
        with pytest.raises(KeyError) as caught:
            await runtime.call(turnstile, broken)
        assert caught.traceback[-1].name == "broken"

    runtime.run(body)


def test_a_refused_call_does_not_run(runtime, turnstile: Turnstile) -> None:
    async def body() -> None:
        ran = []
        fetch = runtime.wrap(turnstile, lambda: ran.append(True))
        held = [turnstile.try_acquire(), turnstile.try_acquire()]
        with pytest.raises(LoadShedError):
            await fetch()
        assert not ran
        held[0].release()
        await fetch()
        assert ran == [True]

    runtime.run(body)


@pytest.mark.parametrize("escape", [KeyboardInterrupt, SystemExit])
def test_what_is_no_error_teaches_nothing(runtime, turnstile: Turnstile, escape) -> None:
    async def body() -> None:
        await runtime.call(turnstile, fail_times(1, escape))

    with pytest.raises(escape):
        runtime.run(body)
    assert turnstile.ended == ["cancelled"]
    assert turnstile.inside == 0


# --- context and deadline ---


def test_the_context_is_asked_for_each_call(runtime) -> None:
    seen = []

    def flow(call, inner):
        seen.append(call.context)
        return (yield from inner(call))

    bound = Pipeline("p", Around(flow)).bind(
        runtime.coloured(lambda n: n),
        context=lambda n: CallContext(operation=f"op {n}", idempotency_key=f"key {n}"),
    )

    async def body() -> None:
        for n in (1, 2):
            if runtime.name == "sync":
                assert bound(n) == n
            else:
                assert await bound(n) == n

    runtime.run(body)
    assert [context.operation for context in seen] == ["op 1", "op 2"]
    assert [context.idempotency_key for context in seen] == ["key 1", "key 2"]


def test_a_call_after_the_deadline_does_not_run(runtime, turnstile: Turnstile, fake_clock) -> None:
    async def body() -> None:
        ran = []
        with deadline(1.0):
            fake_clock.advance(1.0)
            with pytest.raises(DeadlineExceededError) as caught:
                await runtime.call(turnstile, lambda: ran.append(True))
        assert not ran
        assert caught.value.started is False
        assert turnstile.changes == 0

    runtime.run(body)


def test_policies_are_told_the_deadline(runtime) -> None:
    seen = []

    def flow(call, inner):
        seen.append(call.context.deadline)
        return (yield from inner(call))

    async def body() -> float:
        with deadline(60.0):
            before = _clock.monotonic()
            await runtime.call(Around(flow), int)
            return before

    assert seen == []
    before = runtime.run(body)
    assert seen[0] == pytest.approx(before + 60.0, abs=5.0)


def test_an_async_call_is_cancelled_at_the_deadline(async_runtime, turnstile: Turnstile, fake_clock) -> None:
    async def hang() -> None:
        await fake_clock.asleep(10.0)

    async def body() -> None:
        with deadline(1.0):
            with pytest.raises(DeadlineExceededError) as caught:
                await async_runtime.call(turnstile, hang)
            assert caught.value.started is True
        assert turnstile.inside == 0
        assert turnstile.ended == ["cancelled"]

    start = fake_clock.now()
    async_runtime.run(body)
    assert fake_clock.now() == start + 1.0


def test_a_call_that_waited_in_vain_until_the_deadline_is_said_not_to_have_started(
    async_runtime, fake_clock
) -> None:
    full = Turnstile(limit=1, max_wait=5.0)
    full.try_acquire()

    async def body() -> None:
        with deadline(1.0), pytest.raises(DeadlineExceededError) as caught:
            await async_runtime.call(full, int)
        assert caught.value.started is False
        assert full.waiting == 0

    async_runtime.run(body)


# --- streams ---


def numbers(log: list, *items: object):
    """Yield the items; write down what comes in, and the end."""
    try:
        for item in items:
            if isinstance(item, BaseException):
                raise item
            try:
                log.append((yield item))
            except ValueError as error:
                log.append(error)
                yield "caught"
    finally:
        log.append("closed")
    return "result"


async def anumbers(log: list, *items: object):
    try:
        for item in items:
            if isinstance(item, BaseException):
                raise item
            try:
                log.append((yield item))
            except ValueError as error:
                log.append(error)
                yield "caught"
    finally:
        log.append("closed")


def test_a_stream_is_admitted_at_its_first_item_and_settled_at_its_end(runtime, turnstile: Turnstile) -> None:
    async def body() -> None:
        log: list = []
        stream = runtime.wrap(turnstile, anumbers)(log, 1, 2)
        assert turnstile.inside == 0, "nothing happens before somebody reads"
        assert await stream.__anext__() == 1
        assert turnstile.inside == 1
        assert turnstile.ended == []
        assert await stream.__anext__() == 2
        with pytest.raises(StopAsyncIteration):
            await stream.__anext__()
        assert turnstile.ended == [Verdict.GOOD]
        assert turnstile.inside == 0
        assert log == [None, None, "closed"]

    runtime.run(body)


def test_a_stream_that_nobody_reads_costs_nothing(turnstile: Turnstile) -> None:
    stream = turnstile(count)(3)
    stream.close()
    assert turnstile.changes == 0


def test_an_empty_stream_is_good(runtime, turnstile: Turnstile) -> None:
    async def body() -> None:
        assert [item async for item in runtime.wrap(turnstile, anumbers)([])] == []
        assert turnstile.ended == [Verdict.GOOD]

    runtime.run(body)


def test_a_refused_stream_raises_when_it_is_read(runtime, turnstile: Turnstile) -> None:
    async def body() -> None:
        turnstile.try_acquire(), turnstile.try_acquire()
        log: list = []
        stream = runtime.wrap(turnstile, anumbers)(log, 1)
        with pytest.raises(LoadShedError):
            await stream.__anext__()
        assert log == []

    runtime.run(body)


def test_an_error_before_the_first_item_is_bad(runtime, turnstile: Turnstile) -> None:
    async def body() -> None:
        error = OSError("at once")
        stream = runtime.wrap(turnstile, anumbers)([], error, 1)
        with pytest.raises(OSError) as caught:
            await stream.__anext__()
        assert caught.value is error
        assert turnstile.ended == [Verdict.BAD]
        assert turnstile.inside == 0

    runtime.run(body)


def test_an_error_in_the_middle_is_bad(runtime, turnstile: Turnstile) -> None:
    async def body() -> None:
        error = OSError("later")
        seen = []
        with pytest.raises(OSError) as caught:
            async for item in runtime.wrap(turnstile, anumbers)([], 1, 2, error):
                seen.append(item)
        assert caught.value is error
        assert seen == [1, 2]
        assert turnstile.ended == [Verdict.BAD]
        assert turnstile.inside == 0

    runtime.run(body)


@pytest.mark.parametrize("escape", [KeyboardInterrupt, SystemExit])
def test_what_is_no_error_ends_a_stream_without_a_lesson(runtime, turnstile: Turnstile, escape) -> None:
    async def body() -> None:
        async for _ in runtime.wrap(turnstile, anumbers)([], 1, escape()):
            pass

    with pytest.raises(escape):
        runtime.run(body)
    assert turnstile.ended == ["cancelled"]
    assert turnstile.inside == 0


def test_what_is_sent_and_thrown_arrives(runtime, turnstile: Turnstile) -> None:
    async def body() -> None:
        log: list = []
        stream = runtime.wrap(turnstile, anumbers)(log, 1, 2, 3)
        assert await stream.asend(None) == 1
        assert await stream.asend("sent") == 2
        error = ValueError("thrown")
        assert await stream.athrow(error) == "caught"
        assert await stream.asend("ignored") == 3
        with pytest.raises(StopAsyncIteration):
            await stream.asend("last")
        assert log == ["sent", error, "last", "closed"]
        assert turnstile.ended == [Verdict.GOOD]

    runtime.run(body)


def test_an_error_thrown_in_that_the_stream_does_not_catch_comes_out(runtime, turnstile: Turnstile) -> None:
    async def body() -> None:
        log: list = []
        stream = runtime.wrap(turnstile, anumbers)(log, 1, 2)
        await stream.__anext__()
        error = KeyError("thrown")
        with pytest.raises(KeyError) as caught:
            await stream.athrow(error)
        assert caught.value is error
        assert log == ["closed"]
        assert turnstile.ended == [Verdict.BAD]

    runtime.run(body)


def test_a_stream_may_end_when_something_is_thrown_in(runtime, turnstile: Turnstile) -> None:
    async def ends() -> object:
        try:
            yield 1
        except KeyError:
            pass

    async def body() -> None:
        stream = runtime.wrap(turnstile, ends)()
        await stream.__anext__()
        with pytest.raises(StopAsyncIteration):
            await stream.athrow(KeyError())
        assert turnstile.ended == [Verdict.GOOD]

    runtime.run(body)


def test_closing_a_stream_closes_the_source_and_teaches_nothing(runtime, turnstile: Turnstile) -> None:
    async def body() -> None:
        log: list = []
        stream = runtime.wrap(turnstile, anumbers)(log, 1, 2)
        await stream.__anext__()
        await stream.aclose()
        assert log == ["closed"]
        assert turnstile.ended == ["cancelled"]
        assert turnstile.inside == 0
        await stream.aclose()
        assert len(turnstile.ended) == 1

    runtime.run(body)


def test_a_stream_left_behind_gives_its_permit_back(turnstile: Turnstile) -> None:
    log: list = []
    for _ in turnstile(numbers)(log, 1, 2):
        break
    gc.collect()
    assert log == ["closed"]
    assert turnstile.ended == ["cancelled"]


def test_an_async_stream_left_behind_gives_its_permit_back(turnstile: Turnstile) -> None:
    log: list = []

    async def leave() -> None:
        async for _ in turnstile(anumbers)(log, 1, 2):
            break

    asyncio.run(leave())
    assert log == ["closed"]
    assert turnstile.ended == ["cancelled"]


def test_a_source_that_will_not_be_closed_is_reported_and_settled(turnstile: Turnstile) -> None:
    def stubborn():
        while True:
            try:
                yield 1
            except GeneratorExit:
                yield 2

    stream = turnstile(stubborn)()
    next(stream)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        stream.close()
    assert turnstile.inside == 0


def test_a_generator_returns_what_the_source_returns(turnstile: Turnstile) -> None:
    def outer(*items: object):
        return (yield from turnstile(numbers)([], *items))

    def result_of(generator) -> object:
        with pytest.raises(StopIteration) as stop:
            while True:
                next(generator)
        return stop.value.value

    assert result_of(outer(1, 2)) == "result"
    assert result_of(outer()) == "result"
    assert turnstile.ended == [Verdict.GOOD] * 2


def test_a_generator_returns_its_result_after_throw_too(turnstile: Turnstile) -> None:
    def source():
        try:
            yield 1
        except KeyError:
            return "thrown"

    stream = turnstile(source)()
    next(stream)
    with pytest.raises(StopIteration) as stop:
        stream.throw(KeyError())
    assert stop.value.value == "thrown"


def test_a_stream_that_failed_at_once_may_be_tried_again(runtime, fake_clock, turnstile: Turnstile) -> None:
    attempts = []

    async def flaky() -> object:
        attempts.append(True)
        if len(attempts) == 1:
            raise OSError
        yield len(attempts)

    async def body() -> None:
        pipeline = Pipeline("p", Around(again), turnstile)
        assert [item async for item in runtime.wrap(pipeline, flaky)()] == [2]
        assert turnstile.ended == [Verdict.BAD, Verdict.GOOD]
        assert turnstile.inside == 0

    runtime.run(body)


def test_a_stream_that_a_policy_drops_is_closed(runtime) -> None:
    log: list = []
    gate = Turnstile(limit=2)

    def twice(call, inner):
        dropped = call.again(call.context)
        outcome = yield from inner(dropped)
        dropped.let_go(None)
        yield Dispose(outcome.value)
        log.append("dropped")
        return (yield from inner(call))

    async def body() -> None:
        stream = runtime.wrap(Pipeline("p", Around(twice), gate), anumbers)
        assert [item async for item in stream(log, 1, 2)] == [1, 2]

    runtime.run(body)
    assert log == ["closed", "dropped", None, None, "closed"]
    assert gate.ended == ["cancelled", Verdict.GOOD]


def test_every_gate_around_a_stream_is_settled_at_its_end(runtime) -> None:
    outer, inner = Turnstile("outer"), Turnstile("inner")

    async def body() -> None:
        stream = runtime.wrap(Pipeline("p", outer, inner), anumbers)([], 1, OSError())
        await stream.__anext__()
        assert (outer.inside, inner.inside) == (1, 1)
        with pytest.raises(OSError):
            await stream.__anext__()
        assert (outer.ended, inner.ended) == ([Verdict.BAD], [Verdict.BAD])

    runtime.run(body)


def test_a_classifier_sees_what_a_stream_returned_and_no_items(runtime) -> None:
    seen = []

    def classify(outcome: Outcome, context: CallContext) -> Verdict:
        seen.append(outcome.value)
        return Verdict.THROTTLED

    gate = Turnstile(classify=classify)

    async def body() -> None:
        assert [item async for item in runtime.wrap(gate, anumbers)([], 1, 2)] == [1, 2]

    runtime.run(body)
    assert list(gate(numbers)([], 1, 2)) == [1, 2]
    assert seen == [None, "result"]
    assert gate.ended == [Verdict.THROTTLED] * 2


def test_a_classifier_that_fails_gives_every_permit_back(runtime) -> None:
    def broken(outcome: Outcome, context: CallContext) -> Verdict:
        raise ZeroDivisionError

    outer, inner = Turnstile("outer"), Turnstile("inner", classify=broken)

    async def body() -> None:
        with pytest.raises(ZeroDivisionError):
            async for _ in runtime.wrap(Pipeline("p", outer, inner), anumbers)([], 1):
                pass

    runtime.run(body)
    assert (outer.inside, inner.inside) == (0, 0)
    assert inner.ended == ["cancelled"]


def test_a_stream_cancelled_while_it_works_teaches_nothing(async_runtime, turnstile: Turnstile) -> None:
    async def body() -> None:
        reached = async_runtime.event()

        async def stuck():
            yield 1
            reached.set()
            await async_runtime.event().wait()

        async def read() -> None:
            async for _ in turnstile(stuck)():
                pass

        reading = async_runtime.spawn(read)
        await reached.wait()
        assert turnstile.inside == 1
        async_runtime.cancel(reading)
        await reading.join()
        assert turnstile.ended == ["cancelled"]
        assert turnstile.inside == 0

    async_runtime.run(body)


def test_one_policy_guards_plain_asyncio_and_trio_functions_at_once(turnstile: Turnstile) -> None:
    assert turnstile(charge)(1)[0] == 1
    assert asyncio.run(turnstile(acharge)(2))[0] == 2
    assert trio.run(turnstile(acharge), 3)[0] == 3
    assert turnstile.ended == [Verdict.GOOD] * 3
