"""The rule that gives permits back one by one; `resilience._core.gcra` explains the arithmetic."""

import bisect
import math
from typing import Final

from resilience._core.gcra import tie, unspent, wait
from resilience._core.permit import NEVER, Refusal
from resilience.rate_limiter._rule import RateMachine, RatePermit
from resilience.rate_limiter._settings import RateLimiterSettings
from resilience.typing import Seconds

RETURNS_KEPT: Final = 256
"""How many permits given back out of order are remembered apart. Beyond that some that are given
back later count for less, never for more."""


class Gcra(RateMachine):
    """
    Permits come back one by one, *rate* a second, and up to *burst* wait for whoever comes.

    Within any time w, at most ``burst + rate * w`` permits are used that are not given back. The line
    of generated code in `resilience._core.gcra` does what `admit` does for one permit, as long as the
    clock does not go back; if it does, the line refuses, and `admit` knows better.

    **Giving back.** Think of the permits as a queue that the clock works off, in the order in which
    they were given out. What can be given back is what the clock has not yet worked off. The last
    permit is taken off the end of the queue. For one further ahead the clock goes on by as much, as if
    it had been worked off; `_returns` remembers that, because for those ahead of it the clock has not
    gone on. While a reservation waits for its time, only the last permit can be given back: those who
    come after any other were told already when their turn is.

    Attributes:
        tat: Where the next permit would lie on the permit clock, if none were saved up.
        shift: Permits by which the permit clock is ahead of ``now * rate``.
        open_shift: The same for generated code: far behind while somebody waits, when none may be had without
            a look at the line.
        room: Permits that may be owed when one more is given out, with a tie's width.
        burst: Permits that may be taken at once after a pause.

    """

    __slots__ = ("_former", "_is_barred", "_returns", "burst", "open_shift", "room", "shift", "tat")

    def __init__(self, settings: RateLimiterSettings, now: Seconds) -> None:
        super().__init__(settings, now)
        self.burst = settings.capacity
        self.room = self.burst - 1 + tie(self.rate)
        self._is_barred = False
        self._former = -math.inf  # permits that lie before this were given out in an earlier generation
        self._set_shift(-now * self.rate)  # so that the permit clock starts at 0: small numbers are fine ones
        self.tat = 0.0
        self._returns: list[tuple[float, float]] = []

    @property
    def capacity(self) -> int:
        """Most permits that one request can ever get."""
        return self.burst

    def admit(self, now: Seconds, n: int = 1) -> RatePermit | Refusal:
        """Give out *n* permits to be used at *now*; or none, and say when there will be enough."""
        if n > self.burst:
            return NEVER
        t = self._clock(now)
        room = self.room + (1 - n)
        # One line, because generated code does the same without the lock.
        self.tat = x = t + n if (s := self.tat) <= t else s + n if s - t <= room else s
        if s - t > room:
            return Refusal(wait(s, room, now, self.rate, self.shift))
        return self._permit(x, n)

    def reserve(self, now: Seconds, n: int = 1) -> RatePermit | Refusal:
        """Give out *n* permits for as soon as there are enough, however late that is."""
        if n > self.burst:
            return NEVER
        t = self._clock(now)
        self.tat = x = (t if (s := self.tat) <= t else s) + n
        room = self.room + 1
        seconds = 0.0 if x - t <= room else wait(x, room, now, self.rate, self.shift)
        return self._permit(x, n, seconds)

    def permit(self, x: float) -> RatePermit:
        """Return the permit for what generated code took; *x* is the ``tat`` that it wrote."""
        return RatePermit(x, 1, self.generation if x > self._former else self.generation - 1)

    def wait_for(self, now: Seconds, n: int = 1, ahead: int = 0) -> Seconds | None:
        """Return the seconds until *n* permits could be had after *ahead* others, or None for never."""
        if n > self.burst:
            return None
        t = self._clock(now)
        tat = max(self.tat, t) + ahead
        room = self.room + (1 - n)
        return 0.0 if tat - t <= room else wait(tat, room, now, self.rate, self.shift)

    def remaining(self, now: Seconds) -> int:
        """Return how many permits could be had at *now*."""
        return max(0, math.floor(self.room + 1 - self._owed(self._clock(now))))

    def reset_after(self, now: Seconds) -> Seconds:
        """Return the seconds until nothing is owed."""
        owed = self._owed(self._clock(now))
        return 0.0 if owed <= tie(self.rate) else owed / self.rate + (self._now - now)

    def configure(self, settings: RateLimiterSettings, now: Seconds) -> None:
        """Take new settings; what is owed stays owed. See `set_rate`."""
        self.set_rate(settings.permits_per_second, now, burst=settings.capacity)
        self.settings = settings

    def set_rate(self, rate: float, now: Seconds, *, burst: int | None = None) -> None:
        """
        Go on at another rate, and with another burst if one is given.

        Permits come back at the old rate until *now*. Those that could be had at once stay as many, but
        no more than the new burst: none come from the change itself. Source: ``SetLimit`` and
        ``SetBurst`` of golang.org/x/time/rate; botocore's bucket.

        Args:
            rate: Permits per second, > 0.
            now: Instant of the change.
            burst: Permits that may be taken at once, >= 1. None leaves them as they are.

        """
        t = self._clock(now)
        burst = self.burst if burst is None else burst
        self.tat = s if (s := self.tat) > t else t
        owed = max(0.0, self.tat - t + (burst - self.burst))
        if burst != self.burst:  # the clock may go back, and with it what is unspent
            self._begin_generation()
        shift = self.tat - owed - self._now * rate
        room = burst - 1 + tie(rate)
        self.burst = burst
        self.open_shift = -math.inf  # so that generated code does not read half of the new values
        self.rate, self.room = rate, room
        self._set_shift(shift)

    def _begin_generation(self) -> None:
        self._mark_former()
        self.generation += 1

    def _mark_former(self) -> None:
        # The next permit lies one further at least; those so far do not lie beyond it, but for a tie.
        self._former = self.tat + 0.5

    def bar(self, is_barred: bool) -> None:
        """Let generated code give out no permits, because somebody waits; or again, because nobody does."""
        self._is_barred = is_barred
        self._set_shift(self.shift)

    def _set_shift(self, shift: float) -> None:
        self.shift = shift
        self.open_shift = -math.inf if self._is_barred else shift

    def _take_back(self, at: float, n: int, now: Seconds) -> None:
        t = now * self.rate + self.shift
        back = unspent(at, t, n)
        self.tat = s - back if (s := self.tat) == at else s
        if s == at or s - t > self.room + 1:
            return
        back = unspent(self._end(at), t, n)
        if back > 0:
            self._set_shift(self.shift + back)
            self._remember(at, back, t + back)

    def _end(self, at: float) -> float:
        """Return when, on the clock as it is now, it has worked off a permit that lies at *at*."""
        return at + sum(back for later, back in self._returns if later > at)

    def _remember(self, at: float, back: float, t: float) -> None:
        """Note what was given back for as long as a permit ahead of it may not be worked off."""
        bisect.insort(self._returns, (at, back))
        kept: list[tuple[float, float]] = []
        behind = 0.0
        for entry in reversed(self._returns):
            if entry[0] + behind <= t:
                break
            kept.append(entry)
            behind += entry[1]
        kept.reverse()
        if len(kept) > RETURNS_KEPT:
            kept[:2] = [(kept[0][0], kept[0][1] + kept[1][1])]
        self._returns = kept

    def _drop_reservations(self, now: Seconds) -> None:
        t = now * self.rate + self.shift
        self.tat = min(self.tat, t + self.burst)
        self._mark_former()

    def _owed(self, t: float) -> float:
        return max(0.0, self.tat - t)

    def _clock(self, now: Seconds) -> float:
        return self._advance(now) * self.rate + self.shift
