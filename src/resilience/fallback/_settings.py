"""What may be set on a fallback."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from resilience._core.check import Check
from resilience.outcome import Outcome

Handler: TypeAlias = Callable[[Outcome[Any]], Any]
"""Makes the replacement from the outcome that is replaced. For async functions it may be async."""


class NotGiven:
    """No value: told apart from None, which is one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "not given"


NOT_GIVEN: Final = NotGiven()


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackSettings:
    """
    What takes the place of a result that is not good: exactly one of the two.

    Raises:
        ConfigError: Neither or both are given, or the handler cannot be called.

    """

    value: object = NOT_GIVEN
    """The replacement itself: any object, None included. Every caller gets this one object. No default."""

    handler: Handler | None = None
    """What makes the replacement: a callable that takes the `Outcome`. What it returns is returned, what it
    raises is raised. For async functions it may be a coroutine function. No default."""

    def __post_init__(self) -> None:
        check = Check("Fallback")
        has_value = not isinstance(self.value, NotGiven)
        if self.handler is None:
            check.that(has_value, "value", self.value, "must be given, or a handler")
        else:
            check.that(callable(self.handler), "handler", self.handler, "must be callable")
            check.that(not has_value, "value", self.value, "cannot be combined with a handler")
        check.done()
