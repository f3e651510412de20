"""A call whose first attempt ends well, for generated code: what `Retry` and its budget count then."""

import weakref
from typing import TYPE_CHECKING, Any, Protocol

from resilience._runtime.hot import Again, Fail, Hot, Tally, Unlocked, Visible
from resilience._runtime.locked import needs_locks
from resilience.retry._progress import StopReason
from resilience.retry._settings import RetrySettings, counts_in_flight, is_tenacity
from resilience.typing import Budget

if TYPE_CHECKING:
    from resilience.retry._policy import Retry


class Paying(Protocol):
    """A budget that looks at what generated code counts."""

    def enlist(self, tally: Tally) -> None:
        """Count the calls of *tally* too."""
        ...

    def dismiss(self, tally: Tally) -> None:
        """Keep what *tally* has counted, and look at it no more."""
        ...


class Begun(Visible):
    """
    What calls begin with.

    Attributes:
        settings: The settings in force.
        budget: What further attempts are paid from, or None. It looks itself at what generated code counts.
        is_in_flight: Whether it knows of the call since that began.
        earns: Whether the call counts for it once its first attempt has ended.

    """

    __slots__ = ("_retry", "budget", "earns", "is_in_flight", "settings")

    def __init__(self, retry: "Retry", settings: RetrySettings, budget: Budget | None) -> None:
        self._retry = weakref.ref(retry)  # no cycle: it may own the code that knows this
        self.budget: Any = budget
        self.is_in_flight = budget is not None and counts_in_flight(budget)
        self.earns = budget is not None and not self.is_in_flight
        self.settings = settings

    def end(self, reason: StopReason = "cancelled") -> None:
        """Count a call that ended for that *reason*, without a further attempt."""
        retry = self._retry()
        if retry is not None:
            retry.stop(reason)
        if self.budget is not None:
            self.budget.finish(good=False)


def hot(
    retry: "Retry",
    settings: RetrySettings,
    tally: Tally,
    budget: Budget | None,
    *,
    fail: Fail,
    again: Again | None,
) -> Hot | None:
    """Return the statements; None if the budget is a user's, which wants to be told."""
    if budget is not None and not hasattr(budget, "counts_calls"):
        return None
    names: dict[str, object] = {
        "tally": tally,
        "begun": Begun(retry, settings, budget),
    }
    lock = None
    if needs_locks():  # a name costs calls by hand a statement
        lock, names["retry"] = "$retry._lock", retry
    take: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    good: tuple[str, ...] = ("$tally.good += 1.0",)
    if budget is not None and counts_in_flight(budget):
        names["budget"] = budget
        lock = "$budget._lock"  # for the tally, too, which is that of this budget alone
        take = ("$budget.calls += 1",)
        undo = ("$budget.calls -= 1",)
        good += ("$budget.good += 1",)
    return Hot(
        names=names,
        lock=lock,
        take=take,
        undo=undo,
        good=good,
        let_go=(Unlocked("$begun.end()"),),
        token="$begun",  # noqa: S106  # no secret
        fail=fail,
        again=again,
        reads_began=_asks_how_long(settings),
    )


def _asks_how_long(settings: RetrySettings) -> bool:
    """Whether it matters how long ago the call began: tenacity's objects may ask."""
    is_bounded = settings.max_duration is not None or settings.stop is not None
    return is_bounded or is_tenacity(settings.backoff, "wait")
