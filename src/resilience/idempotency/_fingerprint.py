"""Fingerprints: what makes two requests the same."""

import dataclasses
import datetime as dt
import decimal
import enum
import hashlib
import inspect
import json
import pathlib
import uuid
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, cast

from resilience.idempotency._key import framed


def fingerprint_request(
    method: str,
    route: str,
    body: bytes = b"",
    *,
    query: str = "",
    headers: Iterable[tuple[str, str]] = (),
    canonical_json: bool = False,
) -> bytes:
    """
    Return the fingerprint of an HTTP request.

    Args:
        method: Its method, in whatever case.
        route: The template of its path, or the path. Where the template has parameters, put their values
            among *headers* or use the path: ``/orders/1`` and ``/orders/2`` are not the same request.
        body: Its body.
        query: Its query string. The order of parameters with different names does not matter.
        headers: The headers that belong to what is asked for, as the content type does. Names in whatever
            case; their order does not matter.
        canonical_json: Whether bodies that are the same JSON are the same, whatever their spaces and the
            order of their keys. What is no JSON is compared byte by byte.

    Example:
        >>> one = fingerprint_request("POST", "/orders", b'{"a": 1, "b": 2}', canonical_json=True)
        >>> one == fingerprint_request("post", "/orders", b'{"b":2,"a":1}', canonical_json=True)
        True

    """
    chosen = sorted((name.lower(), value) for name, value in headers)
    # Sorted by name alone: what one parameter says first and second is an order that may matter.
    asked = sorted(query.split("&"), key=lambda pair: pair.partition("=")[0])
    kind, content = (b"bytes", body)
    if canonical_json and (text := _canonical(body)) is not None:
        kind, content = b"json", text
    fields = [
        method.upper().encode(),
        route.encode(),
        framed(pair.encode() for pair in asked),
        framed(part.encode() for pair in chosen for part in pair),
        kind,
        hashlib.sha256(content).digest(),
    ]
    return hashlib.sha256(b"resilience.idempotency.request\0" + framed(fields)).digest()


def _canonical(body: bytes) -> bytes | None:
    try:
        # Numbers stay as they are written: 1e400 and 1e401 must not both be infinite.
        value = json.loads(body, parse_float=_Number, parse_int=_Number, object_pairs_hook=_once)
        return _dumped(value)
    except (ValueError, RecursionError):
        return None


class _Number(str):
    """A number as it was written; told apart from a text of the same digits."""

    __slots__ = ()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice: who reads it may see the first or the last")
    return found


def _dumped(value: Any) -> bytes:
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, _Number):
        return {"\0number": str(value)}
    if isinstance(value, list):
        items = cast("list[object]", value)
        return [_plain(each) for each in items]
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in cast("dict[str, Any]", value).items()}
    return value


def fingerprint_value(value: object) -> bytes:
    """
    Return the fingerprint of a plain value: what JSON has, and common types of the standard library.

    Dataclasses, enums, dates, UUIDs, decimals, bytes, tuples, sets and paths are such; dicts may have keys
    of any of these types. Types are told apart: ``1``, ``1.0``, ``True`` and ``"1"`` differ.

    Raises:
        TypeError: There is something in it whose content cannot be told.

    """
    return hashlib.sha256(b"resilience.idempotency.value\0" + _told(value, 0)).digest()


_DEEPEST = 100


def _told(value: object, depth: int) -> bytes:  # noqa: PLR0911  # one return a kind of value
    """Return bytes that no other value gives."""
    if depth > _DEEPEST:
        raise TypeError(f"a value nested deeper than {_DEEPEST} has no fingerprint")
    kind = f"{type(value).__module__}.{type(value).__qualname__}".encode()
    below = depth + 1
    if isinstance(value, enum.Enum):
        return framed((b"enum", kind, value.name.encode()))
    if value is None or isinstance(value, (bool, int, float, complex, decimal.Decimal)):
        return framed((b"scalar", kind, repr(value).encode()))
    if isinstance(value, str):
        return framed((b"str", kind, value.encode("utf-8", "surrogatepass")))
    if isinstance(value, (bytes, bytearray)):
        return framed((b"bytes", bytes(value)))
    if isinstance(value, (dt.date, dt.time, dt.timedelta, uuid.UUID, pathlib.PurePath)):
        return framed((b"repr", kind, repr(value).encode()))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(each.name.encode(), getattr(value, each.name)) for each in dataclasses.fields(value)]
        return framed([b"dataclass", kind, *(framed((name, _told(each, below))) for name, each in fields)])
    if isinstance(value, Mapping):
        known = cast("Mapping[object, object]", value)
        pairs = sorted(framed((_told(name, below), _told(each, below))) for name, each in known.items())
        return framed([b"mapping", *pairs])
    if isinstance(value, AbstractSet):
        return framed([b"set", *sorted(_told(each, below) for each in cast("AbstractSet[object]", value))])
    if isinstance(value, (list, tuple)):
        return framed([b"sequence", kind, *(_told(each, below) for each in cast("list[object]", value))])
    raise TypeError(
        f"{type(value).__module__}.{type(value).__qualname__} has no fingerprint of its own: "
        "give idempotent(fingerprint=...) a function of the arguments that says what counts, "
        "or None if the key alone says it all"
    )


def arguments_of(fn: Callable[..., Any]) -> Callable[..., bytes]:
    """Return a function from the arguments of a call of *fn* to their fingerprint."""
    signature = inspect.signature(fn)

    def fingerprint(*args: Any, **kwargs: Any) -> bytes:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()  # what is left out and what is said outright are the same call
        return fingerprint_value(dict(bound.arguments))

    return fingerprint
