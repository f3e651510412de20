"""The drivers: each command of a flow on threads, asyncio and trio."""

import asyncio
import contextlib
import contextvars
import gc
import threading
import time
import weakref

import pytest
import trio

from resilience._runtime import adrive, drive
from resilience._runtime.flow import Call, Dispose, Nursery, Park, Sleep, Spawn, Waiter, leaf
from resilience.deadline import current_deadline, deadline, remaining
from resilience.errors import DeadlineExceededError
from resilience.outcome import CallContext, Outcome
from resilience.testing import FakeClock, delayed, fail_times, script

from .dummies import Around, Race, nap, through, within

word = contextvars.ContextVar("word", default="unset")


def flow_of(*commands):
    """A policy that yields *commands* before the call, and keeps the replies."""
    replies = []

    def flow(call, inner):
        for command in commands:
            replies.append((yield command))
        return (yield from inner(call))

    policy = Around(flow)
    policy.replies = replies
    return policy


# --- calls ---


def test_a_call_has_an_outcome(runtime) -> None:
    outcomes = []

    def flow(call, inner):
        outcomes.append((yield from inner(call)))
        return outcomes[-1]

    async def body() -> None:
        assert await runtime.call(Around(flow), lambda: 7) == 7
        with pytest.raises(KeyError):
            await runtime.call(Around(flow), fail_times(1, KeyError))

    runtime.run(body)
    assert [outcome.value for outcome in outcomes] == [7, None]
    assert [type(outcome.error) for outcome in outcomes] == [type(None), KeyError]


def test_a_policy_may_put_another_outcome_in_place_of_the_calls(runtime) -> None:
    def flow(call, inner):
        yield from inner(call)
        return Outcome("instead")

    async def body() -> None:
        assert await runtime.call(Around(flow), fail_times(1, KeyError)) == "instead"

    runtime.run(body)


def test_what_a_policy_raises_comes_out(runtime) -> None:
    def flow(call, inner):
        raise ZeroDivisionError
        yield

    with pytest.raises(ZeroDivisionError):
        runtime.run(lambda: runtime.call(Around(flow), int))


def test_what_interrupts_a_command_is_thrown_into_the_flow(runtime) -> None:
    seen = []

    def flow(call, inner):
        try:
            return (yield from inner(call))
        except SystemExit as error:
            seen.append(error)
            raise

    async def body() -> None:
        with pytest.raises(SystemExit) as caught:
            await runtime.call(Around(flow), fail_times(1, SystemExit(3)))
        assert seen == [caught.value]

    runtime.run(body)


def test_an_attempt_carries_its_own_context(runtime) -> None:
    call = Call(int, (), {}, CallContext(operation="first"))
    attempt = call.again(CallContext(operation="second", attempt=2))
    assert (attempt.fn, attempt.args, attempt.kwargs, attempt.held) == (int, (), {}, None)
    assert attempt.context.attempt == 2
    assert call.context.attempt == 1


def test_the_deadline_is_looked_at_before_a_plain_function_is_called(fake_clock) -> None:
    ran = []
    with deadline(5.0), pytest.raises(DeadlineExceededError) as caught:
        Around(nap(5.0)).call(lambda: ran.append(True))
    assert not ran
    assert caught.value.started is False


# --- what streams hold ---


def test_what_is_held_is_let_go_innermost_first() -> None:
    log: list[object] = []
    call = Call(
        int, (), {}, held=[lambda outcome: log.append(("in", outcome)), lambda outcome: log.append("out")]
    )
    outcome = Outcome(1)
    call.let_go(outcome)
    call.let_go(None)
    assert log == [("in", outcome), "out"]
    Call(int, (), {}).let_go(None)


def test_a_winning_attempt_hands_over_what_it_holds() -> None:
    log: list[str] = []
    call = Call(int, (), {}, held=[])
    attempt = call.again(CallContext())
    attempt.held.append(lambda outcome: log.append("held"))
    call.adopt(call)
    call.adopt(attempt)
    call.let_go(None)
    assert log == ["held"]


def test_an_entry_that_fails_is_told_again_and_the_others_are_told_all_the_same() -> None:
    log: list[object] = []

    def broken(outcome: object) -> None:
        log.append(outcome)
        if outcome is not None:
            raise ZeroDivisionError

    outcome = Outcome(1)
    call = Call(int, (), {}, held=[broken, log.append, log.append])
    with pytest.raises(ZeroDivisionError):
        call.let_go(outcome)
    assert log == [outcome, None, outcome, outcome]


# --- sleeping ---


def test_a_sleep_lets_real_time_pass(runtime) -> None:
    async def body() -> None:
        began = time.monotonic()
        await runtime.call(Around(nap(0.02)), int)
        assert time.monotonic() - began >= 0.019

    runtime.run(body)


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_time_is_no_sleep(runtime, seconds: float) -> None:
    runtime.run(lambda: runtime.call(Around(nap(seconds)), int))


def test_a_sleep_can_be_cancelled(async_runtime) -> None:
    async def body() -> None:
        sleeping = async_runtime.spawn(async_runtime.call, Around(nap(60.0)), int)
        await async_runtime.checkpoint()
        async_runtime.cancel(sleeping)
        with pytest.raises(async_runtime.cancelled):
            await sleeping

    async_runtime.run(body)


# --- parking ---


def test_a_parked_one_goes_on_when_it_is_woken(runtime) -> None:
    waiter = Waiter()

    async def body() -> None:
        waiting = runtime.spawn(runtime.call, flow_of(Park(waiter, None)), script("woken"))
        await runtime.until(lambda: waiter.signal is not None)
        assert waiter.wake()
        assert await waiting == "woken"

    runtime.run(body)
    assert waiter.woken
    assert waiter.signal is None


def test_a_parked_one_goes_on_when_its_time_has_passed(runtime) -> None:
    waiter = Waiter()

    async def body() -> None:
        began = time.monotonic()
        await runtime.call(flow_of(Park(waiter, 0.02)), int)
        assert time.monotonic() - began >= 0.019

    runtime.run(body)
    assert not waiter.woken


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_parking_for_no_time_returns_at_once(runtime, seconds: float) -> None:
    runtime.run(lambda: runtime.call(flow_of(Park(Waiter(), seconds)), int))


def test_one_that_was_woken_before_does_not_park(runtime) -> None:
    waiter = Waiter()
    waiter.wake()
    runtime.run(lambda: runtime.call(flow_of(Park(waiter, None)), int))


def test_a_cancelled_one_stops_listening(async_runtime) -> None:
    waiter = Waiter()

    async def body() -> None:
        waiting = async_runtime.spawn(async_runtime.call, flow_of(Park(waiter, None)), int)
        await async_runtime.until(lambda: waiter.signal is not None)
        async_runtime.cancel(waiting)
        await waiting.join()
        assert waiter.signal is None
        assert waiter.wake(), "nobody listens, which is no error"

    async_runtime.run(body)


def test_a_task_may_be_woken_by_any_thread(async_runtime) -> None:
    waiter = Waiter()

    def wake() -> None:
        while waiter.signal is None:
            time.sleep(0.001)
        waiter.wake()
        waiter.wake()

    async def body() -> None:
        thread = threading.Thread(target=wake)
        thread.start()
        await async_runtime.call(flow_of(Park(waiter, 10.0)), int)
        thread.join()

    async_runtime.run(body)


@pytest.mark.parametrize("run", [asyncio.run, lambda main: trio.run(lambda: main)])
def test_waking_one_whose_loop_is_closed_says_so(run) -> None:
    waiter = Waiter()
    signals = []

    async def main() -> None:
        async def park() -> None:
            await adrive.backend().park(waiter, None)

        if run is asyncio.run:
            task = asyncio.ensure_future(park())
            await asyncio.sleep(0)
            signals.append(waiter.signal)
            task.cancel()
        else:
            with trio.move_on_after(0.01):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(park)
                    await trio.testing.wait_all_tasks_blocked()
                    signals.append(waiter.signal)

    run(main())
    waiter.signal = signals[0]  # as if it were still parked
    assert waiter.wake() is False


# --- bounds ---


def test_what_ends_in_time_is_left_alone(runtime) -> None:
    async def body() -> None:
        assert await runtime.call(Around(within(5.0)), lambda: 7) == 7
        with pytest.raises(KeyError):
            await runtime.call(Around(within(5.0)), fail_times(1, KeyError))

    runtime.run(body)


def test_a_task_is_cancelled_when_time_runs_out(async_runtime) -> None:
    seen = []

    async def hang() -> None:
        try:
            await async_runtime.sleep(60.0)
        except BaseException as error:
            seen.append(type(error))
            raise

    async def body() -> None:
        with pytest.raises(TimeoutError, match=r"longer than 0.01 s"):
            await async_runtime.call(Around(within(0.01)), hang)

    async_runtime.run(body)
    assert seen == [async_runtime.cancelled]


def test_inside_a_bound_the_deadline_is_known(runtime) -> None:
    async def body() -> None:
        left = await runtime.call(Around(within(5.0)), remaining)
        assert 4.0 < left <= 5.0
        assert current_deadline() is None

    runtime.run(body)


def test_a_thread_is_not_interrupted_and_its_late_result_counts(fake_clock) -> None:
    assert Around(within(0.5)).call(script(delayed(1.0, "late"))) == "late"


def test_a_bound_that_is_over_before_it_begins(async_runtime) -> None:
    # Without an await in it the function still runs to its end, as with asyncio.timeout.
    async def body() -> None:
        with pytest.raises(TimeoutError):
            await async_runtime.call(Around(within(-1.0)), async_runtime.checkpoint)
        assert await async_runtime.call(Around(within(-1.0)), lambda: 7) == 7

    async_runtime.run(body)


def test_a_builtin_timeout_error_of_the_function_is_its_own(runtime) -> None:
    error = TimeoutError("the function's own")

    async def body() -> None:
        with pytest.raises(TimeoutError) as caught:
            await runtime.call(Around(within(5.0)), fail_times(1, error))
        assert caught.value is error

    runtime.run(body)


def test_a_cancellation_from_outside_is_no_timeout(async_runtime) -> None:
    async def body() -> None:
        hanging = async_runtime.spawn(async_runtime.call, Around(within(30.0)), async_runtime.event().wait)
        await async_runtime.checkpoint()
        async_runtime.cancel(hanging)
        with pytest.raises(async_runtime.cancelled):
            await hanging

    async_runtime.run(body)


def test_nested_bounds_end_with_the_shorter_one(async_runtime, fake_clock) -> None:
    start = fake_clock.now()

    def nested(call, inner):
        return (yield from within(5.0)(call, lambda call: within(1.0)(call, inner)))

    async def body() -> None:
        with pytest.raises(TimeoutError, match="longer than 1 s"):
            await async_runtime.call(Around(nested), script(delayed(60.0)))

    async_runtime.run(body)
    assert fake_clock.now() == start + 1.0


def test_a_task_goes_on_as_usual_after_a_timeout(async_runtime, fake_clock) -> None:
    async def body() -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await async_runtime.call(Around(within(1.0)), script(delayed(60.0)))
            await async_runtime.sleep(0)
        if async_runtime.name == "asyncio":
            assert asyncio.current_task().cancelling() == 0

    async_runtime.run(body)


# --- threads of our own ---


def test_a_worker_runs_in_a_thread_with_the_callers_context() -> None:
    word.set("the caller's")
    seen = Around(within(5.0, thread=True)).call(lambda: (word.get(), threading.current_thread().name))
    assert seen == ("the caller's", "resilience")


def test_a_worker_that_is_too_late_is_left_behind() -> None:
    began, release, ended = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        release.wait(10)
        ended.set()

    with FakeClock(auto_advance=False) as clock:

        def move() -> None:
            began.wait(10)
            clock.advance(1.0)

        threading.Thread(target=move).start()
        with pytest.raises(TimeoutError):
            Around(within(1.0, thread=True)).call(slow)
    assert not ended.is_set()
    release.set()
    assert ended.wait(10), "it goes on to its end"


def test_a_workers_error_is_the_calls() -> None:
    with pytest.raises(KeyError):
        Around(within(5.0, thread=True)).call(fail_times(1, KeyError))
    with pytest.raises(SystemExit):
        Around(within(5.0, thread=True)).call(fail_times(1, SystemExit))


def test_a_worker_knows_the_deadline() -> None:
    assert 4.0 < Around(within(5.0, thread=True)).call(remaining) <= 5.0


# --- nurseries ---


def test_the_first_to_end_wins(runtime, fake_clock) -> None:
    async def body() -> None:
        race = Race(n=3, after=0.1)
        ask = script(delayed(9.0, "first"), delayed(9.0, "second"), delayed(0.5, "third"))
        assert await runtime.call(Around(race), ask) == "third"
        assert ask.calls == 3

    start = fake_clock.now()
    runtime.run(body)
    assert fake_clock.now() == pytest.approx(start + 0.7)


def test_those_that_lose_are_cancelled(async_runtime) -> None:
    ended = []

    async def hang() -> None:
        try:
            await async_runtime.sleep(60.0)
        except BaseException as error:
            ended.append(type(error))
            raise

    async def body() -> None:
        attempts = iter([hang, async_runtime.checkpoint])
        race = Race(n=2, after=0.01)
        await async_runtime.call(Around(race), lambda: next(attempts)())
        await async_runtime.until(lambda: bool(ended))
        assert [type(error) for error in race.escaped] == [async_runtime.cancelled]

    async_runtime.run(body)
    assert ended == [async_runtime.cancelled]


def test_what_escapes_from_a_child_is_told_to_the_flow(runtime) -> None:
    async def body() -> None:
        race = Race(n=1)
        error = SystemExit(3)
        with pytest.raises(SystemExit) as caught:
            await runtime.call(Around(race), fail_times(1, error))
        assert caught.value is error
        assert race.escaped == [error]

    runtime.run(body)


def test_a_child_starts_with_a_copy_of_the_context(runtime) -> None:
    seen = []

    def look() -> None:
        seen.append(word.get())
        word.set("the child's")

    async def body() -> None:
        word.set("the parent's")
        await runtime.call(Around(Race(n=2)), look)
        assert word.get() == "the parent's"

    runtime.run(body)
    assert set(seen) == {"the parent's"}


def test_a_child_that_is_cancelled_before_it_begins_is_reported(async_runtime) -> None:
    failed = []

    def flow(call, inner):
        def body():
            child = yield Spawn(leaf(call), failed.append)
            child.cancel()
            return Outcome("done")

        return (yield Nursery(body()))

    async def body() -> None:
        assert await async_runtime.call(Around(flow), async_runtime.checkpoint) == "done"
        await async_runtime.until(lambda: bool(failed))

    async_runtime.run(body)
    assert [type(error) for error in failed] == [async_runtime.cancelled]


def test_a_cancelled_nursery_takes_its_children_along(async_runtime) -> None:
    async def body() -> None:
        race = Race(n=1, after=60.0)
        racing = async_runtime.spawn(async_runtime.call, Around(race), lambda: None)
        await racing
        hanging = async_runtime.spawn(async_runtime.call, Around(race), hang)
        await async_runtime.until(lambda: bool(began))
        async_runtime.cancel(hanging)
        with pytest.raises(async_runtime.cancelled):
            await hanging

    began = []

    async def hang() -> None:
        began.append(True)
        await async_runtime.sleep(60.0)

    async_runtime.run(body)


def test_an_error_in_the_flow_itself_leaves_the_nursery_as_it_is(runtime) -> None:
    error = ZeroDivisionError()

    def flow(call, inner):
        def body():
            yield Spawn(leaf(call), lambda error: None)
            raise error

        return (yield Nursery(body()))

    async def body() -> None:
        with pytest.raises(ZeroDivisionError) as caught:
            await runtime.call(Around(flow), lambda: None)
        assert caught.value is error

    runtime.run(body)


def test_spawning_without_a_nursery_is_a_mistake_in_async_code(async_runtime) -> None:
    def flow(call, inner):
        yield Spawn(leaf(call), lambda error: None)

    with pytest.raises(RuntimeError, match="Spawn outside a Nursery"):
        async_runtime.run(lambda: async_runtime.call(Around(flow), int))


def test_a_thread_whose_attempt_lost_is_told_that_time_is_up() -> None:
    seen, release = [], threading.Event()

    def slow() -> str:
        with deadline(60.0):
            release.wait(10)
            seen.append(remaining())
        return "slow"

    attempts = iter([slow, lambda: "fast"])
    assert Around(Race(n=2, after=0.01)).call(lambda: next(attempts)()) == "fast"
    release.set()
    while not seen:
        time.sleep(0.001)
    assert seen == [0.0]


# --- disposing ---


class Resource:
    def __init__(self, log: list[str], error: BaseException | None = None) -> None:
        self.log, self.error = log, error

    def close(self) -> None:
        self.log.append("closed")
        if self.error is not None:
            raise self.error


class AsyncResource(Resource):
    async def aclose(self) -> None:
        await asyncio.sleep(0)
        super().close()


def test_a_result_that_nobody_will_see_is_closed(runtime) -> None:
    log: list[str] = []
    runtime.run(lambda: runtime.call(flow_of(Dispose(Resource(log)), Dispose(object()), Dispose(None)), int))
    assert log == ["closed"]


def test_what_closing_raises_is_dropped(runtime) -> None:
    log: list[str] = []
    runtime.run(lambda: runtime.call(flow_of(Dispose(Resource(log, OSError()))), int))
    assert log == ["closed"]


def test_an_async_result_is_closed_in_its_own_way() -> None:
    log: list[str] = []

    class Awaited:
        def close(self):
            return later()

    async def later() -> None:
        log.append("awaited")

    policy = flow_of(Dispose(AsyncResource(log)), Dispose(Awaited()))
    assert asyncio.run(policy.acall(asyncio.sleep, 0, "slept")) == "slept"
    assert log == ["closed", "awaited"]


def test_closing_is_finished_although_the_call_is_cancelled(async_runtime) -> None:
    log: list[str] = []

    class Slow:
        async def aclose(self) -> None:
            log.append("closing")
            await async_runtime.sleep(0.01)
            log.append("closed")

    async def body() -> None:
        calling = async_runtime.spawn(async_runtime.call, flow_of(Dispose(Slow()), Sleep(60.0)), int)
        await async_runtime.until(lambda: bool(log))
        async_runtime.cancel(calling)
        await calling.join()

    async_runtime.run(body)
    assert log == ["closing", "closed"]


# --- unwrapping ---


def test_unwrapping_raises_or_returns() -> None:
    assert drive.unwrap(Outcome(7)) == 7
    error = KeyError()
    with pytest.raises(KeyError) as caught:
        drive.unwrap(Outcome(error=error))
    assert caught.value is error


def test_no_thread_is_left_when_all_calls_have_ended() -> None:
    Around(Race(n=2)).call(lambda: None)
    Around(within(5.0, thread=True)).call(lambda: None)
    end = time.monotonic() + 10.0
    while any(thread.name == "resilience" for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.001)


def test_asyncio_keeps_a_loser_until_it_has_ended() -> None:
    # The loop refers to its tasks only weakly.
    from resilience._runtime import _asyncio

    async def main() -> None:
        reference: list[weakref.ref] = []

        async def stubborn() -> None:
            reference.append(weakref.ref(asyncio.current_task()))
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60.0)
            await asyncio.sleep(0.01)

        attempts = iter([stubborn, asyncio.sleep])

        async def one() -> None:
            await next(attempts)(*([] if not reference else [0]))

        await Around(Race(n=2, after=0.001)).acall(one)
        gc.collect()
        assert reference[0]() is not None
        assert _asyncio._ending
        await asyncio.wait(_asyncio._ending)

    asyncio.run(main())


def test_a_policy_that_changes_nothing_changes_nothing(runtime) -> None:
    runtime.run(lambda: runtime.call(Around(through), int))
