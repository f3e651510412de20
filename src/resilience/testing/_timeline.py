"""Fake time itself: the present instant, and what is due when."""

import heapq
import itertools
import math
import threading
from collections.abc import Callable

from resilience._runtime.flow import Waiter
from resilience.typing import Seconds


class Timer:
    """A callback for an instant of fake time."""

    __slots__ = ("callback", "due", "number")

    def __init__(self, due: Seconds, number: int, callback: Callable[[], object]) -> None:
        self.due = due
        self.number = number
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Call nobody."""
        self.callback = None

    def __lt__(self, other: "Timer") -> bool:
        return (self.due, self.number) < (other.due, other.number)


class Sleeper:
    """
    One who waits for an instant of fake time, on a thread or in a task.

    Attributes:
        due: The instant; infinite if it only waits to be woken.
        number: Its place among those due at the same instant.
        bell: Rings when there is something to look at.
        woken: Whether it need not wait any longer, whatever the time is.

    """

    __slots__ = ("bell", "due", "number", "woken")

    def __init__(self, due: Seconds, number: int) -> None:
        self.due = due
        self.number = number
        self.bell = Waiter()
        self.woken = False

    def wake(self) -> bool:
        """End its sleep; False if its event loop is closed."""
        self.woken = True
        return self.bell.wake()

    def answer(self) -> None:
        """End its sleep, as the signal of a `Waiter` does."""
        if not self.wake():
            raise RuntimeError("the event loop is closed")

    def __lt__(self, other: "Sleeper") -> bool:
        return (self.due, self.number) < (other.due, other.number)


class Timeline:
    """
    The present instant, and the timers to come. Safe to use from any thread.

    Attributes:
        now: The present instant. It never goes back.
        auto: Whether those who sleep move it.
        over: Whether nobody will move it any more, so that nobody should sleep by it.
        lock: Held for looks at who sleeps, never while something is called that is not ours.
        due: Asked, with the lock held, for the sleepers to wake after each step.

    """

    def __init__(self, start: Seconds, *, auto: bool) -> None:
        self.now = start
        self.auto = auto
        self.over = False
        self.lock = threading.RLock()
        self.due: list[Callable[[], list[Sleeper]]] = []
        self._timers: list[Timer] = []
        self._numbers = itertools.count()

    def number(self) -> int:
        """Return the next number: who came first is served first."""
        return next(self._numbers)

    def after(self, seconds: Seconds | None) -> Seconds:
        """Return the instant *seconds* from now; infinite for None."""
        if seconds is None:
            return math.inf
        if seconds <= 0:
            return self.now
        # However short, it is a step: one who waits for a rest that rounding ate would wait for ever.
        return max(self.now + seconds, math.nextafter(self.now, math.inf))

    def call_at(self, when: Seconds, callback: Callable[[], object]) -> Timer:
        """Call *callback* once the time is *when*, in whatever thread moves it."""
        timer = Timer(when, self.number(), callback)
        with self.lock:
            waits = when > self.now
            if waits:
                heapq.heappush(self._timers, timer)
        if not waits:
            callback()
        return timer

    def move(self, until: Seconds) -> bool:
        """
        Move to *until*, or to the first timer on the way; return whether there was one.

        One at a time, also of those for the same instant: who moves the time may let what one sets
        off come to rest before the next, since trio resumes what becomes ready together in any order.
        """
        with self.lock:
            callback: Callable[[], object] | None = None
            instant = until
            while callback is None and self._timers and self._timers[0].due <= until:
                timer = heapq.heappop(self._timers)
                if timer.callback is not None:
                    instant, callback = timer.due, timer.callback
            self.now = max(self.now, instant)
            sleepers = sorted(sleeper for due in self.due for sleeper in due())
        if callback is not None:
            callback()
        for sleeper in sleepers:
            sleeper.wake()
        return callback is not None

    def move_all_the_way(self, until: Seconds) -> None:
        """Move to *until*, stopping at every timer on the way."""
        while self.move(until):
            pass

    def after_fork(self) -> None:
        """Forget the timers: they belong to the parent."""
        self.lock = threading.RLock()
        self._timers.clear()
