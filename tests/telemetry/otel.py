"""An OpenTelemetry SDK in memory, and a live check of what came out of it against the registry."""

from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk._logs import LoggerProvider, export
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric, Sum
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from resilience.telemetry._events import EVENT, SPANS
from resilience.telemetry._metrics import METRIC
from resilience.telemetry._registry import ATTRIBUTES, NAME, SCHEMA_URL, SCOPE, SLO, STANDARD

TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "int": int,
    "double": (int, float),
    "boolean": bool,
}
# Its name, and that of the field below, are younger than the oldest SDK that is supported.
MemoryExporter: Any = (
    getattr(export, "InMemoryLogRecordExporter", None) or vars(export)["InMemoryLogExporter"]
)
Series = dict[tuple[tuple[str, str], ...], float]


@dataclass
class Otel:
    """Providers whose telemetry stays in memory."""

    meters: MeterProvider = None  # type: ignore[assignment]  # its own, unless given with the reader
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)
    written: Any = field(default_factory=MemoryExporter)
    ended: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)

    def __post_init__(self) -> None:
        self.meters = self.meters or MeterProvider([self.reader])
        self.loggers = LoggerProvider()
        self.loggers.add_log_record_processor(SimpleLogRecordProcessor(self.written))
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.ended))

    def metrics(self) -> dict[str, Metric]:
        """Collect, and return what came from this package, by name."""
        data = self.reader.get_metrics_data()
        scopes = (
            [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        )
        return {
            metric.name: metric for scope in scopes if scope.scope.name == SCOPE for metric in scope.metrics
        }

    def series(self, name: str, policy: str) -> Series:
        """Collect, and return the series of one metric for one name: attributes but for the name to value."""
        metric = self.metrics().get(name)
        found: Series = {}
        for point in metric.data.data_points if metric else ():
            attributes = dict(point.attributes)
            if policy in (attributes.pop(NAME, None), attributes.get(SLO)):
                found[tuple(sorted(attributes.items()))] = getattr(point, "value", None) or getattr(
                    point, "sum", 0
                )
        return found

    def value(self, name: str, policy: str, **attributes: str) -> float | None:
        """Collect, and return the value of one series; attribute names are given by their last part."""
        for key, value in self.series(name, policy).items():
            if {name.rpartition(".")[2]: text for name, text in key} == attributes:
                return value
        return None

    def events(self) -> list[Any]:
        """The log records so far."""
        return [named(each.log_record) for each in self.written.get_finished_logs()]

    def spans(self) -> list[Any]:
        """The spans that have ended so far."""
        return list(self.ended.get_finished_spans())


def named(record: Any) -> Any:
    """Return a log record whose name is in a field of its own, also where the SDK has none."""
    if not hasattr(record, "event_name"):
        record.attributes = dict(record.attributes)
        record.event_name = record.attributes.pop("event.name")
    return record


def faults(otel: Otel) -> list[str]:
    """Compare everything that came out with the registry."""
    found: list[str] = []
    data = otel.reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            if scope.scope.schema_url != SCHEMA_URL or scope.scope.name != SCOPE:
                found.append(f"scope {scope.scope}")
            for metric in scope.metrics:
                found += faults_of_metric(metric)
    for record in otel.events():
        found += faults_of_event(record)
    for span in otel.spans():
        found += faults_of_span(span)
    return found


def faults_of_metric(metric: Metric) -> list[str]:
    definition = METRIC.get(metric.name)
    if definition is None:
        return [f"{metric.name}: not in the registry"]
    found: list[str] = []
    if (metric.unit, metric.description) != (definition.unit, definition.brief):
        found.append(f"{metric.name}: unit {metric.unit!r}, description {metric.description!r}")
    kind = type(metric.data).__name__.lower()
    if isinstance(metric.data, Sum):
        kind = "counter" if metric.data.is_monotonic else "updowncounter"
    if kind != definition.instrument:
        found.append(f"{metric.name}: is a {kind}, not a {definition.instrument}")
    numbers: dict[str, int] = {}
    for point in metric.data.data_points:
        optional = [key for key, _ in definition.optional]
        found += faults_of_attributes(metric.name, point.attributes, definition.attributes, optional)
        owner = str(point.attributes.get(definition.owner))
        numbers[owner] = numbers.get(owner, 0) + 1
    found += [
        f"{metric.name}: {number} series for {owner}"
        for owner, number in numbers.items()
        if number > definition.bound
    ]
    return found


def faults_of_event(record: Any) -> list[str]:
    definition = EVENT.get(record.event_name)
    if definition is None:
        return [f"{record.event_name}: not in the registry"]
    optional = [key for key, _ in definition.optional]
    return faults_of_attributes(record.event_name, record.attributes, definition.attributes, optional)


def faults_of_span(span: Any) -> list[str]:
    type_ = "resilience.attempt" if span.name.endswith(" attempt") else "resilience.call"
    definition = next(each for each in SPANS if each.type == type_)
    optional = [key for key, _ in definition.optional]
    return faults_of_attributes(f"span {span.name}", span.attributes, definition.attributes, optional)


def faults_of_attributes(where: str, given: Any, required: Any, optional: Any) -> list[str]:
    known = {attribute.key: attribute for attribute in ATTRIBUTES}
    found = [f"{where}: {key} is missing" for key in required if key not in given]
    for key, value in given.items():
        if key not in required and key not in optional:
            found.append(f"{where}: {key} is not declared")
        elif key in STANDARD:
            continue
        elif known[key].members:
            if value not in {member for member, _ in known[key].members}:
                found.append(f"{where}: {key} is {value!r}")
        elif not isinstance(value, TYPES[known[key].type]):
            found.append(f"{where}: {key} is no {known[key].type}: {value!r}")
    return found
