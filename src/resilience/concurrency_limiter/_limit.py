"""
How many calls may run at once: a number, or something that learns it.

A learning limit is told once per window what the calls that ended in it showed, and changes its mind
then; between windows nothing is computed. This one halves when the dependency says that it has too much
to do, and otherwise grows by one if it was in use::

    class Halving:
        window = 1.0

        def __init__(self) -> None:
            self.limit = 20

        def on_sample(self, sample: Sample) -> None:
            if sample.throttled or sample.timed_out:
                self.limit = max(1, self.limit // 2)
            elif 2 * sample.peak >= self.limit:
                self.limit += 1
"""

from typing import NamedTuple

from resilience._core.check import Check
from resilience.typing import Limit, Ratio, Sample, Seconds

__all__ = ["FixedLimit", "Limit", "Sample", "Terms", "terms_of"]


class FixedLimit:
    """
    A limit that stays.

    Args:
        limit: Calls that may run at once, >= 1.

    Raises:
        ConfigError: It is no whole number of at least 1.

    """

    __slots__ = ("limit",)

    window: Seconds | None = None

    def __init__(self, limit: int) -> None:
        check = Check("FixedLimit")
        check.whole("limit", limit)
        check.done()
        self.limit = limit

    def __repr__(self) -> str:
        return f"FixedLimit({self.limit})"

    def on_sample(self, sample: Sample) -> None:
        """Learn nothing."""


class Terms(NamedTuple):
    """
    What a limit said when it was asked.

    Attributes:
        source: The limit.
        limit: How many calls may run at once.
        window: Seconds that a sample covers, or None for no samples.
        quantile: Which quantile of the times a sample is to tell, or None.
        needs_latency: Whether a sample is to tell how long calls took.

    """

    source: Limit
    limit: float
    window: Seconds | None
    quantile: Ratio | None = None
    needs_latency: bool = True


def terms_of(source: Limit) -> Terms:
    """Ask a limit for its terms. It may be a user's, and raise anything."""
    return Terms(
        source,
        source.limit,
        source.window,
        getattr(source, "quantile", None),
        getattr(source, "needs_latency", True),
    )
