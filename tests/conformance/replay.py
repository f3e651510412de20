"""
Replaying reference vectors: numbers that established libraries' tests assert, as data.

A file is a list of vectors. One looks like this::

    {"id": "gcra/one", "algorithm": "gcra", "source": "where the figures come from",
     "params": {"rate_per_s": 1, "burst": 5},
     "steps": [{"input": {"t": 0, "n": 1}, "expect": {"limited": false, "remaining": 4}}]}

The steps are applied in order to one fresh object, made from *params* by the algorithm's adapter.
What *expect* holds is compared with what the adapter reports of that step:

- Keys that are not in *expect* are not compared; an empty *expect* compares nothing.
- Numbers compare with a relative tolerance of 1e-6 (absolute below 1), or with the absolute
  tolerance ``tol`` if *expect* has one. Everything else compares exactly.
- A key that ends in ``_ge``, ``_le`` or ``_gt`` bounds the value of that name.
- ``tol``, ``places`` and ``note`` are not values.

An algorithm, an operation, a parameter or a key that nobody knows is a failure: silence hides gaps.
"""

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import adapters_limits, adapters_partitions, adapters_rates  # noqa: F401  # they register adapters, too
from .adapters import ADAPTERS
from .exceptions import EXCEPTIONS, Exemption, Kind

Vector = Mapping[str, Any]

TOLERANCE = 1e-6
REQUIRED = {"id", "algorithm", "source", "params", "steps"}
OPTIONAL = {"note", "derived"}
REMARKS = {"tol", "places", "note"}
BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "_ge": operator.ge,
    "_le": operator.le,
    "_gt": operator.gt,
}


class Unknown(Exception):
    """The vector asks for something that the adapters do not know."""


def load(file: Path) -> list[Vector]:
    """
    Read a file of vectors.

    Raises:
        ValueError: It is not a list of at least one vector, or not of this format.

    """
    vectors = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(vectors, list) or not vectors:
        raise ValueError("not a list of vectors")
    seen: set[str] = set()
    for number, vector in enumerate(vectors, 1):
        if not isinstance(vector, dict) or not REQUIRED <= vector.keys() <= REQUIRED | OPTIONAL:
            raise ValueError(f"entry {number} must have {sorted(REQUIRED)} and may have {sorted(OPTIONAL)}")
        if any(step.keys() != {"input", "expect"} for step in vector["steps"]):
            raise ValueError(f"{vector['id']}: every step must have an input and an expect")
        if vector["id"] in seen:
            raise ValueError(f"{vector['id']} stands there twice")
        seen.add(vector["id"])
    return vectors


def build(algorithm: str, params: Mapping[str, Any]) -> object:
    """Make a fresh object of *algorithm*."""
    if algorithm not in ADAPTERS:
        raise Unknown(f"algorithm {algorithm!r} has neither an adapter nor an exception")
    try:
        return ADAPTERS[algorithm](**params)
    except TypeError as error:
        raise Unknown(f"params {params}: {error}") from error


def step(adapter: object, given: Mapping[str, Any]) -> dict[str, Any]:
    """Apply one input; without ``op``, an adapter has one operation, ``step``."""
    arguments = dict(given)
    op = arguments.pop("op", "step")
    operation = getattr(type(adapter), op, None) if not op.startswith("_") else None
    if operation is None:
        raise Unknown(f"op {op!r}")
    try:
        report: dict[str, Any] = operation(adapter, **arguments)
    except TypeError as error:
        raise Unknown(f"input {given}: {error}") from error
    return report


def differences(expect: Mapping[str, Any], actual: Mapping[str, Any]) -> list[str]:
    """Say where *actual* is not what *expect* asks for."""
    tolerance = expect.get("tol")
    wrong = []
    for key, wanted in expect.items():
        if key in REMARKS:
            continue
        name, bound = key, None
        if key not in actual and key[-3:] in BOUNDS:
            name, bound = key[:-3], BOUNDS[key[-3:]]
            if name not in actual and f"{name}_ms" in actual:
                name = f"{name}_ms"
        if name not in actual:
            raise Unknown(f"expect {key!r}: the adapter reports only {sorted(actual)}")
        found = actual[name]
        if not (bound(found, wanted) if bound else _equal(found, wanted, tolerance)):
            wrong.append(f"{key}: want {wanted!r}, got {found!r}")
    return wrong


def _equal(found: Any, wanted: Any, tolerance: float | None) -> bool:
    if not _is_number(wanted) or not _is_number(found):
        return _is_number(wanted) == _is_number(found) and bool(found == wanted)
    if tolerance is None:
        tolerance = TOLERANCE * max(1.0, abs(wanted))
    return bool(abs(found - wanted) <= tolerance)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def replay(vector: Vector, exceptions: Sequence[Exemption] = EXCEPTIONS) -> list[str]:
    """
    Apply all steps of *vector*; return what is wrong.

    Where the table says that this package differs on purpose, the step must differ, and in the way
    the table says.
    """
    differs = {row.where: row for row in exceptions if row.kind is Kind.DIFFERS}
    algorithm = vector["algorithm"]
    adapter = build(algorithm, vector["params"])
    wrong = []
    for number, entry in enumerate(vector["steps"], 1):
        actual = step(adapter, entry["input"])
        expect = {
            key: wanted
            for key, wanted in entry["expect"].items()
            if key not in actual or f"{algorithm}:{key}" not in differs
        }
        found = differences(expect, actual)
        row = differs.get(f"{vector['id']}#{number}")
        if row is not None:
            stale = [] if found else ["the table of exceptions says that this differs, but it does not"]
            found = stale + differences(row.ours, actual)
        wrong += [f"step {number}, {entry['input']}: {text}" for text in found]
    return wrong
