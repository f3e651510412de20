"""What may be set on a policy for each key."""

import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, Final

from resilience._core.check import Check

BY_POSITION: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
ANY_NUMBER: Final = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedSettings:
    """
    What policy a key gets, what the key of a call is, and how many there are.

    Raises:
        ConfigError: At least one setting cannot work; every problem is listed.

    """

    factory: Callable[..., Any]
    """Makes a policy, a new one each time: a callable that takes nothing, or the key if it has one
    argument without a default. The overflow policy is made with the key None. No default."""

    key: str | Callable[..., Hashable] | None = None
    """The key of a call: the name of an argument of the function, or a callable that takes the call's
    arguments. Default None: there is none, and policies are asked for by key."""

    max_keys: int = 10_000
    """Policies kept, >= 1; beyond that an idle one makes room, or the overflow policy serves. Default
    10 000. Source: own; 50 MB of circuit breakers or 20 MB of rate limiters at most, since keys may come
    from outside."""

    def __post_init__(self) -> None:
        check = Check("Keyed")
        if check.that(callable(self.factory), "factory", self.factory, "must be callable"):
            rule = "must be callable with nothing, or with the key alone"
            check.that(_required(self.factory) in (0, 1), "factory", self.factory, rule)
        is_name = isinstance(self.key, str) and self.key.isidentifier()
        rule = "must be the name of an argument, a callable or None"
        check.that(self.key is None or is_name or callable(self.key), "key", self.key, rule)
        check.whole("max_keys", self.max_keys)
        check.done()

    def make(self, key: Hashable) -> Any:
        """Call the factory."""
        return self.factory(key) if _required(self.factory) else self.factory()


def _required(factory: Callable[..., Any]) -> int | None:
    """Return how many arguments *factory* must be given; None if not all of them by position."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not tell
        return 0
    required = [
        each.kind for each in parameters if each.default is Parameter.empty and each.kind not in ANY_NUMBER
    ]
    return len(required) if all(kind in BY_POSITION for kind in required) else None
