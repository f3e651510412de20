"""Retry: call again after a bad outcome, within bounds."""

from resilience.retry._policy import Retry, StopReason
from resilience.retry._settings import RetrySettings

__all__ = ["Retry", "RetrySettings", "StopReason"]
