"""Rate limiter: at most so many calls per second."""

from resilience.rate_limiter._policy import RateLimiter
from resilience.rate_limiter._reservation import Reservation
from resilience.rate_limiter._settings import Algorithm, RateLimiterSettings

__all__ = ["Algorithm", "RateLimiter", "RateLimiterSettings", "Reservation"]
