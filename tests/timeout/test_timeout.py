"""Timeout under asyncio and trio, which cancel, and on threads, which do not; and who is said to be late."""

import asyncio
import contextvars
import gc
import math
import threading
import weakref
from typing import Any

import pytest
import trio
from tests.collector import collector_off
from tests.doubles import Again, Closeable, Dawdle, Slots, nap, raising

from resilience._runtime.pipeline import Pipeline
from resilience.deadline import check_deadline, current_deadline, deadline, remaining
from resilience.errors import ConcurrencyLimitedError, ConfigError, DeadlineExceededError
from resilience.outcome import CallContext, Verdict
from resilience.testing import FakeClock, delayed, script
from resilience.timeout import Timeout, TimeoutSettings

MESSAGE = r"'stock' took longer than 2 s"


def limited(seconds: Any = 2.0, **settings: Any) -> Timeout:
    return Timeout(seconds, name="stock", **settings)


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duration", [0, -1.0, math.nan, math.inf, -math.inf, True, "1", [1]])
def test_a_duration_that_is_none_is_refused(duration: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Timeout(duration)
    assert [problem.setting for problem in caught.value.problems] == ["duration"]


def test_one_error_lists_every_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        Timeout(0, thread=1, max_abandoned=0)  # type: ignore[arg-type]  # that is the point
    assert [problem.setting for problem in caught.value.problems] == ["duration", "thread", "max_abandoned"]


def test_the_constructor_has_the_defaults_of_the_settings() -> None:
    assert Timeout(1.5).settings == TimeoutSettings(duration=1.5)


def test_a_pipeline_sees_a_fixed_duration_only() -> None:
    assert Timeout(1.5).traits.bound == 1.5
    assert Timeout(None).traits.bound is None
    assert Timeout(lambda context: 1.5).traits.bound is None


def test_an_attempt_timeout_must_be_shorter_than_the_total() -> None:
    with pytest.raises(ConfigError, match="duration"):
        Pipeline("stock", Timeout(2.0), Timeout(2.0))


def test_a_change_of_settings_holds_for_what_is_decorated_already(
    async_runtime: Any, fake_clock: Any
) -> None:
    timeout = limited()

    async def body() -> None:
        fetch = async_runtime.wrap(timeout, script(delayed(4.0, "late")))
        with pytest.raises(TimeoutError):
            await fetch()
        timeout.reconfigure(duration=5.0)
        assert await fetch() == "late"

    async_runtime.run(body)


# --- what comes out ----------------------------------------------------------------------------------------------


def test_a_result_in_time_comes_out(runtime: Any, fake_clock: Any) -> None:
    async def body() -> Any:
        return await runtime.call(limited(), script(delayed(1.0, "here")))

    assert runtime.run(body) == "here"


def test_an_error_in_time_comes_out_as_it_is(runtime: Any, fake_clock: Any) -> None:
    error = KeyError("not found")

    async def body() -> None:
        with pytest.raises(KeyError) as caught:
            await runtime.call(limited(), raising(error))
        assert caught.value is error

    runtime.run(body)


def test_no_duration_is_no_limit(runtime: Any, fake_clock: Any) -> None:
    async def body() -> Any:
        assert await runtime.call(limited(None), current_deadline) is None
        return await runtime.call(limited(None), script(delayed(1e6, "late")))

    assert runtime.run(body) == "late"


def test_timeout_1_a_call_of_4_s_ends_after_2_s(async_runtime: Any, fake_clock: FakeClock) -> None:
    # Upstream reads zero, negative and infinite durations as "no limit". Here they are errors, above: a
    # timeout that was computed to zero is a mistake, and None says what is meant.
    timeout = limited()
    began = fake_clock.now()

    async def body() -> None:
        with pytest.raises(TimeoutError, match=MESSAGE) as caught:
            await async_runtime.call(timeout, script(delayed(4.0)))
        assert type(caught.value) is TimeoutError

    async_runtime.run(body)
    assert fake_clock.now() - began == pytest.approx(2.0)
    assert timeout.timed_out == 1


def test_timeouts_need_no_fake_clock(async_runtime: Any) -> None:
    async def slow() -> None:
        await async_runtime.sleep(5)

    async def body() -> None:
        with pytest.raises(TimeoutError):
            await async_runtime.call(limited(0.01), slow)
        async with limited(5).guard():
            pass
        with pytest.raises(TimeoutError):
            async with limited(0.01).guard():
                await slow()

    async_runtime.run(body)


def test_the_duration_may_depend_on_the_call(async_runtime: Any, fake_clock: Any) -> None:
    asked: list[CallContext] = []

    def by_operation(context: CallContext) -> float | None:
        asked.append(context)
        return 2.0 if context.operation == "GET /stock" else None

    pipeline = Pipeline(limited(by_operation))
    context = {"fast": CallContext(operation="GET /stock"), "slow": CallContext()}

    async def body() -> None:
        for kind, expected in (("slow", "late"), ("fast", None)):
            fetch = pipeline.bind(script(delayed(4.0, "late")).acall, context=lambda kind=kind: context[kind])
            if expected is None:
                with pytest.raises(TimeoutError, match=MESSAGE):
                    await fetch()
            else:
                assert await fetch() == expected

    async_runtime.run(body)
    assert asked == [context["slow"], context["fast"]]


async def fetch(number: int) -> int:
    return number


def rows(context: object) -> Any:
    yield context


@pytest.mark.parametrize("duration", [fetch, rows, lambda: 1.0, lambda a, b: 1.0, lambda *, context: 1.0])
def test_a_function_that_cannot_say_how_long_is_refused_with_a_hint(duration: Any) -> None:
    with pytest.raises(ConfigError, match=r"duration must be seconds > 0, .* \(write @Timeout\(seconds\)\)"):
        Timeout(duration)


@pytest.mark.parametrize(
    "duration", [lambda context: 1.0, lambda *contexts: 1.0, lambda context, extra=0: 1.0, max]
)
def test_a_plain_function_of_the_context_may_say_how_long(duration: Any) -> None:
    assert Timeout(duration).settings.duration is duration


@pytest.mark.parametrize("answer", [0, -1, math.nan, math.inf, "1", True])
def test_a_callable_that_answers_nonsense_is_found_out(runtime: Any, answer: Any) -> None:
    fetch = script("here")

    async def body() -> None:
        with pytest.raises(ConfigError, match="duration"):
            await runtime.call(limited(lambda context: answer), fetch)

    runtime.run(body)
    assert fetch.calls == 0


def test_a_cancellation_that_is_swallowed_gives_a_late_result(async_runtime: Any, fake_clock: Any) -> None:
    async def stubborn() -> str:
        try:
            await nap(async_runtime, 4.0)
        except async_runtime.cancelled:
            return "late"
        return "in time"

    async def body() -> Any:
        return await async_runtime.call(limited(), stubborn)

    assert async_runtime.run(body) == "late"


def test_an_error_while_cleaning_up_comes_out(async_runtime: Any, fake_clock: Any) -> None:
    async def clumsy() -> None:
        try:
            await nap(async_runtime, 4.0)
        finally:
            raise ValueError("while cleaning up")

    async def body() -> None:
        with pytest.raises(ValueError, match="while cleaning up"):
            await async_runtime.call(limited(), clumsy)

    async_runtime.run(body)


def test_a_timeout_leaves_no_cycle_behind(async_runtime: Any, fake_clock: Any) -> None:
    timeout = limited()
    gone: list[weakref.ref[Any]] = []

    async def body() -> None:
        class Marker:
            pass

        async def slow() -> None:
            marker = Marker()
            gone.append(weakref.ref(marker))
            await nap(async_runtime, 4.0)

        try:
            await async_runtime.call(timeout, slow)
        except TimeoutError:
            pass
        await async_runtime.checkpoint()
        assert gone[0]() is None

    with collector_off():
        async_runtime.run(body)


# --- who is late -------------------------------------------------------------------------------------------------


def test_a_nearer_deadline_is_the_callers(async_runtime: Any, fake_clock: FakeClock) -> None:
    timeout = limited()
    began = fake_clock.now()

    async def body() -> None:
        with deadline(1.0), pytest.raises(DeadlineExceededError) as caught:
            await async_runtime.call(timeout, script(delayed(4.0)))
        assert caught.value.started

    async_runtime.run(body)
    assert fake_clock.now() - began == pytest.approx(1.0)
    assert timeout.timed_out == 0


def test_a_farther_deadline_does_not_matter(async_runtime: Any, fake_clock: Any) -> None:
    async def body() -> None:
        with deadline(3.0), pytest.raises(TimeoutError, match=MESSAGE) as caught:
            await async_runtime.call(limited(), script(delayed(4.0)))
        assert type(caught.value) is TimeoutError

    async_runtime.run(body)


def test_a_deadline_at_the_same_instant_is_the_callers(async_runtime: Any, fake_clock: Any) -> None:
    async def body() -> None:
        with deadline(2.0), pytest.raises(DeadlineExceededError) as caught:
            await async_runtime.call(limited(), script(delayed(4.0)))
        assert caught.value.started

    async_runtime.run(body)


def test_nothing_starts_after_the_deadline(runtime: Any, fake_clock: Any) -> None:
    fetch = script(ConnectionError)

    async def body() -> None:
        # The nap of the policy around it takes more than there is: the second attempt comes too late.
        pipeline = Pipeline(Again(2, nap=3.0), limited())
        with deadline(2.5), pytest.raises(DeadlineExceededError) as caught:
            await runtime.call(pipeline, fetch)
        assert caught.value.started is (runtime.name != "sync")

    runtime.run(body)
    assert fetch.calls == 1


def test_without_a_limit_of_its_own_it_starts_nothing_after_the_deadline_either(fake_clock: Any) -> None:
    fetch = script(ConnectionError)
    with deadline(2.5), pytest.raises(DeadlineExceededError) as caught:
        Pipeline(Again(2, nap=3.0), limited(None)).call(fetch)
    assert not caught.value.started
    assert fetch.calls == 1


def test_what_is_called_inside_sees_the_time_left(runtime: Any, fake_clock: FakeClock) -> None:
    async def body() -> None:
        assert await runtime.call(limited(), remaining) == pytest.approx(2.0)
        with deadline(1.0):
            assert await runtime.call(limited(), remaining) == pytest.approx(1.0)
        assert current_deadline() is None

    runtime.run(body)


def test_an_inner_policy_learns_the_nearest_instant(runtime: Any, fake_clock: FakeClock) -> None:
    seen: list[CallContext] = []

    def look(context: CallContext) -> None:
        seen.append(context)

    async def body() -> None:
        with deadline(5.0):
            await runtime.call(Pipeline(limited(), Timeout(look)), script("here"))

    runtime.run(body)
    assert [context.deadline for context in seen] == [pytest.approx(fake_clock.now() + 2.0)]


@pytest.mark.parametrize("inside", ["check", "call", "timeout"])
def test_a_function_that_keeps_our_deadline_is_our_timeout(
    runtime: Any, fake_clock: Any, inside: str
) -> None:
    # Deeper calls are told only an instant. If the instant was ours, the caller's time is not used up.
    timeout = limited()

    async def diligent() -> None:
        if inside == "call":
            await runtime.call(Pipeline("deeper", Again(2, nap=4.0)), raising(ConnectionError()))
        elif inside == "timeout":
            await runtime.call(Timeout(8.0), script(delayed(4.0)))
            check_deadline()
        else:
            fake_clock.advance(4.0)
            check_deadline()

    async def body() -> None:
        with deadline(60.0), pytest.raises(TimeoutError, match=MESSAGE) as caught:
            await runtime.call(timeout, diligent)
        assert type(caught.value) is TimeoutError
        if runtime.name == "sync":
            assert isinstance(caught.value.__cause__, DeadlineExceededError)

    runtime.run(body)
    assert timeout.timed_out == 1


def test_a_deadline_that_the_function_set_itself_comes_out(runtime: Any, fake_clock: FakeClock) -> None:
    async def hasty() -> None:
        with deadline(0.5):
            fake_clock.advance(1.0)
            check_deadline()

    async def body() -> None:
        with pytest.raises(DeadlineExceededError) as caught:
            await runtime.call(limited(), hasty)
        assert not caught.value.started

    runtime.run(body)


# --- cancellation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ticks", range(8))
@pytest.mark.parametrize("guarded", [False, True], ids=["call", "guard"])
def test_timeout_2_a_cancellation_at_the_same_moment_is_the_callers(
    async_runtime: Any, ticks: int, guarded: bool
) -> None:
    # Time runs out, and a few turns of the event loop later the caller cancels. Whatever the turn: if the
    # call was not over yet, it ends as cancelled.
    timeout = limited()
    slow = script(delayed(4.0))

    async def block() -> None:
        async with timeout.guard():
            await slow.acall()

    async def body() -> None:
        with FakeClock(auto_advance=False) as clock:
            job = async_runtime.spawn(block if guarded else timeout(slow.acall))
            await async_runtime.until(lambda: slow.calls == 1)
            clock.advance(2.0)
            for _ in range(ticks):
                await async_runtime.checkpoint()
            was_over = job.done()
            job.cancel()
            await job.join()
            if was_over:
                assert type(job.error) is TimeoutError
            else:
                assert isinstance(job.error, async_runtime.cancelled)
            assert timeout.timed_out == was_over

    async_runtime.run(body)


@pytest.mark.parametrize("first", ["caller", "timeout"])
def test_timeout_2_whoever_cancels_first_in_one_turn_the_caller_wins(async_runtime: Any, first: str) -> None:
    timeout = limited()
    slow = script(delayed(4.0))

    async def body() -> None:
        with FakeClock(auto_advance=False) as clock:
            until = clock.now() + 2.0
            if first == "timeout":
                job = async_runtime.spawn(timeout(slow.acall))
                await async_runtime.until(lambda: slow.calls == 1)
                clock.call_at(until, job.cancel)
            else:
                job = None
                clock.call_at(until, lambda: job.cancel())  # type: ignore[union-attr]  # made below
                job = async_runtime.spawn(timeout(slow.acall))
                await async_runtime.until(lambda: slow.calls == 1)
            clock.advance(2.0)
            await job.join()
            assert isinstance(job.error, async_runtime.cancelled)
            assert timeout.timed_out == 0

    async_runtime.run(body)


def test_timeout_2_the_cancellation_state_is_restored(fake_clock: Any) -> None:
    async def body() -> None:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(TimeoutError):
            await limited().acall(script(delayed(4.0)).acall)
        with pytest.raises(TimeoutError):
            async with limited().guard():
                await script(delayed(4.0)).acall()
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    asyncio.run(body())


def test_a_cancelled_call_gives_back_what_it_holds(async_runtime: Any) -> None:
    slots = Slots()
    pipeline = Pipeline("stock", limited(60.0), slots)

    async def steps() -> None:
        for _ in range(6):
            await async_runtime.checkpoint()

    async def body() -> None:
        fetch = async_runtime.wrap(pipeline, steps)
        for turn in range(10):
            job = async_runtime.spawn(fetch)
            for _ in range(turn):
                await async_runtime.checkpoint()
            job.cancel()
            await job.join()
            assert slots.used == 0

    async_runtime.run(body)
    assert slots.released
    assert slots.verdicts


def test_an_inner_gate_learns_nothing_from_being_cancelled(async_runtime: Any, fake_clock: Any) -> None:
    slots = Slots()

    async def body() -> None:
        with pytest.raises(TimeoutError):
            await async_runtime.call(Pipeline("stock", limited(), slots), script(delayed(4.0)))

    async_runtime.run(body)
    assert (slots.used, slots.released, slots.verdicts) == (0, 1, [])


def test_an_outer_gate_learns_that_it_timed_out(async_runtime: Any, fake_clock: Any) -> None:
    slots = Slots()

    async def body() -> None:
        with pytest.raises(TimeoutError):
            await async_runtime.call(Pipeline("stock", slots, limited()), script(delayed(4.0)))

    async_runtime.run(body)
    assert slots.verdicts == [Verdict.TIMED_OUT]


def test_timeout_3_nothing_grows_with_the_number_of_calls(async_runtime: Any) -> None:
    timeout = limited(60.0)

    async def body() -> int:
        gc.collect()
        before = len(gc.get_objects())
        fetch = async_runtime.wrap(timeout, script("here"))
        for _ in range(5_000):
            await fetch()
            await async_runtime.checkpoint()
        gc.collect()
        return len(gc.get_objects()) - before

    assert async_runtime.run(body) < 3_000  # event loops keep a thousand or so cancelled timers


# --- composition -------------------------------------------------------------------------------------------------


def test_composition_3_a_pending_retry_is_never_hit_by_the_old_timeout(
    async_runtime: Any, fake_clock: Any
) -> None:
    fetch = script(delayed(0.2), delayed(0.04, "here"))

    async def body() -> Any:
        return await async_runtime.call(Pipeline("stock", Again(2, nap=0.1), limited(0.05)), fetch)

    assert async_runtime.run(body) == "here"
    assert fetch.calls == 2


def test_composition_3_the_timeout_around_ends_the_pause_between_attempts(
    async_runtime: Any, fake_clock: FakeClock
) -> None:
    fetch = script(ConnectionError)
    began = fake_clock.now()

    async def body() -> None:
        with pytest.raises(TimeoutError, match=r"0\.1 s"):
            await async_runtime.call(Pipeline("stock", limited(0.1), Again(2, nap=1.0)), fetch)

    async_runtime.run(body)
    assert fetch.calls == 1
    assert fake_clock.now() - began == pytest.approx(0.1)


def test_composition_4_many_inner_timeouts_make_one_outer(async_runtime: Any, fake_clock: Any) -> None:
    outer, inner = limited(0.5), Timeout(0.1, name="attempt")

    async def body() -> None:
        with pytest.raises(TimeoutError, match=r"'stock' took longer than 0\.5 s"):
            await async_runtime.call(Pipeline(outer, Again(10), inner), script(delayed(0.15)))

    async_runtime.run(body)
    assert outer.timed_out == 1
    assert inner.timed_out >= 3


def test_nested_timeouts_deadline_and_cancellation_in_one_instant(async_runtime: Any) -> None:
    # Everything ends at 2 s. The caller's cancellation wins; without it, the caller's deadline.
    pipeline = Pipeline(limited(3.0), limited(2.0))

    async def body(cancels: bool) -> Any:
        slow = script(delayed(4.0))

        async def work() -> None:
            with deadline(2.0):
                await pipeline.acall(slow.acall)

        with FakeClock(auto_advance=False) as clock:
            job = async_runtime.spawn(work)
            await async_runtime.until(lambda: slow.calls == 1)
            if cancels:
                clock.call_at(clock.now() + 2.0, job.cancel)
            clock.advance(2.0)
            await job.join()
            return job.error

    assert isinstance(async_runtime.run(lambda: body(True)), async_runtime.cancelled)
    error = async_runtime.run(lambda: body(False))
    assert isinstance(error, DeadlineExceededError)
    assert error.started


# --- plain functions ---------------------------------------------------------------------------------------------


def test_a_plain_function_that_returns_late_keeps_its_result(fake_clock: Any) -> None:
    timeout = limited()
    assert timeout.call(script(delayed(4.0, "late"))) == "late"
    with pytest.raises(KeyError):
        timeout.call(script(delayed(4.0, KeyError)))
    assert timeout.timed_out == 0


def test_a_wait_inside_ends_in_time(fake_clock: FakeClock) -> None:
    slots = Slots(limit=0, max_wait=60.0)
    fetch = script("here")
    began = fake_clock.now()
    with pytest.raises(TimeoutError, match=MESSAGE):
        Pipeline(limited(), slots).call(fetch)
    assert fake_clock.now() - began == pytest.approx(2.0)
    assert fetch.calls == 0


def test_a_plain_function_does_not_start_when_a_step_before_it_took_the_time(fake_clock: Any) -> None:
    fetch = script(ConnectionError, "here")
    with pytest.raises(TimeoutError, match=MESSAGE):
        Pipeline(limited(), Again(2, nap=4.0)).call(fetch)
    assert fetch.calls == 1


# --- streams -----------------------------------------------------------------------------------------------------


def test_of_a_stream_the_time_to_the_first_item_is_bounded(async_runtime: Any, fake_clock: Any) -> None:
    slots = Slots()

    async def late() -> Any:
        await nap(async_runtime, 4.0)
        yield 1

    async def body() -> None:
        items = async_runtime.wrap(Pipeline(limited(), slots), late)()
        with pytest.raises(TimeoutError, match=MESSAGE):
            await anext(items)

    async_runtime.run(body)
    assert slots.used == 0


@pytest.mark.parametrize("cancels", [False, True])
def test_a_stream_that_is_given_up_after_it_opened_is_let_go(
    async_runtime: Any, fake_clock: Any, cancels: bool
) -> None:
    slots = Slots()

    async def items() -> Any:
        yield 1

    async def read() -> None:
        await anext(async_runtime.wrap(Pipeline(limited(), Dawdle(4.0), slots), items)())

    async def body() -> None:
        job = async_runtime.spawn(read)
        await nap(async_runtime, 1.0)
        assert slots.used == 1
        if cancels:
            job.cancel()
        await job.join()
        assert isinstance(job.error, async_runtime.cancelled if cancels else TimeoutError)

    async_runtime.run(body)
    assert (slots.used, slots.released) == (0, 1)


def test_of_a_stream_later_items_may_take_their_time(runtime: Any, fake_clock: Any) -> None:
    slots = Slots()

    async def steady() -> Any:
        for item in range(3):
            await nap(runtime, 1.5)
            yield item

    async def body() -> Any:
        items = runtime.wrap(Pipeline(limited(), slots), steady)()
        return [item async for item in items]

    assert runtime.run(body) == [0, 1, 2]
    assert (slots.used, slots.verdicts) == (0, [Verdict.GOOD])


# --- guard -------------------------------------------------------------------------------------------------------


def test_a_guarded_block_is_bounded(async_runtime: Any, fake_clock: FakeClock) -> None:
    timeout = limited()
    began = fake_clock.now()

    async def body() -> None:
        async with timeout.guard() as nothing:
            assert nothing is None
            assert remaining() == pytest.approx(2.0)
            await nap(async_runtime, 1.0)
        assert current_deadline() is None
        with pytest.raises(TimeoutError, match=MESSAGE) as caught:
            async with timeout.guard():
                await nap(async_runtime, 4.0)
        assert type(caught.value) is TimeoutError
        assert current_deadline() is None

    async_runtime.run(body)
    assert fake_clock.now() - began == pytest.approx(3.0)
    assert timeout.timed_out == 1


def test_a_guarded_block_lets_its_errors_pass(async_runtime: Any, fake_clock: Any) -> None:
    async def body() -> None:
        for error in (KeyError(), TimeoutError("its own"), DeadlineExceededError("its own")):
            with pytest.raises(type(error)) as caught:
                async with limited().guard():
                    raise error
            assert caught.value is error

    async_runtime.run(body)


def test_a_guarded_block_keeps_the_callers_deadline(async_runtime: Any, fake_clock: Any) -> None:
    async def body() -> None:
        with deadline(1.0), pytest.raises(DeadlineExceededError) as caught:
            async with limited().guard():
                await nap(async_runtime, 4.0)
        assert caught.value.started

    async_runtime.run(body)


def test_a_guarded_block_does_not_begin_after_the_deadline(async_runtime: Any, fake_clock: FakeClock) -> None:
    async def body() -> None:
        with deadline(1.0):
            fake_clock.advance(1.0)
            with pytest.raises(DeadlineExceededError) as caught:
                async with limited().guard():
                    pytest.fail("it began")
        assert not caught.value.started

    async_runtime.run(body)


def test_a_guarded_block_without_a_duration_is_not_bounded(async_runtime: Any, fake_clock: Any) -> None:
    async def body() -> None:
        async with limited(None).guard():
            assert current_deadline() is None
            await nap(async_runtime, 1e6)

    async_runtime.run(body)


def test_a_deadline_missed_inside_a_guarded_block_is_its_timeout(
    async_runtime: Any, fake_clock: FakeClock
) -> None:
    async def body() -> None:
        with pytest.raises(TimeoutError, match=MESSAGE) as caught:
            async with limited().guard():
                fake_clock.advance(4.0)
                check_deadline()
        assert type(caught.value) is TimeoutError

    async_runtime.run(body)


def test_a_guard_is_entered_once(async_runtime: Any) -> None:
    async def body() -> None:
        guard = limited().guard()
        async with guard:
            pass
        with pytest.raises(RuntimeError, match="entered once"):
            async with guard:
                pass

    async_runtime.run(body)


def test_a_plain_block_cannot_be_bounded_and_says_why() -> None:
    with pytest.raises(TypeError, match="deadline"), limited().guard():  # type: ignore[attr-defined]  # on purpose
        pytest.fail("it began")


# --- a thread of its own -----------------------------------------------------------------------------------------


def until(holds: Any) -> None:
    for _ in range(2_000):
        if holds():
            return
        threading.Event().wait(0.005)
    pytest.fail("it never came about")


def test_a_thread_is_left_behind_in_time(fake_clock: FakeClock) -> None:
    timeout = limited(thread=True)
    began = fake_clock.now()
    with pytest.raises(TimeoutError, match=MESSAGE) as caught:
        timeout.call(script(delayed(4.0)))
    assert type(caught.value) is TimeoutError
    assert fake_clock.now() - began == pytest.approx(2.0)
    assert timeout.timed_out == 1
    assert timeout.abandoned == 1
    until(lambda: fake_clock.advance(2.0) or timeout.abandoned == 0)


def test_a_thread_is_left_behind_in_real_time() -> None:
    timeout = limited(0.02, thread=True)
    release = threading.Event()
    with pytest.raises(TimeoutError):
        timeout.call(release.wait, 20)
    assert timeout.abandoned == 1
    release.set()
    until(lambda: timeout.abandoned == 0)


def test_what_a_thread_brings_in_time_comes_out() -> None:
    timeout = limited(60.0, thread=True)
    error = KeyError("not found")
    assert timeout.call(lambda: "here") == "here"
    with pytest.raises(KeyError) as caught:
        timeout.call(raising(error))
    assert caught.value is error
    with pytest.raises(SystemExit, match="7"):
        timeout.call(raising(SystemExit(7)))
    assert timeout.abandoned == 0


def test_a_thread_sees_the_callers_context_and_the_time_left(fake_clock: Any) -> None:
    name = contextvars.ContextVar("name", default="nobody")
    name.set("caller")

    def look() -> tuple[str, float | None, bool]:
        seen = name.get()
        name.set("thread")
        return seen, remaining(), threading.current_thread() is threading.main_thread()

    assert limited(thread=True).call(look) == ("caller", pytest.approx(2.0), False)
    assert name.get() == "caller"


def test_a_late_result_is_closed(fake_clock: FakeClock) -> None:
    result = Closeable()
    timeout = limited(thread=True)
    with pytest.raises(TimeoutError):
        timeout.call(script(delayed(4.0, result)))
    assert result.closed == 0
    until(lambda: fake_clock.advance(2.0) or result.closed == 1)


def test_a_late_result_settles_what_is_inside_and_nothing_outside(fake_clock: FakeClock) -> None:
    outside, inside = Slots(name="outside"), Slots(name="inside")
    with pytest.raises(TimeoutError):
        Pipeline(outside, limited(thread=True), inside).call(script(delayed(4.0, "late")))
    # The thread holds what it holds until it is done.
    assert (outside.used, outside.verdicts) == (0, [Verdict.TIMED_OUT])
    assert (inside.used, inside.verdicts) == (1, [])
    until(lambda: fake_clock.advance(2.0) or inside.used == 0)
    assert inside.verdicts == [Verdict.GOOD]
    assert outside.verdicts == [Verdict.TIMED_OUT]


def test_a_stream_that_opens_late_is_closed_and_let_go(fake_clock: FakeClock) -> None:
    inside = Slots()
    ended: list[str] = []

    def items() -> Any:
        script(delayed(4.0))()
        try:
            yield 1
        finally:
            ended.append("closed")

    with pytest.raises(TimeoutError):
        next(Pipeline(limited(thread=True), inside)(items)())
    assert inside.used == 1
    until(lambda: fake_clock.advance(2.0) or ended == ["closed"])
    assert (inside.used, inside.verdicts) == (0, [])


def test_a_stream_may_be_opened_in_a_thread(fake_clock: Any) -> None:
    inside = Slots()

    def items() -> Any:
        yield threading.current_thread() is threading.main_thread()
        yield threading.current_thread() is threading.main_thread()

    assert list(Pipeline(limited(thread=True), inside)(items)()) == [False, True]
    assert inside.verdicts == [Verdict.GOOD]


def test_too_many_threads_left_behind_refuse_further_calls(fake_clock: FakeClock) -> None:
    timeout = limited(thread=True, max_abandoned=2)
    slow, fetch = script(delayed(60.0)), script("here")
    while timeout.abandoned < 2:  # a thread that did not even begin in time is not left behind
        with pytest.raises(TimeoutError):
            timeout.call(slow)
    with pytest.raises(ConcurrencyLimitedError) as caught:
        timeout.call(fetch)
    assert caught.value.policy == "stock"
    assert (fetch.calls, timeout.refused, timeout.abandoned) == (0, 1, 2)
    until(lambda: fake_clock.advance(60.0) or timeout.abandoned == 0)
    assert timeout.call(fetch) == "here"


def test_no_bound_on_threads_left_behind(fake_clock: FakeClock) -> None:
    timeout = limited(thread=True, max_abandoned=None)
    for _ in range(50):
        with pytest.raises(TimeoutError):
            timeout.call(script(delayed(4.0)))
    until(lambda: fake_clock.advance(200.0) or timeout.abandoned == 0)


def test_an_interrupt_leaves_the_thread_behind_too() -> None:
    timeout = limited(60.0, thread=True)
    release = threading.Event()
    result = Closeable()

    def slow() -> Closeable:
        release.wait(0.1)  # until the caller waits: a signal just before that would go unheard
        _interrupt_main()
        release.wait(20)
        return result

    slots = Slots()
    with pytest.raises(KeyboardInterrupt):
        Pipeline(slots, timeout).call(slow)
    assert (slots.used, slots.verdicts) == (0, [])
    assert timeout.abandoned == 1
    release.set()
    until(lambda: result.closed == 1)
    assert timeout.abandoned == 0


def _interrupt_main() -> None:
    import signal

    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def test_a_result_that_arrives_together_with_an_interrupt_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    from resilience._runtime import drive

    result, inside = Closeable(), Slots()
    timeout = limited(60.0, thread=True)
    parked = threading.Event()

    def interrupted(waiter: Any, seconds: Any) -> None:
        parked.set()
        until(lambda: waiter.woken)
        raise KeyboardInterrupt

    def answer() -> Closeable:
        assert parked.wait(20)
        return result

    monkeypatch.setattr(drive, "_park", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Pipeline(timeout, inside).call(answer)
    assert (result.closed, inside.used, timeout.abandoned) == (1, 0, 0)


def test_a_thread_that_cannot_be_had_is_no_thread_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    slots = Slots()
    timeout = limited(thread=True)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Pipeline(slots, timeout).call(lambda: "here")
    assert (timeout.abandoned, slots.used) == (0, 0)


def test_what_was_given_up_before_it_began_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    from resilience._runtime import drive

    held: list[Any] = []
    monkeypatch.setattr(drive, "_start", held.append)
    timeout = limited(0.01, thread=True)
    fetch = script("here")
    with pytest.raises(TimeoutError):
        timeout.call(fetch)
    assert timeout.abandoned == 0
    held[0]()
    assert fetch.calls == 0
    assert timeout.abandoned == 0


def test_async_functions_are_cancelled_with_thread_too(async_runtime: Any, fake_clock: Any) -> None:
    timeout = limited(thread=True)

    async def body() -> None:
        with pytest.raises(TimeoutError, match=MESSAGE):
            await async_runtime.call(timeout, script(delayed(4.0)))
        assert await async_runtime.call(timeout, script(delayed(1.0, "here"))) == "here"

    async_runtime.run(body)
    assert timeout.abandoned == 0


def test_a_child_process_begins_without_threads_left_behind(fake_clock: Any) -> None:
    timeout = limited(thread=True)
    with pytest.raises(TimeoutError):
        timeout.call(script(delayed(4.0)))
    timeout._after_fork()
    assert (timeout.abandoned, timeout.timed_out, timeout.refused) == (0, 0, 0)
    fake_clock.advance(4.0)


def test_trio_and_asyncio_share_one_policy(fake_clock: Any) -> None:
    timeout = limited()
    fetch = timeout(script(delayed(4.0)).acall)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await fetch()

    asyncio.run(main())
    trio.run(main)
    asyncio.run(main())
    assert timeout.timed_out == 3


@pytest.mark.parametrize(
    "policies", [[limited(None)], [limited(None), Timeout(9.0)], [Timeout(9.0), limited(None)]]
)
def test_a_late_failure_of_a_plain_function_without_limit_is_no_call_that_never_started(
    fake_clock: Any, policies: list[Timeout]
) -> None:
    @Pipeline("stock", *[each.copy() for each in policies])
    def fetch() -> None:
        fake_clock.advance(3.0)
        raise ValueError

    for _ in range(3):
        with deadline(2.0), pytest.raises(ValueError):
            fetch()
