"""
Events as log records with an event name. The one file that touches OpenTelemetry's unstable logs API.

Of one event and policy a few records pass within a while; how many were left out, the next one says.
"""

import math
import sys
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from inspect import signature
from typing import Any, Final

from opentelemetry import _logs, context, trace
from opentelemetry._logs import LogRecord, SeverityNumber

from resilience import _clock
from resilience._runtime import fork
from resilience._runtime.census import labels
from resilience.events import Event
from resilience.telemetry._errors import error_types
from resilience.telemetry._events import EVENT
from resilience.telemetry._registry import ERROR, NAME, SCHEMA_URL, SCOPE, SLO, Severity
from resilience.telemetry._registry import Event as Definition

BURST: Final = 10
"""Records of one event and policy within `WINDOW` seconds."""

WINDOW: Final = 10.0

_NUMBERS: Final = {
    "DEBUG": SeverityNumber.DEBUG,
    "INFO": SeverityNumber.INFO,
    "WARN": SeverityNumber.WARN,
    "ERROR": SeverityNumber.ERROR,
}

# Their names, because only the SDK is public of what makes providers. Such a one writes nothing.
_SILENT: Final = frozenset({"ProxyLoggerProvider", "NoOpLoggerProvider"})

_is_writing: Final[ContextVar[bool]] = ContextVar("resilience.telemetry.is_writing", default=False)


class _Window:
    """What passed, and what did not, since it began."""

    __slots__ = ("began", "passed", "suppressed")

    def __init__(self, began: float) -> None:
        self.began = began
        self.passed = self.suppressed = 0


class Bridge:
    """
    Listens to events, and writes them as log records.

    Attributes:
        provider: The logger provider; None for the global one, whichever it is at the time.

    """

    __slots__ = ("__weakref__", "_lock", "_logger", "_version", "_windows", "provider")

    def __init__(self, version: str) -> None:
        self.provider: Any = None
        self._version = version
        # An interrupt, or a finalizer, may strike while it is held, and have something to tell.
        self._lock = threading.RLock()
        self._windows: dict[tuple[str, str], _Window] = {}
        self._logger: tuple[Any, Any] | None = None
        fork.register(self)

    def is_listening(self) -> bool:
        """Whether anybody reads what is written."""
        return type(self._present_provider()).__name__ not in _SILENT

    def __call__(self, event: Event, /) -> None:
        """Write *event*, if anybody reads it and there were not too many of its kind."""
        definition = EVENT.get(event.name)
        if definition is None or _is_writing.get() or not self.is_listening():
            return
        provider = self._present_provider()
        label = labels.label(event.policy)
        suppressed = self._admit((event.name, label))
        if suppressed is None:
            return
        attributes = {definition.owner: label, **_attributes(definition, event.attributes)}
        if suppressed:
            attributes["resilience.event.suppressed"] = suppressed
        writing = _is_writing.set(
            True
        )  # what exports it may be guarded by a policy that has something to tell
        try:
            logger = self._logger_of(provider)
            logger.emit(_record(definition, attributes, logger))
        finally:
            _is_writing.reset(writing)

    def _present_provider(self) -> Any:
        return _logs.get_logger_provider() if self.provider is None else self.provider

    def _admit(self, key: tuple[str, str]) -> int | None:
        """Return how many records of *key* were left out before this one; None if it is left out, too."""
        with self._lock:
            now = _clock.monotonic()
            window = self._windows.get(key)
            if window is None or not 0 <= now - window.began < WINDOW:
                fresh = self._windows[key] = _Window(now)
                fresh.suppressed = 0 if window is None else window.suppressed
                window = fresh
            if window.passed >= BURST:
                window.suppressed += 1
                return None
            window.passed += 1
            suppressed, window.suppressed = window.suppressed, 0
            return suppressed

    def _logger_of(self, provider: Any) -> Any:
        known = self._logger
        if known is None or known[0] is not provider:
            known = self._logger = (provider, provider.get_logger(SCOPE, self._version, SCHEMA_URL))
        return known[1]

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._windows.clear()


def severity_of(definition: Definition, attributes: Mapping[str, object]) -> Severity:
    """Return how bad an event is, where that depends on what happened."""
    match definition.name.removeprefix("resilience."):
        case "circuit_breaker.state_change":
            opens = attributes.get("resilience.circuit_breaker.state") in ("open", "forced_open")
            return "WARN" if opens else "INFO"
        case "throttle.state_change":
            return "WARN" if attributes.get("resilience.throttle.state") == "shedding" else "INFO"
        case "rate_limiter.limit_change" | "concurrency_limiter.limit_change":
            before = attributes.get("resilience.limiter.previous_limit")
            after = attributes.get("resilience.limiter.limit")
            if not isinstance(before, (int, float)) or not isinstance(after, (int, float)):
                return "INFO"  # from no limit, or to none
            return "INFO" if max(before, after) >= 2 * min(before, after) else "DEBUG"
        case _:
            return definition.severity


def _attributes(definition: Definition, given: Mapping[str, object]) -> dict[str, Any]:
    """Return what the registry knows of *given*, but for what is not known or not finite."""
    allowed = {*definition.attributes, *(key for key, _ in definition.optional)}
    found: dict[str, Any] = {}
    for key, value in given.items():
        if key not in allowed or value is None or (isinstance(value, float) and not math.isfinite(value)):
            continue
        if key == ERROR:
            found[key] = error_types.bounded(str(value))
        elif key in (NAME, SLO):
            found[key] = labels.label(str(value))
        else:
            found[key] = value
    return found


def _record(definition: Definition, attributes: dict[str, Any], logger: Any) -> LogRecord:
    severity = severity_of(definition, attributes)
    made: dict[str, Any] = {
        "timestamp": time.time_ns(),
        "severity_number": _NUMBERS[severity],
        "severity_text": severity,
        "attributes": attributes,
    }
    make: Any = _kind_asked_for(logger)
    if make is None:
        make = LogRecord
    else:
        made["resource"] = logger.resource
        if "context" in signature(make).parameters:
            made["context"] = context.get_current()
        else:
            here = trace.get_current_span().get_span_context()
            made |= {"trace_id": here.trace_id, "span_id": here.span_id, "trace_flags": here.trace_flags}
    try:
        record: LogRecord = make(**made, event_name=definition.name)
    except TypeError:  # an API from before log records had a field for it
        made["attributes"] = {**attributes, "event.name": definition.name}
        record = make(**made)
    return record


def _kind_asked_for(logger: Any) -> Any:
    """
    Return the SDK's own kind of record if *logger* is of an SDK that does not make one of ours; else None.

    Its loggers take any kind, but then nothing that is exported together with it arrives.
    """
    sdk = sys.modules.get("opentelemetry.sdk._logs")
    kind = getattr(sdk, "LogRecord", None)
    if sdk is None or kind is None or hasattr(kind, "_from_api_log_record"):
        return None
    return kind if isinstance(logger, sdk.Logger) else None
