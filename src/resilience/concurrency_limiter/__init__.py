"""Concurrency limiter: at most so many calls at once."""

from resilience.concurrency_limiter._limit import FixedLimit, Limit, Sample
from resilience.concurrency_limiter._policy import ConcurrencyLimiter
from resilience.concurrency_limiter._settings import ConcurrencyLimiterSettings, Order

__all__ = ["ConcurrencyLimiter", "ConcurrencyLimiterSettings", "FixedLimit", "Limit", "Order", "Sample"]
