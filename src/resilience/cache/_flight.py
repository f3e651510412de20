"""One call for all who ask for the same, who waits for it, and how nobody comes to wait for himself."""

import threading
from collections.abc import Iterable
from contextvars import ContextVar
from copy import copy
from types import TracebackType
from typing import Any

from resilience._runtime import fork
from resilience._runtime.flow import Waiter
from resilience.outcome import Outcome


class Mark:
    """
    Marks the code that runs inside of a flight, and what that starts.

    Apart from the flight, because a task that outlives it must not keep its result alive.

    Attributes:
        is_over: Whether the flight has ended, with an outcome or without one.
        awaits: Marks of the flights, of whatever cache, that the code inside waits for now.

    """

    __slots__ = ("_inside", "_outside", "awaits", "is_over")

    def __init__(self) -> None:
        self.is_over = False
        self.awaits: tuple[Mark, ...] = ()

    def __enter__(self) -> None:
        self._outside = under_way.get()
        self._inside = (*(mark for mark in self._outside if not mark.is_over), self)
        under_way.set(self._inside)

    def __exit__(self, *exc_info: object) -> None:
        if under_way.get() is self._inside:  # else a generator ends in a context that is not its own
            under_way.set(self._outside)
        del self._inside, self._outside


under_way: ContextVar[tuple[Mark, ...]] = ContextVar("resilience.cache", default=())
"""Marks of the flights that the present code runs inside of."""


class Flight:
    """
    One call for a key, and who waits for what it brings.

    Attributes:
        mark: What tells the code inside of it from others.
        waiters: Who waits, in order of arrival, each with the marks of the flights that it is inside of.

    """

    __slots__ = ("_is_stale", "_outcome", "_trace", "mark", "waiters")

    def __init__(self) -> None:
        self.mark = Mark()
        self.waiters: dict[Waiter, tuple[Mark, ...]] = {}
        self._outcome: Outcome[Any] | None = None
        self._is_stale = False
        self._trace: TracebackType | None = None

    def join(self) -> Waiter | None:
        """
        Wait for it; None if it waits itself for the present code to end. The cache's lock is held.

        Whoever runs inside of another flight makes that one wait too. Of several that would wait for
        each other in a ring, the last one to ask is told not to.
        """
        inside = tuple(mark for mark in under_way.get() if not mark.is_over)
        if inside:
            with _links.lock:  # one lock for all caches: a ring may go through several
                if _leads_to(self.mark, inside):
                    return None
                for mark in inside:
                    mark.awaits = (*mark.awaits, self.mark)
        waiter = Waiter()
        self.waiters[waiter] = inside
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Wait no longer. The cache's lock is held."""
        inside = self.waiters.pop(waiter, ())
        if inside:
            with _links.lock:
                for mark in inside:
                    mark.awaits = _without(mark.awaits, self.mark)

    def bring(self, outcome: Outcome[Any], *, is_stale: bool = False) -> None:
        """Note what those who wait will get."""
        self._outcome = outcome
        self._is_stale = is_stale
        self._trace = None if outcome.error is None else outcome.error.__traceback__

    def brought(self) -> tuple[Outcome[Any] | None, bool]:
        """Return what it brought, for one who waited, and whether that is stale; None if nothing."""
        outcome = copy(self._outcome)
        if outcome is not None and outcome.error is not None:
            # One error, raised by many: each begins with the traceback of the call, and adds its own.
            outcome.error.with_traceback(self._trace)
        return outcome, self._is_stale


class _Links:
    """Holds the lock under which marks learn of each other. Taken after a cache's lock, never before."""

    __slots__ = ("__weakref__", "lock")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        fork.register(self)

    def _after_fork(self) -> None:
        self.lock = threading.RLock()


_links = _Links()


def _leads_to(start: Mark, ends: Iterable[Mark]) -> bool:
    """Whether the flight of *start* is one of *ends*, or waits for one, directly or through others."""
    targets = set(ends)
    seen: set[Mark] = set()
    ahead = [start]
    while ahead:
        mark = ahead.pop()
        if mark.is_over or mark in seen:
            continue
        if mark in targets:
            return True
        seen.add(mark)
        ahead += mark.awaits
    return False


def _without(marks: tuple[Mark, ...], gone: Mark) -> tuple[Mark, ...]:
    """Return *marks* without one of those that are *gone*: others inside may still wait for it."""
    place = marks.index(gone)
    return marks[:place] + marks[place + 1 :]
