"""A waiting line, first in, first out, for threads and tasks alike."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from resilience._runtime.flow import Waiter


class Line:
    """
    Who waits for permits, in order of arrival. The caller holds the lock of its policy.

    Only the first in line may take a permit, so that nobody overtakes and no large request starves.
    Waking is all that others do for it: the one who is woken looks for itself whether it may go.

    Args:
        bar: Told True when somebody comes to an empty line, and False when the last one has left: whoever
            gives out permits without a look at the line must not do so meanwhile. None tells nobody.

    Attributes:
        waiters: Who waits, with the permits of each.
        permits: How many permits the line waits for in all.

    """

    __slots__ = ("_bar", "permits", "waiters")

    def __init__(self, bar: Callable[[bool], object] | None = None) -> None:
        self._bar = bar
        self.waiters: OrderedDict[Waiter, int] = OrderedDict()
        self.permits = 0

    def __len__(self) -> int:
        return len(self.waiters)

    def __contains__(self, waiter: Waiter) -> bool:
        return waiter in self.waiters

    def bars(self, ask: Any) -> bool:  # noqa: ARG002  # for lines in which some may pass others
        """Whether one who comes with *ask* has to stand behind those in line, of whom there are some."""
        return True

    def make_room(self, waiter: Waiter) -> bool:  # noqa: ARG002  # for lines in which some give way to others
        """Send away one who matters less than *waiter*, for whom the line is full; whether it was done."""
        return False

    def join(self, waiter: Waiter) -> None:
        """Queue up at the end."""
        if not self.waiters:
            self.permits = 0  # an interrupt in `leave` may have left a remainder
            self._tell(is_barred=True)
        self.waiters[waiter] = waiter.permits
        self.permits += waiter.permits

    def is_first(self, waiter: Waiter) -> bool:
        """Whether it is *waiter*'s turn."""
        return bool(self.waiters) and next(iter(self.waiters)) is waiter

    def leave(self, waiter: Waiter) -> None:
        """Step out, served or not, and let the next one look. One who never joined changes nothing."""
        if waiter in self.waiters:
            self._remove(waiter)
            self.wake_first()

    def forget_first_if_gone(self) -> None:
        """Go on to the next one if the event loop of the first in line is closed."""
        if self.waiters and _is_gone(next(iter(self.waiters))):
            self.wake_first()

    def forget_gone(self) -> None:
        """Take everybody out whose event loop is closed."""
        for waiter in [each for each in self.waiters if _is_gone(each)]:
            self._remove(waiter)

    def wake_first(self) -> None:
        """Let the first in line look again. One whose event loop is closed counts as gone."""
        while self.waiters:
            first = next(iter(self.waiters))
            if first.wake():
                return
            self._remove(first)

    def wake_all(self) -> None:
        """Let everybody look again, since what they wait for has changed. See `wake_first`."""
        for waiter in tuple(self.waiters):
            if not waiter.wake():
                self._remove(waiter)

    def clear(self) -> None:
        """Forget everybody: after a fork they are threads of another process."""
        self.waiters.clear()
        self.permits = 0
        self._tell(is_barred=False)

    def _remove(self, waiter: Waiter) -> None:
        self.permits -= self.waiters.pop(waiter, 0)
        if not self.waiters:
            self._tell(is_barred=False)

    def _tell(self, *, is_barred: bool) -> None:
        if self._bar is not None:
            self._bar(is_barred)


def _is_gone(waiter: Waiter) -> bool:
    return waiter.is_gone is not None and waiter.is_gone()
