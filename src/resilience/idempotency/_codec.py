"""From a result to bytes and back: JSON, never pickle."""

import dataclasses
import json
import types
import typing
from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable


@runtime_checkable
class Codec(Protocol):
    """
    How results become bytes.

    Attributes:
        name: What stands in the envelope: a result is never decoded by another codec. At most 255 bytes.

    """

    @property
    def name(self) -> str:
        """What stands in the envelope."""
        ...

    def encode(self, value: Any) -> bytes:
        """Return *value* as bytes; raise if that loses something."""
        ...

    def decode(self, content: bytes) -> Any:
        """Return the value again."""
        ...


class JsonCodec:
    """
    Keep a result as JSON: plain values, and dataclasses of plain values where the type is known.

    What JSON does not have is refused, not converted, except that where no type says otherwise tuples come
    back as lists, and dataclasses as dictionaries.

    Args:
        result: The type of the result, or a function that returns it. Default None: plain JSON.

    Example:
        >>> codec = JsonCodec()
        >>> codec.decode(codec.encode({"id": 7}))
        {'id': 7}

    """

    __slots__ = ("_result",)

    name = "json"

    def __init__(self, result: Any = None) -> None:
        self._result = result

    def encode(self, value: Any) -> bytes:
        """Return *value* as JSON."""
        try:
            return json.dumps(_plain(value), separators=(",", ":"), allow_nan=False).encode()
        except TypeError as error:
            raise TypeError(_not_json(error)) from None
        except ValueError as error:
            raise ValueError(_not_json(error)) from None

    def decode(self, content: bytes) -> Any:
        """Return the value again."""
        if isinstance(self._result, types.FunctionType):
            self._result = self._result()
        return _typed(json.loads(content), self._result)


def _not_json(error: Exception) -> str:
    return f"{error}; return something that JSON can hold, or give codec= for this result"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, dict):
        known = cast("dict[object, Any]", value)
        if any(not isinstance(name, str) for name in known):
            raise TypeError("keys of a dict must be strings: others would come back as strings")
        return {name: _plain(each) for name, each in known.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in cast("list[Any]", value)]
    return value


def _typed(value: Any, kind: Any) -> Any:  # noqa: PLR0911  # one return a kind of type
    """Make dataclasses and tuples of what JSON has instead, where *kind* says so."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        held = [each for each in arguments if each is not type(None)]
        return value if value is None or len(held) != 1 else _typed(value, held[0])
    if isinstance(value, dict):
        known = cast("dict[str, object]", value)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            return _made(cast("type[Any]", kind), known)
        if origin is dict and len(arguments) == 2:  # key and value
            return {name: _typed(each, arguments[1]) for name, each in known.items()}
    if isinstance(value, list):
        items = cast("list[object]", value)
        if origin is list and arguments:
            return [_typed(each, arguments[0]) for each in items]
        if origin is tuple and arguments:
            kinds = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else arguments
            return tuple(_typed(each, inner) for each, inner in zip(items, kinds, strict=True))
        if kind is tuple:
            return tuple(items)
    return cast("object", value)


def _made(kind: type[Any], known: dict[str, object]) -> Any:
    hints = typing.get_type_hints(kind)
    fields = {each.name: each for each in dataclasses.fields(kind)}
    given = {name: _typed(each, hints.get(name)) for name, each in known.items()}
    made = kind(**{name: each for name, each in given.items() if fields[name].init})
    for name, each in given.items():
        if not fields[name].init:
            object.__setattr__(made, name, each)
    return made


def result_of(fn: Callable[..., Any]) -> Callable[[], Any]:
    """Return a function that looks up what *fn* says that it returns; None if it does not say."""

    def look() -> Any:
        try:
            return typing.get_type_hints(fn).get("return")
        except Exception:  # noqa: BLE001  # names that exist for type checkers only, or no function at all
            return None

    return look
