"""The slow path in a task: what asyncio and trio share. Imported when an async function is met."""

import sys
from collections.abc import Awaitable, Callable, Generator
from inspect import isasyncgen, isawaitable
from types import TracebackType
from typing import Any, Protocol, cast

import anyio

from resilience import _clock
from resilience._runtime.flow import (
    Bound,
    Call,
    Child,
    Command,
    Dispose,
    Flow,
    Generated,
    Nursery,
    Park,
    Sleep,
    Spawn,
    Waiter,
)
from resilience._runtime.replay import outcome_of
from resilience._runtime.wrap import cannot_be_awaited
from resilience.outcome import Outcome
from resilience.priority import priority_of, priority_scope
from resilience.typing import Seconds


class Limit(Protocol):
    """A block that is cancelled when its time runs out, and then ends without an error."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Return True if time ran out and that is what ended the block."""
        ...


class Backend(Protocol):
    """What differs between event loops."""

    async def park(self, waiter: Waiter, seconds: Seconds | None) -> None:
        """Suspend this task until *waiter* is woken, at most for *seconds*."""
        ...

    async def bound(self, command: Bound) -> Outcome[Any] | None:
        """Run the flow of *command*, and cancel it in time."""
        ...

    async def within(self, flow: Flow, until: Seconds) -> Outcome[Any] | None:
        """Run *flow* and cancel it at *until*, the deadline in force."""
        ...

    def limit(self, until: Seconds) -> Limit:
        """Return a block that is cancelled at *until*."""
        ...

    async def nursery(self, flow: Flow) -> Outcome[Any]:
        """Run *flow*, with a place for its children."""
        ...

    async def finish(self, ending: Awaitable[object]) -> None:
        """Await *ending* to its end, also when this task is cancelled meanwhile."""
        ...


def backend() -> Backend:
    """Return the backend of the event loop that is running here."""
    if (trio := sys.modules.get("trio")) is not None and trio.lowlevel.in_trio_task():
        from resilience._runtime import _trio  # noqa: PLC0415  # only when trio is in use

        return _trio.BACKEND
    from resilience._runtime import _asyncio  # noqa: PLC0415  # only when asyncio is in use

    return _asyncio.BACKEND


async def run(flow: Flow, spawn: Callable[[Spawn], Child] | None = None) -> Outcome[Any]:
    """Run *flow* to its end, suspending this task for every command."""
    # Not kept in a local, for the reason given in drive.run.
    return cast("Outcome[Any]", await result(flow, spawn))


async def result(
    flow: Generator[Command, Any, Any],
    spawn: Callable[[Spawn], Child] | None = None,
    reply: Any = None,
    resume: Callable[[Any], Command] | None = None,
) -> Any:
    """Run a flow, or the rest of one by *resume* with *reply*, and return what it returns."""
    resume = resume or flow.send
    try:
        while True:
            try:
                command = resume(reply)
            except StopIteration as stop:
                return stop.value
            finally:
                reply = None  # no cycle through this frame: see drive.run
            try:
                reply = await perform(command, spawn)
                resume = flow.send
            except BaseException as error:  # noqa: BLE001  # thrown into the flow, which lets it pass
                reply = error
                resume = flow.throw
    except BaseException:
        flow.close()  # interrupted between two steps, it still gives back what it holds
        raise


async def perform(command: Command, spawn: Callable[[Spawn], Child] | None = None) -> Any:  # noqa: PLR0911  # one return a command
    match command:
        case Call():
            return await _call(command)
        case Sleep():
            return await sleep(command.seconds)
        case Park():
            return await _park(command.waiter, command.seconds)
        case Bound():
            return await backend().bound(command)
        case Nursery():
            return await backend().nursery(command.flow)
        case Spawn():
            if spawn is None:
                msg = "Spawn outside a Nursery"
                raise RuntimeError(msg)
            return spawn(command)
        case Dispose():
            return await dispose(command.value)
        case Generated():
            return outcome_of(await command.run(*command.call.args, **command.call.kwargs))


async def _call(call: Call) -> Outcome[Any]:
    # The calls that it makes are as important as it is.
    scope = None if call.context.priority is None else priority_scope(priority_of(call.context))
    try:
        if scope is None:
            awaitable = call.fn(*call.args, **call.kwargs)
            if isawaitable(awaitable):
                return Outcome(await awaitable)
        else:
            with scope:
                awaitable = call.fn(*call.args, **call.kwargs)
                if isawaitable(awaitable):
                    return Outcome(await awaitable)
    except Exception as error:  # noqa: BLE001  # an outcome; the policies judge it
        return Outcome(error=error)
    raise TypeError(cannot_be_awaited(call.function, awaitable))


async def sleep(seconds: Seconds) -> None:
    """Let *seconds* pass."""
    if _clock.fake is not None:
        await _clock.fake.asleep(seconds)
    else:
        await anyio.sleep(max(0.0, seconds))


async def _park(waiter: Waiter, seconds: Seconds | None) -> None:
    if _clock.fake is not None:
        await _clock.fake.apark(waiter, seconds)
    else:
        await backend().park(waiter, seconds)


async def dispose(value: object) -> None:
    """Close a value that nobody will see. What closing raises is dropped."""
    close = getattr(value, "aclose", None) or getattr(value, "close", None)
    if not callable(close):
        return
    try:
        ending = close()
        if not isawaitable(ending):
            return
        # A cancellation must not leave a connection half-closed.
        if isasyncgen(getattr(value, "source", value)):
            with anyio.CancelScope(shield=True):  # it may have scopes of its own, which belong to this task
                await ending
        else:
            await backend().finish(ending)
    except Exception:  # noqa: BLE001, S110  # nobody waits for this result any more
        pass
