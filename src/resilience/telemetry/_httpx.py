"""What instrumentations of HTTP clients know nothing of: that a request is sent again."""

from typing import Any

from resilience._runtime.attempt import current_attempt
from resilience.telemetry._registry import RESEND


def request_hook(span: Any, request: Any) -> None:  # noqa: ARG001  # of every hook
    """
    Set ``http.request.resend_count`` on the span of a request that is a retry or a hedge.

    For the ``request_hook`` of OpenTelemetry's instrumentation of httpx.

    Example:
        >>> from opentelemetry.trace import INVALID_SPAN
        >>> request_hook(INVALID_SPAN, None)

    """
    attempt = current_attempt().attempt
    if attempt > 1 and span is not None and span.is_recording():
        span.set_attribute(RESEND, attempt - 1)


async def async_request_hook(span: Any, request: Any) -> None:
    """Do what `request_hook` does, for the ``async_request_hook``."""
    request_hook(span, request)
