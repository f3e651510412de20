"""
The two rules that count permits in windows.

    SlidingWindow  each permit is remembered until it is *per* old
    FixedWindow    permits are counted until a window is over
"""

import math
from collections import deque

from resilience._core.gcra import TIE, TIE_PERMITS
from resilience._core.permit import NEVER, Refusal
from resilience.rate_limiter._rule import RateMachine, RatePermit
from resilience.rate_limiter._settings import RateLimiterSettings
from resilience.typing import Seconds


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
        seconds = _exact(self.end + (windows - 1) * self._length, now) if windows else 0.0
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
        return _exact(end + (windows - 1) * self._length, now) if windows else 0.0

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


def _until(due: Seconds, latest: Seconds, now: Seconds) -> Seconds:
    """Return the seconds from *now* until *due*; 0 if that was reached by the *latest* instant seen."""
    return 0.0 if due <= latest else _exact(due, now)


def _exact(due: Seconds, now: Seconds) -> Seconds:
    """Return the seconds from *now* until *due*, so that their sum does not come out earlier in floats."""
    seconds = due - now
    return seconds if now + seconds >= due else seconds + math.ulp(max(abs(now), abs(due), seconds))


def _length(per: Seconds) -> Seconds:
    """Return the length of a window, a tie shorter: three times 0.1 s are then 0.3 s."""
    return per - min(TIE, per * TIE_PERMITS)
