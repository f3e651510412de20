"""
What every rule for who pays for a further attempt answers to, and which rule belongs to which settings.

    _ratio       a share of the calls, kept for a short time
    _refund      one bucket; attempts that help give back what they took
    _grpc        none once too many attempts fail
    _inflight    a share of what is in flight
    _tokens      what they all count in

Whoever retries or hedges need not know which of them it drives.
"""

from typing import Any, ClassVar, Protocol

from resilience.outcome import Verdict
from resilience.retry_budget._grpc import GrpcBudget
from resilience.retry_budget._inflight import InflightBudget
from resilience.retry_budget._ratio import RatioBudget
from resilience.retry_budget._refund import RefundBudget
from resilience.retry_budget._settings import (
    BudgetSettings,
    GrpcSettings,
    RatioSettings,
    RefundSettings,
)
from resilience.retry_budget._tokens import Counter
from resilience.typing import Seconds


class BudgetMachine(Protocol):
    """
    A rule for who pays for further attempts. Not thread-safe.

    Attributes:
        reads: The hot-path counters that the rule looks at. The others need not be kept.
        granted: Further attempts granted.
        denied: Further attempts refused.
        refunded: Tokens given back by calls that ended well.

    """

    reads: ClassVar[frozenset[Counter]]
    granted: int
    denied: int
    refunded: int

    def collect(self, calls: int, good: int) -> None:
        """Take over by how much the hot-path counters have grown. Needs no time."""
        ...

    def try_withdraw(self, verdict: Verdict, now: Seconds) -> int:
        """
        Ask for one further attempt.

        Args:
            verdict: How the attempt before it ended. IGNORED, if none has ended: that is a hedge.
            now: The present instant. One earlier than the latest seen counts as that one.

        Returns:
            The charge: tokens that `finish` may give back, at least 1. 0 means no.

        """
        ...

    def fail(self, verdict: Verdict, now: Seconds) -> None:
        """Note that an attempt ended so, and that no further one was asked for."""
        ...

    def release(self) -> None:
        """Note that a further attempt ended."""
        ...

    def finish(self, good: bool, charges: int, now: Seconds) -> None:
        """Note that a call ended which is not counted as *good*, with the sum of its charges."""
        ...

    def give_back(self, charges: int) -> None:
        """Give tokens back at the latest instant that was seen."""
        ...

    def pass_on(self, charges: int, verdict: Verdict, now: Seconds) -> int:
        """
        Grant a further attempt for tokens that are just being given back.

        In an outage in which further attempts help, one call gives back what the next one takes.

        Args:
            charges: Tokens that were given back since the last question, and not handed to `give_back`.
            verdict: As for `try_withdraw`.
            now: The present instant.

        Returns:
            The charge, which was paid from *charges*. 0, and nothing changed, if that is not so plain.

        """
        ...

    def refund(self, charges: int, now: Seconds) -> None:
        """Give tokens back at *now*."""
        ...

    def level(self, now: Seconds) -> int:
        """Return how many further attempts could be had now."""
        ...

    def limit(self, now: Seconds) -> int:
        """Return how many further attempts could be had now, had none been taken."""
        ...

    def configure(self, settings: Any, now: Seconds) -> None:
        """Take new settings, of the same family, and keep the tokens as far as they fit."""
        ...

    def after_fork(self, now: Seconds) -> None:
        """Become the budget of a child: what the parent earned is the parent's."""
        ...


def machine_for(settings: BudgetSettings, now: Seconds) -> BudgetMachine:
    """Return a new budget of the family that the settings are of."""
    match settings:
        case RatioSettings():
            return RatioBudget(settings, now)
        case RefundSettings():
            return RefundBudget(settings, now)
        case GrpcSettings():
            return GrpcBudget(settings, now)
        case _:
            return InflightBudget(settings, now)
