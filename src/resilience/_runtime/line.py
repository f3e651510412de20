"""A waiting line, first in, first out, for threads and tasks alike."""

from collections import OrderedDict
from typing import Any

from resilience._runtime.flow import Waiter


class Line:
    """
    Who waits for permits, in order of arrival. The caller holds the lock of its policy.

    Only the first in line may take a permit, so that nobody overtakes and no large request starves.
    Waking is all that others do for it: the one who is woken looks for itself whether it may go.
    """

    __slots__ = ("_waiters", "permits")

    def __init__(self) -> None:
        self._waiters: OrderedDict[Waiter, int] = OrderedDict()
        self.permits = 0
        """How many permits the line waits for in all."""

    @property
    def waiters(self) -> OrderedDict[Waiter, int]:
        """Who waits: always the same object, true while there is somebody. For generated code."""
        return self._waiters

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, waiter: Waiter) -> bool:
        return waiter in self._waiters

    def bars(self, ask: Any) -> bool:  # noqa: ARG002  # for lines in which some may pass others
        """Whether one who comes with *ask* has to stand behind those in line, of whom there are some."""
        return True

    def make_room(self, waiter: Waiter) -> bool:  # noqa: ARG002  # for lines in which some give way to others
        """Send away one who matters less than *waiter*, for whom the line is full; whether it was done."""
        return False

    def join(self, waiter: Waiter) -> None:
        """Queue up at the end."""
        if not self._waiters:
            self.permits = 0  # an interrupt in `leave` may have left a remainder
        self._waiters[waiter] = waiter.permits
        self.permits += waiter.permits

    def is_first(self, waiter: Waiter) -> bool:
        """Whether it is *waiter*'s turn."""
        return bool(self._waiters) and next(iter(self._waiters)) is waiter

    def leave(self, waiter: Waiter) -> None:
        """Step out, served or not, and let the next one look. One who never joined changes nothing."""
        if waiter in self._waiters:
            self._remove(waiter)
            self.wake_first()

    def forget_first_if_gone(self) -> None:
        """Go on to the next one if the event loop of the first in line is closed."""
        if self._waiters and _is_gone(next(iter(self._waiters))):
            self.wake_first()

    def forget_gone(self) -> None:
        """Take everybody out whose event loop is closed."""
        for waiter in [each for each in self._waiters if _is_gone(each)]:
            self._remove(waiter)

    def wake_first(self) -> None:
        """Let the first in line look again. One whose event loop is closed counts as gone."""
        while self._waiters:
            first = next(iter(self._waiters))
            if first.wake():
                return
            self._remove(first)

    def wake_all(self) -> None:
        """Let everybody look again, since what they wait for has changed. See `wake_first`."""
        for waiter in tuple(self._waiters):
            if not waiter.wake():
                self._remove(waiter)

    def clear(self) -> None:
        """Forget everybody: after a fork they are threads of another process."""
        self._waiters.clear()
        self.permits = 0

    def _remove(self, waiter: Waiter) -> None:
        self.permits -= self._waiters.pop(waiter, 0)


def _is_gone(waiter: Waiter) -> bool:
    return waiter.is_gone is not None and waiter.is_gone()
