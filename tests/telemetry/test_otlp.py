"""A service and its client from examples/ send every name of the registry to a collector."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from resilience.telemetry._events import EVENT, EVENTS, SPANS
from resilience.telemetry._logs import severity_of
from resilience.telemetry._metrics import METRIC, METRICS
from resilience.telemetry._registry import ATTRIBUTES, SCHEMA_URL, SCOPE

from .otel import faults_of_attributes
from .otlp_receiver import Came, Received, attributes_of, otlp_receiver

EXAMPLE = Path(__file__).parents[2] / "examples" / "observed_service.py"
SECONDS = 40.0

LATER = """
import runpy, sys, time
from resilience import _clock

class Stdin:
    # Read once the service is up. For its policies it has then been so for the whole window of its objective.
    def read(self, real=sys.stdin):
        _clock.monotonic = lambda: time.monotonic() + 300.0
        return real.read()

sys.stdin = Stdin()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def environment(received: Received, service: str, **more: str) -> dict[str, str]:
    """The environment of a process that sends to *received*, and to nobody else."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "RESILIENCE_"))}
    return {
        **own,
        "OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint,
        "OTEL_SERVICE_NAME": service,
        "OTEL_METRIC_EXPORT_INTERVAL": "300",
        "OTEL_BLRP_SCHEDULE_DELAY": "100",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        **more,
    }


def run(received: Received) -> str:
    """Run the service and its client to their ends; return what they wrote to standard error."""
    with subprocess.Popen(
        [sys.executable, "-c", LATER, str(EXAMPLE), "serve"],
        env=environment(received, "shop", OTEL_EXPORTER_OTLP_COMPRESSION="gzip"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        try:
            assert service.stdout is not None
            address = service.stdout.readline().strip()
            client = subprocess.run(
                [sys.executable, str(EXAMPLE), "call", address],
                env=environment(received, "client"),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            _, said = service.communicate(timeout=SECONDS)
        finally:
            service.kill()
    assert (client.returncode, service.returncode) == (0, 0), client.stderr + said
    return client.stderr + said


@pytest.fixture(scope="module")
def received() -> Iterator[Received]:
    """What the service and its client sent."""
    with otlp_receiver() as collector:
        said = run(collector)
        assert said == ""
        yield collector


def ours(came: list[Came]) -> list[Came]:
    return [each for each in came if each.scope == SCOPE]


def kind_of(metric: Any) -> str:
    """The instrument behind a metric of OTLP, in the registry's word."""
    data: str = metric.WhichOneof("data")
    if data == "sum":
        return "counter" if metric.sum.is_monotonic else "updowncounter"
    return data


def points_of(metric: Any) -> list[Any]:
    return list(getattr(metric, metric.WhichOneof("data")).data_points)


def event_name(record: Any) -> str:
    """The name of an event: in a field of its own, or in an attribute where the API has none."""
    return str(getattr(record, "event_name", "") or attributes_of(record).get("event.name"))


def told(record: Any) -> Mapping[str, Any]:
    return {key: value for key, value in attributes_of(record).items() if key != "event.name"}


def test_every_metric_of_the_registry_arrives(received: Received) -> None:
    arrived = {each.item.name for each in ours(received.metrics)}
    assert {metric.name for metric in METRICS} - arrived == set()


def test_every_event_of_the_registry_arrives(received: Received) -> None:
    arrived = {event_name(each.item) for each in ours(received.logs)}
    assert {event.name for event in EVENTS} - arrived == set()


def test_every_kind_of_span_of_the_registry_arrives(received: Received) -> None:
    arrived = {
        "resilience.attempt" if each.item.name.endswith(" attempt") else "resilience.call"
        for each in ours(received.spans)
    }
    assert arrived == {span.type for span in SPANS}


def test_nothing_arrives_that_is_not_in_the_registry(received: Received) -> None:
    metrics = {each.item.name for each in ours(received.metrics)}
    events = {event_name(each.item) for each in ours(received.logs)}
    assert (metrics - METRIC.keys(), events - EVENT.keys()) == (set(), set())


def test_metrics_arrive_with_the_instrument_unit_and_description_of_the_registry(received: Received) -> None:
    assert {
        (each.item.name, kind_of(each.item), each.item.unit, each.item.description)
        for each in ours(received.metrics)
    } == {(metric.name, metric.instrument, metric.unit, metric.brief) for metric in METRICS}


def test_attributes_arrive_as_the_registry_declares_them(received: Received) -> None:
    faults: set[str] = set()
    for each in ours(received.metrics):
        metric = METRIC[each.item.name]
        for point in points_of(each.item):
            optional = [key for key, _ in metric.optional]
            faults.update(
                faults_of_attributes(metric.name, attributes_of(point), metric.attributes, optional)
            )
    for each in ours(received.logs):
        event = EVENT[event_name(each.item)]
        optional = [key for key, _ in event.optional]
        faults.update(faults_of_attributes(event.name, told(each.item), event.attributes, optional))
    for each in ours(received.spans):
        span = SPANS[each.item.name.endswith(" attempt")]
        optional = [key for key, _ in span.optional]
        faults.update(faults_of_attributes(span.type, attributes_of(each.item), span.attributes, optional))
    assert faults == set()


def test_every_value_that_a_metric_may_have_arrives(received: Received) -> None:
    arrived: dict[str, set[str]] = {}
    for each in ours(received.metrics):
        for point in points_of(each.item):
            for key, value in attributes_of(point).items():
                arrived.setdefault(key, set()).add(value)
    of_metrics = {key for metric in METRICS for key in metric.attributes}
    declared = {each.key: {value for value, _ in each.members} for each in ATTRIBUTES if each.members}
    assert {key: arrived[key] for key in declared.keys() & of_metrics} == {
        key: values for key, values in declared.items() if key in of_metrics
    }


def test_events_arrive_with_the_severity_of_what_happened(received: Received) -> None:
    records = [each.item for each in ours(received.logs)]
    assert [record.severity_text for record in records] == [
        severity_of(EVENT[event_name(record)], told(record)) for record in records
    ]


def test_everything_arrives_under_one_scope_with_its_schema(received: Received) -> None:
    came = [*received.metrics, *received.logs, *received.spans]
    if "event_name" in LogRecord.DESCRIPTOR.fields_by_name:  # exporters from before it send no schemas
        assert {each.schema_url for each in ours(came)} == {SCHEMA_URL}
    assert {each.scope for each in came if getattr(each.item, "name", "").startswith("resilience.")} == {
        SCOPE
    }


def test_totals_of_a_service_and_its_client_agree(received: Received) -> None:
    def last(service: str, name: str, owner: str, *values: str) -> float:
        """Return the sum of the latest points of one metric that have one of *values*."""
        points = [
            (attributes_of(point), point.as_int)
            for each in ours(received.metrics)
            if each.service == service and each.item.name == name
            for point in points_of(each.item)
        ]
        latest = {value: count for told, count in points if owner in told.values() for value in told.values()}
        return sum(latest[value] for value in values)

    sent = last("client", "resilience.attempts", "shop", "initial", "retry")
    assert sent == last("shop", "resilience.sli.events", "orders", "good", "bad") > 0


def test_a_service_may_compress_what_it_sends_and_another_not(received: Received) -> None:
    assert received.encodings == {"gzip", "identity"}
    assert received.refused == []
