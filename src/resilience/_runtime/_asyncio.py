"""What only asyncio knows. Imported when asyncio runs."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from inspect import GEN_CREATED, getgeneratorstate
from types import TracebackType
from typing import Any

from resilience import _clock
from resilience._runtime import _asyncio_cuts, adrive
from resilience._runtime.flow import Bound, Child, Flow, Spawn, Waiter
from resilience.deadline import bounded
from resilience.outcome import Outcome
from resilience.typing import Seconds

# Losers that were cancelled and not awaited: the loop itself keeps only weak references to tasks.
_ending: set["asyncio.Task[Any]"] = set()


class _Asyncio:
    __slots__ = ()

    async def park(self, waiter: Waiter, seconds: Seconds | None) -> None:
        loop = asyncio.get_running_loop()
        bell: asyncio.Future[None] = loop.create_future()
        waiter.signal = lambda: _ring(loop, bell)
        waiter.is_gone = loop.is_closed
        timer = None if seconds is None else loop.call_later(max(0.0, seconds), _answer, bell)
        try:
            if not waiter.woken:
                await bell
        finally:
            waiter.signal = waiter.is_gone = None
            if timer is not None:
                timer.cancel()

    async def bound(self, command: Bound) -> Outcome[Any] | None:
        flow, until = command.flow, command.until
        try:
            if _asyncio_cuts.covers(until):
                return await adrive.run(flow)
            async with _Limit(until):
                with bounded(command.told):
                    return await adrive.run(flow)
            return None
        finally:
            flow.close()

    async def within(self, flow: Flow, until: Seconds) -> Outcome[Any] | None:
        try:
            cut = _asyncio_cuts.cut_at(until)
            if cut is None:
                async with _Limit(until):
                    return await adrive.run(flow)
            else:
                with cut:
                    return await adrive.run(flow)
            return None
        finally:
            flow.close()

    def limit(self, until: Seconds) -> adrive.Limit:
        return _Limit(until)

    async def nursery(self, flow: Flow) -> Outcome[Any]:
        return await adrive.run(flow, _spawn)

    async def finish(self, ending: Awaitable[object]) -> None:
        # In a task of its own: asyncio knows no other way to keep a cancellation from it.
        task = asyncio.ensure_future(ending)
        cut: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cut = error
        try:
            if cut is None:
                task.result()
            else:
                _look_at(task)
                raise cut
        finally:
            del task, cut  # no cycle through this frame


class _Limit:
    """``asyncio.timeout_at`` by the package's clock; it ends without an error when time runs out."""

    __slots__ = ("_scope", "_timer", "_until")

    def __init__(self, until: Seconds) -> None:
        self._until = until

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        fake = _clock.fake
        left = self._until - _clock.monotonic()  # read before the loop's clock, so that nothing ends early
        self._scope = scope = asyncio.timeout_at(None if fake is not None else loop.time() + left)
        await scope.__aenter__()
        self._timer = None if fake is None else fake.call_at(self._until, lambda: _ring_timeout(loop, scope))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._scope.__aexit__(kind, error, trace)
        except TimeoutError:
            # The scope's own: an error of the block came in as *error*, and leaves by itself.
            return True
        return False


def _ring(loop: asyncio.AbstractEventLoop, bell: "asyncio.Future[None]") -> None:
    loop.call_soon_threadsafe(_answer, bell)


def _answer(bell: "asyncio.Future[None]") -> None:
    if not bell.done():
        bell.set_result(None)


def _ring_timeout(loop: asyncio.AbstractEventLoop, scope: asyncio.Timeout) -> None:
    def expire() -> None:
        with suppress(RuntimeError):  # the call ended meanwhile
            scope.reschedule(loop.time())

    loop.call_soon_threadsafe(expire)


def _spawn(command: Spawn) -> Child:
    task = asyncio.get_running_loop().create_task(_shelter(command.flow, command.failed))
    _ending.add(task)
    task.add_done_callback(partial(_ended, command))
    return Child(task.cancel)


def _look_at(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        task.exception()  # so that asyncio does not report it as never retrieved


def _ended(command: Spawn, task: "asyncio.Task[Any]") -> None:
    _ending.discard(task)
    _look_at(task)
    if task.cancelled() and getgeneratorstate(command.flow) == GEN_CREATED:
        # Cancelled before its first step, so that not even _shelter began.
        command.flow.close()
        command.failed(asyncio.CancelledError())


async def _shelter(flow: Flow, failed: Callable[[BaseException], None]) -> None:
    try:
        await adrive.run(flow)
    except asyncio.CancelledError as error:
        failed(error)
        raise
    except BaseException as error:  # noqa: BLE001  # handed to the flow that spawned
        failed(error)
    finally:
        flow.close()


BACKEND = _Asyncio()
