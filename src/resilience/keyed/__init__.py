"""Keyed: a policy for each key, such as one circuit breaker for each host."""

from resilience.keyed._policy import Keyed
from resilience.keyed._settings import KeyedSettings

__all__ = ["Keyed", "KeyedSettings"]
