"""
What the three rules for how many permits there are have in common: what is asked of them, and what they give.

Requests are served in order: a reservation ahead of the time is one that has been served already, and
whoever comes later comes after it.
"""

from abc import ABC, abstractmethod

from resilience._core.permit import NEVER, Refusal
from resilience.outcome import Verdict
from resilience.rate_limiter._settings import RateLimiterSettings
from resilience.typing import Seconds


class RatePermit:
    """
    Leave to spend permits, now or after *wait*. Spent by itself, unless it is released.

    Attributes:
        at: Where the permits lie, in the measure of the machine that gave them.
        n: How many permits; 0 once they were given back.
        generation: Generation of the machine that gave them.
        wait: Seconds from the request until they may be used.

    """

    __slots__ = ("at", "generation", "n", "wait")

    def __init__(self, at: float, n: int, generation: int, wait: Seconds = 0.0) -> None:
        self.at = at
        self.n = n
        self.generation = generation
        self.wait = wait


class RateMachine(ABC):
    """
    Decide which requests may pass. Not thread-safe: the policy holds a lock.

    Every instant that is passed in is one of the monotonic clock, in seconds; one that is earlier
    than the latest seen counts as that one. Waits that are returned count from the instant passed in.

    A request for more than `capacity` can never be served: it is refused without a time.

    Attributes:
        settings: The settings in force.
        generation: Number that changes whenever permits given out before can no longer be given back.
        rate: Permits per second, in the long run.
        acquired: Permits given out, including those that were given back.

    """

    __slots__ = ("_now", "acquired", "generation", "rate", "settings")

    def __init__(self, settings: RateLimiterSettings, now: Seconds) -> None:
        self.settings = settings
        self.rate = settings.permits_per_second
        self.generation: int = 0
        self.acquired = 0
        self._now = now

    @property
    def capacity(self) -> int:
        """Most permits that one request can ever get."""
        return self.settings.capacity

    def admit(self, now: Seconds, n: int = 1) -> RatePermit | Refusal:
        """Give out *n* permits to be used at *now*; or none, and say when there will be enough."""
        seconds = self.wait_for(now, n)
        if seconds is None:
            return NEVER
        if seconds > 0:
            return Refusal(seconds)
        return self.reserve(now, n)

    @abstractmethod
    def reserve(self, now: Seconds, n: int = 1) -> RatePermit | Refusal:
        """Give out *n* permits for as soon as there are enough, however late that is."""

    @abstractmethod
    def wait_for(self, now: Seconds, n: int = 1, ahead: int = 0) -> Seconds | None:
        """
        Return the seconds until *n* permits could be had if *ahead* are given out first.

        Exact if those ahead are asked for one by one; None if there will never be that many at once.
        """

    @abstractmethod
    def remaining(self, now: Seconds) -> int:
        """Return how many permits could be had at *now*."""

    @abstractmethod
    def reset_after(self, now: Seconds) -> Seconds:
        """Return the seconds until nothing is remembered of the permits given out so far."""

    def is_idle(self, now: Seconds) -> bool:
        """Whether the machine is as a new one would be."""
        return self.reset_after(now) <= 0

    def settle(self, permit: RatePermit, verdict: Verdict, now: Seconds) -> None:
        """Take note that a call ended. Its permits are spent however it did, unless it is IGNORED."""
        if verdict is Verdict.IGNORED:
            self.release(permit, now)

    def release(self, permit: RatePermit, now: Seconds) -> None:
        """
        Take permits back: at most what is still unspent, and no more than keeps the bound.

        The second time, and with permits of an earlier generation, nothing happens.
        """
        n, permit.n = permit.n, 0
        if n and permit.generation == self.generation:
            self._take_back(permit.at, n, self._advance(now))

    @abstractmethod
    def _take_back(self, at: float, n: int, now: Seconds) -> None:
        """Take back *n* permits that lie at *at*. *now* is the latest instant seen."""

    @abstractmethod
    def configure(self, settings: RateLimiterSettings, now: Seconds) -> None:
        """Take new settings of the same algorithm; what was given out before still counts."""

    def after_fork(self, now: Seconds) -> None:
        """Become the machine of a child: reservations and permits in use are the parent's."""
        self.generation += 1
        self.acquired = 0
        self._drop_reservations(self._advance(now))

    @abstractmethod
    def _drop_reservations(self, now: Seconds) -> None:
        """Forget what was given out for later than *now*."""

    def _advance(self, now: Seconds) -> Seconds:
        self._now = max(self._now, now)
        return self._now

    def _permit(self, at: float, n: int, wait: Seconds = 0.0) -> RatePermit:
        self.acquired += n
        return RatePermit(at, n, self.generation, wait)
