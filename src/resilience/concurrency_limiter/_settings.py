"""What a caller may set on a concurrency limiter."""

import inspect
import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

from resilience._core.check import Check, is_finite
from resilience.concurrency_limiter._limit import FixedLimit, Limit
from resilience.errors import shown
from resilience.typing import Ratio, Seconds

Order: TypeAlias = Literal["fifo", "adaptive_lifo"]
"""
Who of those alike in importance goes first.

- ``"fifo"``: who came first.
- ``"adaptive_lifo"``: while the line is more than half full, who came last, else who came first. Under
  pressure those who wait longest are the likeliest to have given up, and serving them helps nobody.
"""

Shares: TypeAlias = Mapping[Any, Ratio]
"""Which share of the limit is kept for whom."""

TOO_MANY = "must be less than 1.8e308, the largest number that a float holds"
"""The rule for a number of calls that no machine can compute with."""

SLACK = 1e-9
"""By how much shares may add up to more than 1, since floats do: three times 0.1 and so on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyLimiterSettings:
    """
    How many calls may run at once, and how many may wait for their turn.

    Raises:
        ConfigError: At least one setting cannot work; every problem is listed.

    """

    limit: int | Limit = 20
    """Calls that may run at once: >= 1, or a `Limit` that learns it. Default 20. Source: Netflix
    concurrency-limits and failsafe-go start there."""

    max_queue: int = 0
    """Calls that may wait for their turn: >= 0; needs *max_wait*. Default 0: a call over the limit is
    refused at once. Source: Polly, cockatiel."""

    max_wait: Seconds = 0.0
    """Seconds a call may wait for its turn: >= 0; needs *max_queue*. Default 0.0. Source:
    Resilience4j, Failsafe."""

    order: Order = "fifo"
    """Who goes first of those in line that are alike in importance: see `Order`. ``"adaptive_lifo"`` needs
    *max_queue*. Default ``"fifo"``. Source: Resilience4j, Failsafe; the other one is Facebook's."""

    shares: Shares | None = None
    """Key to the share of the limit that its calls can always have: each in (0, 1], 1 in all. Default None:
    all calls are alike. Source: Netflix concurrency-limits."""

    share_of: Callable[..., Hashable] | None = None
    """Callable that takes the call's arguments and returns whose share it takes; needs *shares*. Default
    None: the keys are priorities, and a call has the share of its own."""

    def make_limit(self) -> Limit:
        """Return what says how many: the `Limit` given, or one for the number given."""
        return FixedLimit(self.limit) if isinstance(self.limit, int) else self.limit

    def __post_init__(self) -> None:
        check = Check("ConcurrencyLimiter")
        self._check_limit(check)
        queue_holds = check.whole("max_queue", self.max_queue, at_least=0)
        wait_holds = check.seconds("max_wait", self.max_wait, zero=True)
        if queue_holds and wait_holds:
            queue, wait = self.max_queue > 0, self.max_wait > 0
            check.that(queue or not wait, "max_queue", self.max_queue, "must be >= 1 with max_wait")
            check.that(wait or not queue, "max_wait", self.max_wait, "must be > 0 with max_queue")
        self._check_order(check, waits=not queue_holds or self.max_queue > 0)
        self._check_shares(check)
        check.done()

    def _check_order(self, check: Check, *, waits: bool) -> None:
        order: object = self.order
        known = get_args(Order)
        rule = f"must be {' or '.join(map(repr, known))}"
        if check.that(isinstance(order, str) and order in known, "order", order, rule):
            check.that(waits or order == "fifo", "order", order, "must be 'fifo' without max_queue")

    def _check_shares(self, check: Check) -> None:
        shares: object = self.shares
        takes: object = self.share_of
        if check.that(takes is None or callable(takes), "share_of", takes, "must be a callable or None"):
            check.that(takes is None or shares is not None, "share_of", takes, "needs shares")
            plain = not inspect.iscoroutinefunction(takes)
            check.that(plain, "share_of", takes, "must be a plain function: nobody would await it")
        if shares is None:
            return
        rule = "must be a mapping of at least one key to its share, or None"
        if not check.that(isinstance(shares, Mapping) and shares, "shares", shares, rule):
            return
        mine = dict(cast("Mapping[object, object]", shares))
        object.__setattr__(self, "shares", mine)  # a copy: nobody changes it from outside
        check.that(None not in mine, "shares", mine, "must not have None as a key: it means no share")
        right = [check.ratio(f"shares[{shown(key)}]", share) for key, share in mine.items()]
        if all(right):
            total = math.fsum(cast("Mapping[object, Ratio]", mine).values())
            check.that(total <= 1 + SLACK, "shares", mine, f"must add up to 1 at most, not {total:g}")

    def _check_limit(self, check: Check) -> None:
        limit: object = self.limit
        rule = "must be a whole number >= 1 or a Limit"
        try:
            if not isinstance(limit, Limit):
                holds = isinstance(limit, int) and not isinstance(limit, bool) and limit >= 1
                if check.that(holds, "limit", limit, rule):
                    check.that(is_finite(limit), "limit", limit, TOO_MANY)
                return
            start, window, learn = limit.limit, limit.window, limit.on_sample
            quantile: object = getattr(limit, "quantile", None)
            needs_latency: object = getattr(limit, "needs_latency", True)
        except Exception as error:  # noqa: BLE001  # it may be a user's, and raise anything
            check.that(False, "limit", limit, f"{rule} that can be read, not one that raises {shown(error)}")
            return
        if isinstance(limit, type):
            check.that(False, "limit", limit, f"{rule}, not its class: write {limit.__name__}()")
            return
        check.that(is_finite(start) and start > 0, "limit.limit", start, "must be a finite number > 0")
        check.seconds("limit.window", window, zero=True, optional=True)
        if quantile is not None:
            inside = is_finite(quantile) and 0 < quantile < 1
            check.that(inside, "limit.quantile", quantile, "must be a number in (0, 1) or None")
        given = isinstance(needs_latency, bool)
        if check.that(given, "limit.needs_latency", needs_latency, "must be True or False"):
            alone = needs_latency or quantile is None
            check.that(alone, "limit.needs_latency", needs_latency, "must be True with a quantile")
        plain = callable(learn) and not inspect.iscoroutinefunction(learn)
        check.that(plain, "limit.on_sample", learn, "must be a plain method: nobody would await it")
