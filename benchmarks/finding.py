"""One figure that is no ratio of calls."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """
    One figure.

    Attributes:
        name: What it is about.
        value: The figure.
        unit: Its unit; empty for a plain number.
        at_most: The most that it may be; None if it is only reported.
        margin: By which share of that it may lie above it.
        detail: Where the figure was found, of several places.

    """

    name: str
    value: float
    unit: str
    at_most: float | None = None
    margin: float = 0.0
    detail: str = ""

    @property
    def verdict(self) -> str:
        if self.at_most is None:
            return "reported"
        return "missed" if self.is_missed else "met"

    @property
    def is_missed(self) -> bool:
        return self.at_most is not None and self.value > self.at_most * (1 + self.margin)
