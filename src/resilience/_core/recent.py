"""The last few values, and what is usual among them."""


class Recent:
    """
    Remember the last *size* values; tell their median once there are enough.

    Adding is O(1). The median is worked out only when somebody asks. Threads may add at once, and ask
    meanwhile: each step is a list's own, and the worst that can happen is that a value is soon forgotten.

    Args:
        size: Values remembered, >= 1.
        least: Values needed before there is a median, >= 1.

    """

    __slots__ = ("_least", "_oldest", "_size", "_values")

    def __init__(self, size: int, least: int = 5) -> None:
        self._values: list[float] = []
        self._size = size
        self._least = least
        self._oldest = 0

    def add(self, value: float) -> None:
        """Remember *value*, and forget the oldest one if there are too many."""
        values = self._values
        if len(values) < self._size:
            values.append(value)
        else:
            values[self._oldest % len(values)] = value
            self._oldest += 1

    def median(self) -> float | None:
        """Return the middle value, the lower of two; None while there are too few."""
        ordered = sorted(self._values.copy())
        return ordered[(len(ordered) - 1) // 2] if len(ordered) >= self._least else None
