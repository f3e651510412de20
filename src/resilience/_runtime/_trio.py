"""What only trio knows. Imported when trio runs."""

import math
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any

import trio

from resilience import _clock
from resilience._runtime import adrive
from resilience._runtime.flow import Bound, Child, Flow, Spawn, Waiter
from resilience.deadline import bounded
from resilience.outcome import Outcome
from resilience.typing import Seconds


class _Trio:
    __slots__ = ()

    async def park(self, waiter: Waiter, seconds: Seconds | None) -> None:
        bell = trio.Event()
        token = trio.lowlevel.current_trio_token()
        waiter.signal = lambda: token.run_sync_soon(bell.set, idempotent=True)
        try:
            with trio.move_on_after(math.inf if seconds is None else max(0.0, seconds)):
                if not waiter.woken:
                    await bell.wait()
        finally:
            waiter.signal = None

    async def bound(self, command: Bound) -> Outcome[Any] | None:
        with bounded(command.told):
            return await self.within(command.flow, command.until)

    async def within(self, flow: Flow, until: Seconds) -> Outcome[Any] | None:
        try:
            async with _Limit(until):
                return await adrive.run(flow)
            return None
        finally:
            flow.close()

    def limit(self, until: Seconds) -> adrive.Limit:
        return _Limit(until)

    async def nursery(self, flow: Flow) -> Outcome[Any]:
        outcome: Outcome[Any] | None = None
        escaped: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                try:
                    outcome = await adrive.run(flow, partial(_spawn, nursery))
                except BaseException as error:  # noqa: BLE001  # raised below, outside the nursery's exception group
                    escaped = error
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # Around a cancelled call the children's cancellations come out in a group. The flow's own says
            # it all; and if it came to an outcome first, the next checkpoint of the caller will say it.
            if group.split(trio.Cancelled)[1] is not None:
                raise
        if escaped is not None:
            try:
                raise escaped
            finally:
                escaped = None
        if outcome is None:  # pragma: no cover  # the flow returned or raised
            msg = "a flow ended without an outcome"
            raise RuntimeError(msg)
        return outcome

    async def finish(self, ending: Awaitable[object]) -> None:
        with trio.CancelScope(shield=True):
            await ending


class _Limit:
    """A cancel scope that ends by the package's clock."""

    __slots__ = ("_scope", "_timer", "_until")

    def __init__(self, until: Seconds) -> None:
        self._until = until

    async def __aenter__(self) -> None:
        self._scope = scope = trio.CancelScope()
        self._timer = None
        fake = _clock.fake
        if fake is None:
            left = self._until - _clock.monotonic()  # read before trio's clock, so that nothing ends early
            scope.deadline = trio.current_time() + left
        else:
            token = trio.lowlevel.current_trio_token()
            self._timer = fake.call_at(
                self._until, lambda: token.run_sync_soon(scope.cancel, idempotent=True)
            )
        scope.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        self._scope.__exit__(kind, error, trace)
        return self._scope.cancelled_caught


def _spawn(nursery: trio.Nursery, command: Spawn) -> Child:
    scope = trio.CancelScope()
    nursery.start_soon(_shelter, scope, command.flow, command.failed)
    return Child(scope.cancel)


async def _shelter(scope: trio.CancelScope, flow: Flow, failed: Callable[[BaseException], None]) -> None:
    with scope:
        try:
            await adrive.run(flow)
        except trio.Cancelled as error:
            failed(error)
            raise
        except BaseException as error:  # noqa: BLE001  # handed to the flow that spawned
            failed(error)
        finally:
            flow.close()


BACKEND = _Trio()
