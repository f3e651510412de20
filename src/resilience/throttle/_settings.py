"""What a caller may set on an adaptive throttle."""

from dataclasses import dataclass
from typing import Final

from resilience._core.check import Check
from resilience.typing import Seconds

SHORTEST_SAMPLING: Final[Seconds] = 0.001
"""Shortest sampling window: a tenth of it is still longer than a step of the clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveThrottleSettings:
    """
    How many more calls a dependency is asked than it accepts, and what passes in any case.

    Raises:
        ConfigError: At least one setting cannot work; every problem is listed.

    """

    k: float = 2.0
    """How many calls may reach the dependency for each one that it accepts: >= 1. At 2 nothing is
    refused until it accepts less than half of the calls; at 1.1 it is hardly ever asked in vain, and
    a few failures already cost calls that would have been accepted. Default 2.0. Source: SRE book;
    Envoy has 1.05, failsafe-go 1.1, go-zero 1.5, go-kratos 1.67."""

    floor: float | None = 1.0
    """Calls per second that pass at least, so that a recovery is noticed: > 0, or None for none. A call
    that would be refused passes, whatever its priority, unless another that might have been refused
    has passed within the last 1 / *floor* seconds. Every throttle has a floor of its own: those of all
    processes together must be a load that the dependency bears while it recovers. Default 1.0. Source:
    own; the SRE book has none and recovers slowly, failsafe-go and Envoy let 10 and 20 % of the calls
    pass."""

    minimum_throughput: int = 20
    """Calls of the same or a higher priority in the window that are needed before any is refused:
    >= 1. The bare formula refuses the second call with a chance of one half if the first one failed.
    Default 20. Source: Hystrix (``requestVolumeThreshold``); go-kratos 100, go-zero 5."""

    sampling_duration: Seconds = 5.0
    """Seconds of history the rule is applied to, counted in ten buckets: >= 0.001. Longer than any call
    takes; the time a recovery takes grows with it. Default 5.0. Source: own, by
    simulation; go-zero has 10 s, the SRE book 120 s."""

    def __post_init__(self) -> None:
        check = Check("AdaptiveThrottle")
        check.number("k", self.k, at_least=1)
        if self.floor is not None:
            check.number("floor", self.floor, above=0)
        check.whole("minimum_throughput", self.minimum_throughput)
        check.number("sampling_duration", self.sampling_duration, at_least=SHORTEST_SAMPLING)
        check.done()
