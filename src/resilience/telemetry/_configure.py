"""What telemetry does in this process, and how that is changed."""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from opentelemetry import metrics, trace

from resilience import events
from resilience._core.check import Check
from resilience._runtime import fork
from resilience._runtime.census import OFF
from resilience._runtime.watch import watch
from resilience.telemetry._calls import CallCounts
from resilience.telemetry._instruments import Hub
from resilience.telemetry._logs import Bridge
from resilience.telemetry._metrics import METRIC
from resilience.telemetry._registry import BOUNDS, SCHEMA_URL, SCOPE
from resilience.telemetry._watcher import Watcher, note
from resilience.typing import Seconds

_log: Final = logging.getLogger("resilience.telemetry")


class _Unset:
    """Stands for an argument that was not given."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = _Unset()


class State:
    """What is in force."""

    __slots__ = (
        "__weakref__",
        "_at_global",
        "_bridge",
        "_call_duration",
        "_call_metrics",
        "_counts",
        "_has_begun",
        "_histograms",
        "_hubs",
        "_lock",
        "_meter_providers",
        "_spans",
        "_tracer_provider",
        "_version",
    )

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._version = _version()
        self._hubs: list[Hub] = []
        self._at_global: Hub | None = None
        self._histograms: dict[int, Any] = {}  # by the id of a hub; they stay
        self._counts: dict[str, CallCounts] = {}
        self._bridge = Bridge(self._version)
        self._has_begun = False
        self._meter_providers: tuple[Any, ...] | None = None
        self._tracer_provider: Any = None
        self._call_duration = self._call_metrics = self._spans = False
        fork.register(self)

    def begin(self) -> None:
        """Do what is done by default, once."""
        with self._lock:
            if not self._has_begun:
                self._apply()

    def take(
        self,
        *,
        meter_provider: Any,
        logger_provider: Any,
        tracer_provider: Any,
        call_duration: bool | _Unset,
        call_metrics: bool | _Unset,
        spans: bool | _Unset,
    ) -> None:
        """Change what was given, and put it in force."""
        with self._lock:
            if not isinstance(meter_provider, _Unset):
                self._meter_providers = _several(meter_provider)
            if not isinstance(logger_provider, _Unset):
                self._bridge.provider = logger_provider
            if not isinstance(tracer_provider, _Unset):
                self._tracer_provider = tracer_provider
            if not isinstance(call_duration, _Unset):
                self._call_duration = call_duration
            if not isinstance(call_metrics, _Unset):
                self._call_metrics = call_metrics
            if not isinstance(spans, _Unset):
                self._spans = spans
            self._apply()

    def _apply(self) -> None:
        if is_off():
            return
        events.recorder = self._bridge
        self._has_begun = True
        wanted = self._meter_providers
        active = [self._global_hub()] if wanted is None else [self._hub_of(each) for each in wanted]
        for hub in self._hubs:
            hub.is_active = hub in active
        watch.note = note
        record = self._recorder(active) if self._call_duration else None
        tracer = self._tracer() if self._spans else None
        counts = self._counts if self._call_metrics else None
        is_asked_for = not (record is None and tracer is None and counts is None)
        watch.put(Watcher(counts, record, tracer) if is_asked_for else None)

    def _global_hub(self) -> Hub:
        """Return the hub at the global provider, which may be set only later: its instruments follow."""
        provider = metrics.get_meter_provider()
        for hub in self._hubs:
            if hub.provider is provider:  # its instruments were there before it became the global one
                return hub
        if self._at_global is None:
            self._at_global = Hub(provider, self._version)
            self._hubs.append(self._at_global)
        return self._at_global

    def _hub_of(self, provider: Any) -> Hub:
        for hub in self._hubs:
            if hub.provider is provider:
                return hub
        if self._at_global is not None and provider is metrics.get_meter_provider():
            return self._at_global  # a second hub at one provider would be deaf
        hub = Hub(provider, self._version)
        self._hubs.append(hub)
        return hub

    def _recorder(self, active: list[Hub]) -> Callable[[Seconds, Mapping[str, str]], None]:
        histograms = [made for hub in active if (made := self._histogram(hub)) is not None]

        def record(seconds: Seconds, attributes: Mapping[str, str]) -> None:
            for histogram in histograms:
                histogram.record(seconds, attributes)

        return record

    def _histogram(self, hub: Hub) -> Any:
        known = self._histograms.get(id(hub))
        if known is None and hub.meter is not None:
            metric = METRIC["resilience.call.duration"]
            named = {"name": metric.name, "unit": metric.unit, "description": metric.brief}
            try:
                make: Any = hub.meter.create_histogram
                try:
                    known = make(**named, explicit_bucket_boundaries_advisory=BOUNDS)
                except TypeError:  # an API from before bounds could be advised
                    known = make(**named)
            except Exception:  # noqa: BLE001  # as in Hub
                _log.warning("no durations: the meter provider failed", exc_info=True)
                return None
            self._histograms[id(hub)] = known
        return known

    def _tracer(self) -> trace.Tracer | None:
        try:
            return trace.get_tracer(SCOPE, self._version, self._tracer_provider, SCHEMA_URL)
        except Exception:  # noqa: BLE001  # as in Hub
            _log.warning("no spans: the tracer provider failed", exc_info=True)
            return None

    def _after_fork(self) -> None:
        self._lock = threading.RLock()


def is_off() -> bool:
    """Whether the environment silences everything."""
    return os.environ.get("RESILIENCE_TELEMETRY", "").lower() in OFF


def _several(given: Any) -> tuple[Any, ...] | None:
    if given is None:
        return None
    return tuple(given) if isinstance(given, (list, tuple)) else (given,)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # whatever it holds


def _version() -> str:
    try:
        return version("resilience-policies")
    except PackageNotFoundError:  # run from a source tree
        return ""


state: Final = State()


def configure(
    *,
    meter_provider: Any = UNSET,
    logger_provider: Any = UNSET,
    tracer_provider: Any = UNSET,
    call_duration: bool | _Unset = UNSET,
    call_metrics: bool | _Unset = UNSET,
    spans: bool | _Unset = UNSET,
) -> None:
    """
    Change what is told to OpenTelemetry, also of what is guarded already.

    Without it, metrics and log events go to the global providers, whenever those are set. What is not given
    stays as it is. With ``RESILIENCE_TELEMETRY=off`` in the environment it changes nothing that can be seen.

    Args:
        meter_provider: Where metrics go: a meter provider, several in a list, or None for the global one,
            the default. A provider that is no longer named gets nothing more.
        logger_provider: Where events go: a logger provider, or None for the global one, the default.
        tracer_provider: Where spans go: a tracer provider, or None for the global one, the default.
        call_duration: Whether to record ``resilience.call.duration``, a histogram with exemplars. Calls then
            go the slow way. Default False.
        call_metrics: Whether to count calls by outcome and latency, in integers. Default False.
        spans: Whether to make a span for each call and each attempt. Calls then go the slow way. Default
            False.

    Raises:
        ConfigError: An argument is of the wrong kind. Nothing has changed then.

    Example:
        >>> from resilience import telemetry
        >>> telemetry.configure(call_metrics=True)
        >>> telemetry.configure(call_metrics=False)

    """
    check = Check("telemetry.configure")
    meters = None if isinstance(meter_provider, _Unset) else _several(meter_provider)
    makes_meters = all(hasattr(each, "get_meter") for each in meters or ())
    check.that(makes_meters, "meter_provider", meter_provider, "must be meter providers or None")
    for setting, value, method in (
        ("logger_provider", logger_provider, "get_logger"),
        ("tracer_provider", tracer_provider, "get_tracer"),
    ):
        holds = value is None or isinstance(value, _Unset) or hasattr(value, method)
        check.that(holds, setting, value, f"must have a method {method}() or be None")
    for setting, value in (
        ("call_duration", call_duration),
        ("call_metrics", call_metrics),
        ("spans", spans),
    ):
        check.that(isinstance(value, (bool, _Unset)), setting, value, "must be True or False")
    check.done()
    state.take(
        meter_provider=meter_provider,
        logger_provider=logger_provider,
        tracer_provider=tracer_provider,
        call_duration=call_duration,
        call_metrics=call_metrics,
        spans=spans,
    )
