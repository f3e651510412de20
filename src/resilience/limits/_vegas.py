"""A limit that keeps the queue at the dependency short."""

import math
from collections.abc import Callable

from resilience._core.check import Check, is_finite
from resilience._core.given import Given
from resilience.limits._headroom import Headroom, Peaks, check_headroom
from resilience.limits._range import Range, as_function, check_backoff, check_range, check_sampling
from resilience.typing import Ratio, Sample, Seconds

PROBE_MULTIPLIER = 30
"""The baseline is measured anew after about this many rounds of calls. Source: Netflix."""

GOLDEN = 0.6180339887498949
"""Steps of this length fall evenly between 0 and 1, and never where one was: jitter without chance."""

RISE = 1.25
"""By how much the baseline may rise at once: measured under load, it is too long."""

MIN_CALLS = 10
"""Fewer good calls than this say nothing about how long calls take. Source: Netflix WindowedLimit."""


def log10_root(limit: float) -> int:
    """
    Return the number of digits of *limit* less one, and at least 1: Vegas's step.

    Example:
        >>> [log10_root(limit) for limit in (1, 100, 9999)]
        [1, 2, 3]

    """
    return max(1, int(math.log10(limit))) if limit >= 1 else 1


class Vegas(Given):
    """
    Keep the queue at the dependency short: from how long calls take, as TCP Vegas does.

    The shortest time seen is that of a call that found no queue. What a call takes longer, it stood in one;
    from the limit and the two times follows how many calls stand there. While they are few the limit grows,
    while they are many it shrinks, and so it does in a window with a drop: a call that timed out or was
    throttled. One that failed otherwise teaches nothing.

    The shortest time is measured anew after about thirty rounds of calls, and may rise by a quarter then:
    one that was measured under load would take the queue for normal.

    Two are equal if they were given the same settings, whatever each has learnt: a limiter that is given an
    equal one keeps the one it has.

    Args:
        initial: Limit at the start. Default 20 (Netflix).
        min_limit: Lowest limit, > 0. Default 1 (Netflix).
        max_limit: Highest limit. Default 1000 (Netflix).
        alpha: Calls in the queue up to which the limit grows, a number >= 0 or a function of the limit.
            Default: 3 times `log10_root` (Netflix).
        beta: Calls in the queue above which it shrinks, likewise. Default: 6 times `log10_root` (Netflix).
        backoff: What a decrease leaves of the limit, 0.5 <= b < 1; None for one step of `log10_root`, which
            is slow (Netflix). Default 0.9.
        smoothing: Weight of a new limit against the present one, in (0, 1]. Default 1.0 (Netflix).
        headroom: How far above what is in flight it may be; None for any distance.
        window: Seconds between changes, >= 0; 0 to change with every call. Default 1.0 (Netflix).
        quantile: Look at this quantile of the times in place of their mean, in (0, 1). Default None.

    Raises:
        ConfigError: A setting is outside its range.

    Example:
        >>> from resilience import ConcurrencyLimiter
        >>> search = ConcurrencyLimiter("search", limit=Vegas(initial=10))
        >>> search.limit
        10

    """

    __slots__ = (
        "_alpha", "_backoff", "_baseline", "_beta", "_candidate", "_jitter", "_least_calls", "_peaks",
        "_probes", "_range", "_smoothing", "cause", "limit", "quantile", "window",
    )  # fmt: skip

    def __init__(
        self,
        *,
        initial: int = 20,
        min_limit: float = 1,
        max_limit: int = 1000,
        alpha: float | Callable[[float], float] | None = None,
        beta: float | Callable[[float], float] | None = None,
        backoff: Ratio | None = 0.9,
        smoothing: Ratio = 1.0,
        headroom: Headroom | None = Headroom(),  # noqa: B008  # frozen
        window: Seconds = 1.0,
        quantile: Ratio | None = None,
    ) -> None:
        check = Check("Vegas")
        check_range(check, initial, min_limit, max_limit)
        for name, bound in (("alpha", alpha), ("beta", beta)):
            holds = bound is None or callable(bound) or (is_finite(bound) and bound >= 0)
            check.that(holds, name, bound, "must be a number >= 0, a function of the limit, or None")
        if is_finite(alpha) and is_finite(beta):
            check.that(alpha < beta, "alpha", alpha, "must be less than beta")
        if backoff is not None:
            check_backoff(check, backoff)
        check.ratio("smoothing", smoothing)
        check_headroom(check, headroom)
        check_sampling(check, window, quantile)
        check.done()
        self._given = (
            initial,
            min_limit,
            max_limit,
            alpha,
            beta,
            backoff,
            smoothing,
            headroom,
            window,
            quantile,
        )
        self._range = Range(min_limit, max_limit)
        self._alpha = _bound(alpha, 3)
        self._beta = _bound(beta, 6)
        self._backoff, self._smoothing = backoff, smoothing
        self._peaks = None if headroom is None else Peaks(headroom)
        self._least_calls = MIN_CALLS if window > 0 else 1
        self._baseline: Seconds = math.inf
        self._candidate: Seconds = math.inf  # the shortest time since the last probe
        self._probes = 0
        self._jitter = GOLDEN
        self.limit = float(initial)
        self.window: Seconds | None = window
        self.quantile = quantile
        self.cause = "start"

    def __repr__(self) -> str:
        return f"<Vegas limit={self.limit:g}>"

    def on_sample(self, sample: Sample) -> None:
        """Learn from the calls of one window."""
        latency = sample.latency  # 0 if the clock is too coarse for it, which says as little as None
        wanted = self.limit
        if sample.drops:
            wanted, self.cause = self._less(), "drops"
        elif latency and self._is_comparable(latency, sample.good):
            wanted = self._judged(latency, sample.peak)
        limit = (1 - self._smoothing) * self.limit + self._smoothing * self._range.clamp(wanted)
        limit = self._range.clamp(limit)  # rounding may have left the range
        if self._peaks is not None and limit > (most := self._peaks.most(sample.peak)):
            limit, self.cause = self._range.clamp(most), "headroom"
        self.limit = limit

    def _is_comparable(self, latency: Seconds, calls: int) -> bool:
        """Whether to compare it with the baseline; not if it becomes the baseline itself."""
        if calls < self._least_calls:
            return False
        self._probes += calls
        # Not the fastest call: next to a mean it is so short that the baseline would never rise.
        self._candidate = min(self._candidate, latency)
        if latency < self._baseline:
            self._baseline = latency
            return False
        if self._probes < (0.5 + self._jitter / 2) * PROBE_MULTIPLIER * self.limit:
            return True
        self._probes = 0
        self._jitter = (self._jitter + GOLDEN) % 1.0
        self._baseline = min(self._candidate, RISE * self._baseline)
        self._candidate = math.inf
        return False

    def _judged(self, latency: Seconds, peak: int) -> float:
        limit = self.limit
        if 2 * peak < limit:
            return limit
        queue, step = math.ceil(limit * (1 - self._baseline / latency)), log10_root(limit)
        if queue > self._beta(limit):
            self.cause = "queue"
            return self._less()
        self.cause = "growth"
        if queue <= step:
            return limit + self._beta(limit)
        return limit + step if queue < self._alpha(limit) else limit

    def _less(self) -> float:
        return self.limit - log10_root(self.limit) if self._backoff is None else self.limit * self._backoff


def _bound(given: float | Callable[[float], float] | None, factor: int) -> Callable[[float], float]:
    if given is None:
        return lambda limit: factor * log10_root(limit)
    return as_function(given)
