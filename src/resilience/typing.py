"""Units, and the protocols that users may implement."""

from typing import Protocol, TypeAlias, runtime_checkable

from resilience.outcome import Classifier as Classifier
from resilience.outcome import ErrorMatch as ErrorMatch
from resilience.outcome import Verdict

Seconds: TypeAlias = float
"""A length of time, or an instant on the monotonic clock, in seconds."""

Ratio: TypeAlias = float
"""A share between 0 and 1."""


class Clock(Protocol):
    """Where the time comes from: an instant that never goes back, in seconds."""

    def __call__(self) -> Seconds:
        """Return the present instant."""
        ...


class Random(Protocol):
    """Where chance comes from. A `random.Random` is one."""

    def random(self) -> float:
        """Return the next draw, in [0, 1)."""
        ...


@runtime_checkable
class Budget(Protocol):
    """What retries and hedges are paid from. `resilience.RetryBudget` is one."""

    def deposit(self) -> None:
        """Note that a call began."""
        ...

    def try_withdraw(self, verdict: Verdict = Verdict.BAD) -> int:
        """Ask for one further attempt after one that ended so; return its charge, 0 for no."""
        ...

    def fail(self, verdict: Verdict = Verdict.BAD) -> None:
        """Note that an attempt ended so, and that no further one was asked for."""
        ...

    def release(self) -> None:
        """Note that a further attempt ended."""
        ...

    def finish(self, *, good: bool, charges: int = 0) -> None:
        """Note that a call ended, with the sum of its charges."""
        ...
