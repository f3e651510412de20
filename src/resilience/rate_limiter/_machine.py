"""
Three rules for how many permits there are, told the time.

    Gcra           permits come back one by one; `resilience._core.gcra` explains the arithmetic
    SlidingWindow  each permit is remembered until it is *per* old
    FixedWindow    permits are counted until a window is over

All answer to the same `RateMachine`. Requests are served in order: a reservation ahead of the time is
one that has been served already, and whoever comes later comes after it.
"""

import bisect
import math
from abc import ABC, abstractmethod
from collections import deque
from typing import Final

from resilience._core.gcra import TIE, TIE_PERMITS, tie, unspent, wait
from resilience._core.permit import NEVER, Refusal
from resilience.outcome import Verdict
from resilience.rate_limiter._settings import RateLimiterSettings
from resilience.typing import Seconds

RETURNS_KEPT: Final = 256
"""How many permits given back out of order are remembered apart. Beyond that some that are given
back later count for less, never for more."""


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
        room: Permits that may be owed when one more is given out, with a tie's width.
        burst: Permits that may be taken at once after a pause.

    """

    __slots__ = ("_returns", "burst", "room", "shift", "tat")

    def __init__(self, settings: RateLimiterSettings, now: Seconds) -> None:
        super().__init__(settings, now)
        self.burst = settings.capacity
        self.room = self.burst - 1 + tie(self.rate)
        self.shift = -now * self.rate  # so that the permit clock starts at 0: small numbers are fine ones
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
        return RatePermit(x, 1, self.generation)

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
            self.generation += 1
        shift = self.tat - owed - self._now * rate
        room = burst - 1 + tie(rate)
        self.burst = burst
        self.rate, self.shift, self.room = rate, shift, room

    def _take_back(self, at: float, n: int, now: Seconds) -> None:
        t = now * self.rate + self.shift
        back = unspent(at, t, n)
        self.tat = s - back if (s := self.tat) == at else s
        if s == at or s - t > self.room + 1:
            return
        back = unspent(self._end(at), t, n)
        if back > 0:
            self.shift += back
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

    def _owed(self, t: float) -> float:
        return max(0.0, self.tat - t)

    def _clock(self, now: Seconds) -> float:
        return self._advance(now) * self.rate + self.shift


class SlidingWindow(RateMachine):
    """
    At most *limit* permits within any *per*, exactly.

    The window is half-open: a permit used at t has its place taken until just before ``t + per``. What
    is given back leaves no trace.

    Attributes:
        limit: Permits within any *per*.

    """

    __slots__ = ("_length", "_times", "limit")

    def __init__(self, settings: RateLimiterSettings, now: Seconds) -> None:
        super().__init__(settings, now)
        self._times: deque[Seconds] = deque()  # when each permit is used, the last maybe ahead of now
        self._set(settings)

    def reserve(self, now: Seconds, n: int = 1) -> RatePermit | Refusal:
        """Give out *n* permits for as soon as there are enough, however late that is."""
        if n > self.limit:
            return NEVER
        due = self._due(n, self._forget(now))
        self._times.extend([due] * n)
        return self._permit(due, n, _until(due, self._now, now))

    def wait_for(self, now: Seconds, n: int = 1, ahead: int = 0) -> Seconds | None:
        """Return the seconds until *n* permits could be had after *ahead* others, or None for never."""
        if n > self.limit:
            return None
        due = self._due(ahead + n, self._forget(now))
        return _until(due, self._now, now)

    def remaining(self, now: Seconds) -> int:
        """Return how many permits could be had at *now*."""
        latest = self._forget(now)
        if self._times and self._times[-1] > latest:
            return 0
        return max(0, self.limit - len(self._times))

    def reset_after(self, now: Seconds) -> Seconds:
        """Return the seconds until every permit is forgotten."""
        self._forget(now)
        return self._times[-1] + self._length - now if self._times else 0.0

    def configure(self, settings: RateLimiterSettings, now: Seconds) -> None:
        """Take new settings. Permits that are already forgotten stay so, should *per* become longer."""
        self._forget(now)
        self._set(settings)

    def _set(self, settings: RateLimiterSettings) -> None:
        self.settings = settings
        self.rate = settings.permits_per_second
        self.limit = settings.capacity
        self._length = _length(settings.per)

    def _due(self, k: int, now: Seconds) -> Seconds:
        """Return when the *k*-th permit from here on can be used: *limit* after one that is long past."""
        held = len(self._times)
        soonest = max(now, self._times[-1]) if held else now
        last = held + k - 1
        full = max(held, self.limit)
        if last < full:
            return soonest
        windows = (last - full) // self.limit + 1
        before = last - windows * self.limit
        since = self._times[before] if before < held else soonest
        return max(soonest, since + windows * self._length)

    def _forget(self, now: Seconds) -> Seconds:
        """Forget the permits that are *per* old; return the latest instant seen."""
        latest = self._advance(now)
        while self._times and self._times[0] + self._length <= latest:
            self._times.popleft()
        return latest

    def _take_back(self, at: float, n: int, now: Seconds) -> None:  # noqa: ARG002  # the log tells what is left
        for _ in range(n):
            if self._times and self._times[-1] == at:  # the usual case, and the cheap end
                self._times.pop()
            elif self._times and self._times[0] <= at:
                self._times.remove(at)

    def _drop_reservations(self, now: Seconds) -> None:
        while self._times and self._times[-1] > now:
            self._times.pop()


class FixedWindow(RateMachine):
    """
    At most *limit* permits per window. A window opens with the first permit after the last one ended.

    Up to twice *limit* may be used within *per*: at the end of one window and the beginning of the next.
    Permits of one request lie in one window. Source: gubernator's token bucket, Redis counters with an
    expiry.

    Generated code may take one permit with a line that decides as `admit` does::

        if now < w.end and (c := w.count) < w.limit: w.count = c + 1
        else: ...                                   # ask admit()

    Attributes:
        limit: Permits per window.
        end: Instant at which the window that is open ends; in the infinite past if none is.
        count: Permits given out in it, and for windows to come.
        window: Number of that window.

    """

    __slots__ = ("_length", "count", "end", "limit", "window")

    def __init__(self, settings: RateLimiterSettings, now: Seconds) -> None:
        super().__init__(settings, now)
        self.window = 0
        self.count = 0
        self.end: Seconds = -math.inf
        self._set(settings)

    def reserve(self, now: Seconds, n: int = 1) -> RatePermit | Refusal:
        """Give out *n* permits for as soon as there are enough, however late that is."""
        if n > self.limit:
            return NEVER
        latest = self._roll(now)
        windows, used = self._place(n, 0)
        seconds = self.end + (windows - 1) * self._length - now if windows else 0.0
        self.count = windows * self.limit + used + n
        if self.end == -math.inf:
            self.end = latest + self._length
        return self._permit(self.window * self.limit + self.count, n, seconds)

    def permit(self) -> RatePermit:
        """Return the permit for what generated code took just now."""
        return RatePermit(self.window * self.limit + self.count, 1, self.generation)

    def wait_for(self, now: Seconds, n: int = 1, ahead: int = 0) -> Seconds | None:
        """Return the seconds until *n* permits could be had after *ahead* others, or None for never."""
        if n > self.limit:
            return None
        latest = self._roll(now)
        windows, _ = self._place(n, ahead)
        end = latest + self._length if self.end == -math.inf else self.end
        return end + (windows - 1) * self._length - now if windows else 0.0

    def remaining(self, now: Seconds) -> int:
        """Return how many permits could be had at *now*."""
        self._roll(now)
        return max(0, self.limit - self.count)

    def reset_after(self, now: Seconds) -> Seconds:
        """Return the seconds until the last window with a permit in it is over."""
        self._roll(now)
        if self.count == 0:
            return 0.0
        return self.end + (self.count - 1) // self.limit * self._length - now

    def configure(self, settings: RateLimiterSettings, now: Seconds) -> None:
        """Take new settings. The window that is open ends when it was to end, with the new limit."""
        self._roll(now)
        limit = settings.capacity
        if limit != self.limit:  # permits lie elsewhere when windows hold more or fewer
            self.generation += 1
            ahead = max(0, self.count - self.limit)
            self.count = limit + ahead if ahead else min(self.count, limit)
        self._set(settings)

    def _set(self, settings: RateLimiterSettings) -> None:
        self.settings = settings
        self.rate = settings.permits_per_second
        self.limit = settings.capacity
        self._length = _length(settings.per)

    def _place(self, n: int, ahead: int) -> tuple[int, int]:
        """Return how many windows ahead *n* more permits fit, and how many are given out in that one."""
        windows, used = divmod(self.count + ahead, self.limit)
        return (windows, used) if used + n <= self.limit else (windows + 1, 0)

    def _roll(self, now: Seconds) -> Seconds:
        """Close the window if it is over; return the latest instant seen."""
        latest = self._advance(now)
        while latest >= self.end and self.count > self.limit:  # windows that are reserved follow at once
            self.count, self.window, self.end = (
                self.count - self.limit,
                self.window + 1,
                self.end + self._length,
            )
        if latest >= self.end > -math.inf:
            self.end = -math.inf  # first, for generated code that looks without the lock
            self.window += 1
            self.count = 0
        return latest

    def _take_back(self, at: float, n: int, now: Seconds) -> None:
        self._roll(now)
        is_last = at == self.window * self.limit + self.count
        is_open = at > self.window * self.limit
        if is_open and (is_last or self.count <= self.limit):
            self.count -= n

    def _drop_reservations(self, now: Seconds) -> None:  # noqa: ARG002  # windows to come are all later
        self.count = min(self.count, self.limit)


def make_machine(settings: RateLimiterSettings, now: Seconds) -> RateMachine:
    """Return the machine for the algorithm that *settings* name. Keys are not looked at."""
    return MACHINES[settings.algorithm](settings, now)


def _until(due: Seconds, latest: Seconds, now: Seconds) -> Seconds:
    """Return the seconds from *now* until *due*; 0 if that was reached by the *latest* instant seen."""
    return 0.0 if due <= latest else due - now


def _length(per: Seconds) -> Seconds:
    """Return the length of a window, a tie shorter: three times 0.1 s are then 0.3 s."""
    return per - min(TIE, per * TIE_PERMITS)


MACHINES: Final[dict[str, type[RateMachine]]] = {
    "gcra": Gcra,
    "sliding_window": SlidingWindow,
    "fixed_window": FixedWindow,
}
