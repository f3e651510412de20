"""How to tell that asyncio has nothing left to do. Imported when asyncio runs."""

import asyncio

from resilience._runtime.flow import Waiter

QUIET_LOOKS = 2
"""An answer to what the last task did may take one more turn of the loop to arrive."""

_watched: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}


def loop() -> asyncio.AbstractEventLoop:
    """Return the event loop that is running here."""
    return asyncio.get_running_loop()


async def idle(bell: Waiter) -> None:
    """Suspend this task until *bell* rings, or every other task is blocked."""
    here = loop()
    quiet: asyncio.Future[None] = here.create_future()

    def ring() -> None:
        here.call_soon_threadsafe(_answer, quiet)

    bell.signal = ring
    # One looks for all who wait: two would take each other for work to do.
    if here in _watched:
        _watched[here].append(quiet)
    else:
        for closed in [other for other in list(_watched) if other.is_closed()]:
            del _watched[closed]
        _watched[here] = [quiet]
        here.call_soon(_look, here, 0)
    try:
        if not bell.woken:
            await quiet
    finally:
        bell.signal = None
        if quiet in _watched.get(here, ()):
            _watched[here].remove(quiet)


def is_busy(here: asyncio.AbstractEventLoop) -> bool:
    """Whether anything in this loop could run now. Asked by the loop itself, between two tasks."""
    ready = getattr(here, "_ready", None)  # exact, where the loop is written in Python
    if ready is not None:
        return bool(ready)
    tasks = asyncio.all_tasks(here)
    waiting_for = [getattr(task, "_fut_waiter", None) for task in tasks]
    return any(future is None or future.done() for future in waiting_for)


def _look(here: asyncio.AbstractEventLoop, quiet_looks: int) -> None:
    waiting = _watched[here]
    quiet_looks = 0 if is_busy(here) else quiet_looks + 1
    if waiting and quiet_looks < QUIET_LOOKS:
        here.call_soon(_look, here, quiet_looks)
        return
    del _watched[here]
    for quiet in waiting:
        _answer(quiet)


def _answer(quiet: asyncio.Future[None]) -> None:
    if not quiet.done():
        quiet.set_result(None)
