"""What the tests of telemetry share."""

from collections.abc import Iterator

import pytest

from resilience import telemetry
from resilience._runtime import census
from resilience.telemetry._configure import state
from resilience.telemetry._errors import error_types
from resilience.telemetry._reader import reader

from .otel import Otel


@pytest.fixture
def otel() -> Iterator[Otel]:
    """An SDK that telemetry goes to, and names as in a new process."""
    everybody, census._census = census._census, census._Census()  # other tests' policies are alive, too
    census.labels.clear()
    reader._highest.clear()
    for counts in state._counts.values():  # they stay, for what is guarded counts there
        counts._zero()
        census.enroll(counts)
    error_types._known.clear()
    state._bridge._windows.clear()
    sdk = Otel()
    telemetry.configure(meter_provider=sdk.meters, logger_provider=sdk.loggers, tracer_provider=sdk.tracers)
    yield sdk
    telemetry.configure(
        meter_provider=None,
        logger_provider=None,
        tracer_provider=None,
        call_duration=False,
        call_metrics=False,
        spans=False,
    )
    census._census = everybody
    sdk.meters.shutdown()
    sdk.tracers.shutdown()
    sdk.loggers.shutdown()
