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
        peak: Most calls in flight at once since the last sample.
        good: Calls that ended well. Only ever grows.
        seconds: Seconds that good and timed out calls took. Only ever grows.
        shortest: Seconds that the fastest good call since the last sample took.
        times: What they took each, if a quantile is asked for; the latest.

    """

    __slots__ = ("good", "inflight", "limit", "peak", "seconds", "shortest", "times")

    def __init__(self, limit: int) -> None:
        self.inflight = 0
        self.limit = limit
        self.peak = 0
        self.good = 0
        self.seconds: Seconds = 0.0
        self.shortest: Seconds = math.inf
        self.times: deque[Seconds] = deque(maxlen=MOST_TIMES)


class Slot:
    """
    A place for one call.

    Attributes:
        cell: Where it is counted; None once it was given back.
        started: Instant at which it was taken.

    """

    __slots__ = ("cell", "started")

    def __init__(self, cell: Cell, started: Seconds) -> None:
        self.cell: Cell | None = cell
        self.started = started
