"""Where a limit starts and between what it stays: the same for all of them."""

from collections.abc import Callable

from resilience._core.check import Check, is_finite
from resilience.typing import Ratio


class Range:
    """
    The lowest and the highest limit.

    Attributes:
        least: The lowest.
        most: The highest.

    """

    __slots__ = ("least", "most")

    def __init__(self, least: float, most: float) -> None:
        self.least = least
        self.most = most

    def clamp(self, limit: float) -> float:
        """Return the limit within the range that is nearest to *limit*."""
        return max(self.least, min(self.most, limit))


def check_range(check: Check, initial: float, min_limit: float, max_limit: float) -> None:
    """Require *min_limit* <= *initial* <= *max_limit*, all above 0."""
    check.number("min_limit", min_limit, above=0)
    check.number("max_limit", max_limit, at_least=1)
    check.number("initial", initial, above=0)
    if all(is_finite(each) for each in (min_limit, initial, max_limit)):
        check.that(min_limit <= max_limit, "min_limit", min_limit, "must be at most max_limit")
        within = min_limit <= initial <= max_limit
        check.that(within, "initial", initial, "must be from min_limit to max_limit")


def check_backoff(check: Check, backoff: Ratio) -> None:
    """Require a share that a cut may leave of a limit."""
    holds = is_finite(backoff) and 0.5 <= backoff < 1  # Netflix's range
    check.that(holds, "backoff", backoff, "must be a number >= 0.5 and < 1")


def check_sampling(check: Check, window: float, quantile: float | None) -> None:
    """Require a length of time for samples, and a quantile of their times or None."""
    check.seconds("window", window, zero=True)
    if quantile is not None:
        inside = is_finite(quantile) and 0 < quantile < 1
        check.that(inside, "quantile", quantile, "must be a number in (0, 1) or None")


def as_function(given: float | Callable[[float], float]) -> Callable[[float], float]:
    """Return *given* as a function of the limit."""
    if callable(given):
        return given
    number = given
    return lambda limit: number  # noqa: ARG005  # the same for every limit
