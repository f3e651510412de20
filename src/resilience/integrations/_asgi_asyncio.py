"""How a request is cut short on asyncio."""

import asyncio
import threading
from asyncio import CancelledError, Task
from contextvars import Context
from types import TracebackType
from typing import Any, Final

from resilience.typing import Seconds

STEP: Final[Seconds] = 1 / 128
"""Seconds within which all deadlines of an event loop share a timer, and by which one may be late at most."""

FURTHEST: Final[Seconds] = 60.0
"""Seconds ahead for which there are timers at most; who has longer is looked at again then. As timers stay,
those of an hour would be half a million. Source: the longest time that a request has by default."""

_here: Final = threading.local()


class Timers:
    """
    The blocks under way in one event loop, by the step in which their time is up.

    Each step has one timer, which stays when nobody needs it any more: to enter a block or to leave it is to
    put it into a dict or to take it out. Only the loop's own thread uses it.

    Attributes:
        loop: The event loop.

    """

    __slots__ = ("_context", "_steps", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._context = Context()  # not that of the request which sets a timer: it would live as long
        self._steps: dict[int, dict[Cut, None]] = {}

    def add(self, cut: "Cut", left: Seconds) -> "dict[Cut, None]":
        """Let *cut* ring when *left* seconds have passed, or sooner, unless taken out of what is returned."""
        step = int((self.loop.time() + min(left, FURTHEST)) / STEP) + 1  # never early
        cuts = self._steps.get(step)
        if cuts is None:
            cuts = self._steps[step] = {}
            self.loop.call_at(step * STEP, self._ring, step, context=self._context)
        cuts[cut] = None
        return cuts

    def _ring(self, step: int) -> None:
        cuts = self._steps.pop(step)
        while cuts:
            cut, _ = cuts.popitem()
            cut.ring()


def timers_of(loop: asyncio.AbstractEventLoop) -> Timers:
    """Return the timers of *loop*, which runs in this thread."""
    timers: Timers | None = getattr(_here, "timers", None)
    if timers is None or timers.loop is not loop:
        timers = _here.timers = Timers(loop)  # of another loop: its own timers keep the former ones
    return timers


class Cut:
    """
    Cancel the block when *left* seconds have passed, and leave it without an error of its own then.

    Like ``asyncio.timeout``, it cancels once: the application's own cleaning up is not cancelled again. And a
    cancellation by somebody else leaves as it came.

    Attributes:
        was_made: Whether the block was cancelled, even if it ended as it liked.

    """

    __slots__ = ("_cancels", "_cuts", "_left", "_loop", "_task", "_until", "was_made")

    _cancels: int
    _cuts: dict["Cut", None]
    _until: Seconds

    def __init__(self, task: "Task[Any]", loop: asyncio.AbstractEventLoop, left: Seconds) -> None:
        self._task, self._loop, self._left = task, loop, left
        self.was_made = False

    def __enter__(self) -> None:
        self._cancels = self._task.cancelling()
        self._until = self._loop.time() + self._left if self._left > FURTHEST else 0.0
        self._cuts = timers_of(self._loop).add(self, self._left)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not self.was_made:
            self._cuts.pop(self, None)
            return False
        return self._task.uncancel() <= self._cancels and isinstance(error, CancelledError)

    def ring(self) -> None:
        """Cancel the block if its time is up, else wait on."""
        left = self._until - self._loop.time() if self._until else 0.0
        if left > 0:
            self._cuts = timers_of(self._loop).add(self, left)
        else:
            self.was_made = True
            self._task.cancel()

    def lift(self) -> None:
        """Let the block take as long as it likes from here on, unless it was cut short already."""
        self._cuts.pop(self, None)


def cut_after(left: Seconds) -> Cut | None:
    """Return what cuts a block of the current task short, or None where no task of asyncio runs."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # no loop of asyncio runs in this thread
        return None
    task = asyncio.current_task(loop)
    return None if task is None else Cut(task, loop, left)
