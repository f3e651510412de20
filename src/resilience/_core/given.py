"""What tells two learning objects that were made alike from two that were not."""

from typing import Any


class Given:
    """
    Something that learns, and that equals another one of its type which was given the same settings.

    What either has learnt does not matter: whoever finds one given anew that equals the present one may keep
    the present one, with what it knows. A subclass sets `_given` when it is made.
    """

    __slots__ = ("_given",)

    _given: tuple[Any, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Given) and type(other) is type(self) and other._given == self._given

    def __hash__(self) -> int:
        return hash((type(self), self._given))
