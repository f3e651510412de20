"""
tenacity's vocabulary: its ``stop_*``, ``wait_*`` and ``retry_*`` objects next to our own.

They are recognised by where their type comes from, without importing tenacity, and are handed a
real ``RetryCallState`` that is stamped by our clock.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resilience._runtime.flow import Call
from resilience.errors import ConfigError, Problem
from resilience.outcome import CallContext, Classifier, Outcome, Verdict, any_error_is_bad
from resilience.retry._settings import is_tenacity
from resilience.typing import Seconds

if TYPE_CHECKING:
    from tenacity import RetryCallState


def classifier(predicate: Callable[..., Any]) -> Classifier:
    """
    Return the classifier for a ``retry_*`` object: what it would retry is bad.

    Raises:
        ConfigError: It is another object of tenacity, or one whose answer would have to be awaited.

    """
    if not is_tenacity(predicate, "retry") or _is_async(predicate):
        rule = "must be one of tenacity's own retry_* objects, not of tenacity.asyncio"
        raise ConfigError("Retry", [Problem("on", predicate, rule)])

    def classify(outcome: Outcome[object], context: CallContext) -> Verdict:
        verdict = any_error_is_bad(outcome, context)
        if verdict is Verdict.IGNORED:
            return verdict
        state = call_state(Call(_nothing, (), {}, context), outcome)
        if not predicate(state):
            return Verdict.GOOD
        return Verdict.BAD if verdict is Verdict.GOOD else verdict

    return classify


def call_state(
    call: Call,
    outcome: Outcome[Any],
    started: Seconds = 0.0,
    now: Seconds = 0.0,
    slept: Seconds = 0.0,
    delay: Seconds = 0.0,
) -> "RetryCallState":
    """Return what tenacity's objects look at, as after *outcome*, with *delay* to come."""
    from tenacity import Future, RetryCallState  # noqa: PLC0415  # only when its vocabulary is used

    state = RetryCallState(None, call.function, call.args, dict(call.kwargs))  # type: ignore[arg-type]  # strategies do not look at the retrying object
    state.attempt_number = call.context.attempt
    state.start_time = started
    state.outcome_timestamp = now
    state.idle_for = slept
    state.upcoming_sleep = delay
    future: Future = Future(call.context.attempt)
    if outcome.error is None:
        future.set_result(outcome.value)
    else:
        future.set_exception(outcome.error)
    state.outcome = future
    return state


def _is_async(predicate: object) -> bool:
    return any(base.__name__ == "async_retry_base" for base in type(predicate).__mro__)


def _nothing() -> None:
    """Stand in for the function where only the outcome counts."""
