"""
What an error budget is computed from: good and bad events, as they stood at the bounds of time.

Two integers count all events since the start. What they were at the beginning of each *step* of time is
noted in rings of several resolutions; the events of a window are the difference between now and the step
with which the window begins. Nothing is noted for a step without events: what stood at its beginning stood
at that of the next one, too. So time may jump ahead as far as it likes.

**What a caller may do itself**, and the policy does, without a lock where there is a GIL::

    if now >= budget.due: ...       # turn(now), under the lock
    budget.good += 1                # or budget.bad: one line of int work without a call

A thread that is held up between the two lines is counted in the step in which it goes on.

Source: the SRE workbook, chapter 5, for burn rates; linkerd's exact bucketed ratio for the buckets.
"""

import math
from bisect import bisect_left
from collections import deque
from operator import itemgetter
from typing import Final, NamedTuple

from resilience.typing import Ratio, Seconds

RESOLUTIONS: Final = ((10.0, 3_600.0), (60.0, 21_600.0), (300.0, 259_200.0))
"""Step and span in seconds of the rings for the windows that alerts look at: up to 1 h, 6 h and 3 d."""

LAST_STEPS: Final = 720
"""Steps of the ring for longer windows, at most: one hour each in 30 days. They are multiples of the last of
the steps above, so that every bound of a step is one of the first ring's, too."""


class Counted(NamedTuple):
    """
    Events of a stretch of time.

    Attributes:
        good: Good ones.
        bad: Bad ones.

    """

    good: int
    bad: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.good + self.bad


class Ring:
    """
    What had been counted at the beginning of each step, for as long as *span*.

    Args:
        step: Seconds, > 0.
        span: Longest window in seconds, at least one step.

    """

    __slots__ = ("_points", "span", "step")

    def __init__(self, step: Seconds, span: Seconds) -> None:
        self.step, self.span = step, span
        # The number of the step, and what stood at its beginning. Together, so that no interrupt parts them.
        self._points: deque[tuple[int, Counted]] = deque(maxlen=math.ceil(span / step) + 1)

    def turn(self, now: Seconds, counted: Counted) -> None:
        """Note what stood at the beginning of the step of *now*, unless that is known."""
        index = int(now // self.step)
        if not self._points or index > self._points[-1][0]:
            self._points.append((index, counted))

    def since(self, window: Seconds, now: Seconds) -> Counted:
        """
        Return what had been counted when the window that ends at *now*, the latest turn, began.

        A window begins with a step, so that it is shorter than it is called by less than one step.
        """
        first = math.ceil((now - window) / self.step)
        return self._points[bisect_left(self._points, first, key=itemgetter(0))][1]


class Budget:
    """
    Count good and bad events, and say how fast they spend an error budget.

    Not thread-safe but for the lines above: the owner holds a lock. Every instant that is passed in is one
    of the monotonic clock, in seconds; one that is earlier than the latest seen counts as that one.

    Args:
        objective: Share of events that are to be good, in (0, 1).
        window: Seconds over which they are, >= 60; what is older is forgotten.
        minimum: Events that a window must hold before anything is said of it, >= 1.
        now: The present instant.

    Attributes:
        good: Good events since the start.
        bad: Bad events since the start.
        due: Instant from which `turn` must be called before an event is counted.
        began: Instant of the start.

    """

    __slots__ = ("_allowed", "_minimum", "_now", "_rings", "bad", "began", "due", "good", "window")

    def __init__(self, objective: Ratio, window: Seconds, minimum: int, now: Seconds) -> None:
        self.good = self.bad = 0
        self.began = self._now = now
        self.window = window
        self._allowed = 1 - objective
        self._minimum = minimum
        shorter = [span for _, span in RESOLUTIONS if span < window]
        self._rings = [Ring(step, min(span, window)) for step, span in RESOLUTIONS[: len(shorter) + 1]]
        if len(shorter) == len(RESOLUTIONS):
            step = RESOLUTIONS[-1][0]
            self._rings.append(Ring(math.ceil(window / LAST_STEPS / step) * step, window))
        self.due = -math.inf
        self.turn(now)

    def turn(self, now: Seconds) -> None:
        """Begin the step of *now*. Called before the first event of a step is counted, and at any time."""
        now = self._now = max(self._now, now)
        counted = Counted(self.good, self.bad)
        for ring in self._rings:
            ring.turn(now, counted)
        step = self._rings[0].step
        self.due = (now // step + 1) * step

    def count(self, window: Seconds, now: Seconds) -> Counted:
        """Return the events of the last *window* seconds, <= the budget's own; exact to one step."""
        self.turn(now)
        now = self._now
        ring = next(ring for ring in self._rings if ring.span >= window)
        before = ring.since(window, now)
        return Counted(self.good - before.good, self.bad - before.bad)

    def covers(self, window: Seconds, now: Seconds) -> bool:
        """Whether all of the last *window* seconds have been watched."""
        return max(self._now, now) - self.began >= window

    def burn(self, window: Seconds, now: Seconds) -> float | None:
        """
        Return how many times faster than allowed the last *window* seconds spent the budget.

        None if the window reaches back before the start, or holds too few events.
        """
        return self._rate(self.count(window, now)) if self.covers(window, now) else None

    def burn_since_start(self, now: Seconds) -> float | None:
        """Return the burn rate since the start, or over the budget's window if that is shorter."""
        if self.covers(self.window, now):
            return self.burn(self.window, now)
        return self._rate(Counted(self.good, self.bad))

    def _rate(self, counted: Counted) -> float | None:
        return counted.bad / counted.total / self._allowed if counted.total >= self._minimum else None
