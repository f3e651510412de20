"""What every backoff is, and the bounds that all of them keep."""

from typing import Final, Protocol, Self, cast, runtime_checkable

from resilience._core.check import Check
from resilience.outcome import CallContext
from resilience.typing import Seconds

LONGEST: Final[Seconds] = 86_400.0
"""The longest delay there is: a day, the bound that Polly sets to its delays. Longer ones become this."""

BASE: Final[Seconds] = 0.1
"""Default of ``base``: with `CAP`, what the package's overload scenarios were measured with."""

CAP: Final[Seconds] = 2.0
"""Default of ``cap``: below the few seconds a caller waits. AWS caps at 20 s, which suits background work."""


class Delays(Protocol):
    """The delays of one call. Not shared: it may remember what it said before."""

    def before(self, retry: int, draw: float) -> Seconds:
        """
        Return the delay before a retry. Ask in order, once for each retry.

        Args:
            retry: Number of the retry, from 1.
            draw: A number in [0, 1) that leaves the rest to chance, fresh for each delay.

        Returns:
            Seconds, finite and >= 0.

        """
        ...


@runtime_checkable
class Backoff(Protocol):
    """How long to wait before each retry. Immutable: concurrent calls share it."""

    def start(self, context: CallContext | None = None) -> Delays:
        """
        Return the delays of one call.

        Args:
            context: What is known about the call; only `computed` looks at it.

        """
        ...


class Steady:
    """A backoff that remembers nothing, and so is its own delays."""

    __slots__ = ()

    def start(self, context: CallContext | None = None) -> Self:  # noqa: ARG002  # the same for every call
        """Return the delays of one call: these."""
        return self


def bound(cap: Seconds | None) -> Seconds:
    """Return the longest delay that *cap* allows."""
    return LONGEST if cap is None else cap


def grown(base: Seconds, factor: float, cap: Seconds | None, retry: int) -> Seconds:
    """Return the exponential delay before a retry, capped."""
    try:
        return min(bound(cap), base * float(factor) ** (retry - 1))
    except OverflowError:  # of the power: Python raises where other languages return infinity
        return bound(cap)


def check_growth(subject: str, base: object, cap: object) -> Check:
    """Check what every delay that grows has."""
    check = Check(subject)
    check.number("base", base, above=0, at_most=LONGEST)
    if cap is not None:
        check.number("cap", cap, above=0, at_most=LONGEST)
        if not check.problems:
            check.that(cast("float", base) <= cast("float", cap), "cap", cap, f"must be >= base ({base:g})")
    return check


def check_exponential(subject: str, base: object, factor: object, cap: object) -> Check:
    """Check what every exponential delay has."""
    check = check_growth(subject, base, cap)
    check.number("factor", factor, at_least=1)
    return check
