"""What all owners counted, as the series of each metric: the one place where readings become telemetry."""

import math
import threading
from collections.abc import Mapping
from typing import Final

from resilience._runtime import census, fork
from resilience._runtime.census import Key, labels
from resilience.telemetry._metrics import METRIC
from resilience.telemetry._registry import NAME, SLO, Metric

Series = tuple[float, Mapping[str, str]]
"""A value and the attributes that it is told with."""


class Reader:
    """
    Reads the census.

    A total never falls while its process lives. Generated code takes back what it counted a moment before,
    where a later policy refuses the call; who looked in between would take the fall for a new process.
    """

    __slots__ = ("__weakref__", "_attributes", "_highest", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._highest: dict[Key, float] = {}
        self._attributes: dict[Key, Mapping[str, str]] = {}
        fork.register(self)

    def read(self) -> dict[str, list[Series]]:
        """Return the series of every metric that somebody counts."""
        survey = census.survey()
        found: dict[str, list[Series]] = {}
        told: dict[tuple[str, str], int] = {}
        with self._lock:
            for key, (kept, live) in survey.items():
                metric = METRIC.get(key[0])
                if metric is None:
                    continue
                value = (
                    self._total(key, kept, live) if metric.instrument == "counter" else _level(metric, live)
                )
                if value is None or not math.isfinite(value):
                    continue
                told[key[:2]] = number = told.get(key[:2], 0) + 1
                if number <= metric.bound:
                    found.setdefault(key[0], []).append((value, self._attributes_of(key, metric)))
        return found

    def _total(self, key: Key, kept: float, live: list[float]) -> float:
        total = max(kept + sum(live), self._highest.get(key, 0))
        self._highest[key] = total
        return total

    def _attributes_of(self, key: Key, metric: Metric) -> Mapping[str, str]:
        attributes = self._attributes.get(key)
        if attributes is None:
            named = {name: labels.label(value) if name in (NAME, SLO) else value for name, value in key[2]}
            attributes = self._attributes[key] = {metric.owner: key[1], **named}
        return attributes

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._highest.clear()


def _level(metric: Metric, live: list[float]) -> float | None:
    if not live:
        return None
    return max(live) if metric.combine == "max" else sum(live)


reader: Final = Reader()
