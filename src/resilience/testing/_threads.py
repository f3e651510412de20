"""Threads that sleep by fake time."""

import math
import threading
from collections.abc import Callable

from resilience._runtime import drive
from resilience._runtime.flow import Waiter
from resilience.testing._timeline import Sleeper, Timeline
from resilience.typing import Seconds

PATIENCE = 0.2
"""Real seconds a worker may compute before time passes without it: it may be blocked for good."""


class ThreadSleeper(Sleeper):
    """
    One who sleeps on a thread.

    Attributes:
        worker: Whether the package started its thread.

    """

    __slots__ = ("_threads", "worker")

    def __init__(self, threads: "Threads", due: Seconds, number: int, *, worker: bool) -> None:
        super().__init__(due, number)
        self.worker = worker
        self._threads = threads

    def wake(self) -> bool:
        """End its sleep. A worker counts as computing from now on, not only when its thread gets to run."""
        self._threads.rises(self)
        return super().wake()


class Worker:
    """What a thread of the package does. `end` it if it never begins."""

    __slots__ = ("_has_begun", "_is_over", "_threads", "_work")

    def __init__(self, threads: "Threads", work: Callable[[], None]) -> None:
        self._threads = threads
        self._work = work
        self._has_begun = False
        self._is_over = False

    def __call__(self) -> None:
        """Do it."""
        self._has_begun = True
        self._threads.begins()
        try:
            self._work()
        finally:
            self.end()

    def end(self) -> None:
        """Let time pass without it."""
        if not self._is_over:
            self._is_over = True
            self._threads.ends(has_begun=self._has_begun)


class Threads:
    """
    The threads that sleep. Any but a worker moves the time at once, for its workers as well.

    A *worker* is a thread that the package started, as for a hedge. Time stands still while one
    computes, so that what is due first happens first; it moves only while somebody waits for it.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._asleep: list[ThreadSleeper] = []
        self._workers: set[int] = set()
        self._starting = 0  # workers that have not begun
        self._computing = 0  # workers that are not asleep, those that have not begun among them
        timeline.due.append(self._due)

    def worker(self, work: Callable[[], None]) -> "Worker":
        """Return *work* for a worker's thread, which counts as computing from now on."""
        with self._timeline.lock:
            self._computing += 1
            self._starting += 1
        return Worker(self, work)

    def begins(self) -> None:
        """Note that a worker has begun, in its own thread."""
        with self._timeline.lock:
            self._workers.add(threading.get_ident())
            self._starting -= 1
        self._ring()

    def ends(self, *, has_begun: bool) -> None:
        """Note that a worker has ended, in its own thread, or that it will never begin."""
        with self._timeline.lock:
            if has_begun:
                self._workers.discard(threading.get_ident())
            else:
                self._starting -= 1
        self._rests()

    def rest(self, waiter: Waiter | None, seconds: Seconds | None) -> None:
        """Block this thread until *waiter* is woken, at most for *seconds*."""
        timeline = self._timeline
        with timeline.lock:
            worker = threading.get_ident() in self._workers
            sleeper = ThreadSleeper(self, timeline.after(seconds), timeline.number(), worker=worker)
            self._asleep.append(sleeper)
        try:
            if worker:
                self._rests()
            if waiter is not None:
                waiter.signal = sleeper.answer
            if waiter is None or not waiter.woken:
                self._wait(sleeper)
        finally:
            if waiter is not None:
                waiter.signal = None
            self.rises(sleeper)
            with timeline.lock:
                self._asleep.remove(sleeper)

    def rises(self, sleeper: ThreadSleeper) -> None:
        """Note that *sleeper* does not sleep any longer."""
        with self._timeline.lock:
            if sleeper.worker and not sleeper.woken:
                self._computing += 1
            sleeper.woken = True

    def wake_all(self) -> None:
        """Let everybody go."""
        for sleeper in list(self._asleep):
            sleeper.wake()

    def after_fork(self) -> None:
        """Forget everybody: they are threads of another process."""
        self._asleep.clear()
        self._workers.clear()
        self._starting = self._computing = 0

    def _wait(self, sleeper: ThreadSleeper) -> None:
        timeline = self._timeline
        while True:
            sleeper.bell.woken = False
            if sleeper.woken or timeline.over or sleeper.due <= timeline.now:
                return
            if not timeline.auto or sleeper.worker:
                drive.block(sleeper.bell, None)
                continue
            if self._computing:
                drive.block(sleeper.bell, None if self._starting else PATIENCE)
                if sleeper.bell.woken:
                    continue
            with timeline.lock:
                until = min([sleeper.due, *(other.due for other in self._asleep if other.worker)])
            if until == math.inf:
                drive.block(sleeper.bell, None)
            else:
                timeline.move_all_the_way(until)

    def _rests(self) -> None:
        with self._timeline.lock:
            self._computing -= 1
        self._ring()

    def _ring(self) -> None:
        """Let those who move the time look again."""
        with self._timeline.lock:
            waiting = [sleeper for sleeper in self._asleep if not sleeper.worker]
        for sleeper in waiting:
            sleeper.bell.wake()

    def _due(self) -> list[Sleeper]:
        return [sleeper for sleeper in self._asleep if sleeper.due <= self._timeline.now]
