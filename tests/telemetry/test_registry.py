"""The registry itself: its shape, and the naming rules that no schema knows."""

import dataclasses
import enum
import json
import re
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
from opentelemetry.semconv.attributes import error_attributes, http_attributes
from opentelemetry.semconv.schemas import Schemas

from resilience import CircuitState, Priority
from resilience.circuit_breaker._state import Reason
from resilience.retry._progress import StopReason
from resilience.telemetry import _values as values
from resilience.telemetry._definition import as_definition
from resilience.telemetry._events import EVENTS, ON_CURRENT_SPAN, SPANS
from resilience.telemetry._metrics import METRICS
from resilience.telemetry._registry import (
    ATTRIBUTES,
    BOUNDS,
    ERROR,
    NAME,
    RESEND,
    SCHEMA_URL,
    SLO,
    STANDARD,
)

SCHEMA = Path(__file__).parent / "semconv.schema.v2.json"
DEFINED = {attribute.key for attribute in ATTRIBUTES}
NAMES = [each.name for each in (*METRICS, *EVENTS)]
SINGULAR = {"status", "usage", "limit", "abandoned"}


def errors_in(definition: object) -> list[str]:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    validator = jsonschema.validators.validator_for(schema)(schema)
    return [error.message for error in validator.iter_errors(json.loads(json.dumps(definition)))]


def test_it_satisfies_the_schema_of_semantic_conventions() -> None:
    assert errors_in(as_definition()) == []


def test_the_schema_would_notice_a_fault() -> None:
    definition = as_definition()
    definition["metrics"][0]["instrument"] = "meter"
    assert errors_in(definition) != []


@pytest.mark.parametrize("name", [*NAMES, *sorted(DEFINED)])
def test_names_are_lower_case_and_dotted_under_our_own_namespace(name: str) -> None:
    assert re.fullmatch(r"resilience(\.[a-z][a-z0-9_]*)+", name)
    assert not name.endswith("total")


def test_no_name_is_given_twice() -> None:
    for names in (
        [each.name for each in METRICS],
        [each.name for each in EVENTS],
        [each.key for each in ATTRIBUTES],
    ):
        assert len(set(names)) == len(names)


def test_no_metric_is_the_namespace_of_another() -> None:
    names = [metric.name for metric in METRICS]
    assert [(a, b) for a in names for b in names if b.startswith(f"{a}.")] == []


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_units_fit_the_instruments(metric) -> None:
    assert re.fullmatch(r"1|s|\{[a-z]+\}(/s)?", metric.unit)
    if metric.instrument == "counter":
        assert "/" not in metric.unit, "a rate that is counted has no name in Prometheus"
        assert metric.unit != "1"
    leaf = metric.name.rpartition(".")[2]
    if metric.instrument == "updowncounter":
        assert leaf in SINGULAR


@pytest.mark.parametrize("each", [*METRICS, *EVENTS, *SPANS], ids=lambda each: getattr(each, "name", each))
def test_every_attribute_is_defined(each) -> None:
    keys = {*each.attributes, *(key for key, _ in each.optional)}
    assert keys <= DEFINED | STANDARD


def test_every_attribute_is_used() -> None:
    used = {
        key
        for each in (*METRICS, *EVENTS, *SPANS)
        for key in (*each.attributes, *(key for key, _ in each.optional))
    }
    assert {*used, *ON_CURRENT_SPAN} >= DEFINED


@pytest.mark.parametrize("each", [*METRICS, *EVENTS], ids=lambda each: each.name)
def test_every_one_tells_whose_it_is(each) -> None:
    assert each.owner in (NAME, SLO)
    assert each.owner in each.attributes


@pytest.mark.parametrize("each", [*METRICS, *EVENTS, *SPANS, *ATTRIBUTES], ids=repr)
def test_every_brief_is_a_sentence(each) -> None:
    assert each.brief[0].isupper() or each.brief[0].isdigit()
    assert each.brief.endswith(".")
    for _, brief in getattr(each, "members", ()):
        assert brief.endswith(".")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_bound_holds_every_combination_of_listed_values(metric) -> None:
    sizes = {attribute.key: len(attribute.members) for attribute in ATTRIBUTES if attribute.members}
    most = 1
    for key in metric.attributes:
        most *= sizes.get(key, 1)
    assert metric.bound <= max(most, 66)
    assert metric.bound <= 66


@pytest.mark.parametrize(
    ("members", "there"),
    [
        (values.STATES, CircuitState),
        (values.REASONS, Reason),
        (values.PRIORITIES, Priority),
        (values.STOPS, get_args(StopReason)),
    ],
)
def test_values_are_those_of_the_code(members, there) -> None:
    listed = [each.value if isinstance(each, enum.Enum) else each for each in there]
    assert sorted(value for value, _ in members) == sorted(listed)


def test_what_is_borrowed_from_the_semantic_conventions_is_called_so_there() -> None:
    assert error_attributes.ERROR_TYPE == ERROR
    assert http_attributes.HTTP_REQUEST_METHOD.rpartition(".")[0] == RESEND.rpartition(".")[0]
    assert SCHEMA_URL in {schema.value for schema in Schemas}


def test_latency_bounds_are_floats_that_rise() -> None:
    assert list(BOUNDS) == sorted(set(BOUNDS))
    assert all(isinstance(bound, float) for bound in BOUNDS)


def test_a_definition_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        METRICS[0].name = "other"
