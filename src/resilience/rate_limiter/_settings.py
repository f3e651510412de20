"""What a caller may set on a rate limiter."""

import inspect
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from resilience._core.check import Check, is_finite
from resilience.errors import shown
from resilience.rates._rate import Rate
from resilience.typing import Seconds

Algorithm: TypeAlias = Literal["gcra", "sliding_window", "fixed_window"]
"""
Which rule counts the permits.

- ``"gcra"``: permits come back one by one. At most ``burst + rate / per * w`` within any time w.
  One number of state.
- ``"sliding_window"``: at most *rate* within any *per*, exactly: each permit is remembered for *per*.
  The one to choose for a server that counts strictly. About 40 bytes a permit.
- ``"fixed_window"``: at most *rate* per window; a window of *per* opens with the first permit after
  the last one ended. At most twice the rate within any *per*. For a server that counts so.

There is no sliding *counter*, which estimates the sliding window from two fixed ones: it may admit
up to twice the rate, too, and refuse what the exact rule admits.
"""

SLOWEST: Final = 1e-9
"""Fewest permits per second: one in 32 years."""

FASTEST: Final = 1e9
"""Most permits per second: the clock counts no more than nanoseconds."""

LARGEST_BURST: Final = 10**12
"""Most permits at once: they are counted exactly together with those of years of use."""

MOST_REMEMBERED: Final = 1_000_000
"""Most permits that a sliding window remembers: 40 megabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimiterSettings:
    """
    How many permits there are, and what happens when there is none.

    Raises:
        ConfigError: At least one setting cannot work; every problem is listed.

    """

    rate: float | Rate = 100
    """Permits per *per*: > 0, a whole number for the windows. Per second it must come to between
    1e-9 and 1e9, and a sliding window takes at most a million. Or a `Rate` that learns it, for
    ``"gcra"`` without *key*. Default 100. Source: own; there is no rate that fits every server, so
    set it."""

    per: Seconds = 1.0
    """Seconds that *rate* is about: > 0, and 1.0 with a `Rate`. Default 1.0. Source: Guava, botocore,
    golang.org/x/time."""

    burst: int | None = None
    """Permits that may be taken at once after a pause: 1 to 10**12. Only for ``"gcra"``. Default None: the
    permits of one *per* at the present rate, and at least one. Source: aiolimiter and Resilience4j; with
    *per* of one second also Guava (``maxBurstSeconds`` 1) and botocore (``max(1, rate)``). 1 spaces
    permits evenly."""

    max_wait: Seconds = 0.0
    """Seconds a call may wait for its permits: >= 0. A call that would have to wait longer is refused
    at once. Default 0.0: nobody waits. Source: Polly, Failsafe, failsafe-go."""

    algorithm: Algorithm = "gcra"
    """Which rule counts: ``"gcra"``, ``"sliding_window"`` or ``"fixed_window"``, see `Algorithm`.
    Default ``"gcra"``. Source: throttled; it is the one that holds its bound in every stretch of
    time and smooths the load."""

    key: Callable[..., Hashable] | None = None
    """Callable that takes the call's arguments and returns whose permits the call spends; each key
    has *rate* and *burst* of its own. Only for ``"gcra"``. Default None: all calls share."""

    max_keys: int = 10_000
    """Keys that are kept apart at once: >= 1. Keys that owe nothing are forgotten; if there are still
    too many, further ones share one more. About 80 bytes each. Default 10 000, as in `Keyed`."""

    @property
    def permits_per_second(self) -> float:
        """The rate, per second; that of a `Rate` as it is now, and `FASTEST` while it is off."""
        if isinstance(self.rate, (int, float)):
            return self.rate / self.per
        return min(max(self.rate.rate, SLOWEST), FASTEST)

    @property
    def capacity(self) -> int:
        """Most permits that one request can ever get."""
        if self.burst is not None:
            return self.burst
        return max(1, int(self.rate if isinstance(self.rate, (int, float)) else self.permits_per_second))

    def __post_init__(self) -> None:
        check = Check("RateLimiter")
        adapts = self._check_rate(check)
        rate_holds = not adapts and check.number("rate", self.rate, above=0)
        per_holds = check.seconds("per", self.per)
        if adapts and per_holds:
            check.that(self.per == 1.0, "per", self.per, "must be 1.0 with a Rate, which is about one second")
        if rate_holds and per_holds:
            check.that(
                SLOWEST <= self.permits_per_second <= FASTEST,
                "rate",
                self.rate,
                f"must be {SLOWEST:g} to {FASTEST:g} permits per second",
            )
        if check.whole("burst", self.burst, optional=True):
            fits = self.burst is None or self.burst <= LARGEST_BURST
            check.that(fits, "burst", self.burst, f"must be <= {LARGEST_BURST}")
        check.seconds("max_wait", self.max_wait, zero=True)
        known = get_args(Algorithm)
        algorithm: object = self.algorithm
        if check.that(
            isinstance(algorithm, str) and algorithm in known,
            "algorithm",
            algorithm,
            f"must be {', '.join(map(repr, known[:-1]))} or {known[-1]!r}",
        ):
            self._check_window(check, rate_holds=rate_holds, adapts=adapts)
        key: Any = self.key
        check.that(key is None or callable(key), "key", key, "must be a callable or None")
        if adapts and callable(key):
            check.that(False, "key", key, "must be None: adaptive rates cannot be keyed; use Keyed(...)")
        check.whole("max_keys", self.max_keys)
        check.done()

    def _check_rate(self, check: Check) -> bool:
        """Return whether the rate is given by a `Rate`, after a look at it: it may be a user's."""
        rate: object = self.rate
        if isinstance(rate, (int, float)):
            return False
        rule = "must be a number > 0 or a Rate"
        try:
            if not isinstance(rate, Rate):
                return False
            start, window, learn = rate.rate, rate.window, rate.on_sample
        except Exception as error:  # noqa: BLE001  # it may be a user's, and raise anything
            return not check.that(
                False, "rate", rate, f"{rule} that can be read, not one that raises {shown(error)}"
            )
        if isinstance(rate, type):
            return not check.that(False, "rate", rate, f"{rule}, not its class: write {rate.__name__}()")
        is_above = start == math.inf or (is_finite(start) and start > 0)
        check.that(is_above, "rate.rate", start, "must be a number > 0, or infinite")
        check.seconds("rate.window", window)
        plain = callable(learn) and not inspect.iscoroutinefunction(learn)
        check.that(plain, "rate.on_sample", learn, "must be a plain method: nobody would await it")
        return True

    def _check_window(self, check: Check, *, rate_holds: bool, adapts: bool) -> None:
        if self.algorithm == "gcra":
            return
        rule = f"with algorithm {self.algorithm!r}"
        if adapts:
            check.that(False, "rate", self.rate, f"must be a number {rule}")
        elif rate_holds and isinstance(self.rate, (int, float)):
            is_whole = is_finite(self.rate) and self.rate == int(self.rate)
            check.that(is_whole, "rate", self.rate, f"must be a whole number {rule}")
            if self.algorithm == "sliding_window":
                fits = self.rate <= MOST_REMEMBERED
                check.that(fits, "rate", self.rate, f"must be <= {MOST_REMEMBERED} {rule}")
        check.that(self.burst is None, "burst", self.burst, f"must be None {rule}")
        check.that(self.key is None, "key", self.key, f"must be None {rule}")
