"""What may be wrong with the settings of `IdempotencyMiddleware`."""

from collections.abc import Callable, Collection
from typing import Any, cast

from resilience.errors import Problem
from resilience.integrations._asgi_idempotency_answer import NEVER_KEPT
from resilience.integrations._asgi_messages import is_header, is_seconds

_TEMPLATES = "must be templates of paths"
_SIZE = "must be a whole number >= 1"
_CALLABLE = "must be callable"


def is_size(value: object) -> bool:
    """Whether *value* is a whole number >= 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are(values: object, holds: Callable[[str], bool]) -> bool:
    if isinstance(values, (str, bytes)) or not isinstance(values, Collection):
        return False
    return all(isinstance(each, str) and holds(each) for each in cast("Collection[object]", values))


def _are_statuses(values: object) -> bool:
    if not isinstance(values, Collection):
        return False
    known = cast("Collection[object]", values)
    return all(isinstance(each, int) and 200 <= each <= 499 for each in known)


def _is_path(template: str) -> bool:
    return template.startswith("/")


def _may_be_kept(name: str) -> bool:
    return is_header(name) and name.lower() not in NEVER_KEPT


_RULES: dict[str, tuple[Callable[[Any], object], str]] = {
    "principal": (callable, f"{_CALLABLE}, with a scope"),
    "methods": (
        lambda value: value and _are(value, str.isupper),
        "must be a collection of methods in upper case",
    ),
    "paths": (lambda value: value is None or _are(value, _is_path), f"{_TEMPLATES}, or None"),
    "required": (lambda value: isinstance(value, bool) or _are(value, _is_path), f"{_TEMPLATES}, or a bool"),
    "header": (is_header, "must be the name of a header"),
    "syntax": (lambda value: value in ("lenient", "strict"), "must be 'lenient' or 'strict'"),
    "retry_after": (is_seconds, "must be a finite number of seconds > 0"),
    "max_request_bytes": (is_size, _SIZE),
    "max_response_bytes": (is_size, _SIZE),
    "release_statuses": (
        _are_statuses,
        "must be statuses from 200 to 499: those from 500 follow on_error",
    ),
    "replay_headers": (
        lambda value: _are(value, _may_be_kept),
        "must be names of headers, none of which belongs to one client, connection or moment",
    ),
    "fingerprint": (lambda value: value is None or callable(value), f"{_CALLABLE}, or None"),
    "problem_types": (lambda value: isinstance(value, str), "must be a URI"),
}


def problems_in(**given: object) -> list[Problem]:
    """Return what is wrong with settings that are not the layer's own."""
    found: list[Problem] = []
    for setting, value in given.items():
        holds, rule = _RULES[setting]
        if not holds(value):
            found.append(Problem(setting, value, rule))
    return found
