"""
What OpenTelemetry is told while a dependency is well, and while it is down.

    python examples/telemetry.py

It needs the OpenTelemetry SDK (`pip install "resilience-policies[otel]"`). Nothing leaves this process.
"""

from collections.abc import Iterator

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from resilience import CircuitBreaker, CircuitOpenError, Pipeline, Retry, telemetry
from resilience.backoff import constant

SHOWN = ("resilience.attempts", "resilience.calls", "resilience.circuit_breaker.transitions")

reader = InMemoryMetricReader()  # an application has a PeriodicExportingMetricReader here
metrics.set_meter_provider(MeterProvider([reader]))

inventory = Pipeline(
    "inventory",
    Retry(attempts=2, backoff=constant(0.0)),
    CircuitBreaker(consecutive_failures=4),
    on=ConnectionError,
)


@inventory
def stock(sku: str, *, is_down: bool) -> int:
    """Ask the inventory, which may be down."""
    if is_down:
        raise ConnectionError(sku)
    return 7


def told() -> Iterator[str]:
    """Return what would be exported now, but for series at zero."""
    data = reader.get_metrics_data()
    for scope in (scope for resource in data.resource_metrics for scope in resource.scope_metrics):
        for metric in scope.metrics:
            for point in metric.data.data_points if metric.name in SHOWN else ():
                attributes = [f"{key.rpartition('.')[2]}={value}" for key, value in point.attributes.items()]
                if point.value:
                    yield f"{metric.name:40} {point.value:4} {' '.join(attributes)}"


def main() -> None:
    """Call a dependency while it is well, and while it is down."""
    telemetry.configure(call_metrics=True)  # also for `stock`, which is guarded already
    for _ in range(20):
        stock("a-1", is_down=False)
    for _ in range(10):
        try:
            stock("a-1", is_down=True)
        except (ConnectionError, CircuitOpenError):
            pass
    print(*told(), sep="\n")


if __name__ == "__main__":
    main()
