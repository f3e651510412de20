"""
The waiting line of a limiter: who may go, who matters more, who came first.

Of those for whom there is a place the most important goes first. Within a class of `Priority` it is the
one who came first; or, with adaptive LIFO and while the line is more than half full, the one who came
last. There is a place for a call with a share more often than for others, so that it may pass them.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import cast

from resilience._runtime.flow import Waiter
from resilience._runtime.line import Line
from resilience.concurrency_limiter._ask import Ask
from resilience.concurrency_limiter._machine import Bulkhead


class Ticket(Waiter):
    """
    One who waits in a `Queue`.

    Attributes:
        group: Its class of priority and the key of its share: those alike stand in one row.
        number: How many came before it.

    """

    __slots__ = ("group", "number")

    def __init__(self, rank: int, key: Hashable = None) -> None:
        super().__init__()
        self.group = (rank, key)
        self.number = 0


class Queue(Line):
    """
    Who waits for a place. The caller holds the lock of its policy.

    As in every `Line`, waking is all that others do for those who wait. Here the one whose turn it is
    may change without anybody leaving, so whoever joins wakes it too.
    """

    __slots__ = ("_came", "_machine", "_rows")

    def __init__(self, machine: Bulkhead) -> None:
        super().__init__(machine.bar)
        self._machine = machine
        self._rows: dict[tuple[int, Hashable], OrderedDict[Ticket, None]] = {}
        self._came = 0

    def bars(self, ask: Ask | object) -> bool:
        """Whether one who comes with *ask* has to stand behind those in line: not if a place is its own."""
        if not isinstance(ask, Ask) or not self._machine.has_own_room(ask.key):
            return True
        if any(row and group[1] == ask.key for group, row in self._rows.items()):
            return True
        # It may take the last place that is for all, for which somebody else has been woken. Then it is the
        # turn of one who has a place of its own.
        self._wake_turn(self._machine.has_own_room)
        return False

    def make_room(self, waiter: Waiter) -> bool:
        """Send away the last who came of the least important class, if that is below *waiter*'s."""
        least = max((group[0] for group, row in self._rows.items() if row), default=-1)
        if least <= cast("Ticket", waiter).group[0]:
            return False
        rows = [row for group, row in self._rows.items() if row and group[0] == least]
        last = max((next(reversed(row)) for row in rows), key=lambda ticket: ticket.number)
        self._remove(last)
        last.wake()
        return True

    def join(self, waiter: Waiter) -> None:
        """Queue up at the end of its row."""
        ticket = cast("Ticket", waiter)
        self._came += 1
        ticket.number = self._came
        super().join(ticket)
        self._rows.setdefault(ticket.group, OrderedDict())[ticket] = None
        self.wake_first()

    def is_first(self, waiter: Waiter) -> bool:
        """Whether it is *waiter*'s turn."""
        return self._turn(self._machine.has_room) is waiter

    def leave(self, waiter: Waiter) -> None:
        """Step out, served or not, and let the next one look. One who never joined changes nothing."""
        self._step_out_of_row(waiter)  # even if an interrupt struck between the row and the line
        super().leave(waiter)

    def wake_first(self) -> None:
        """Let the one whose turn it is look, if there is a place. See `Line.wake_first`."""
        self._wake_turn(self._machine.has_room)

    def clear(self) -> None:
        """Forget everybody. See `Line.clear`."""
        super().clear()
        self._rows.clear()

    def _wake_turn(self, has_room: Callable[[Hashable], bool]) -> None:
        while self.waiters:
            turn = self._turn(has_room)
            if turn is None or turn.wake():
                return
            self._remove(turn)

    def _turn(self, has_room: Callable[[Hashable], bool]) -> Ticket | None:
        settings = self._machine.settings
        newest_first = settings.order == "adaptive_lifo" and 2 * len(self.waiters) > settings.max_queue
        best: tuple[int, int] | None = None
        turn: Ticket | None = None
        for (rank, key), row in self._rows.items():
            if not row or not has_room(key):
                continue
            ticket = next(reversed(row)) if newest_first else next(iter(row))
            place = (rank, -ticket.number if newest_first else ticket.number)
            if best is None or place < best:
                best, turn = place, ticket
        return turn

    def _remove(self, waiter: Waiter) -> None:
        super()._remove(waiter)  # first: one who stands in a row alone is found when its turn comes
        self._step_out_of_row(waiter)

    def _step_out_of_row(self, waiter: Waiter) -> None:
        ticket = cast("Ticket", waiter)
        row = self._rows.get(ticket.group)
        if row is not None:
            row.pop(ticket, None)
            if not row:
                del self._rows[ticket.group]
