"""
How many calls may start per second: a number, or something that learns it.

A learning rate is told once per window how calls fared, and changes its mind then; between windows
nothing is computed. This one halves when the server says that it has too much to do, and otherwise
grows by one call per second if it was in use::

    class Halving:
        window = 1.0

        def __init__(self) -> None:
            self.rate = 20.0

        def on_sample(self, sample: RateSample) -> None:
            if sample.throttled:
                self.rate = max(0.5, self.rate / 2)
            elif sample.good and 2 * sample.sent >= self.rate:
                self.rate += 1
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from resilience._core.check import Check
from resilience.typing import Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSample:
    """
    What the calls that ended within one window showed.

    Calls that failed otherwise, were not answered in time, were cancelled or ignored are not in it: none
    of that says that the server was asked too often.

    Attributes:
        now: Instant at which the sample was taken.
        sent: Permits per second that were really given out, smoothed over the last windows.
        good: Calls that ended well.
        throttled: Calls that the server refused because it was asked too often, and that had started
            after the last sample with any: what was under way at a cut says nothing about the new rate.

    """

    now: Seconds
    sent: float
    good: int
    throttled: int


@runtime_checkable
class Rate(Protocol):
    """
    What may be given as ``rate=`` in place of a number. One object serves one limiter.

    The limiter takes a sample when something happens to a call *window* seconds or more after the sample
    before; and at once when a call was throttled, unless the sample before had throttled calls, too. So
    two samples with throttled calls are at least one window apart, and a rate that cuts at each of them
    cuts at most once per window. `on_sample` runs in the thread or task of that call and outside all
    locks, never for two samples of one limiter at once. Afterwards the limiter reads `rate` and `window`,
    and then not again until after the next sample.

    A rate that is no number above 0 changes nothing, nor does a window that is no finite number above 0.
    If `on_sample` or reading them raises, the call goes on, all stays as it was, and the event
    ``resilience.rate_limiter.limit_failed`` says so.
    """

    @property
    def rate(self) -> float:
        """How many permits per second there are now, > 0; infinite for no limit."""
        ...

    @property
    def window(self) -> Seconds:
        """Seconds that a sample covers, > 0."""
        ...

    def on_sample(self, sample: RateSample) -> None:
        """Learn from the calls of one window. Must not wait."""
        ...


class Fixed:
    """
    A rate that learns nothing, for a limiter that shall only follow what the server says.

    No verdict changes it. The limiter still pauses for the ``retry_after`` of throttled calls, and
    takes `RateLimiter.follow` and `RateLimiter.pin`, which one with a plain number does not.

    Args:
        rate: Permits per second, > 0.

    Raises:
        ConfigError: It is no finite number above 0.

    Example:
        >>> from resilience import RateLimiter, rates
        >>> api = RateLimiter("api", rate=rates.Fixed(100))
        >>> api.follow(quota=600, window=60)
        >>> api.rate
        10.0

    """

    __slots__ = ("rate",)

    window: Seconds = 1.0

    def __init__(self, rate: float) -> None:
        check = Check("Fixed")
        check.number("rate", rate, above=0)
        check.done()
        self.rate = float(rate)

    def __repr__(self) -> str:
        return f"Fixed({self.rate:g})"

    def on_sample(self, sample: RateSample) -> None:
        """Learn nothing."""
