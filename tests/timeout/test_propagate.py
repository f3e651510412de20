"""A timeout that does not tell what is inside: it bounds its call all the same, and so does what it is inside of."""

import asyncio
import contextvars
import threading
from typing import Any

import httpx
import pytest
from tests.doubles import Again, Slots, nap
from tests.runtimes import PATIENCE

from resilience import (
    ConfigError,
    DeadlineExceededError,
    Hedge,
    Keyed,
    Outcome,
    Pipeline,
    Policy,
    Retry,
    RetryBudget,
    Timeout,
    Verdict,
    current_deadline,
    deadline,
    remaining,
)
from resilience._runtime import compile as compiling
from resilience.backoff import constant
from resilience.deadline import usage
from resilience.integrations.httpx import AsyncResilientTransport
from resilience.outcome import CallContext
from resilience.testing import FakeClock, delayed, script
from resilience.timeout import TimeoutSettings

MESSAGE = r"'stock' took longer than 2 s"


def untold(seconds: Any = 2.0, **settings: Any) -> Timeout:
    return Timeout(seconds, name="stock", propagate=False, **settings)


@pytest.fixture(params=["generated", "driven"], autouse=True)
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to make a call."""
    if request.param == "generated" and not compiling.is_on():
        pytest.skip("nothing is generated here")
    if request.param == "driven":
        monkeypatch.setattr(compiling, "is_on", lambda: False)
    return str(request.param)


# --- the setting -------------------------------------------------------------------------------------------------


def test_by_default_what_is_inside_is_told() -> None:
    assert Timeout(1.0).settings.propagate is True
    assert Timeout(1.0, propagate=False).settings == TimeoutSettings(duration=1.0, propagate=False)


@pytest.mark.parametrize("propagate", [1, 0, "yes", None])
def test_what_is_neither_true_nor_false_is_refused(propagate: Any) -> None:
    with pytest.raises(ConfigError, match=r"propagate.*must be True or False") as caught:
        Timeout(1.0, propagate=propagate)
    [problem] = caught.value.problems
    assert (problem.setting, problem.value) == ("propagate", propagate)


def test_a_description_shows_it() -> None:
    assert "propagate = False (set)" in Pipeline("stock", untold()).describe()
    assert "propagate = True (default)" in Pipeline("stock", Timeout(2.0)).describe()


def test_a_copy_does_not_tell_either() -> None:
    assert untold().copy().settings.propagate is False


def test_a_change_holds_for_what_is_decorated_already(runtime: Any, fake_clock: Any) -> None:
    timeout = untold()
    look = runtime.wrap(timeout, remaining)

    async def body() -> list[float | None]:
        seen = [await look(), await look()]
        for propagate in (True, False):
            timeout.reconfigure(propagate=propagate)
            seen += [await look(), await look()]
        return seen

    told = pytest.approx(2.0)
    assert runtime.run(body) == [None, None, told, told, None, None]


def test_a_reload_holds_for_what_is_decorated_already(runtime: Any, fake_clock: Any) -> None:
    pipeline = Pipeline("stock", Retry(budget=None), Timeout(2.0))
    look = runtime.wrap(pipeline, remaining)

    async def body() -> list[float | None]:
        seen = [await look()]
        pipeline.reload(Retry(budget=None), Timeout(2.0, propagate=False))
        return [*seen, await look(), await look()]

    assert runtime.run(body) == [pytest.approx(2.0), None, None]


@pytest.mark.parametrize("propagate", [False, True])
def test_a_call_under_way_keeps_what_it_began_with(runtime: Any, fake_clock: Any, propagate: bool) -> None:
    timeout = Timeout(2.0, propagate=propagate)
    seen: list[float | None] = []

    def look() -> None:
        seen.append(remaining())
        timeout.reconfigure(propagate=not propagate)
        raise ConnectionError

    async def body() -> None:
        work = runtime.wrap(
            Pipeline("stock", timeout, Retry(attempts=2, backoff=constant(0.0), budget=None)), look
        )
        with pytest.raises(ConnectionError):
            await work()

    runtime.run(body)
    assert seen == ([pytest.approx(2.0)] * 2 if propagate else [None, None])


# --- what is inside ----------------------------------------------------------------------------------------------


def test_what_is_called_inside_does_not_see_the_time_left(runtime: Any, fake_clock: FakeClock) -> None:
    async def nested() -> Any:
        return await runtime.call(Pipeline("deeper", Retry(budget=None), Slots()), remaining)

    async def body() -> None:
        for _ in range(2):
            assert await runtime.call(untold(), remaining) is None
            assert await runtime.call(untold(), nested) is None
        assert current_deadline() is None

    runtime.run(body)


def test_an_outer_deadline_is_seen_inside(runtime: Any, fake_clock: FakeClock) -> None:
    look = runtime.wrap(untold(), remaining)

    async def body() -> None:
        for seconds in (5.0, 1.0):
            with deadline(seconds):
                for _ in range(2):
                    assert await look() == pytest.approx(seconds)
                assert remaining() == pytest.approx(seconds)

    runtime.run(body)


def test_what_an_outer_timeout_tells_is_seen_inside(runtime: Any, fake_clock: FakeClock) -> None:
    inner = runtime.wrap(untold(), remaining)

    async def nested() -> Any:
        return await inner()

    async def body() -> None:
        assert await runtime.call(Timeout(5.0), nested) == pytest.approx(5.0)

    runtime.run(body)


def test_tasks_and_threads_begun_inside_are_not_told() -> None:
    seen: list[float | None] = []

    async def look() -> None:
        seen.append(remaining())

    async def work() -> None:
        await asyncio.create_task(look())
        seen.append(await asyncio.to_thread(remaining))
        thread = threading.Thread(
            target=contextvars.copy_context().run, args=(lambda: seen.append(remaining()),)
        )
        thread.start()
        thread.join(PATIENCE)

    asyncio.run(untold()(work)())
    assert seen == [None, None, None]


def test_an_http_client_inside_sends_no_deadline() -> None:
    sent: list[httpx.Request] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200)

    async def body() -> None:
        transport = AsyncResilientTransport(Pipeline("deeper", Slots()), wrapped=httpx.MockTransport(answer))
        async with httpx.AsyncClient(transport=transport) as client:
            for propagate in (False, True):
                await Timeout(20.0, propagate=propagate).acall(client.get, "https://stock/a-1")

    asyncio.run(body())
    assert ["X-Request-Timeout" in request.headers for request in sent] == [False, True]


# --- its own call ------------------------------------------------------------------------------------------------


def test_an_async_call_is_cut_short(async_runtime: Any, fake_clock: FakeClock) -> None:
    timeout, began = untold(), fake_clock.now()

    async def body() -> None:
        with pytest.raises(TimeoutError, match=MESSAGE) as caught:
            await async_runtime.call(timeout, script(delayed(4.0)))
        assert type(caught.value) is TimeoutError

    async_runtime.run(body)
    assert fake_clock.now() - began == pytest.approx(2.0)
    assert timeout.timed_out == 1


@pytest.mark.parametrize("inside", [[], [Slots()], [Again(1)]], ids=["alone", "gate", "step"])
def test_an_async_call_is_cut_short_in_real_time(async_runtime: Any, inside: list[Policy]) -> None:
    timeout = untold(0.02)

    async def body() -> None:
        policy = Pipeline("stock", timeout, *inside) if inside else timeout
        work = async_runtime.wrap(policy, lambda: async_runtime.sleep(PATIENCE))
        for _ in range(2):
            with pytest.raises(TimeoutError, match=r"'stock' took longer than 0\.02 s"):
                await work()

    async_runtime.run(body)
    assert timeout.timed_out == 2


def test_a_nearer_deadline_is_the_callers(async_runtime: Any, fake_clock: FakeClock) -> None:
    began = fake_clock.now()

    async def body() -> None:
        with deadline(1.0), pytest.raises(DeadlineExceededError) as caught:
            await async_runtime.call(untold(), script(delayed(4.0)))
        assert caught.value.started

    async_runtime.run(body)
    assert fake_clock.now() - began == pytest.approx(1.0)


def test_a_nearer_deadline_is_the_callers_in_real_time() -> None:
    timeout = untold(PATIENCE)
    work = timeout(asyncio.sleep)

    async def body() -> None:
        for _ in range(2):
            with deadline(0.02), pytest.raises(DeadlineExceededError) as caught:
                await work(PATIENCE)
            assert caught.value.started

    asyncio.run(body())
    assert timeout.timed_out == 0


def test_nothing_starts_after_the_deadline(runtime: Any, fake_clock: FakeClock) -> None:
    fetch = script("here")
    work = runtime.wrap(untold(), fetch)

    async def body() -> None:
        with deadline(1.0):
            fake_clock.advance(1.0)
            with pytest.raises(DeadlineExceededError) as caught:
                await work()
        assert not caught.value.started

    runtime.run(body)
    assert fetch.calls == 0


def test_a_plain_function_that_returns_late_keeps_its_result(fake_clock: Any) -> None:
    timeout = untold()
    work = timeout(script(delayed(4.0, "late"), delayed(4.0, "late")))
    assert [work(), work()] == ["late", "late"]
    assert timeout.timed_out == 0


def test_of_a_stream_the_time_to_the_first_item_is_bounded(async_runtime: Any, fake_clock: Any) -> None:
    seen: list[float | None] = []

    async def late(seconds: float) -> Any:
        seen.append(remaining())
        await nap(async_runtime, seconds)
        yield 1
        await nap(async_runtime, 4.0)
        yield 2

    async def body() -> None:
        items = async_runtime.wrap(untold(), late)
        with pytest.raises(TimeoutError, match=MESSAGE):
            await anext(items(4.0))
        assert [item async for item in items(1.0)] == [1, 2]

    async_runtime.run(body)
    assert seen == [None, None]


def test_a_thread_is_left_behind_in_time(fake_clock: FakeClock) -> None:
    timeout, began = untold(thread=True), fake_clock.now()
    with pytest.raises(TimeoutError, match=MESSAGE):
        timeout.call(script(delayed(4.0)))
    assert fake_clock.now() - began == pytest.approx(2.0)


def test_a_thread_sees_the_callers_deadline_only(fake_clock: Any) -> None:
    timeout = untold(thread=True)
    assert timeout.call(remaining) is None
    with deadline(5.0):
        assert timeout.call(remaining) == pytest.approx(5.0)


# --- the other policies of the pipeline --------------------------------------------------------------------------


def test_a_retry_inside_fits_its_waits_into_the_time(runtime: Any, fake_clock: FakeClock) -> None:
    retry = Retry(attempts=10, backoff=constant(1.0), budget=None)
    pipeline = Pipeline("stock", untold(2.5), retry)
    fetch = script(*[ConnectionError] * 10)
    began, work = fake_clock.now(), runtime.wrap(pipeline, fetch)

    async def body() -> None:
        with pytest.raises(ConnectionError) as caught:
            await work()
        assert caught.value.__notes__ == ["resilience: gave up after 3 attempts: deadline exceeded"]

    runtime.run(body)
    assert fetch.calls == 3
    assert fake_clock.now() - began == pytest.approx(2.0)
    assert retry.stops["deadline_exceeded"] == 1


def test_a_retry_inside_knows_how_long_attempts_take_where_no_deadline_was_ever_set(
    fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "used", False)
    fetch = script(*[delayed(0.5, ConnectionError)] * 20)
    work = Pipeline("stock", untold(1.0), Retry(attempts=2, backoff=constant(0.1), budget=None))(fetch)
    for calls in (2, 4, 6, 8, 10, 11):  # from the sixth on, another attempt of half a second would not fit
        with pytest.raises(ConnectionError):
            work()
        assert fetch.calls == calls
    assert not usage.used


def test_further_attempts_are_bounded(async_runtime: Any) -> None:
    async def body() -> None:
        calls: list[int] = []

        async def work() -> None:
            calls.append(1)
            if len(calls) % 2:
                raise ConnectionError
            await async_runtime.sleep(PATIENCE)

        retry = Retry(attempts=2, backoff=constant(0.0), budget=None)
        guarded = async_runtime.wrap(Pipeline("stock", untold(0.05), retry), work)
        for _ in range(2):
            with pytest.raises(TimeoutError, match=r"0\.05 s"):
                await guarded()
        assert len(calls) == 4

    async_runtime.run(body)


def test_a_waiting_line_inside_ends_in_time(fake_clock: FakeClock) -> None:
    fetch, began = script("here"), fake_clock.now()
    with pytest.raises(TimeoutError, match=MESSAGE):
        Pipeline("stock", untold(), Slots(limit=0, max_wait=60.0))(fetch)()
    assert fake_clock.now() - began == pytest.approx(2.0)
    assert fetch.calls == 0


def test_a_plain_function_does_not_start_when_a_step_before_it_took_the_time(fake_clock: Any) -> None:
    fetch = script(ConnectionError, "here")
    with pytest.raises(TimeoutError, match=MESSAGE):
        Pipeline("stock", untold(), Again(2, nap=4.0))(fetch)()
    assert fetch.calls == 1


def test_nothing_starts_in_a_thread_either_once_the_time_was_used(fake_clock: Any) -> None:
    fetch = script(ConnectionError, "here")
    with pytest.raises(TimeoutError, match=MESSAGE):
        Pipeline("stock", untold(thread=True), Again(2, nap=4.0))(fetch)()
    fake_clock.advance(10.0)
    assert fetch.calls == 1


def test_a_hedge_inside_waits_no_longer(runtime: Any, fake_clock: FakeClock) -> None:
    hedge = Hedge(after=0.5, idempotent=True, budget=RetryBudget.refund(20, initial=20))
    work = runtime.wrap(Pipeline("stock", untold(), hedge), script(*[delayed(60.0, "late")] * 2))
    began = fake_clock.now()

    async def body() -> None:
        with pytest.raises(TimeoutError, match=MESSAGE):
            await work()

    runtime.run(body)
    assert fake_clock.now() - began == pytest.approx(2.0)
    assert hedge.hedges == 1


def test_attempts_of_a_hedge_inside_are_not_told(runtime: Any, fake_clock: FakeClock) -> None:
    work = runtime.wrap(
        Pipeline(
            "stock", untold(), Hedge(after=0.5, idempotent=True, budget=RetryBudget.refund(20, initial=20))
        ),
        remaining,
    )

    async def body() -> None:
        assert await work() is None
        with deadline(5.0):
            assert await work() == pytest.approx(5.0)

    runtime.run(body)


def test_policies_inside_know_the_end(runtime: Any, fake_clock: FakeClock) -> None:
    seen: list[CallContext] = []

    def duration(context: CallContext) -> None:
        seen.append(context)

    def classify(outcome: Outcome[Any], context: CallContext) -> Verdict:
        seen.append(context)
        return Verdict.GOOD

    pipeline = Pipeline("stock", untold(), Timeout(duration), Retry(budget=None, classify=classify))
    work = runtime.wrap(pipeline, remaining)

    async def body() -> None:
        for _ in range(2):
            assert await work() is None

    runtime.run(body)
    assert [context.deadline for context in seen] == [pytest.approx(fake_clock.now() + 2.0)] * 4


def test_policies_of_a_key_inside_know_the_end(fake_clock: FakeClock) -> None:
    keyed = Keyed("keyed", factory=lambda: Slots(limit=0, max_wait=60.0), key=lambda: "a")
    work, began = Pipeline("stock", untold(), keyed)(script("here")), fake_clock.now()
    with pytest.raises(TimeoutError, match=MESSAGE):
        work()
    assert fake_clock.now() - began == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ((Timeout(2.0, propagate=False), Timeout(1.0)), 1.0),
        ((Timeout(2.0), Timeout(1.0, propagate=False)), 2.0),
        ((Timeout(2.0, propagate=False), Timeout(1.0, propagate=False)), None),
        ((Timeout(1.0, propagate=False), Timeout(lambda _: 2.0)), 1.0),
        ((Timeout(3.0), Timeout(2.0, propagate=False), Timeout(1.0)), 1.0),
        ((Timeout(3.0), Timeout(2.0), Timeout(1.0, propagate=False)), 2.0),
    ],
)
@pytest.mark.parametrize("within", [None, 0.5, 1.5, 2.5])
def test_of_several_limits_those_that_tell_and_those_around_them_are_told(
    runtime: Any, fake_clock: Any, limits: tuple[Timeout, ...], told: float | None, within: float | None
) -> None:
    pipeline = Pipeline("stock", *[limit.copy() for limit in limits])
    work = runtime.wrap(pipeline, remaining)
    expected = min((each for each in (told, within) if each is not None), default=None)

    async def body() -> None:
        with deadline(within):
            for _ in range(2):
                assert await work() == (None if expected is None else pytest.approx(expected))
            assert remaining() == (None if within is None else pytest.approx(within))

    runtime.run(body)


def test_a_limit_around_that_has_become_the_nearer_one_is_told_by_the_inner_one(
    runtime: Any, fake_clock: Any
) -> None:
    outer = untold()
    work = runtime.wrap(Pipeline("stock", outer, Timeout(1.0)), remaining)
    outer.reconfigure(duration=0.5)

    async def body() -> list[float | None]:
        return [await work(), await work()]

    assert runtime.run(body) == [pytest.approx(0.5)] * 2


# --- a block -----------------------------------------------------------------------------------------------------


def test_a_guarded_block_is_bounded_and_not_told(async_runtime: Any, fake_clock: FakeClock) -> None:
    timeout, began = untold(), fake_clock.now()

    async def body() -> None:
        with pytest.raises(TimeoutError, match=MESSAGE):
            async with timeout.guard():
                assert remaining() is None
                await nap(async_runtime, 4.0)
        assert current_deadline() is None

    async_runtime.run(body)
    assert fake_clock.now() - began == pytest.approx(2.0)
    assert timeout.timed_out == 1


def test_a_guarded_block_sees_and_keeps_the_callers_deadline(async_runtime: Any, fake_clock: Any) -> None:
    async def body() -> None:
        with deadline(1.0):
            with pytest.raises(DeadlineExceededError) as caught:
                async with untold().guard():
                    assert remaining() == pytest.approx(1.0)
                    await nap(async_runtime, 4.0)
            assert caught.value.started
            assert current_deadline() is not None

    async_runtime.run(body)


# --- what it costs -----------------------------------------------------------------------------------------------


def texts(*, propagate: bool) -> list[str]:
    """Return the text around a plain function, and around a coroutine function."""
    timeout = Timeout(2.0, propagate=propagate)

    def plain() -> None: ...

    async def coroutine() -> None: ...

    return [timeout.source(timeout(fn)) for fn in (plain, coroutine)]


def test_no_context_variable_is_written(mode: str) -> None:
    for told, text in zip(texts(propagate=True), texts(propagate=False), strict=True):
        assert ("set_block" in told) == (mode == "generated")
        assert not any(name in text for name in ("set_block", "outer", "until ="))


def test_alone_it_lets_nobody_look_for_deadlines(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "used", False)
    for text in texts(propagate=False):
        assert "block()" not in text
    assert untold()(lambda: 7)() == 7
    assert not usage.used
    texts(propagate=True)
    assert usage.used == (mode == "generated")
