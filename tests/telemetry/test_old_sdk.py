"""SDKs whose loggers take only their own kind of record are handed that."""

import sys
from types import SimpleNamespace

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.context import Context

from resilience.telemetry._events import EVENT
from resilience.telemetry._logs import _record


class Logger:
    resource = "the resource"


class Early:
    """As in 1.28: where it happened is told in parts, and there is no name."""

    def __init__(
        self,
        *,
        timestamp,
        severity_number,
        severity_text,
        attributes,
        resource,
        trace_id,
        span_id,
        trace_flags,
    ):
        self.attributes, self.resource = attributes, resource
        self.where = (trace_id, span_id, trace_flags)


class Later:
    """As in 1.36: where it happened is a context."""

    def __init__(
        self, *, timestamp, severity_number, severity_text, attributes, resource, context, event_name
    ):
        self.event_name, self.resource, self.context = event_name, resource, context


class Last(Later):
    """As in 1.38: loggers make one of any."""

    _from_api_log_record = None


RELOAD = EVENT["resilience.pipeline.reload"]


def made_for(monkeypatch, kind, logger):
    monkeypatch.setitem(
        sys.modules, "opentelemetry.sdk._logs", SimpleNamespace(Logger=Logger, LogRecord=kind)
    )
    return _record(RELOAD, {"a": 1}, logger)


def test_an_early_sdk_is_handed_the_name_as_an_attribute_and_the_span_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = made_for(monkeypatch, Early, Logger())
    assert isinstance(record, Early)
    assert (record.attributes, record.resource) == ({"a": 1, "event.name": RELOAD.name}, "the resource")
    assert record.where == (0, 0, 0)


def test_a_later_sdk_is_handed_the_name_and_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    record = made_for(monkeypatch, Later, Logger())
    assert isinstance(record, Later)
    assert (record.event_name, record.resource) == (RELOAD.name, "the resource")
    assert isinstance(record.context, Context)


def test_an_sdk_that_makes_its_own_of_any_is_handed_any(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(made_for(monkeypatch, Last, Logger())) is LogRecord


def test_a_logger_that_is_not_of_the_sdk_is_handed_any(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(made_for(monkeypatch, Early, object())) is LogRecord
