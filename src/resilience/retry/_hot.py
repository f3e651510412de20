"""A call whose first attempt ends well, for generated code: what `Retry` and its budget count then."""

from resilience._runtime.hot import Hot
from resilience.retry._settings import RetrySettings
from resilience.typing import Budget


def hot(policy: object, settings: RetrySettings, stops: object, budget: Budget | None) -> Hot | None:
    """Return the statements; None if the budget is a user's, which wants to be told."""
    if budget is not None and not hasattr(budget, "counts_calls"):
        return None
    names: dict[str, object] = {"retry": policy, "stops": stops, "settings": settings}
    # Counted when the call begins: calls that it makes may be paid for by it.
    take: tuple[str, ...] = ("$begun = $settings", "$retry.calls += 1")
    undo: tuple[str, ...] = ("$retry.calls -= 1",)
    good: tuple[str, ...] = ('$stops["success"] += 1',)
    let_go: tuple[str, ...] = ('$stops["cancelled"] += 1',)
    if budget is not None:
        names["budget"] = budget
        take += ("$budget.calls += 1",)
        undo += ("$budget.calls -= 1",)
        good += ("$budget.good += 1",)
        let_go += ("$budget.finish(good=False)",)
    return Hot(
        names=names,
        take=take,
        undo=undo,
        good=good,
        let_go=let_go,
        token="$begun",  # noqa: S106  # no secret
        reads_began=settings.max_duration is not None,
    )
