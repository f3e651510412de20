"""The exposition of the Prometheus exporter: what `promtool check metrics` asks of names, and the documented queries."""

import re

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from resilience import telemetry

from .otel import Otel
from .test_live_check import exercise

# Of prometheus/client_golang's promlint, as far as it looks at names, types and help.
BASE_UNITS = ("seconds", "bytes", "ratio", "meters", "grams", "joules", "celsius")
NON_BASE = re.compile(
    r"(milli|micro|nano)?(seconds?_?ms|minutes?|hours?|days?|weeks?|milliseconds?|kilobytes?)"
)


def lint(exposition: str) -> list[str]:
    """Return what `promtool check metrics` would say."""
    found: list[str] = []
    for family in text_string_to_metric_families(exposition):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        if not family.documentation:
            found.append(f"{name}: no help text")
        if family.type in {"unknown", "untyped"}:
            found.append(f"{name}: no type")
        if family.type != "counter" and name.endswith("_total"):
            found.append(f"{name}: non-counter metrics should not have _total suffix")
        if family.type not in {"histogram", "summary"} and re.search(r"_(count|sum|bucket)$", name):
            found.append(f"{name}: only histograms and summaries have such a suffix")
        if family.type == "counter" and not all(
            sample.name.endswith("_total") or sample.name.endswith("_created") for sample in family.samples
        ):
            found.append(f"{name}: counter metrics should have _total suffix")
        if re.search(r"_(gauge|counter|histogram|summary)(_|$)", name):
            found.append(f"{name}: metric name should not include its type")
        if ":" in name or re.search(r"[a-z][A-Z]", name):
            found.append(f"{name}: colons and camel case are not for metric names")
        if any(NON_BASE.fullmatch(part) for part in name.split("_")):
            found.append(f"{name}: use base units")
        for sample in family.samples:
            reserved = {"le": "histogram", "quantile": "summary"}
            for label in sample.labels:
                if label in reserved and family.type != reserved[label]:
                    found.append(f"{name}: label {label} is reserved")
                if re.search(r"[a-z][A-Z]", label) or label.startswith("__"):
                    found.append(f"{name}: label {label}")
    return found


@pytest.fixture
def exposition(otel: Otel) -> str:
    """What a scrape returns after everything was used."""
    reader = PrometheusMetricReader()
    provider = MeterProvider([reader])
    telemetry.configure(meter_provider=provider, call_metrics=True, call_duration=True)
    try:
        kept = exercise()
        assert kept
        return generate_latest(REGISTRY).decode()
    finally:
        provider.shutdown()


def test_the_exposition_passes_the_lint(exposition: str) -> None:
    families = [family.name for family in text_string_to_metric_families(exposition)]
    assert sum(name.startswith("resilience_") for name in families) > 30
    ours = "".join(line + "\n" for line in exposition.splitlines() if re.match(r"(# \w+ )?resilience_", line))
    assert lint(ours) == []


@pytest.mark.parametrize(
    "text",
    [
        "# TYPE a_total gauge\n# HELP a_total A.\na_total 1\n",
        "# TYPE a_milliseconds gauge\n# HELP a_milliseconds A.\na_milliseconds 1\n",
        "# TYPE a gauge\na 1\n",
        "# HELP a A.\na 1\n",
        '# TYPE a gauge\n# HELP a A.\na{le="1"} 1\n',
        "# TYPE a_gauge gauge\n# HELP a_gauge A.\na_gauge 1\n",
        "# TYPE a_count gauge\n# HELP a_count A.\na_count 1\n",
    ],
)
def test_the_lint_would_notice(text: str) -> None:
    assert lint(text) != []


def test_names_are_those_of_the_documented_queries(exposition: str) -> None:
    labels = 'resilience_attempt_type="initial",resilience_policy_name="all"'
    assert re.search(r"^resilience_attempts_total\{[^}]*" + labels, exposition, re.MULTILINE)
    assert re.search(
        r'^resilience_call_buckets_total\{[^}]*resilience_call_bound="\+Inf"', exposition, re.MULTILINE
    )
    assert re.search(r'^resilience_calls_total\{[^}]*resilience_outcome="failure"', exposition, re.MULTILINE)
    assert "resilience_call_time_seconds_total{" in exposition
    assert "resilience_rate_limiter_limit_per_second{" in exposition
    assert "resilience_circuit_breaker_time_seconds_total{" in exposition
