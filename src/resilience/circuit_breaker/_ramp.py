"""The time after a circuit closed, while the share of admitted calls rises from none to all."""

import math

from resilience.typing import Seconds


class Ramp:
    """
    When admission began to rise. How long it rises is a setting, which may change meanwhile.

    The share grows in proportion to the time since the start: half of the length, half of the calls.
    """

    __slots__ = ("_start",)

    def __init__(self) -> None:
        self._start: Seconds = -math.inf

    def begin(self, now: Seconds) -> None:
        """Admit none at *now*, and more from here on."""
        self._start = now

    def end(self) -> None:
        """Admit all."""
        self._start = -math.inf

    def is_on(self, now: Seconds, length: Seconds) -> bool:
        """Whether some calls are still refused at *now*."""
        return now < self._start + length

    def admits(self, now: Seconds, length: Seconds, draw: float) -> bool:
        """Whether the call that drew *draw*, in [0, 1), is among those admitted at *now*, while it is on."""
        return draw < (now - self._start) / length

    def left(self, now: Seconds, length: Seconds) -> Seconds:
        """Return the seconds until all are admitted."""
        return self._start + length - now if self.is_on(now, length) else 0.0

    def resume(self, now: Seconds, length: Seconds, left: Seconds) -> None:
        """Go on where a ramp of *length* has *left* seconds to go, or its whole length if that is less."""
        self._start = now - length + min(left, length)
