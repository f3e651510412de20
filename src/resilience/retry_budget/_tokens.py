"""
What the budgets count in, what an attempt costs, and how a bucket fills by time.

Tokens are whole numbers of billionths inside: ten calls at a ratio of 0.1 make one token, not
0.9999999999999999.
"""

from typing import Final, Literal, TypeAlias

from resilience.outcome import Verdict
from resilience.retry_budget._settings import RatioSettings, RefundSettings
from resilience.typing import Seconds

TOKEN: Final = 10**9
"""One token in the unit that the machines count in."""

Counter: TypeAlias = Literal["calls", "good"]
"""What is counted on the hot path: calls that began, and calls that ended good at the first attempt."""


def cost_of(settings: RatioSettings | RefundSettings, verdict: Verdict) -> int:
    """Return what a further attempt costs after one that ended with *verdict*."""
    if verdict is Verdict.TIMED_OUT:
        return settings.timeout_cost
    if verdict is Verdict.THROTTLED:
        return settings.throttle_cost
    return settings.cost


def filled(tokens: int, bound: int, rate: float, since: Seconds, now: Seconds) -> tuple[int, Seconds]:
    """
    Fill a bucket by time: *rate* for each second from *since* to *now*, up to *bound*.

    Returns:
        What it holds, and up to when that is: never the fraction of a unit is lost, however often it is
        asked.

    """
    grown = max(0, round((now - since) * rate))
    if tokens + grown >= bound:
        return bound, now
    return tokens + grown, (since + grown / rate if grown else since)
