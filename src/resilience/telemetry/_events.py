"""Every event, with what is told of it, and every kind of span."""

from typing import Final

from resilience.telemetry._registry import ERROR, NAME, RESEND, Event, Severity, Span

_SUPPRESSED: Final = ("resilience.event.suppressed", "If some were left out.")
_LIMIT_CHANGE: Final = ("resilience.limiter.change", "resilience.limiter.cause")
_LIMITS: Final = (
    ("resilience.limiter.limit", "If there is a limit."),
    ("resilience.limiter.previous_limit", "If there was a limit."),
    _SUPPRESSED,
)


def _event(
    name: str, severity: Severity, brief: str, *attributes: str, optional: tuple[tuple[str, str], ...] = ()
) -> Event:
    return Event(
        name=name,
        severity=severity,
        brief=brief,
        attributes=(NAME, *attributes),
        optional=(*optional, _SUPPRESSED),
    )


EVENTS: Final[tuple[Event, ...]] = (
    _event(
        "resilience.circuit_breaker.state_change",
        "INFO",
        "A circuit breaker changed state; WARN when it opens.",
        "resilience.circuit_breaker.state",
        "resilience.circuit_breaker.previous_state",
        "resilience.circuit_breaker.reason",
        optional=(("resilience.retry_after", "If it is known when it lets a probe pass."),),
    ),
    _event(
        "resilience.retry.exhausted",
        "WARN",
        "A call failed after its last permitted attempt.",
        "resilience.retry.stop_reason",
        optional=((ERROR, "If it failed with an error."),),
    ),
    *(
        Event(
            name=f"resilience.{kind}.limit_change",
            severity="DEBUG",
            brief="A limit changed; INFO when it at least doubled or halved.",
            attributes=(NAME, *_LIMIT_CHANGE),
            optional=_LIMITS,
        )
        for kind in ("rate_limiter", "concurrency_limiter")
    ),
    *(
        _event(
            f"resilience.{kind}.limit_failed",
            "ERROR",
            "The algorithm behind an adaptive limit raised an error.",
            ERROR,
        )
        for kind in ("rate_limiter", "concurrency_limiter")
    ),
    _event("resilience.hedge.budget_exhausted", "WARN", "The retry budget began to deny hedges."),
    _event(
        "resilience.throttle.state_change",
        "INFO",
        "A throttle began or ceased to reject calls; WARN when it begins.",
        "resilience.throttle.state",
    ),
    _event("resilience.pipeline.reload", "INFO", "A pipeline took new settings."),
    _event("resilience.pipeline.reload_failed", "ERROR", "New settings of a pipeline were refused.", ERROR),
    _event(
        "resilience.idempotency.conflict",
        "WARN",
        "An idempotency key was reused in conflict.",
        "resilience.idempotency.result",
    ),
)

SPANS: Final[tuple[Span, ...]] = (
    Span(
        type="resilience.call",
        name="{resilience.policy.name}",
        brief="One call to a guarded function, waits and retries included; opt-in.",
        attributes=(NAME, "resilience.outcome"),
        optional=(
            (ERROR, "If the call failed."),
            ("resilience.circuit_breaker.state", "If a circuit breaker rejected it."),
            ("resilience.retry.stop_reason", "If retries did not help."),
        ),
    ),
    Span(
        type="resilience.attempt",
        name="{resilience.policy.name} attempt",
        brief="One run of the guarded function; opt-in.",
        optional=((ERROR, "If the attempt failed."), (RESEND, "If it is not the first.")),
    ),
)

ON_CURRENT_SPAN: Final = (
    NAME, "resilience.outcome", "resilience.circuit_breaker.state", "resilience.retry.stop_reason",
)  # fmt: skip
"""What the span in progress, if it is recording, is told when a call is refused or retries give up."""

EVENT: Final = {event.name: event for event in EVENTS}
