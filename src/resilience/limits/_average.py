"""A mean that forgets."""


class Average:
    """
    An exponentially weighted mean that begins as a plain one.

    Args:
        window: Values that it is about, >= 1: each new one weighs ``2 / (window + 1)``.
        warmup: Values at the beginning that weigh the same, so that the first one does not rule, >= 0.

    Attributes:
        value: The mean, or 0 before the first value.

    """

    __slots__ = ("_count", "_factor", "_sum", "_warmup", "value")

    def __init__(self, window: int, warmup: int) -> None:
        self._factor = 2.0 / (window + 1)
        self._warmup = warmup
        self._count = 0
        self._sum = 0.0
        self.value = 0.0

    def add(self, value: float) -> float:
        """Take one more value; return the mean."""
        if self._count < self._warmup:
            self._count += 1
            self._sum += value
            self.value = self._sum / self._count
        else:
            self.value += self._factor * (value - self.value)
        return self.value

    def scale(self, factor: float) -> None:
        """Multiply the mean by *factor*."""
        self.value *= factor
