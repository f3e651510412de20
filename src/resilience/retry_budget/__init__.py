"""Retry budget: what further attempts, retries and hedges alike, are paid from."""

from resilience.retry_budget._policy import RetryBudget
from resilience.retry_budget._settings import (
    BudgetSettings,
    GrpcSettings,
    InflightSettings,
    RatioSettings,
    RefundSettings,
)

__all__ = [
    "BudgetSettings",
    "GrpcSettings",
    "InflightSettings",
    "RatioSettings",
    "RefundSettings",
    "RetryBudget",
]
