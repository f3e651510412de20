"""What is counted of calls in flight, and what one of them holds."""

import math
from collections import deque
from typing import Final

from resilience.typing import Seconds

MOST_TIMES: Final = 1000
"""Times of calls kept at most for the quantile of one sample; the latest."""


class Cell:
    """
    What one generation counts.

    Two numbers that only ever grow say all there is to say of places: how many were given out, and up to how
    many may be. Floats are quicker to add to than ints, and exact up to 2**53.

    Attributes:
        started: Places given out so far.
        ceiling: Places given back so far and *known*: one more may be given out, without another look, while
            *started* is below.
        known: Calls that may be in flight for all that is known already; set by `let_in`.
        limit: Calls that may be in flight, >= 1.
        peak: Most calls in flight at once since the last sample, >= 1.
        others: Calls that did not end well, or of which nothing was learnt. Only ever grows.
        timed: Good and timed out calls of which it is known how long they took. Only ever grows.
        seconds: Seconds that those took. Only ever grows.
        shortest: Seconds that the fastest good one of them since the last sample took.
        times: What they took each, if a quantile is asked for; the latest.

    """

    __slots__ = (
        "ceiling", "known", "limit", "others", "peak", "seconds", "shortest", "started", "timed", "times",
    )  # fmt: skip

    def __init__(self, limit: int) -> None:
        self.started = self.ceiling = 0.0
        self.known = 0
        self.limit = limit
        self.peak = 1
        self.others = 0
        self.timed = 0
        self.seconds: Seconds = 0.0
        self.shortest: Seconds = math.inf
        self.times: deque[Seconds] = deque(maxlen=MOST_TIMES)

    @property
    def inflight(self) -> int:
        """Calls in flight."""
        return int(self.started - self.ceiling + self.known)

    @property
    def ended(self) -> int:
        """Places given back so far."""
        return int(self.ceiling - self.known)

    def let_in(self, known: int) -> None:
        """Let so many calls be in flight without another look."""
        # In one line: generated code raises the ceiling meanwhile.
        self.ceiling, self.known = self.ceiling - self.known + known, known


class Slot:
    """
    A place for one call.

    Attributes:
        cell: Where it is counted; None once it was given back.
        started: Instant at which it was taken.
        rested: Whether the limiter rested between calls then.

    """

    __slots__ = ("cell", "rested", "started")

    def __init__(self, cell: Cell, started: Seconds, *, rested: bool = False) -> None:
        self.cell: Cell | None = cell
        self.started = started
        self.rested = rested
