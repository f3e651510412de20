"""
Many timeouts of one length with one timer: what generated code uses in place of ``asyncio.timeout``.

Calls that may all take equally long end in the order in which they began. So the first of them is the only
one that needs a timer, and to enter or to leave is to put a task into a dict or to take it out. What is seen
from outside is what ``asyncio.timeout`` does: a task that runs out of time is cancelled, and takes that
cancellation back if it was the only one.
"""

import asyncio
import sys
from asyncio import CancelledError
from collections.abc import Iterable
from contextvars import Context
from threading import get_ident
from typing import Any, Final

from resilience import _clock
from resilience._runtime.hot import Limit
from resilience.deadline import Block, bounded
from resilience.deadline import _innermost as block
from resilience.typing import Seconds


class _Runner:
    """Says of a loop that is not made of asyncio's own what those say of themselves."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    @property
    def _thread_id(self) -> int | None:
        return get_ident() if asyncio._get_running_loop() is self._loop else None


def runner_of(loop: asyncio.AbstractEventLoop) -> Any:
    """Return what knows which thread runs *loop* at present."""
    return loop if hasattr(loop, "_thread_id") else _Runner(loop)


class Outlasted:
    """
    Calls whose callers' deadlines come first: nothing ends them here.

    Attributes:
        began: For each task in here, when its call began.

    """

    __slots__ = ("began",)

    def __init__(self) -> None:
        self.began: dict[asyncio.Task[Any], Seconds] = {}


class Queue:
    """
    The calls under way in one event loop that all may take *seconds*, in the order in which they began.

    Only the loop's own thread uses it.

    Attributes:
        loop: The event loop.
        runner: Knows which thread runs the loop at present: cheaper to compare than to look for the loop.
        seconds: How long each may take.
        began: For each task in here, when its call began. One that is gone before its call has ended was
            cancelled because its time was up.
        is_armed: Whether the timer is running.
        outlasted: Calls that must end before they have taken so long.

    """

    __slots__ = ("_context", "began", "is_armed", "loop", "outlasted", "runner", "seconds")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: Seconds) -> None:
        self._context = Context()  # that of the call which arms the timer would live as long as calls come
        self.loop = loop
        self.runner = runner_of(loop)
        self.seconds = seconds
        self.began: dict[asyncio.Task[Any], Seconds] = {}
        self.is_armed = False
        self.outlasted = Outlasted()

    def arm(self) -> None:
        """Let the timer run for a call that begins now, and for those after it."""
        self.loop.call_later(self.seconds, self._ring, context=self._context)
        self.is_armed = True

    def _ring(self) -> None:
        now = _clock.monotonic()
        try:
            for task in self._late(now):
                del self.began[task]
                task.cancel()
        finally:  # interrupted, it still rings for the others
            self.is_armed = False
            for began in self.began.values():
                left = max(0.0, began + self.seconds - now)
                self.loop.call_later(left, self._ring, context=self._context)
                self.is_armed = True
                break

    def _late(self, now: Seconds) -> "list[asyncio.Task[Any]]":
        late: list[asyncio.Task[Any]] = []
        for task, began in self.began.items():
            if began + self.seconds > now:
                break
            late.append(task)
        return late


def end_of_time(
    task: "asyncio.Task[Any]",
    cancels: int,
    error: BaseException,
    limits: Iterable[tuple[Limit, Queue]],
    until: Seconds | None = None,
    outer: Block | None = None,
) -> tuple[Exception | None, object]:
    """
    Say what a call failed with once its time is taken into account, and within which policy.

    Args:
        task: The task of the call.
        cancels: How many cancellations it had to bear when the call began.
        error: What came out of the function.
        limits: The policies that bound its time, each with its queue, the innermost first.
        until: The deadline that was set for the function, or None.
        outer: The block in force before that.

    Returns:
        The failure, or None if the call was cut short; and the policy whose time was used up, or None.

    """
    if until is not None:
        _take_out(until, outer)
    at: object = None
    for limit, queue in limits:
        if queue.began.pop(task, None) is None and task.uncancel() <= cancels:
            if isinstance(error, CancelledError):
                error, at = limit.out_of_time(queue.seconds), limit
            else:
                _tell(error)
    return (error if isinstance(error, Exception) else None), at


def _take_out(until: Seconds, outer: Block | None) -> None:
    # As `bounded` does it: a generator may have left its own block open, and a coroutine may be closed in a
    # context that never saw this one.
    inner, here = None, block.get()
    while isinstance(here, bounded):
        inner, here = here, here.outer
    if here is not until:
        return
    if inner is None:
        block.set(outer)
    else:
        inner.outer = outer


def _tell(error: BaseException) -> None:
    """Let an error that came of our cancellation say so, as ``asyncio.timeout`` does from 3.13 on."""
    if sys.version_info < (3, 13):
        return
    _insert(error)
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            _insert(each)


def _insert(error: BaseException) -> None:
    while (context := error.__context__) is not None:
        if isinstance(context, CancelledError):
            reason = TimeoutError()
            reason.__context__ = reason.__cause__ = context
            error.__context__ = reason
            return
        error = context


if sys.version_info >= (3, 12):
    task_of: Any = asyncio.current_task
else:  # there it is a function in Python, which looks into this dict
    task_of = vars(asyncio.tasks)["_current_tasks"].get

NAMES: Final[dict[str, object]] = {
    "end_of_time": end_of_time,
    "running_loop": asyncio._get_running_loop,  # None where no loop runs, as in a trio task
    "task_of": task_of,
    "thread": get_ident,
}
"""What generated code needs of asyncio."""
