"""Additive increase, multiplicative decrease."""

import math

from resilience._core.check import is_finite
from resilience._core.given import Given
from resilience.rates._range import check_range
from resilience.rates._rate import RateSample
from resilience.typing import Seconds


class Aimd(Given):
    """
    Learn the rate as TCP learns its window: a little more each second, a share less when throttled.

    - ``THROTTLED`` multiplies the rate by *decrease*, at most once per *window*.
    - ``GOOD`` lets it grow by *increase* for each second, while at least half of the rate is really sent:
      what nobody uses has not been shown to work. A pause counts as one window.
    - ``BAD`` and ``TIMED_OUT`` teach nothing: a failing server is a matter for a circuit breaker, and
      one that is slow for a concurrency limiter.
    - ``IGNORED`` and cancelled calls teach nothing: the server said nothing.

    Two are equal if they were given the same settings, whatever each has learnt: a limiter that is given an
    equal one keeps the one it has.

    Args:
        start: Permits per second to begin with, *floor* to *ceiling*. Default 100, as that of
            `RateLimiter`. Source: own; there is no rate that fits every server, so set it.
        increase: Permits per second that it grows by in each second, > 0. Default 1.0. Source: own; one
            step per unit of time, as TCP's one segment per round trip.
        decrease: What a cut leaves of the rate, in (0, 1). Default 0.5. Source: RFC 5681.
        floor: Fewest permits per second, > 0. Default 0.5. Source: botocore.
        ceiling: Most permits per second, >= *floor*. Default None: none.
        window: Seconds between two looks at how calls fared, > 0. Default 1.0. Source: own. Make it at
            least as long as a call takes.

    Raises:
        ConfigError: A setting is wrong; every problem is listed.

    Example:
        >>> from resilience import RateLimiter, Verdict, rates
        >>> api = RateLimiter("api", rate=rates.Aimd(start=40))
        >>> api.try_acquire().settle(Verdict.THROTTLED)
        >>> api.rate
        20.0

    """

    __slots__ = ("_ceiling", "_cut_at", "_decrease", "_floor", "_increase", "_now", "rate", "window")

    def __init__(
        self,
        *,
        start: float = 100,
        increase: float = 1.0,
        decrease: float = 0.5,
        floor: float = 0.5,
        ceiling: float | None = None,
        window: Seconds = 1.0,
    ) -> None:
        check = check_range("Aimd", decrease=decrease, floor=floor, ceiling=ceiling, window=window)
        range_holds = not {"floor", "ceiling"} & {problem.setting for problem in check.problems}
        most = math.inf if ceiling is None else ceiling
        holds = is_finite(start) and (floor <= start <= most if range_holds else start > 0)
        check.that(holds, "start", start, "must be a finite number from floor to ceiling")
        check.number("increase", increase, above=0)
        check.done()
        self._given = (start, increase, decrease, floor, ceiling, window)
        self._increase = increase
        self._decrease = decrease
        self._floor = floor
        self._ceiling = most
        self._cut_at = self._now = -math.inf
        self.window = window
        self.rate = float(start)

    def __repr__(self) -> str:
        return f"Aimd(rate={self.rate:g})"

    def on_sample(self, sample: RateSample) -> None:
        """Cut if calls were throttled, else grow if calls were good and the rate was used."""
        now = max(self._now, sample.now)
        passed, self._now = min(now - self._now, self.window), now
        if sample.throttled:
            if now - self._cut_at >= self.window:
                self._cut_at = now
                self.rate = max(self._floor, self.rate * self._decrease)
        elif sample.good and 2 * sample.sent >= self.rate:
            self.rate = min(self._ceiling, self.rate + self._increase * passed)
