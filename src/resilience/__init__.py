"""
Resilience for calls to everything a service does not control.

Start with `Pipeline.standard`, or put together your own from the policies below. Everything works
on plain functions, on coroutine functions under asyncio and trio, and on generators where it can.
"""

from resilience import backoff
from resilience._runtime.attempt import current_attempt
from resilience._runtime.permit import Permit, Rejection
from resilience._runtime.policy import Policy
from resilience.backoff import full_jitter
from resilience.cache import Cache
from resilience.circuit_breaker import CircuitBreaker, CircuitState
from resilience.concurrency_limiter import ConcurrencyLimiter
from resilience.deadline import check_deadline, current_deadline, deadline, remaining
from resilience.errors import (
    CircuitOpenError,
    ConcurrencyLimitedError,
    ConfigError,
    ConfigWarning,
    DeadlineExceededError,
    LoadShedError,
    RateLimitedError,
    RejectedError,
)
from resilience.events import Event, listen
from resilience.fallback import Fallback
from resilience.hedge import Hedge, quantile
from resilience.keyed import Keyed
from resilience.outcome import CallContext, Outcome, Verdict, any_error_is_bad, bad_results
from resilience.priority import Priority, current_priority, priority_scope
from resilience.rate_limiter import RateLimiter
from resilience.retry import Retry
from resilience.retry_budget import RetryBudget
from resilience.standard import Pipeline
from resilience.throttle import AdaptiveThrottle
from resilience.timeout import Timeout

__all__ = [
    "AdaptiveThrottle",
    "Cache",
    "CallContext",
    "CircuitBreaker",
    "CircuitOpenError",
    "CircuitState",
    "ConcurrencyLimitedError",
    "ConcurrencyLimiter",
    "ConfigError",
    "ConfigWarning",
    "DeadlineExceededError",
    "Event",
    "Fallback",
    "Hedge",
    "Keyed",
    "LoadShedError",
    "Outcome",
    "Permit",
    "Pipeline",
    "Policy",
    "Priority",
    "RateLimitedError",
    "RateLimiter",
    "RejectedError",
    "Rejection",
    "Retry",
    "RetryBudget",
    "Timeout",
    "Verdict",
    "any_error_is_bad",
    "backoff",
    "bad_results",
    "check_deadline",
    "current_attempt",
    "current_deadline",
    "current_priority",
    "deadline",
    "full_jitter",
    "listen",
    "priority_scope",
    "quantile",
    "remaining",
]
