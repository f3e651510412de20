"""A limit that follows the ratio of the usual time to the present one."""

import math
from collections.abc import Callable

from resilience._core.check import Check, is_finite
from resilience._core.given import Given
from resilience.limits._average import Average
from resilience.limits._headroom import Headroom, Peaks, check_headroom
from resilience.limits._range import Range, as_function, check_backoff, check_range, check_sampling
from resilience.typing import Ratio, Sample, Seconds

WARMUP = 10
"""Samples that make the first mean. Source: Netflix."""

STEEPEST = 0.5
"""The limit is at most halved at once, before smoothing. Source: Netflix."""

FORGIVEN = 2.0
"""Once calls take less than the usual time by this factor, that is lowered faster. Source: Netflix."""

FORGETTING = 0.95
"""What is left of the usual time then. Source: Netflix."""

MIN_CALLS = 10
"""Fewer calls that were timed say nothing about how long calls take. Source: Netflix WindowedLimit."""


def square_root(limit: float) -> float:
    """
    Return the square root of *limit*, whole, and at least 4: room for a queue that grows with the limit.

    Example:
        >>> [square_root(limit) for limit in (1, 100, 2500)]
        [4, 10, 50]

    """
    return max(4, math.isqrt(max(0, int(limit))))


class Gradient2(Given):
    """
    Follow the ratio of the usual time of a call to the present one.

    The usual time is a mean over about *long_window* samples. While calls take no longer than *tolerance*
    times that, the limit grows by *queue*; when they do, it shrinks with the ratio. In a window with a drop,
    a call that timed out or was throttled, it is cut, and the usual time is left alone: a mean that follows
    an overload ends up taking it for normal. A call that failed otherwise teaches nothing. A queue that
    lasts for many minutes without a drop becomes the usual all the same, and the limit climbs: bound it with
    *max_limit*.

    On clients with many kinds of call prefer `Aimd`: a change of the mixture looks like congestion here.

    Two are equal if they were given the same settings, whatever each has learnt: a limiter that is given an
    equal one keeps the one it has.

    Args:
        initial: Limit at the start. Default 20 (Netflix).
        min_limit: Lowest limit, > 0. Default 1; with Netflix's 20 it never sheds below its start.
        max_limit: Highest limit. Default 200 (Netflix).
        tolerance: How many times the usual time is no congestion yet, >= 1. Default 1.5 (Netflix).
        queue: Calls that may stand in a queue at the dependency, a number >= 0 or a function of the limit
            such as `square_root`. Default 4 (Netflix). Every client adds so many.
        smoothing: Weight of a new limit against the present one, in (0, 1]. Default 0.2 (Netflix).
        backoff: What a window with a drop leaves of the limit, 0.5 <= b < 1; None to ignore drops (Netflix).
            Default 0.8.
        long_window: Samples that the usual time is a mean of, 1 to 1 000 000 000. Default 600 (Netflix).
        headroom: How far above what is in flight it may be; None for any distance.
        window: Seconds between changes, >= 0; 0 to change with every call. Default 1.0 (Netflix).
        quantile: Look at this quantile of the times in place of their mean, in (0, 1). Default None.

    Raises:
        ConfigError: A setting is outside its range.

    Example:
        >>> from resilience import ConcurrencyLimiter
        >>> search = ConcurrencyLimiter("search", limit=Gradient2(initial=10))
        >>> search.limit
        10

    """

    __slots__ = (
        "_backoff", "_least_calls", "_long", "_peaks", "_queue", "_range", "_smoothing", "_tolerance",
        "cause", "limit", "quantile", "window",
    )  # fmt: skip

    def __init__(
        self,
        *,
        initial: int = 20,
        min_limit: float = 1,
        max_limit: int = 200,
        tolerance: float = 1.5,
        queue: float | Callable[[float], float] = 4,
        smoothing: Ratio = 0.2,
        backoff: Ratio | None = 0.8,
        long_window: int = 600,
        headroom: Headroom | None = Headroom(),  # noqa: B008  # frozen
        window: Seconds = 1.0,
        quantile: Ratio | None = None,
    ) -> None:
        check = Check("Gradient2")
        check_range(check, initial, min_limit, max_limit)
        check.number("tolerance", tolerance, at_least=1)
        holds = callable(queue) or (is_finite(queue) and queue >= 0)
        check.that(holds, "queue", queue, "must be a number >= 0 or a function of the limit")
        check.ratio("smoothing", smoothing)
        if backoff is not None:
            check_backoff(check, backoff)
        check.whole("long_window", long_window, at_most=1_000_000_000)
        check_headroom(check, headroom)
        check_sampling(check, window, quantile)
        check.done()
        self._given = (
            initial,
            min_limit,
            max_limit,
            tolerance,
            queue,
            smoothing,
            backoff,
            long_window,
            headroom,
            window,
            quantile,
        )
        self._range = Range(min_limit, max_limit)
        self._tolerance, self._smoothing, self._backoff = tolerance, smoothing, backoff
        self._queue = as_function(queue)
        self._long = Average(long_window, WARMUP)
        self._peaks = None if headroom is None else Peaks(headroom)
        self._least_calls = MIN_CALLS if window > 0 else 1
        self.limit = float(initial)
        self.window: Seconds | None = window
        self.quantile = quantile
        self.cause = "start"

    def __repr__(self) -> str:
        return f"<Gradient2 limit={self.limit:g}>"

    def on_sample(self, sample: Sample) -> None:
        """Learn from the calls of one window."""
        limit, latency = self.limit, sample.latency
        if sample.drops and self._backoff is not None:
            limit, self.cause = self._range.clamp(limit * self._backoff), "drops"
        elif latency is not None and sample.good + sample.timed_out >= self._least_calls:
            limit = self._followed(latency, sample.peak)
        if self._peaks is not None and limit > (most := self._peaks.most(sample.peak)):
            limit, self.cause = self._range.clamp(most), "headroom"
        self.limit = limit

    def _followed(self, latency: Seconds, peak: int) -> float:
        limit, usual = self.limit, self._long.add(latency)
        if latency > 0 and usual / latency > FORGIVEN:
            self._long.scale(FORGETTING)
        if peak < limit / 2:
            return limit
        ratio = self._tolerance * usual / latency if latency > 0 else 1.0
        wanted = limit * max(STEEPEST, min(1.0, ratio)) + self._queue(limit)
        self.cause = "growth" if ratio >= 1 else "gradient"
        return self._range.clamp((1 - self._smoothing) * limit + self._smoothing * wanted)
