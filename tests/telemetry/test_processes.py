"""What only a fresh process shows: no SDK, one that comes late, silence, a fork, an API out of order."""

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

HEAD = """
import json, os, sys
from resilience import CircuitBreaker, Retry, RetryBudget, listen
def sdk():
    from opentelemetry import metrics, _logs
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs import export
    # Its name, and that of the field below, are younger than the oldest SDK that is supported.
    exporter = getattr(export, "InMemoryLogRecordExporter", None) or export.InMemoryLogExporter
    reader, written = InMemoryMetricReader(), exporter()
    metrics.set_meter_provider(MeterProvider([reader]))
    loggers = LoggerProvider()
    loggers.add_log_record_processor(export.SimpleLogRecordProcessor(written))
    _logs.set_logger_provider(loggers)
    return reader, written
def successes(reader, name):
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name == "resilience.retry.calls":
                    for point in metric.data.data_points:
                        found = dict(point.attributes)
                        if found == {"resilience.policy.name": name, "resilience.retry.stop_reason": "success"}:
                            return point.value
def events(written):
    records = [each.log_record for each in written.get_finished_logs()]
    return [getattr(each, "event_name", None) or each.attributes["event.name"] for each in records]
"""


def run(program: str, **environment: str) -> Any:
    """Run *program* in a fresh interpreter; return what it printed, as JSON."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", HEAD + textwrap.dedent(program)],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


def test_the_api_comes_with_the_first_policy_and_the_sdk_never() -> None:
    told = run("""
        before = "opentelemetry" in sys.modules
        Retry("first")
        print(json.dumps([before, "opentelemetry.metrics" in sys.modules, "opentelemetry.sdk" in sys.modules]))
    """)
    assert told == [False, True, False]


def test_without_an_sdk_no_event_is_built() -> None:
    told = run("""
        import resilience.events
        built = []
        class Event(resilience.events.Event):
            def __post_init__(self): built.append(1)
        resilience.events.Event = Event
        with CircuitBreaker("quiet").isolate(): pass
        print(json.dumps(built))
    """)
    assert told == []


@pytest.mark.parametrize("comes", ["before", "after"])
def test_an_sdk_may_come_before_or_after_the_policies(comes: str) -> None:
    told = run(f"""
        if {comes == "before"}: reader, written = sdk()
        retry, breaker = Retry("shop"), CircuitBreaker("shop")
        retry.call(len, "four")
        if {comes == "after"}: reader, written = sdk()
        retry.call(len, "four")
        with breaker.isolate(): pass
        print(json.dumps([successes(reader, "shop"), events(written)]))
    """)
    assert told == [2, ["resilience.circuit_breaker.state_change"] * 2]


def test_the_global_provider_may_be_named_too() -> None:
    told = run("""
        from opentelemetry import metrics
        from resilience import telemetry
        retry = Retry("shop")
        reader, _ = sdk()
        retry.call(len, "four")
        telemetry.configure(meter_provider=metrics.get_meter_provider())
        named = successes(reader, "shop")
        telemetry.configure(meter_provider=None)
        print(json.dumps([named, successes(reader, "shop")]))
    """)
    assert told == [1, 1]


def test_a_provider_that_becomes_the_global_one_goes_on() -> None:
    told = run("""
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from resilience import telemetry
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader])
        telemetry.configure(meter_provider=provider)
        retry = Retry("shop")
        retry.call(len, "four")
        import logging
        logging.disable()  # the SDK says that the instruments are there already
        metrics.set_meter_provider(provider)
        telemetry.configure(meter_provider=None)
        print(json.dumps(successes(reader, "shop")))
    """)
    assert told == 1


@pytest.mark.parametrize("value", ["off", "OFF", "0", "false"])
def test_the_environment_silences_everything(value: str) -> None:
    told = run(
        """
        from resilience import telemetry
        telemetry.configure(call_metrics=True, spans=True)
        reader, written = sdk()
        retry, breaker = Retry("shop"), CircuitBreaker("shop")
        retry.call(len, "four")
        with breaker.isolate(): pass
        print(json.dumps([reader.get_metrics_data() is None, events(written)]))
        """,
        RESILIENCE_TELEMETRY=value,
    )
    assert told == [True, []]


def test_silenced_it_does_not_even_import_the_api() -> None:
    told = run(
        """
        Retry("quiet")
        print(json.dumps("opentelemetry" in sys.modules))
        """,
        RESILIENCE_TELEMETRY="off",
    )
    assert told is False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_begins_at_zero() -> None:
    told = run("""
        reader, _ = sdk()
        retry = Retry("shop")
        gone = Retry("shop")
        gone.call(len, "four")
        del gone
        retry.call(len, "four")
        parent = successes(reader, "shop")
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            first = successes(reader, "shop")
            retry.call(len, "four")
            os.write(write, json.dumps([first, successes(reader, "shop")]).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        print(json.dumps([parent, json.loads(os.read(read, 100)), successes(reader, "shop")]))
    """)
    assert told == [2, [0, 1], 2]


def test_an_api_out_of_order_breaks_no_policy() -> None:
    told = run("""
        import logging
        logging.disable()
        sys.modules["opentelemetry.metrics"] = None
        print(json.dumps(Retry("shop").call(len, "four")))
    """)
    assert told == 4


def test_policies_that_live_when_the_interpreter_ends_say_nothing() -> None:
    told = run("""
        kept = [Retry("shop"), CircuitBreaker("shop"), RetryBudget()]
        sys.kept = kept
        print(json.dumps(1))
    """)
    assert told == 1
