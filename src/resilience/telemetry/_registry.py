"""
The registry of names: every metric, event, span and attribute that this package emits, with its meaning.

Names elsewhere are tested against this one. It follows the naming rules of OpenTelemetry's semantic
conventions; `as_definition` returns it in the shape of their registries, "definition/2". There is no
convention for what policies do, so the namespace is our own and everything is in development.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

from resilience.telemetry import _values as values

Instrument = Literal["counter", "updowncounter", "gauge", "histogram"]
Severity = Literal["DEBUG", "INFO", "WARN", "ERROR"]

NAME: Final = "resilience.policy.name"
SLO: Final = "resilience.slo.name"
ERROR: Final = "error.type"
RESEND: Final = "http.request.resend_count"

SCOPE: Final = "resilience"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
"""The semantic conventions whose attributes are used: ``error.type``, ``http.request.resend_count``."""

STANDARD: Final = frozenset({ERROR, RESEND})
"""Attributes that the semantic conventions define."""

BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds of latency buckets, in seconds: those of ``http.client.request.duration``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """
    One attribute.

    Attributes:
        key: Its key.
        brief: What it says.
        members: Its values and what each means, where these are all it can have.
        type: Its type otherwise.
        examples: Values, where there is no list.

    """

    key: str
    brief: str
    members: tuple[tuple[str, str], ...] = ()
    type: Literal["string", "int", "double", "boolean"] = "string"
    examples: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """
    One metric.

    Attributes:
        name: Its name.
        instrument: What kind of instrument it is.
        unit: Its unit, in UCUM.
        brief: What it counts.
        attributes: Keys that every series has.
        optional: Keys that a series may have, and when.
        owner: Key of the attribute that holds the owner's name.
        bound: Most series for one name.
        combine: What becomes of the readings of several owners of one name: their sum, or the highest.
        opt_in: What to give `configure` for it; empty where it is always there.

    """

    name: str
    instrument: Instrument
    unit: str
    brief: str
    attributes: tuple[str, ...] = (NAME,)
    optional: tuple[tuple[str, str], ...] = ()
    owner: str = NAME
    bound: int = 1
    combine: Literal["sum", "max"] = "sum"
    opt_in: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """
    One event: a log record with an event name.

    Attributes:
        name: Its name.
        brief: What happened.
        severity: How bad it is; `_logs.severity_of` knows the cases that differ.
        attributes: Keys that every record has.
        optional: Keys that a record may have, and when.
        owner: Key of the attribute that holds the owner's name.

    """

    name: str
    brief: str
    severity: Severity
    attributes: tuple[str, ...] = ()
    optional: tuple[tuple[str, str], ...] = ()
    owner: str = NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """
    One kind of span.

    Attributes:
        type: What it is called in the registry.
        name: How its name is made.
        brief: What it spans.
        attributes: Keys that every span has.
        optional: Keys that a span may have, and when.

    """

    type: str
    name: str
    brief: str
    attributes: tuple[str, ...] = (NAME,)
    optional: tuple[tuple[str, str], ...] = ()


def _attribute(key: str, brief: str, *examples: Any, kind: Any = "string") -> Attribute:
    return Attribute(key=key, brief=brief, type=kind, examples=examples)


def _enum(key: str, brief: str, members: tuple[tuple[str, str], ...]) -> Attribute:
    return Attribute(key=key, brief=brief, members=members)


ATTRIBUTES: Final[tuple[Attribute, ...]] = (
    _attribute(
        NAME,
        "Name of the policy, fixed when it is made or first used; never derived from request data.",
        "payments",
        "inventory-read",
    ),
    _enum(
        "resilience.outcome", "How a protected call ended from the policy's point of view.", values.OUTCOMES
    ),
    _enum("resilience.attempt.type", "Kind of attempt.", values.ATTEMPTS),
    _attribute(
        "resilience.call.bound",
        "Upper bound of a latency bucket in seconds, +Inf for the last.",
        "0.005",
        "+Inf",
    ),
    _enum("resilience.circuit_breaker.state", "State of a circuit breaker.", values.STATES),
    _enum("resilience.circuit_breaker.previous_state", "State before a transition.", values.STATES),
    _enum("resilience.circuit_breaker.reason", "Why a circuit breaker changed its state.", values.REASONS),
    _attribute(
        "resilience.retry_after",
        "Seconds until a further call may be admitted; a lower bound.",
        5.0,
        kind="double",
    ),
    _enum("resilience.retry.stop_reason", "Why no further attempt was made.", values.STOPS),
    _enum(
        "resilience.limiter.result",
        "Result of asking a rate or concurrency limiter for a permit.",
        values.RESULTS,
    ),
    _enum("resilience.limiter.change", "Direction in which a limit changed.", values.CHANGES),
    _attribute(
        "resilience.limiter.limit",
        "Limit after a change; absent if there is none.",
        40.0,
        kind="double",
    ),
    _attribute(
        "resilience.limiter.previous_limit",
        "Limit before a change; absent if there was none.",
        50.0,
        kind="double",
    ),
    _attribute(
        "resilience.limiter.cause",
        "Why a limit changed: what the algorithm says of itself, or pinned, unpinned, reconfigured, server.",
        "throttled",
        "pinned",
    ),
    _enum("resilience.throttle.state", "Whether a throttle refuses calls.", values.THROTTLE_STATES),
    _enum("resilience.priority", "Class of importance of a call.", values.PRIORITIES),
    _enum("resilience.cache.result", "Where the result of a call came from.", values.CACHE_RESULTS),
    _enum("resilience.hedge.denial_reason", "Why no further attempt was started.", values.DENIALS),
    _enum(
        "resilience.idempotency.result",
        "What the idempotency layer did with a request.",
        values.IDEMPOTENCY_RESULTS,
    ),
    _attribute(SLO, "Name of the SLO, fixed at construction.", "checkout-availability"),
    _attribute(
        "resilience.slo.window",
        "Look-back window, one of the configured set, as a Prometheus duration.",
        "5m",
        "1h",
        "30d",
    ),
    _enum("resilience.sli.result", "Classification of one SLI event.", values.SLI_RESULTS),
    _attribute(
        "resilience.event.suppressed",
        "Events of this name and policy left out since the last one, to bound their rate.",
        3,
        kind="int",
    ),
)
