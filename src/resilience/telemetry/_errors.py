"""Types of errors as values of an attribute: few enough to be told apart."""

from typing import Final

from resilience._runtime.census import OTHER
from resilience.telemetry._values import MOST_ERROR_TYPES


class ErrorTypes:
    """
    The first types that come are told apart, and the others are ``_OTHER``.

    Attributes:
        most: How many are told apart.

    """

    __slots__ = ("_known", "most")

    def __init__(self, most: int = MOST_ERROR_TYPES) -> None:
        self.most = most
        self._known: set[str] = set()

    def of(self, error: BaseException) -> str:
        """Return the fully qualified name of the type of *error*."""
        kind = type(error)
        module = kind.__module__
        return self.bounded(kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}")

    def bounded(self, name: str) -> str:
        """Return *name*, or what stands for all that came too late."""
        if name not in self._known:
            if len(self._known) >= self.most:
                return OTHER
            self._known.add(name)
        return name


error_types: Final = ErrorTypes()
