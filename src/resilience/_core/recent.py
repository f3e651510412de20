"""The last few values, and what is usual among them."""

from collections import deque
from collections.abc import Callable


class Recent:
    """
    Remember the last *size* values; tell their median once there are enough.

    Adding is O(1). The median is worked out only when somebody asks.

    Args:
        size: Values remembered, >= 1.
        least: Values needed before there is a median, >= 1.

    Attributes:
        add: Remembers a value and forgets the oldest one. The deque's own method: every further attempt adds.

    """

    __slots__ = ("_least", "_values", "add")

    def __init__(self, size: int, least: int = 5) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._least = least
        self.add: Callable[[float], None] = self._values.append

    def median(self) -> float | None:
        """Return the middle value, the lower of two; None while there are too few."""
        # A copy first, which is one step of every interpreter: another thread may add while we look.
        ordered = sorted(self._values.copy())
        return ordered[(len(ordered) - 1) // 2] if len(ordered) >= self._least else None
