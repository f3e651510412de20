"""
Resilience for calls to everything a service does not control.

Start with `Pipeline.standard`, or put together your own from the policies below. Everything works
on plain functions, on coroutine functions under asyncio and trio, and on generators where it can.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from resilience._runtime import budgets as _budgets

# At once: the module of the same name would be found in its place.
from resilience.deadline import check_deadline, current_deadline, deadline, remaining

if TYPE_CHECKING:
    from resilience import backoff
    from resilience._runtime.attempt import current_attempt
    from resilience._runtime.permit import Permit, Rejection
    from resilience._runtime.policy import Policy
    from resilience.backoff import full_jitter
    from resilience.cache import Cache
    from resilience.circuit_breaker import CircuitBreaker, CircuitState
    from resilience.concurrency_limiter import ConcurrencyLimiter
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

# A name brings in its module when it is first used: whoever wants a timeout need not wait for a cache.
_HOMES = {
    "resilience._runtime.attempt": ("current_attempt",),
    "resilience._runtime.permit": ("Permit", "Rejection"),
    "resilience._runtime.policy": ("Policy",),
    "resilience.backoff": ("full_jitter",),
    "resilience.cache": ("Cache",),
    "resilience.circuit_breaker": ("CircuitBreaker", "CircuitState"),
    "resilience.concurrency_limiter": ("ConcurrencyLimiter",),
    "resilience.errors": (
        "CircuitOpenError",
        "ConcurrencyLimitedError",
        "ConfigError",
        "ConfigWarning",
        "DeadlineExceededError",
        "LoadShedError",
        "RateLimitedError",
        "RejectedError",
    ),
    "resilience.events": ("Event", "listen"),
    "resilience.fallback": ("Fallback",),
    "resilience.hedge": ("Hedge", "quantile"),
    "resilience.keyed": ("Keyed",),
    "resilience.outcome": ("CallContext", "Outcome", "Verdict", "any_error_is_bad", "bad_results"),
    "resilience.priority": ("Priority", "current_priority", "priority_scope"),
    "resilience.rate_limiter": ("RateLimiter",),
    "resilience.retry": ("Retry",),
    "resilience.retry_budget": ("RetryBudget",),
    "resilience.standard": ("Pipeline",),
    "resilience.throttle": ("AdaptiveThrottle",),
    "resilience.timeout": ("Timeout",),
}

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is not None:
        value = globals()[name] = getattr(_import_module(home), name)
        return value
    module = f"{__name__}.{name}"
    try:
        return _import_module(module)  # as in `resilience.limits.Aimd()`
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _default_budget(name: str) -> "RetryBudget":
    from resilience.retry_budget import RetryBudget  # noqa: PLC0415  # when it is needed

    return RetryBudget(name=name)


_budgets.make = _default_budget
