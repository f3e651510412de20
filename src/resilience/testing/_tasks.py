"""Tasks that sleep by fake time."""

import heapq
import itertools
import math
import sys
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from resilience._runtime.flow import Waiter
from resilience.testing._timeline import Sleeper, Timeline
from resilience.typing import Seconds

Idle: TypeAlias = Callable[[Waiter], Awaitable[None]]


class TaskSleeper(Sleeper):
    """
    One who sleeps in a task.

    Attributes:
        left: Whether it has gone.

    """

    __slots__ = ("left",)

    def __init__(self, due: Seconds, number: int) -> None:
        super().__init__(due, number)
        self.left = False


class Tasks:
    """
    The tasks that sleep, of every event loop.

    In each loop the one that is due first moves the time, once all other tasks are blocked; what
    that sets off comes to rest before the next one wakes. The order is the same in every run.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._asleep: dict[object, list[TaskSleeper]] = {}  # for each event loop a heap
        timeline.due.append(self._due)

    async def rest(self, waiter: Waiter | None, seconds: Seconds | None) -> None:
        """Suspend this task until *waiter* is woken, at most for *seconds*."""
        loop, idle = _here()
        timeline = self._timeline
        with timeline.lock:
            sleeper = TaskSleeper(timeline.after(seconds), timeline.number())
            heap = self._asleep.setdefault(loop, [])
            heapq.heappush(heap, sleeper)
        try:
            if waiter is not None:
                waiter.signal = sleeper.answer
            if waiter is None or not waiter.woken:
                await self._wait(sleeper, heap, idle)
        finally:
            if waiter is not None:
                waiter.signal = None
            self._leave(sleeper, heap, loop)

    def wake_all(self) -> None:
        """Let everybody go."""
        for sleeper in list(itertools.chain(*self._asleep.values())):
            sleeper.wake()

    def after_fork(self) -> None:
        """Forget everybody: they are tasks of another process."""
        self._asleep.clear()

    async def _wait(self, sleeper: TaskSleeper, heap: list[TaskSleeper], idle: Idle) -> None:
        from resilience._runtime import adrive  # noqa: PLC0415  # anyio comes with the first async use

        timeline = self._timeline
        backend = adrive.backend()
        while True:
            sleeper.bell.woken = False
            if sleeper.woken or timeline.over or (not timeline.auto and sleeper.due <= timeline.now):
                return
            if not timeline.auto or heap[0] is not sleeper or sleeper.due == math.inf:
                await backend.park(sleeper.bell, None)
                continue
            await idle(sleeper.bell)
            # Rung meanwhile: somebody left, and what that set off may not have come to rest yet.
            if sleeper.bell.woken or heap[0] is not sleeper:
                continue
            # When a timer is fired, what it sets off comes first: it may end this very sleep.
            if not timeline.move(sleeper.due):
                return

    def _leave(self, sleeper: TaskSleeper, heap: list[TaskSleeper], loop: object) -> None:
        with self._timeline.lock:
            sleeper.left = True
            while heap and heap[0].left:
                heapq.heappop(heap)
            if not heap and self._asleep.get(loop) is heap:
                del self._asleep[loop]
            following = heap[0] if heap else None
        if following is not None:
            following.bell.wake()

    def _due(self) -> list[Sleeper]:
        if self._timeline.auto:  # the first one looks for itself, the others have their turn
            return []
        return [
            sleeper for heap in self._asleep.values() for sleeper in heap if sleeper.due <= self._timeline.now
        ]


def _here() -> tuple[object, Idle]:
    """Return the event loop that is running here, and how to tell that it is idle."""
    if (trio := sys.modules.get("trio")) is not None and trio.lowlevel.in_trio_task():
        from resilience.testing import _trio  # noqa: PLC0415  # only when trio is in use

        return trio.lowlevel.current_trio_token(), _trio.idle
    from resilience.testing import _asyncio  # noqa: PLC0415  # only when asyncio is in use

    return _asyncio.loop(), _asyncio.idle
