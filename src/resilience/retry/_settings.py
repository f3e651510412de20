"""What a caller may set on a retry."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from resilience._core.check import Check
from resilience._core.inherited import INHERITED, Inherited
from resilience.backoff import RETRY_AFTER_WINDOW, Backoff, DelayFunction, as_backoff, full_jitter
from resilience.typing import Budget, Seconds

DEFAULT_BACKOFF: Final = full_jitter()


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """
    How often a call is tried, and how long to wait in between.

    Attributes:
        attempts: Attempts in all, the first included, >= 1; None for no limit, which then needs
            *max_duration* or *stop*. Default 3, as in Resilience4j and the AWS SDKs.
        backoff: Delay before each retry: a schedule of `resilience.backoff`, a tenacity ``wait_*``
            object, or a callable that takes the `CallContext` of the coming retry and returns
            seconds. Default full jitter, which needed the fewest calls in AWS's comparison.
        budget: What further attempts are paid from; None for no budget. Default: the budget of
            the pipeline's name.
        max_duration: Seconds after the start of the call beyond which no attempt begins, > 0, or
            None. Default None: a total `Timeout` or a `deadline` says it better.
        stop: A tenacity ``stop_*`` object, or a callable that takes a tenacity
            ``RetryCallState``; true ends the retrying. Default None.
        retry_after_window: Seconds by which a dependency may prolong a delay by asking for it,
            >= 0: if it asks for more, the call is given up, since to come early is worse. 0 to
            take no notice of it, None to wait as long as it asks. Default 5.0, as in the AWS SDKs.

    Raises:
        ConfigError: A value is outside its range, or nothing bounds the attempts.

    """

    attempts: int | None = 3
    backoff: Backoff | DelayFunction | Callable[[Any], float] = DEFAULT_BACKOFF
    budget: Budget | Inherited | None = INHERITED
    max_duration: Seconds | None = None
    stop: Callable[[Any], bool] | None = None
    retry_after_window: Seconds | None = RETRY_AFTER_WINDOW

    def __post_init__(self) -> None:
        check = Check("Retry")
        check.whole("attempts", self.attempts, optional=True)
        unbounded = self.attempts is None and self.max_duration is None and self.stop is None
        rule = "must be a whole number unless max_duration or stop bounds the retrying"
        check.that(not unbounded, "attempts", self.attempts, rule)
        if is_tenacity(self.backoff, "wait"):
            backoff: object = self.backoff
        else:
            backoff = None if is_tenacity(self.backoff) else as_backoff(self.backoff)
        check.that(backoff is not None, "backoff", self.backoff, "must be a backoff schedule or a function")
        object.__setattr__(self, "backoff", backoff)
        is_budget = isinstance(self.budget, Budget) and not isinstance(self.budget, type)
        is_budget = is_budget or self.budget is None or self.budget is INHERITED
        check.that(is_budget, "budget", self.budget, "must be a RetryBudget or None")
        check.seconds("max_duration", self.max_duration, optional=True)
        is_stop = callable(self.stop) and (is_tenacity(self.stop, "stop") or not is_tenacity(self.stop))
        check.that(self.stop is None or is_stop, "stop", self.stop, "must be a stop rule, a function or None")
        check.seconds("retry_after_window", self.retry_after_window, zero=True, optional=True)
        check.done()


def is_tenacity(candidate: object, family: str = "") -> bool:
    """Whether *candidate* is one of tenacity's objects, of a *family*: ``retry``, ``stop`` or ``wait``."""
    if "tenacity" not in sys.modules:
        return False
    names = {f"{family}_base"} if family else {"retry_base", "stop_base", "wait_base"}
    return any(
        base.__name__ in names and base.__module__.partition(".")[0] == "tenacity"
        for base in type(candidate).__mro__
    )


def has_tenacity(settings: RetrySettings) -> bool:
    """Whether an object of tenacity, or a stop rule, wants to look at the state of each call."""
    return settings.stop is not None or is_tenacity(settings.backoff)


def counts_in_flight(budget: Budget) -> bool:
    """Whether *budget* is to be told of a call when that begins; so is one of the user's own making."""
    return getattr(budget, "counts_in_flight", True)
