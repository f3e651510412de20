"""The registry in the shape of OpenTelemetry's own, "definition/2", for tools that check or publish it."""

from typing import Any

from resilience.telemetry._events import EVENTS, SPANS
from resilience.telemetry._metrics import METRICS
from resilience.telemetry._registry import ATTRIBUTES, Attribute


def as_definition() -> dict[str, Any]:
    """Return the registry as plain data, ready for JSON or YAML."""
    return {
        "file_format": "definition/2",
        "attributes": [_attribute(each) for each in ATTRIBUTES],
        "metrics": [
            {
                "name": each.name,
                "instrument": each.instrument,
                "unit": each.unit,
                "brief": each.brief,
                "stability": "development",
                "requirement_level": "opt_in" if each.opt_in else "recommended",
                "attributes": _references(each.attributes, each.optional),
            }
            for each in METRICS
        ],
        "events": [
            {
                "name": each.name,
                "brief": each.brief,
                "stability": "development",
                "attributes": _references(each.attributes, each.optional),
            }
            for each in EVENTS
        ],
        "spans": [
            {
                "type": each.type,
                "kind": "internal",
                "name": {"note": each.name},
                "brief": each.brief,
                "stability": "development",
                "requirement_level": "opt_in",
                "attributes": _references(each.attributes, each.optional),
            }
            for each in SPANS
        ],
    }


def _attribute(attribute: Attribute) -> dict[str, Any]:
    definition: dict[str, Any] = {
        "key": attribute.key,
        "brief": attribute.brief,
        "stability": "development",
        "type": attribute.type,
    }
    if attribute.members:
        definition["type"] = {
            "members": [
                {"id": value, "value": value, "brief": brief, "stability": "development"}
                for value, brief in attribute.members
            ]
        }
    else:
        definition["examples"] = list(attribute.examples)
    return definition


def _references(required: tuple[str, ...], optional: tuple[tuple[str, str], ...]) -> list[dict[str, Any]]:
    return [
        *({"ref": key, "requirement_level": "required"} for key in required),
        *({"ref": key, "requirement_level": {"conditionally_required": when}} for key, when in optional),
    ]
