"""
GCRA that goes on at another rate whenever it is told to, also without a limit, and that can pause.

*No limit* is a rate so high and a burst so large that the same arithmetic admits every call.

A pause is a debt: so many permits that the clock has worked them off, all but one, when the pause is over.
Then one call may go at once, and the others one by one: whoever waited does not come back in one burst.

A burst that follows the rate falls with it, and may fall below what a call needs at once. Such a call is
served when a whole burst is saved up, and owes the rest: what can be called at a high rate can be called at a
low one, just later. Those who come after it wait until that is worked off, so the bound is then
``max(burst, n) + rate * w``, where n is the most that one call needs.
"""

import math

from resilience._core.gcra import tie
from resilience._core.permit import Refusal
from resilience.rate_limiter._gcra import Gcra
from resilience.rate_limiter._rule import RatePermit
from resilience.rate_limiter._settings import FASTEST, LARGEST_BURST, RateLimiterSettings
from resilience.typing import Seconds


class VariableGcra(Gcra):
    """
    Decide which requests may pass, at the rate told last. Not thread-safe: the policy holds a lock.

    Whoever uses it calls `go_on_at` before anything else: settings with a `Rate` name no rate.
    """

    __slots__ = ("_pause_debt", "_pause_until")

    def __init__(self, settings: RateLimiterSettings, now: Seconds) -> None:
        super().__init__(settings, now)
        self._pause_until = -math.inf
        self._pause_debt = 0.0  # permits that the pause added to those that were owed anyhow

    @property
    def capacity(self) -> int:
        """Most permits that one request can ever get: the burst if it is given, else any number."""
        return LARGEST_BURST if self.settings.burst is None else self.settings.burst

    def admit(self, now: Seconds, n: int = 1) -> RatePermit | Refusal:
        """Give out *n* permits to be used at *now*; or none, and say when there may be enough."""
        saved_up = self._saved_up(n)
        return self._owing(super().admit(now, saved_up), n - saved_up)

    def reserve(self, now: Seconds, n: int = 1) -> RatePermit | Refusal:
        """Give out *n* permits for as soon as there are enough at the present rate."""
        saved_up = self._saved_up(n)
        return self._owing(super().reserve(now, saved_up), n - saved_up)

    def wait_for(self, now: Seconds, n: int = 1, ahead: int = 0) -> Seconds | None:
        """Return the seconds until *n* permits can be had after *ahead* others, at the present rate."""
        return super().wait_for(now, self._saved_up(n), ahead)

    def pause(self, now: Seconds, seconds: Seconds) -> None:
        """Send nothing for *seconds*, and then one call at once. A longer pause stays."""
        now = self._advance(now)
        until = now + seconds
        if until > max(self._pause_until, now):
            t = self._clock(now)
            before = max(self.tat, t)
            tat = max(before, t + (until - now) * self.rate + self.burst - 1)
            debt = tat - before + self._pause_left(now)
            self._pause_until, self._pause_debt, self.tat = until, debt, tat

    def end_pause(self, now: Seconds) -> None:
        """Go on at once, as after a pause, if there is one."""
        left = self._pause_left(self._advance(now))
        self._pause_until, self.tat = -math.inf, self.tat - left

    def go_on_at(self, rate: float) -> None:
        """
        Go on at *rate* permits per second; infinite for no limit.

        A pause lasts as long as it was to last; permits given out before stay spent.
        """
        now, burst = self._now, self.settings.burst
        pause = max(0.0, self._pause_until - now)
        owed = max(0.0, self.tat - self._pause_left(now) - self._clock(now))
        is_off = rate == math.inf
        if is_off:
            rate, burst = FASTEST, LARGEST_BURST
        elif burst is None:
            burst = max(1, int(rate))
        # What could be had at once stays as much, up to the burst; without a limit nothing is owed.
        owed = 0.0 if is_off or self.burst == LARGEST_BURST else max(0.0, owed + burst - self.burst)
        debt = max(0.0, pause * rate + burst - 1 - owed) if pause else 0.0
        # The permit clock starts at 0 again: what it counted at a high rate leaves no digits for a low one.
        room, shift = burst - 1 + tie(rate), -now * rate
        self.generation += 1
        self._returns.clear()
        # Last and without a call, so that an interrupt leaves all or nothing of it.
        self.burst, self.rate, self.room, self.shift = burst, rate, room, shift
        self._pause_debt, self.tat = debt, owed + debt

    def after_fork(self, now: Seconds) -> None:
        """Become the machine of a child. A pause goes on."""
        super().after_fork(now)
        left, self._pause_until = self._pause_until - self._now, -math.inf
        if left > 0:
            self.pause(now, left)

    def _pause_left(self, now: Seconds) -> float:
        """Return how many permits less would be owed if the pause ended at *now*."""
        return min(self._pause_debt, max(0.0, self._pause_until - now) * self.rate)

    def _saved_up(self, n: int) -> int:
        """Return how many permits must be saved up before *n* are given out."""
        return n if n > self.capacity else min(n, self.burst)

    def _owing(self, answer: RatePermit | Refusal, more: int) -> RatePermit | Refusal:
        """Add to a permit those that were not saved up."""
        if more and isinstance(answer, RatePermit):
            self.tat = answer.at = answer.at + more
            answer.n += more
            self.acquired += more
        return answer
