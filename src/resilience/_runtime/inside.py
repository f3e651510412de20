"""
What is inside a policy that calls again: a function which returns `Ended` where its call has failed.

What it raises is then no matter for another attempt: a cancellation, a classifier that fails.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from resilience._runtime import drive
from resilience._runtime.attempt import current_attempt
from resilience._runtime.flow import Call, Inner
from resilience._runtime.hot import Hot
from resilience._runtime.replay import Ended
from resilience.outcome import CallContext, Outcome

Inside: TypeAlias = tuple[Callable[..., Any], Callable[..., Any]]
"""As generated code, and as a flow."""

MakeInside: TypeAlias = Callable[[Any, list[tuple[Any, Hot]], int], Inside | None]
"""Takes the policy that calls again, those inside it with their statements, and the epoch of these."""


def driven_inside(
    fn: Callable[..., Any],
    flow: Inner,
    *,
    is_async: bool,
    context: Callable[[], CallContext] = current_attempt,
) -> Callable[..., Any]:
    """
    Return *flow* around *fn* as an inner function: it returns `Ended` where the call has failed.

    What is known of a call is what *context* returns.
    """

    def inner(*args: Any, **kwargs: Any) -> Any:
        return value_or_ended(drive.run(flow(Call(fn, args, kwargs, context()))))

    async def ainner(*args: Any, **kwargs: Any) -> Any:
        from resilience._runtime import adrive  # noqa: PLC0415  # imported with the first async function

        return value_or_ended(await adrive.run(flow(Call(fn, args, kwargs, context()))))

    return ainner if is_async else inner


def value_or_ended(outcome: Outcome[Any]) -> Any:
    """Return what an inner function returns whose call had that *outcome*, with all that is known of it."""
    if outcome.error is None and outcome.retry_after is None and not outcome.unsent:
        return outcome.value
    return Ended(outcome)
