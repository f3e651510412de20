"""Which event loop has which queue of calls whose time is bounded, for one policy."""

import threading
from typing import Any, Final

from resilience import _clock
from resilience.typing import Seconds


class NoQueue:
    """
    What a policy has before an event loop has asked.

    Attributes:
        loop: No loop at all, not even the absence of one.
        runner: What no thread runs.

    """

    __slots__ = ("_thread_id", "loop", "runner")

    def __init__(self) -> None:
        self.loop: Any = self
        self.runner: Any = self
        self._thread_id: int | None = None


NO_QUEUE: Final = NoQueue()

MOST_APART: Final = 1.0
"""Seconds between the clock of an event loop and the package's: some loops know only when they last woke."""


class Queues:
    """One queue for each event loop that runs."""

    __slots__ = ("_lock", "_queues")

    def __init__(self) -> None:
        self._queues: dict[int, Any] = {}
        self._lock = threading.RLock()

    def of(self, loop: Any, seconds: Seconds) -> Any:
        """Return the queue of *loop* for calls that may take *seconds*; None if it has a time of its own."""
        if loop is None:
            return None
        from resilience._runtime import _asyncio_queue  # noqa: PLC0415  # asyncio asks, so it is there

        if abs(loop.time() - _clock.monotonic()) > MOST_APART:
            return None
        with self._lock:
            queue = self._queues.get(id(loop))
            if queue is None or queue.loop is not loop or queue.seconds != seconds:
                for key in [key for key, other in self._queues.items() if other.loop.is_closed()]:
                    del self._queues[key]
                self._queues[id(loop)] = queue = _asyncio_queue.Queue(loop, seconds)
            return queue
