"""What a server said about its rate, for as long as it holds."""

import math
from typing import Final

from resilience._core.check import is_finite
from resilience.rate_limiter._settings import FASTEST, SLOWEST
from resilience.typing import Seconds

LONGEST: Final[Seconds] = 86_400.0
"""Longest time that a server can keep calls away, or slow them down, in one go: a day, as for the delays of a
backoff."""


class ServerTerms:
    """
    The server's word, which comes from outside: what makes no sense says nothing.

    Attributes:
        ceiling: Permits per second of its quota, until it says otherwise; infinite if it did not say.
        pace: Permits per second that use up what is left, until *pace_until*; infinite if it did not say.
        pace_until: Instant at which *pace* ends; infinite if there is none.

    """

    __slots__ = ("ceiling", "pace", "pace_until")

    def __init__(self) -> None:
        self.ceiling = self.pace = self.pace_until = math.inf

    @property
    def is_empty(self) -> bool:
        """Whether the server said nothing that still holds."""
        return self.ceiling == self.pace == math.inf

    def lowest(self, now: Seconds) -> float:
        """Return the permits per second that it allows at *now*."""
        return min(self.ceiling, self.pace) if now < self.pace_until else self.ceiling

    def set_ceiling(self, quota: object, window: object) -> None:
        """Take so much in so many seconds as the highest rate there is."""
        if is_finite(quota) and is_finite(window) and quota > 0 and window > 0:
            self.ceiling = within(quota / window)

    def set_pace(self, remaining: object, reset_after: object, now: Seconds) -> bool:
        """Take note that so much is left for so many seconds; return whether that says something."""
        if not (is_finite(remaining) and is_finite(reset_after) and remaining >= 0 and reset_after >= 0):
            return False
        self.end_pace()
        if remaining >= 1 and reset_after > 0:
            seconds = min(reset_after, LONGEST)
            self.pace, self.pace_until = within(remaining / seconds), now + seconds
        return True

    def end_pace(self) -> None:
        """Forget the pace: its time is over."""
        self.pace = self.pace_until = math.inf


def within(rate: float) -> float:
    """Return *rate*, or the nearest that can be kept; infinite stays infinite."""
    return rate if rate == math.inf else min(max(rate, SLOWEST), FASTEST)
