"""Timeout: an upper bound on how long a call, or an attempt, is waited for."""

from resilience.timeout._policy import Timeout
from resilience.timeout._settings import TimeoutSettings

__all__ = ["Timeout", "TimeoutSettings"]
