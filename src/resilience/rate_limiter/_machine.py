"""
Rules for how many permits there are, told the time.

    Gcra           permits come back one by one
    AdaptiveGcra   the same, at a rate that changes
    SlidingWindow  each permit is remembered until it is *per* old
    FixedWindow    permits are counted until a window is over

All answer to the same `RateMachine`.
"""

from typing import Final

from resilience.rate_limiter._adaptive import AdaptiveGcra
from resilience.rate_limiter._gcra import Gcra
from resilience.rate_limiter._rule import RateMachine, RatePermit
from resilience.rate_limiter._settings import RateLimiterSettings
from resilience.rate_limiter._windows import FixedWindow, SlidingWindow
from resilience.typing import Seconds

__all__ = [
    "MACHINES",
    "AdaptiveGcra",
    "FixedWindow",
    "Gcra",
    "RateMachine",
    "RatePermit",
    "SlidingWindow",
    "make_machine",
]

MACHINES: Final[dict[str, type[RateMachine]]] = {
    "gcra": Gcra,
    "sliding_window": SlidingWindow,
    "fixed_window": FixedWindow,
}


def make_machine(settings: RateLimiterSettings, now: Seconds) -> RateMachine:
    """Return the machine for the algorithm that *settings* name. Keys are not looked at."""
    if not isinstance(settings.rate, (int, float)):
        return AdaptiveGcra(settings, now)
    return MACHINES[settings.algorithm](settings, now)
