"""One call's way through its attempts: whether there is a further one, and after which delay."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast

from resilience import _clock
from resilience._core.recent import Recent
from resilience._runtime.flow import Call
from resilience.backoff import LONGEST, Backoff, Delays
from resilience.errors import DeadlineExceededError, RejectedError
from resilience.outcome import CallContext, Outcome, Verdict
from resilience.retry import _tenacity
from resilience.retry._settings import RetrySettings, is_tenacity
from resilience.typing import Budget, Random, Seconds

StopReason: TypeAlias = Literal[
    "success",
    "attempts_exhausted",
    "budget_exhausted",
    "deadline_exceeded",
    "not_retryable",
    "rejected",
    "cancelled",
]
"""Why no further attempt was made, in the words of the telemetry registry."""


class Progress:
    """
    One call's way through its attempts.

    Attributes:
        charges: What the budget took for further attempts.
        error: The last real error that was put aside for another attempt; a refusal if there was none.
        asked: Seconds that the dependency asked for beyond what it may, or None.

    """

    __slots__ = (
        "_budget",
        "_delays",
        "_durations",
        "_is_granted",
        "_random",
        "_settings",
        "_slept",
        "_started",
        "asked",
        "charges",
        "error",
    )

    def __init__(
        self,
        settings: RetrySettings,
        rng: Random,
        durations: Recent,
        budget: Budget | None,
        began: Seconds | None = None,
    ) -> None:
        self._settings = settings
        self._random = rng
        self._durations = durations
        self._budget = budget
        self._started = _clock.monotonic() if began is None else began
        self._slept = 0.0
        self._delays: Delays | None = None
        self._is_granted = False
        self.charges = 0
        self.error: Exception | None = None
        self.asked: Seconds | None = None

    def decide(  # noqa: PLR0911  # one return a reason, in the order in which they are asked
        self, attempt: Call, outcome: Outcome[Any], verdict: Verdict
    ) -> StopReason | Seconds:
        """Return the delay before the next attempt, or why there is none."""
        error, context, settings = outcome.error, attempt.context, self._settings
        if verdict is Verdict.GOOD:
            return "success" if error is None else "not_retryable"
        if isinstance(error, DeadlineExceededError):
            return "deadline_exceeded"
        if verdict is Verdict.IGNORED:
            return "rejected" if isinstance(error, RejectedError) else "not_retryable"
        if context.idempotent is False and context.idempotency_key is None and not outcome.unsent:
            return "not_retryable"
        if settings.attempts is not None and context.attempt >= settings.attempts:
            return "attempts_exhausted"
        now = _clock.monotonic()
        delay = self._delay(attempt, outcome, now)
        if delay is None:
            return "deadline_exceeded"
        if settings.stop is not None and settings.stop(self._state(attempt, outcome, now, delay)):
            return "attempts_exhausted"
        if self.is_bounded(context) and self.is_too_late(context, now + delay):
            return "deadline_exceeded"
        if self._budget is not None:
            charge = self._budget.try_withdraw(verdict)
            if not charge:
                return "budget_exhausted"
            self._is_granted = True
            self.charges += charge
        self._slept += delay
        return delay

    def is_bounded(self, context: CallContext) -> bool:
        """Whether an attempt can be too late at all."""
        return context.deadline is not None or self._settings.max_duration is not None

    def is_too_late(self, context: CallContext, start: Seconds) -> bool:
        """Whether an attempt that begins at *start* is not worth beginning."""
        longest = self._settings.max_duration
        if longest is not None and start >= self._started + longest:
            return True
        if context.deadline is None:
            return False
        # A usual attempt must fit, judged by the retries of this policy that were timed anyway.
        return start + (self._durations.median() or 0.0) >= context.deadline

    def release(self) -> None:
        """Tell the budget that the attempt it granted is over, whether or not it was made."""
        if self._is_granted and self._budget is not None:
            self._is_granted = False
            self._budget.release()

    def discard(self, attempt: Call, outcome: Outcome[Any]) -> None:
        """Put the outcome aside: remember its error, settle what its attempt holds."""
        error = outcome.error
        if error is not None and (self.error is None or has_run(error) or not has_run(self.error)):
            self.error = error
        attempt.let_go(outcome)

    def _delay(self, attempt: Call, outcome: Outcome[Any], now: Seconds) -> Seconds | None:
        """Return the delay before the next attempt; None if the dependency asks for more than it may."""
        backoff = self._settings.backoff
        if is_tenacity(backoff, "wait"):
            wait = cast("Callable[[object], Seconds]", backoff)
            own = min(LONGEST, max(0.0, float(wait(self._state(attempt, outcome, now)))))
        else:
            if self._delays is None:
                self._delays = cast("Backoff", backoff).start(attempt.context)
            own = self._delays.before(attempt.context.attempt, self._random.random())
        asked, window = outcome.retry_after, self._settings.retry_after_window
        if asked is None or window == 0 or asked <= own:
            return own
        if window is not None and asked > own + window:
            self.asked = asked
            return None
        # A dependency tells all its clients the same: our own jitter on top keeps them apart.
        return asked + own

    def _state(self, attempt: Call, outcome: Outcome[Any], now: Seconds, delay: Seconds = 0.0) -> object:
        return _tenacity.call_state(attempt, outcome, self._started, now, self._slept, delay)


def has_run(error: Exception) -> bool:
    """Whether *error* is of the function itself: it was called."""
    if isinstance(error, DeadlineExceededError):
        return error.started
    return not isinstance(error, RejectedError)
