"""
How many calls may run at once: a number, or something that learns it.

A learning limit is told once per window what the calls that ended in it showed, and changes its mind
then; between windows nothing is computed. This one halves when the dependency says that it has too much
to do, and otherwise grows by one if it was in use::

    class Halving:
        window = 1.0

        def __init__(self) -> None:
            self.limit = 20

        def on_sample(self, sample: Sample) -> None:
            if sample.throttled or sample.timed_out:
                self.limit = max(1, self.limit // 2)
            elif 2 * sample.peak >= self.limit:
                self.limit += 1
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from resilience._core.check import Check
from resilience.typing import Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """
    What the calls that ended within one window showed.

    Calls that taught nothing (cancelled, or refused by an inner policy) are not in it.

    Attributes:
        now: Instant at which the window ended.
        good: Calls that ended well.
        bad: Calls that failed.
        timed_out: Calls that were not answered in time.
        throttled: Calls that the dependency refused because it was overloaded.
        peak: Most calls in flight at once.
        mean: Mean seconds that good and timed out calls took, or None if there were none. A fast failure
            says nothing about how long the work takes; a timeout says that it takes at least so long,
            and without it only those that were fast would be looked at.
        shortest: Seconds that the fastest of the good calls took, or None if there were none.

    """

    now: Seconds
    good: int
    bad: int
    timed_out: int
    throttled: int
    peak: int
    mean: Seconds | None
    shortest: Seconds | None

    @property
    def calls(self) -> int:
        """How many calls the sample is about. Below about ten it says little."""
        return self.good + self.bad + self.timed_out + self.throttled


@runtime_checkable
class Limit(Protocol):
    """
    What may be given as ``limit=`` in place of a number. One object serves one limiter.

    The limiter calls `on_sample` as soon as a call ends *window* seconds after the sample before it, and
    reads `limit` afterwards. It never does so for two samples at once. A fraction of a limit is cut off,
    and less than 1 counts as 1: with none in flight nothing would ever be learnt again.
    """

    @property
    def limit(self) -> float:
        """How many calls may run at once."""
        ...

    @property
    def window(self) -> Seconds | None:
        """Seconds that a sample covers, > 0; None if the limit never changes and needs no samples."""
        ...

    def on_sample(self, sample: Sample) -> None:
        """Learn from the calls of one window. Must not wait."""
        ...


class FixedLimit:
    """
    A limit that stays.

    Args:
        limit: Calls that may run at once, >= 1.

    Raises:
        ConfigError: It is no whole number of at least 1.

    """

    __slots__ = ("limit",)

    window: Seconds | None = None

    def __init__(self, limit: int) -> None:
        check = Check("FixedLimit")
        check.whole("limit", limit)
        check.done()
        self.limit = limit

    def __repr__(self) -> str:
        return f"FixedLimit({self.limit})"

    def on_sample(self, sample: Sample) -> None:
        """Learn nothing."""
