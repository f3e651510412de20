"""Retry: call again after a bad outcome, within bounds."""

from resilience.retry._policy import Retry
from resilience.retry._progress import StopReason
from resilience.retry._settings import RetrySettings

__all__ = ["Retry", "RetrySettings", "StopReason"]
