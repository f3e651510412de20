"""
The observable instruments: one of each for a process and a meter provider, over everybody's integers.

An instrument that is made twice loses its second callback without a word, and none can be taken back. So
they are made once, and one that is no longer wanted observes nothing.
"""

import logging
import threading
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from resilience import _clock
from resilience._runtime import fork
from resilience.telemetry._metrics import METRICS
from resilience.telemetry._reader import Series, reader
from resilience.telemetry._registry import SCHEMA_URL, SCOPE, Metric

LONGEST_READ: Final = 1.0
"""Seconds for which the instruments of one collection share one reading at most."""

_log: Final = logging.getLogger("resilience.telemetry")


class Hub:
    """
    The instruments at one meter provider.

    All instruments of one collection are read from one look at the owners: the first that is asked for a
    second time begins the next collection.

    Attributes:
        provider: The meter provider.
        meter: The meter at which they were made, or None if the provider failed.
        is_active: Whether they observe anything.

    """

    __slots__ = ("__weakref__", "_lock", "_read_at", "_series", "_served", "is_active", "meter", "provider")

    def __init__(self, provider: Any, version: str) -> None:
        self.provider = provider
        self.is_active = True
        self.meter: Meter | None = None
        self._lock = threading.Lock()
        self._series: dict[str, list[Series]] = {}
        self._served: set[str] | None = None
        self._read_at = 0.0
        fork.register(self)
        try:
            self.meter = provider.get_meter(SCOPE, version, schema_url=SCHEMA_URL)
            for metric in METRICS:
                self._make(self.meter, metric)
        except Exception:  # noqa: BLE001  # a provider that fails costs its numbers, and breaks nobody's policy
            _log.warning("no metrics: the meter provider failed", exc_info=True)

    def _make(self, meter: Any, metric: Metric) -> None:
        makers = {
            "counter": meter.create_observable_counter,
            "updowncounter": meter.create_observable_up_down_counter,
            "gauge": meter.create_observable_gauge,
        }
        make = makers.get(metric.instrument)
        if make is not None:
            make(metric.name, [partial(self._observe, metric.name)], metric.unit, metric.brief)

    def _observe(self, name: str, options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG002  # of every callback
        if not self.is_active:
            return ()
        try:
            return [Observation(value, attributes) for value, attributes in self._read(name)]
        except Exception:  # noqa: BLE001  # what is asked by an exporter's thread has nobody to fail to
            _log.warning("could not read %s", name, exc_info=True)
            return ()

    def _read(self, name: str) -> list[Series]:
        with self._lock:
            now = _clock.monotonic()
            served = self._served
            if served is None or name in served or not 0 <= now - self._read_at <= LONGEST_READ:
                self._series = reader.read()
                self._served = served = set[str]()
                self._read_at = now
            served.add(name)
            return self._series.get(name, [])

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._served = None
