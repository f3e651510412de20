"""What the drivers promise those who race: everybody is told, nobody is forgotten, and the caller comes first."""

import asyncio
import contextvars
import threading
from typing import Any

import pytest
import trio

from resilience import _clock
from resilience._runtime import adrive, drive
from resilience._runtime.flow import Call, Flow, Nursery, Park, Sleep, Spawn, Waiter, leaf
from resilience.deadline import bounded, deadline, remaining
from resilience.errors import DeadlineExceededError
from resilience.outcome import Outcome
from resilience.testing import FakeClock

DONE: Outcome[Any] = Outcome("done")


def forever() -> Flow:
    yield Park(Waiter(), None)
    return DONE


def test_a_task_cancelled_before_its_first_step_is_reported() -> None:
    failed: list[BaseException] = []

    def race() -> Flow:
        child = yield Spawn(forever(), failed.append)
        child.cancel()
        yield Sleep(0.0)
        yield Sleep(0.0)
        return DONE

    async def main() -> None:
        assert (await adrive.backend().nursery(race())) is DONE

    asyncio.run(main())
    assert [type(error) for error in failed] == [asyncio.CancelledError]


@pytest.mark.parametrize("error", [SystemExit(7), KeyboardInterrupt(), ValueError("broken")], ids=repr)
def test_what_escapes_is_handed_over_and_ends_nothing_else(runtime: Any, error: BaseException) -> None:
    failed: list[BaseException] = []
    waiter = Waiter()

    def told(escaped: BaseException) -> None:
        failed.append(escaped)
        waiter.wake()

    def breaking() -> Flow:
        yield Sleep(0.0)
        raise error

    def race() -> Flow:
        yield Spawn(breaking(), told)
        yield Park(waiter, 20.0)
        return DONE

    async def body() -> Any:
        outer = Nursery(race())
        if runtime.name == "sync":
            return drive.run(outer.flow)
        return await adrive.backend().nursery(outer.flow)

    assert runtime.run(body) is DONE
    assert failed == [error]


def test_a_cancelled_race_leaves_trio_as_one_cancellation() -> None:
    def race() -> Flow:
        yield Spawn(forever(), lambda error: None)
        yield Park(Waiter(), None)
        return DONE

    async def main() -> None:
        with trio.move_on_after(0.01) as scope:
            with pytest.raises(trio.Cancelled) as caught:
                await adrive.backend().nursery(race())
            raise caught.value
        assert scope.cancelled_caught

    trio.run(main)


def test_an_outcome_survives_a_cancellation_while_trio_waits_for_losers() -> None:
    async def tidy() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)

    def race() -> Flow:
        yield Spawn(leaf(Call(tidy, (), {})), lambda error: None)
        yield Sleep(0.001)
        return DONE

    async def main() -> None:
        with trio.move_on_after(0.02) as scope:
            assert (await adrive.backend().nursery(race())) is DONE
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught

    trio.run(main)


def test_no_function_starts_on_a_thread_after_the_deadline() -> None:
    calls: list[int] = []

    def late() -> Flow:
        clock.advance(2.0)
        return (yield Call(calls.append, (1,), {}))

    with FakeClock() as clock, deadline(1.0):
        outcome = drive.run(late())
    assert isinstance(outcome.error, DeadlineExceededError)
    assert not outcome.error.started
    assert calls == []


def test_a_thread_that_is_told_to_stop_sees_it_in_every_block_of_its_own() -> None:
    seen: list[float | None] = []
    told, entered, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        with deadline(60.0):
            entered.set()
            assert told.wait(20)
            seen.append(remaining())
            with deadline(30.0):
                seen.append(remaining())
        seen.append(remaining())
        ended.set()

    def race() -> Flow:
        child = yield Spawn(leaf(Call(work, (), {})), lambda error: None)
        assert entered.wait(20)
        child.cancel()
        told.set()
        return DONE

    with deadline(100.0):
        drive.run(race())
        assert ended.wait(20)
        assert 99.0 < (remaining() or 0.0) <= 100.0
    assert seen == [0.0, 0.0, 0.0]
    assert remaining() is None


def test_a_thread_has_the_deadline_of_who_started_it() -> None:
    seen: list[float | None] = []
    ended = threading.Event()

    def work() -> None:
        seen.append(remaining())
        ended.set()

    def race() -> Flow:
        yield Spawn(leaf(Call(work, (), {})), lambda error: None)
        return DONE

    with FakeClock(auto_advance=False):
        with deadline(5.0):
            drive.run(race())
            assert ended.wait(20)
        ended.clear()
        drive.run(race())
        assert ended.wait(20)
    assert seen == [5.0, None]


def test_a_thread_told_to_stop_before_it_begins_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    works: list[Any] = []

    def hold(work: Any) -> contextvars.Context:
        works.append(work)
        return contextvars.copy_context()

    monkeypatch.setattr(drive, "_start", hold)
    calls: list[int] = []

    def race() -> Flow:
        child = yield Spawn(leaf(Call(calls.append, (1,), {})), lambda error: None)
        child.cancel()
        return DONE

    until = _clock.monotonic() + 60.0
    with bounded(until):
        drive.run(race())
        contextvars.copy_context().run(works[0])
        assert (remaining() or 0.0) > 50.0  # who told it is not told itself
    assert calls == []


def test_an_interrupt_while_a_thread_starts_tells_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    works: list[Any] = []

    def interrupted(work: Any) -> contextvars.Context:
        works.append(work)
        raise KeyboardInterrupt

    monkeypatch.setattr(drive, "_start", interrupted)
    calls: list[int] = []

    def race() -> Flow:
        yield Spawn(leaf(Call(calls.append, (1,), {})), lambda error: None)
        return DONE

    with pytest.raises(KeyboardInterrupt):
        drive.run(race())
    contextvars.copy_context().run(works[0])
    assert calls == []


def test_a_limit_tells_whether_time_ran_out(async_runtime: Any) -> None:
    async def body() -> None:
        backend = adrive.backend()
        with FakeClock(auto_advance=False) as clock:
            in_time = backend.limit(clock.now() + 1.0)
            await in_time.__aenter__()
            assert not await in_time.__aexit__(None, None, None)
            clock.advance(2.0)
            await async_runtime.checkpoint()
            async with backend.limit(clock.now() + 1.0):
                clock.advance(1.0)
                await async_runtime.sleep(20)
                pytest.fail("it was not cancelled")
            with pytest.raises(TimeoutError, match="its own"):
                async with backend.limit(clock.now() + 1.0):
                    raise TimeoutError("its own")

    async_runtime.run(body)
