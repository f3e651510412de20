"""
What is told to OpenTelemetry: metrics and events by default, durations and spans if asked for.

Nothing needs to be switched on. Every name is listed in the reference of telemetry.
"""

from resilience.telemetry._configure import configure
from resilience.telemetry._httpx import async_request_hook, request_hook

__all__ = ["async_request_hook", "configure", "request_hook"]
