"""A call whose first attempt ends well, for generated code: what `Retry` and its budget count then."""

from resilience._runtime.hot import Hot
from resilience.retry._settings import RetrySettings
from resilience.typing import Budget


def hot(policy: object, settings: RetrySettings, stops: object, budget: Budget | None) -> Hot | None:
    """Return the statements; None if the budget is a user's, which wants to be told."""
    if budget is not None and not hasattr(budget, "counts_calls"):
        return None
    names: dict[str, object] = {"retry": policy, "stops": stops, "settings": settings}
    good: tuple[str, ...] = ("$retry.calls += 1", '$stops["success"] += 1')
    let_go: tuple[str, ...] = ("$retry.calls += 1", '$stops["cancelled"] += 1')
    if budget is not None:
        names["budget"] = budget
        good += ("$budget.calls += 1", "$budget.good += 1")
        let_go += ("$budget.deposit()", "$budget.finish(good=False)")
    return Hot(
        names=names,
        take=("$begun = $settings",),  # those that the call began with, whatever is set meanwhile
        good=good,
        let_go=let_go,
        token="$begun",  # noqa: S106  # no secret
        reads_began=settings.max_duration is not None,
    )
