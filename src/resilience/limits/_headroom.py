"""How far above what is in flight a limit may be."""

import math
from collections import deque
from dataclasses import dataclass

from resilience._core.check import Check


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """
    Keep a limit near what is really in flight.

    A limit that nobody reaches says nothing about what the dependency can take, and a burst up to it may be
    too much. It is therefore at most *factor* times the most calls that were in flight at once in the latest
    *windows* windows. As in failsafe-go the factor may shrink with the number of calls in flight, by *decay*
    for each power of ten, down to *least*.

    Raises:
        ConfigError: A setting is outside its range.

    Example:
        >>> Headroom().most(100)
        500.0

    """

    factor: float = 5.0
    """How many times what is in flight, >= 1. Default 5.0. Source: failsafe-go."""

    decay: float = 0.0
    """What the factor loses for each power of ten in flight, >= 0. Default 0.0. Source: failsafe-go."""

    least: float = 1.2
    """The lowest factor, >= 1 and <= *factor*. Default 1.2. Source: failsafe-go."""

    windows: int = 10
    """Windows that are looked back upon, 1 to 10 000. Default 10: load that comes and goes within them lowers
    nothing."""

    def __post_init__(self) -> None:
        check = Check("Headroom")
        check.number("factor", self.factor, at_least=1)
        check.number("decay", self.decay, at_least=0)
        if check.number("least", self.least, at_least=1) and not check.problems:
            check.that(self.least <= self.factor, "least", self.least, "must be at most factor")
        check.whole("windows", self.windows, at_most=10_000)
        check.done()

    def most(self, inflight: int) -> float:
        """Return the highest limit for so many calls in flight."""
        factor = self.factor - self.decay * math.log10(max(1, inflight))
        return max(self.least, factor) * inflight


class Peaks:
    """The most calls in flight in each of the latest windows."""

    __slots__ = ("_headroom", "_peaks")

    def __init__(self, headroom: Headroom) -> None:
        self._headroom = headroom
        self._peaks: deque[int] = deque(maxlen=headroom.windows)

    def most(self, peak: int) -> float:
        """Note the *peak* of one more window; return the highest limit now."""
        self._peaks.append(max(1, peak))
        return self._headroom.most(max(self._peaks))


def check_headroom(check: Check, headroom: object) -> None:
    """Require a `Headroom` or None."""
    holds = headroom is None or isinstance(headroom, Headroom)
    check.that(holds, "headroom", headroom, "must be a Headroom or None")
