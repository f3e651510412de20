"""How to tell that trio has nothing left to do. Imported when trio runs."""

import trio
import trio.testing

from resilience._runtime.flow import Waiter


async def idle(bell: Waiter) -> None:
    """Suspend this task until *bell* rings, or every other task is blocked."""
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:
        bell.signal = lambda: token.run_sync_soon(scope.cancel)
        try:
            if not bell.woken:
                await trio.testing.wait_all_tasks_blocked()
        finally:
            bell.signal = None
