"""What the key of a call is, and where the argument is that it may be."""

import inspect
from collections.abc import Callable, Hashable
from contextlib import suppress
from inspect import Parameter
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from resilience._runtime import wrap
from resilience._runtime.flow import Call
from resilience.errors import ConfigError, Problem
from resilience.keyed._settings import ANY_NUMBER


class Arguments:
    """Finds the key of a call, and to that end an argument by its name."""

    __slots__ = ("_places",)

    def __init__(self) -> None:
        self._places: WeakKeyDictionary[Any, dict[str, _Place]] = WeakKeyDictionary()

    def key_of(self, call: Call, how: str | Callable[..., Hashable] | None) -> Hashable:
        """Return the key of *call*: the argument called *how*, or what *how* makes of its arguments."""
        if how is None:  # taken away at run time
            raise no_key()
        key: Hashable = (
            self.find(call.function, how, call) if isinstance(how, str) else how(*call.args, **call.kwargs)
        )
        try:
            hash(key)
        except TypeError as error:
            raise TypeError(f"{wrap.name_of(call.function)}: {key!r} cannot be a key: {error}") from error
        return key

    def find(self, function: Any, name: str, call: Call) -> Any:
        """Return the argument called *name*, or its default."""
        if name in call.kwargs:
            return call.kwargs[name]
        # A bound method is a new object each time; its function stays, and has one argument more.
        lasting = function.__func__ if inspect.ismethod(function) else function
        args = call.args if lasting is function else (function.__self__, *call.args)
        position, default = self._place(lasting, name)
        if position is not None and position < len(args):
            return args[position]
        if default is Parameter.empty:
            raise TypeError(f"{wrap.name_of(function)}: the call has no argument {name!r} to be its key")
        return default

    def _place(self, function: Any, name: str) -> "_Place":
        known: dict[str, _Place] = {}
        with suppress(TypeError):  # an object that cannot be a weak key is looked at each time
            known = self._places.setdefault(function, known)
        if name not in known:
            known[name] = _place(function, name)
        return known[name]


_Place: TypeAlias = tuple[int | None, object]
"""Where an argument is among the positional ones, if it is, and its default, if it has one."""


def _place(function: Callable[..., Any], name: str) -> _Place:
    for position, parameter in enumerate(_parameters(function)):
        if parameter.name == name and parameter.kind not in ANY_NUMBER:
            is_named_only = parameter.kind is Parameter.KEYWORD_ONLY
            return (None if is_named_only else position), parameter.default
    return None, Parameter.empty


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a call of *function* may have an argument called *name*."""
    return any(
        each.kind is Parameter.VAR_KEYWORD or (each.name == name and each.kind not in ANY_NUMBER)
        for each in _parameters(function)
    )


def _parameters(function: Callable[..., Any]) -> list[Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:  # a builtin that does not tell
        return []


def no_key() -> ConfigError:
    """Return the error of a function that is guarded without a way to find the key."""
    rule = "must be given to guard functions; without it, ask for a policy: keyed[key]"
    return ConfigError("Keyed", [Problem("key", None, rule)])
