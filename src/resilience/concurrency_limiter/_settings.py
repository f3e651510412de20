"""What a caller may set on a concurrency limiter."""

import inspect
from dataclasses import dataclass

from resilience._core.check import Check, is_finite
from resilience.concurrency_limiter._limit import FixedLimit, Limit
from resilience.errors import shown
from resilience.typing import Seconds


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
        check.done()

    def _check_limit(self, check: Check) -> None:
        limit: object = self.limit
        rule = "must be a whole number >= 1 or a Limit"
        try:
            if not isinstance(limit, Limit):
                holds = isinstance(limit, int) and not isinstance(limit, bool) and limit >= 1
                check.that(holds, "limit", limit, rule)
                return
            start, window, learn = limit.limit, limit.window, limit.on_sample
            quantile: object = getattr(limit, "quantile", None)
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
        plain = callable(learn) and not inspect.iscoroutinefunction(learn)
        check.that(plain, "limit.on_sample", learn, "must be a plain method: nobody would await it")
