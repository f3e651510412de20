"""Adaptive throttle: stop asking a dependency for more than it accepts, least important calls first."""

from resilience.throttle._machine import rejection_probability
from resilience.throttle._policy import AdaptiveThrottle
from resilience.throttle._settings import AdaptiveThrottleSettings

__all__ = ["AdaptiveThrottle", "AdaptiveThrottleSettings", "rejection_probability"]
