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

    Attributes:
        inflight: Calls in flight.
        limit: Calls that may be in flight, >= 1.
        known: Calls that may be in flight for all that is known already: no more than *peak*, so that no
            other need be noted, and no more than *limit*; 0 while it rests.
        peak: Most calls in flight at once since the last sample, >= 1.
        others: Calls that did not end well, or of which nothing was learnt. Only ever grows.
        timed: Good and timed out calls of which it is known how long they took. Only ever grows.
        seconds: Seconds that those took. Only ever grows.
        shortest: Seconds that the fastest good one of them since the last sample took.
        times: What they took each, if a quantile is asked for; the latest.

    """

    __slots__ = ("inflight", "known", "limit", "others", "peak", "seconds", "shortest", "timed", "times")

    def __init__(self, limit: int) -> None:
        self.inflight = 0
        self.limit = limit
        self.known = self.peak = 1
        self.others = 0
        self.timed = 0
        self.seconds: Seconds = 0.0
        self.shortest: Seconds = math.inf
        self.times: deque[Seconds] = deque(maxlen=MOST_TIMES)


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
