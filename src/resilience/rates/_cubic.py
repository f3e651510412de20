"""The rate limiter of AWS SDKs in adaptive mode."""

import math

from resilience._core.given import Given
from resilience.rates._range import check_range
from resilience.rates._rate import RateSample
from resilience.typing import Seconds


class Cubic(Given):
    """
    Learn the rate as AWS SDKs do in adaptive mode: no limit until the server throttles, then CUBIC.

    **Off** until the first throttled call: `rate` is infinite. A throttled call *cuts*: the rate becomes
    *decrease* times w, the lower of the rate really sent and the rate in force. Good calls let it
    *recover* along ``r(t) = scale * (t - k)^3 + w`` in the time t since the cut: steep at first, flat
    around w, where the server had enough, which it reaches after k seconds, then steep again to look for
    more. It is never below *floor*, and after a cut never more than *headroom* times the rate really sent:
    who sends little is not granted much. It does not turn off again.

    - ``THROTTLED`` cuts, at most once per *window*.
    - ``GOOD`` recovers.
    - ``BAD`` and ``TIMED_OUT`` teach nothing: a failing server is a matter for a circuit breaker, and
      one that is slow for a concurrency limiter.
    - ``IGNORED`` and cancelled calls teach nothing: the server said nothing.

    It differs from AWS in that throttled calls within one window are one cut, not one cut each.

    Two are equal if they were given the same settings, whatever each has learnt: a limiter that is given an
    equal one keeps the one it has.

    Args:
        decrease: What a cut leaves of the rate, in (0, 1). Default 0.7. Source: botocore, RFC 9438.
        scale: How steep it recovers, > 0. Default 0.4. Source: botocore, RFC 9438 (C).
        floor: Fewest permits per second, > 0. Default 0.5. Source: botocore.
        ceiling: Most permits per second once on, >= *floor*. Default None: none.
        headroom: Most it grants, in multiples of the rate really sent, > 1. Default 2.0. Source:
            botocore.
        window: Seconds between two looks at how calls fared, > 0. Default 0.5. Source: botocore.

    Raises:
        ConfigError: A setting is wrong; every problem is listed.

    Example:
        >>> from resilience import RateLimiter, Verdict, rates
        >>> api = RateLimiter("api", rate=rates.Cubic())
        >>> api.rate
        inf
        >>> api.try_acquire().settle(Verdict.THROTTLED)
        >>> api.rate < 2
        True

    """

    __slots__ = (
        "_began",
        "_ceiling",
        "_decrease",
        "_floor",
        "_headroom",
        "_k",
        "_now",
        "_scale",
        "_w",
        "rate",
        "window",
    )

    def __init__(
        self,
        *,
        decrease: float = 0.7,
        scale: float = 0.4,
        floor: float = 0.5,
        ceiling: float | None = None,
        headroom: float = 2.0,
        window: Seconds = 0.5,
    ) -> None:
        check = check_range("Cubic", decrease=decrease, floor=floor, ceiling=ceiling, window=window)
        check.number("scale", scale, above=0)
        check.number("headroom", headroom, above=1)
        check.done()
        self._given = (decrease, scale, floor, ceiling, headroom, window)
        self._decrease = decrease
        self._scale = scale
        self._floor = floor
        self._ceiling = math.inf if ceiling is None else ceiling
        self._headroom = headroom
        self._w = self._k = 0.0
        self._began = self._now = -math.inf  # the last cut, and the latest instant seen
        self.window = window
        self.rate = math.inf

    def __repr__(self) -> str:
        return f"Cubic(rate={self.rate:g})"

    def on_sample(self, sample: RateSample) -> None:
        """Cut if calls were throttled, else recover if calls were good."""
        now = self._now = max(self._now, sample.now)
        if sample.throttled:
            if now - self._began < self.window:
                return
            self.cut(min(self.rate, sample.sent), now)
        elif not sample.good or self._began == -math.inf:
            return
        most = min(self._headroom * sample.sent, self._ceiling)
        self.rate = max(self._floor, min(self.curve(now), most))

    def cut(self, w: float, now: Seconds) -> None:
        """Begin a new curve at *now*, below *w* permits per second."""
        self._w = w
        self._k = math.cbrt(w * (1 - self._decrease) / self._scale)
        self._began = now

    def curve(self, now: Seconds) -> float:
        """Return r(t) at *now*, before any bound; an instant before the cut has its place on it, too."""
        x = now - self._began - self._k
        return self._scale * x * x * x + self._w
