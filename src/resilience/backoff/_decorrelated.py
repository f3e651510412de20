"""Delays that chance spreads, each depending on the one before: they remember what they said."""
# ruff: noqa: N801  # PEP 8: a class that is used as a callable is named like a function

import math
from dataclasses import KW_ONLY, dataclass

from resilience.backoff._schedule import BASE, CAP, Delays, bound, check_growth
from resilience.outcome import CallContext
from resilience.typing import Seconds


@dataclass(frozen=True, slots=True)
class decorrelated_jitter:
    """
    Anywhere between the base and three times the last delay: s' = min(cap, U(base, 3 s)), s0 = base.

    Starts about four times slower than `full_jitter` and never waits less than the base. Capped after the
    jitter, as published: a client whose delays have grown long waits exactly the cap two times out of three.

    Attributes:
        base: The shortest delay, in seconds, 0 < base <= `LONGEST`; default `BASE`.
        cap: The longest delay, in seconds, base <= cap <= `LONGEST`; default `CAP`; None: `LONGEST`.

    Raises:
        ConfigError: A value is outside its range, or the cap is below the base.

    Source:
        "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.

    Example:
        >>> delays = decorrelated_jitter(base=0.1).start()
        >>> round(delays.before(1, draw=0.5), 3), round(delays.before(2, draw=0.5), 3)
        (0.2, 0.35)

    """

    base: Seconds = BASE
    _: KW_ONLY
    cap: Seconds | None = CAP

    def __post_init__(self) -> None:
        check_growth("decorrelated_jitter", self.base, self.cap).done()

    def start(self, context: CallContext | None = None) -> Delays:  # noqa: ARG002  # the same for every call
        """Return the delays of one call."""
        return _Decorrelated(self)


class _Decorrelated:
    """The delays of one call: each depends on the one before."""

    __slots__ = ("_previous", "_settings")

    def __init__(self, settings: decorrelated_jitter) -> None:
        self._settings = settings
        self._previous = settings.base

    def before(self, retry: int, draw: float) -> Seconds:  # noqa: ARG002  # the last delay stands for it
        base = self._settings.base
        self._previous = min(bound(self._settings.cap), base + draw * (3 * self._previous - base))
        return self._previous


@dataclass(frozen=True, slots=True)
class smooth_jitter:
    """
    Exponential without steps: Polly's "decorrelated jitter backoff v2".

    With t = retry - 1 + U(0, 1) and x = 2^t tanh(sqrt(4 t)), the delay is base x (x - last x) / 1.4: on
    average about the base, the base once more, and then doubling; at least 0, and less than four times
    base x 2^(retry - 1). The retries of many clients spread evenly over time instead of bunching at the
    doublings. Capped after the jitter, as in Polly: choose a cap that the last retry does not reach.

    Attributes:
        base: About the mean of the first delay, in seconds, 0 < base <= `LONGEST`; default `BASE`.
        cap: No delay is longer, in seconds, base <= cap <= `LONGEST`; default `CAP`; None: `LONGEST`.

    Raises:
        ConfigError: A value is outside its range, or the cap is below the base.

    Source:
        Polly ``RetryHelper.DecorrelatedJitterBackoffV2``; Polly.Contrib.WaitAndRetry.

    Example:
        >>> round(smooth_jitter(base=1.0).start().before(1, draw=0.5), 3)
        0.897

    """

    base: Seconds = BASE
    _: KW_ONLY
    cap: Seconds | None = CAP

    def __post_init__(self) -> None:
        check_growth("smooth_jitter", self.base, self.cap).done()

    def start(self, context: CallContext | None = None) -> Delays:  # noqa: ARG002  # the same for every call
        """Return the delays of one call."""
        return _Smooth(self)


class _Smooth:
    """The delays of one call: each is the way from the last point of a curve to the next."""

    __slots__ = ("_previous", "_settings")

    def __init__(self, settings: smooth_jitter) -> None:
        self._settings = settings
        self._previous = 0.0

    def before(self, retry: int, draw: float) -> Seconds:
        cap = bound(self._settings.cap)
        # 2^t overflows from t = 1024 on, and then the way between two points has no meaning. Long before,
        # every delay is longer than any cap.
        if retry > 1000:
            return cap
        t = retry - 1 + draw
        x: float = 2.0**t * math.tanh(math.sqrt(4.0 * t))
        way = max(0.0, x - self._previous)
        self._previous = x
        return min(cap, way / 1.4 * self._settings.base)
