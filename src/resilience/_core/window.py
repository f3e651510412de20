"""
What happened lately: exact counts over the last seconds, or over the last calls.

A good result is counted by one statement, ``cell.good += 1.0``, wherever that statement stands; the
window finds out later what was added to its cell since it last looked. It therefore never sets a
cell back, so no count is lost to a thread that adds at the same moment, and a cell that the window
has let go (`renew`, `clear`) can be added to for ever without being counted.

Both windows have the same methods. Everything but the one statement needs the owner's lock.
"""

import math
from collections import deque

from resilience.typing import Seconds


class Cell:
    """
    Where good results are counted.

    Attributes:
        good: Good results counted here so far. Only ever grows. A float, which is quicker to add to than an
            int, and exact up to 2**53.

    """

    __slots__ = ("good",)

    def __init__(self) -> None:
        self.good = 0.0


class TimeWindow:
    """
    Count the results of the last *duration* seconds, exact to one bucket.

    Time is cut into buckets of one *buckets*-th of the duration; bucket k holds the instants t with
    k * width <= t < (k + 1) * width. The window is the present bucket and the ``buckets - 1``
    before it, so that a result is forgotten at most one width early and never late. Bounds are
    multiples of the width, not sums, and do not drift.

    Source: linkerd's exact bucketed ratio; Polly's rolling health metrics (10 buckets).

    Args:
        duration: Length of the window in seconds, > 0.
        buckets: Parts it is counted in, >= 1.

    Attributes:
        cell: Where good results that end before *end* are counted.
        end: Instant at which the present bucket ends; call `rotate` before counting at or after it.

    """

    __slots__ = (
        "_bad",
        "_bads",
        "_buckets",
        "_good",
        "_goods",
        "_index",
        "_seen",
        "_slow",
        "_slows",
        "_width",
        "cell",
        "end",
    )

    def __init__(self, duration: Seconds, buckets: int = 10) -> None:
        self._width = duration / buckets
        self._buckets = buckets
        self._index = 0
        self.end: Seconds = -math.inf
        self.clear()

    def clear(self) -> None:
        """Forget everything and let go of the cell."""
        self.cell = Cell()
        self._seen = 0
        self._good = self._bad = self._slow = 0
        self._goods = [0] * self._buckets
        self._bads = [0] * self._buckets
        self._slows = [0] * self._buckets

    def renew(self) -> None:
        """Let go of the cell but keep what was counted."""
        self._collect()
        self.cell = Cell()
        self._seen = 0

    def rotate(self, now: Seconds) -> None:
        """Begin the bucket of *now* and forget those that have left the window."""
        if now < self.end:
            return
        self._collect()
        index = int(now // self._width)
        if (index + 1) * self._width <= now:
            index += 1  # the product was rounded down: bounds are products, so that `end` agrees
        for passed in range(max(self._index + 1, index + 1 - self._buckets), index + 1):
            slot = passed % self._buckets
            self._good -= self._goods[slot]
            self._bad -= self._bads[slot]
            self._slow -= self._slows[slot]
            self._goods[slot] = self._bads[slot] = self._slows[slot] = 0
        self._index = index
        self.end = (index + 1) * self._width

    def add(self, now: Seconds, *, bad: bool = False, slow: bool = False) -> None:
        """Count one result that ended at *now*."""
        if now >= self.end:
            self.rotate(now)
        slot = self._index % self._buckets
        if bad:
            self._bads[slot] += 1
            self._bad += 1
        else:
            self.cell.good += 1.0
        if slow:
            self._slows[slot] += 1
            self._slow += 1

    def count(self, now: Seconds, *, coming: int = 0) -> tuple[int, int, int]:
        """
        Return how many results, bad ones and slow ones the window holds at *now*.

        With *coming* good results more, which the caller is about to add to the cell.
        """
        self.rotate(now)
        good = self._good + int(self.cell.good) - self._seen + coming
        return good + self._bad, self._bad, self._slow

    def _collect(self) -> None:
        """Move what was added to the cell into the present bucket."""
        fresh = int(self.cell.good) - self._seen  # read once: other threads may add while we do
        self._seen += fresh
        self._good += fresh
        self._goods[self._index % self._buckets] += fresh


class CountWindow:
    """
    Count the results among the last *size* calls, exactly.

    Only bad and slow results are stored, each as its position in the sequence of all results; a
    good one moves the sequence on. A bad result has left the window when *size* others ended after
    it. So a good result costs no clock, no ring and no eviction.

    Args:
        size: Results the window holds, >= 1.

    Attributes:
        cell: Where good results are counted.
        end: Never comes: positive infinity.

    """

    __slots__ = ("_bads", "_earlier", "_size", "_slows", "cell", "end")

    def __init__(self, size: int) -> None:
        self._size = size
        self.end: Seconds = math.inf
        self.clear()

    def clear(self) -> None:
        """Forget everything and let go of the cell."""
        self.cell = Cell()
        self._earlier = 0  # results that the present cell does not count
        self._bads: deque[int] = deque(maxlen=self._size)
        self._slows: deque[int] = deque(maxlen=self._size)

    def renew(self) -> None:
        """Let go of the cell but keep what was counted."""
        self._earlier += int(self.cell.good)
        self.cell = Cell()

    def rotate(self, now: Seconds) -> None:
        """Do nothing: time does not matter here."""

    def add(self, now: Seconds, *, bad: bool = False, slow: bool = False) -> None:  # noqa: ARG002  # as in TimeWindow
        """Count one result, the newest."""
        if bad:
            self._earlier += 1
        else:
            self.cell.good += 1.0
        position = self._earlier + int(self.cell.good)
        if bad:
            self._bads.append(position)
        if slow:
            self._slows.append(position)

    def count(self, now: Seconds, *, coming: int = 0) -> tuple[int, int, int]:  # noqa: ARG002  # as in TimeWindow
        """
        Return how many results, bad ones and slow ones the window holds.

        With *coming* good results more, which the caller is about to add to the cell.
        """
        total = self._earlier + int(self.cell.good) + coming
        for positions in (self._bads, self._slows):
            while positions and positions[0] <= total - self._size:
                positions.popleft()
        return min(total, self._size), len(self._bads), len(self._slows)
