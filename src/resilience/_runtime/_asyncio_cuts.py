"""
Many deadlines with one timer: what keeps the deadlines of calls, in place of ``asyncio.timeout_at``.

To enter a block or to leave it is to put it into a dict or to take it out. The timer runs for the earliest
deadline that was there when it was set, and looks through them all when it rings. What is seen from outside
is what ``asyncio.timeout_at`` does: a task that is late is cancelled, and takes that cancellation back if it
was the only one.
"""

import asyncio
import threading
from asyncio import CancelledError
from contextvars import Context
from math import inf
from types import TracebackType
from typing import Any, Final, Protocol

from resilience import _clock
from resilience._runtime import fork
from resilience._runtime._asyncio_queue import runner_of, task_of
from resilience._runtime.queues import MOST_APART, NO_QUEUE
from resilience.typing import Clock, Seconds

REST: Final[Seconds] = 0.0005
"""Seconds for which nobody looks through a thousand blocks again: several times as long as it took."""


class Cancellable(Protocol):
    """A task, or what stands for one."""

    def cancel(self) -> object:
        """Cancel the task."""
        ...


class Cuts:
    """
    The blocks under way in one event loop that are cut short at an instant each.

    Only the loop's own thread uses it.

    Attributes:
        loop: The event loop.
        runner: Knows which thread runs the loop at present: cheaper to compare than to look for the loop.
        at: When each block is cut short, by its task; by what stands for the task where that is in here
            already. One that is gone before its block has ended was cancelled because its time was up.
        next: Instant for which the timer is set; infinite if it is not.

    """

    __slots__ = ("_clock", "_context", "_rests", "_timer", "at", "loop", "next", "runner")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock | None = None) -> None:
        self._clock = clock
        self._context = Context()  # that of the call which sets the timer would live as long
        self._rests = -inf
        self._timer: asyncio.TimerHandle | None = None
        self.loop = loop
        self.runner: Any = runner_of(loop)
        self.at: dict[Cancellable, Seconds] = {}
        self.next = inf

    def now(self) -> Seconds:
        """Return the present instant by the clock of what is in here."""
        return _clock.monotonic() if self._clock is None else self._clock()

    def arm(self, until: Seconds) -> None:
        """Set the timer for *until*, which comes before what it is set for."""
        if self._timer is not None:
            self._timer.cancel()
        left = max(0.0, max(until, self._rests) - self.now())
        self._timer = self.loop.call_later(left, self._ring, context=self._context)
        self.next = until

    def ended(self, key: "asyncio.Task[Any] | Nearer", cancels: int, error: BaseException | None) -> bool:
        """
        Take a block out that has ended with *error*, and say whether it did so because its time was up.

        Args:
            key: What it is in here by.
            cancels: How many cancellations its task had to bear when it began.
            error: What it ended with.

        """
        if self.at.pop(key, None) is not None:
            return False
        return key.uncancel() <= cancels and isinstance(error, CancelledError)

    def _ring(self) -> None:
        self._timer, self.next = None, inf
        nearest = now = self.now()
        try:
            # A copy: the collector may close a coroutine meanwhile, which takes itself out.
            for key in [key for key, until in self.at.copy().items() if until <= now]:
                if self.at.pop(key, None) is not None:
                    key.cancel()
            nearest = min(self.at.values(), default=inf)
        finally:  # interrupted, it rings again at once
            self._rests = now + len(self.at) // 1000 * REST
            if nearest < inf:
                self.arm(nearest)


class Nearer:
    """Stands for a task that is in a `Cuts` already."""

    __slots__ = ("_task",)

    def __init__(self, task: "asyncio.Task[Any]") -> None:
        self._task = task

    def cancel(self) -> None:
        """Cancel the task."""
        self._task.cancel()

    def uncancel(self) -> int:
        """Take one cancellation of the task back; return how many are left."""
        return self._task.uncancel()


class Cut:
    """
    The rest of a block that is in a `Cuts`, or that nobody cuts short; it ends in silence if late.

    Args:
        cuts: Where it is; None if it is nowhere.
        key: What it is there by; None if it is not.
        cancels: How many cancellations its task had to bear when it began.

    """

    __slots__ = ("_cancels", "_cuts", "_key")

    def __init__(self, cuts: Cuts | None, key: Any, cancels: int) -> None:
        self._cuts, self._key, self._cancels = cuts, key, cancels

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        cuts, key = self._cuts, self._key
        self._cuts = self._key = None  # no cycle: task -> error -> traceback -> frame -> task
        return cuts is not None and key is not None and cuts.ended(key, self._cancels, error)


class Loops:
    """
    The blocks of each event loop that runs.

    Attributes:
        cuts: Those of the loop which asked last, for generated code.

    """

    __slots__ = ("__weakref__", "_known", "_lock", "cuts")

    cuts: Any

    def __init__(self) -> None:
        self._after_fork()
        fork.register(self)
        _clock.listeners.append(self.forget)

    def forget(self) -> None:
        """Look again: by another clock a loop may have a time of its own."""
        self.cuts = NO_QUEUE

    def of(self, loop: asyncio.AbstractEventLoop | None) -> Cuts | None:
        """Return the blocks of *loop*; None if there is none, or if it has a time of its own."""
        if loop is None or _clock.fake is not None or abs(loop.time() - _clock.monotonic()) > MOST_APART:
            return None
        with self._lock:
            cuts = self._known.get(id(loop))
            if cuts is None or cuts.loop is not loop:
                for key in [key for key, other in self._known.items() if other.loop.is_closed()]:
                    del self._known[key]
                cuts = self._known[id(loop)] = Cuts(loop)
            self.cuts = cuts
            return cuts

    def _after_fork(self) -> None:
        self._known: dict[int, Cuts] = {}
        self._lock = threading.RLock()
        self.cuts = NO_QUEUE


loops: Final = Loops()


def covers(until: Seconds) -> bool:
    """Whether the deadline of a call that this task is making cuts it short at *until*, or before."""
    cuts, task = _here()
    return cuts is not None and cuts.at.get(task, inf) <= until


def cut_at(until: Seconds) -> Cut | None:
    """Cut this task short at *until*, in a block that begins now; None if its loop has a time of its own."""
    cuts, task = _here()
    if cuts is None:
        return None
    bound = cuts.at.get(task)
    if bound is not None and bound <= until:
        return Cut(None, None, 0)
    if until < cuts.next:
        cuts.arm(until)
    key = task if bound is None else Nearer(task)
    cuts.at[key] = until
    return Cut(cuts, key, task.cancelling())


def _here() -> "tuple[Cuts | None, Any]":
    loop = asyncio._get_running_loop()
    cuts = loops.cuts
    if cuts.loop is not loop:
        cuts = loops.of(loop)
    task = None if cuts is None else asyncio.current_task()
    return (None if task is None else cuts), task


__all__ = ["NAMES", "Cut", "Cuts", "Nearer", "loops", "task_of"]

NAMES: Final[dict[str, object]] = {"Cut": Cut, "Nearer": Nearer, "loops": loops}
"""What generated code needs of this."""
