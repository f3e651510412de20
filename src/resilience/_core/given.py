"""What tells two learning objects that were made alike from two that were not."""

from typing import Any


class Given:
    """
    Something that learns, and that equals another one of its type which was given the same settings.

    What either has learnt does not matter: whoever finds one given anew that equals the present one may keep
    the present one, with what it knows. A direct subclass sets `_given` when it is made. One of a subclass of
    that, which may have settings and rules of its own, equals itself alone.
    """

    __slots__ = ("_given",)

    _given: tuple[Any, ...]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Given) or type(other) is not type(self) or Given not in type(self).__bases__:
            return other is self
        return other._given == self._given

    def __hash__(self) -> int:
        return hash((type(self), self._given)) if Given in type(self).__bases__ else object.__hash__(self)
