"""Fallback: put something else in the place of a result that is not good."""

from resilience.fallback._policy import Fallback
from resilience.fallback._settings import NOT_GIVEN, FallbackSettings, Handler, NotGiven

__all__ = ["NOT_GIVEN", "Fallback", "FallbackSettings", "Handler", "NotGiven"]
