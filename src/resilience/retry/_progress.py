"""One call's way through its attempts: whether there is a further one, and after which delay."""

from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from resilience import _clock
from resilience._runtime.flow import PLAIN, Call
from resilience._runtime.locked import NEEDS_LOCKS
from resilience._runtime.policy import Judge
from resilience._runtime.watch import watch
from resilience.backoff import LONGEST, Delays
from resilience.deadline import usage
from resilience.errors import DeadlineExceededError, RejectedError
from resilience.events import emit
from resilience.outcome import CallContext, Outcome, Verdict
from resilience.outcome import _attempt_of as attempt_of
from resilience.retry import _tenacity
from resilience.retry._settings import RetrySettings, is_tenacity
from resilience.typing import Budget, Seconds

if TYPE_CHECKING:
    from resilience.retry._policy import Retry

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

_NOTE: Final = "resilience: gave up after "
_FAILED: Final = frozenset({Verdict.BAD, Verdict.TIMED_OUT, Verdict.THROTTLED})
_UNPAID: Final = frozenset({"attempts_exhausted", "deadline_exceeded", "not_retryable"})
_GAVE_UP: Final = frozenset({"attempts_exhausted", "budget_exhausted", "deadline_exceeded"})
_GOOD: Final = Verdict.GOOD  # names of their own: enums look their members up slowly
_IGNORED: Final = Verdict.IGNORED


class Progress:
    """
    One call's way through its attempts.

    Attributes:
        budget: What further attempts are paid from, or None.
        call: The present attempt, for objects of tenacity to look at; None where there are none.
        charges: What the budget took for further attempts.
        is_in_flight: Whether the budget is to be told when the call begins, and when a further attempt ends.
        delay: Seconds to put before the next attempt; None if there is none.
        outcome: How the call ended; there once there is no further attempt.
        reports: Whether the budget is told here how the call ends, and not further out.
        asked: Seconds that the dependency asked for beyond what it may, or None.

    """

    delay: Seconds | None
    outcome: Outcome[Any]
    _began: Seconds | None

    __slots__ = (
        "_began",
        "_context",
        "_delays",
        "_error",
        "_is_bounded",
        "_is_good",
        "_is_granted",
        "_is_over",
        "_judge",
        "_known",
        "_reason",
        "_retry",
        "_settings",
        "_slept",
        "_started",
        "asked",
        "budget",
        "call",
        "charges",
        "delay",
        "is_in_flight",
        "outcome",
        "reports",
    )

    def __init__(
        self,
        retry: "Retry",
        judge: Judge,
        settings: RetrySettings,
        budget: Budget | None,
        started: Seconds,
        is_in_flight: bool,
        call: Call | None = None,
    ) -> None:
        self._retry, self._judge, self._settings, self.budget = retry, judge, settings, budget
        self._started, self.call = started, call
        self._known = self._context = PLAIN if call is None else call.context  # of the call, of the attempt
        self._reason: StopReason = "cancelled"
        self._is_good = self._is_granted = self._is_over = False
        self._error: Exception | None = None  # the last real one put aside; a refusal if there was none
        self._delays: Delays | None = None
        self._slept = 0.0
        self.charges = 0
        self.is_in_flight = is_in_flight
        self._is_bounded = settings.max_duration is not None or (
            call is not None and call.context.deadline is not None
        )
        self.reports = budget is not None
        self.asked: Seconds | None = None

    @property
    def is_first(self) -> bool:
        """Whether no further attempt has begun."""
        return self._context is self._known

    def take(self, outcome: Outcome[Any]) -> None:
        """Judge how the present attempt ended, and say whether there is a further one."""
        verdict = self._judge(outcome, self._context)
        self._is_good = verdict is _GOOD
        delay = self._decide(outcome, verdict)
        if isinstance(delay, str):
            if self.budget is not None and delay in _UNPAID and verdict in _FAILED:
                self.budget.fail(verdict)
            self._end_with(delay, outcome)
            return
        error, earlier = outcome.error, self._error
        if error is not None and (earlier is None or has_run(error) or not has_run(earlier)):
            self._error = error
        self.delay = delay
        self._slept += delay
        if NEEDS_LOCKS:
            with self._retry._lock:
                self._retry.delay += delay
        else:
            self._retry.delay += delay

    def begin(self) -> CallContext | None:
        """Return what is known of the next attempt, which begins now; None if it has become too late."""
        if self._is_bounded and self._is_too_late():
            self._end_with("deadline_exceeded", None)
            return None
        self._context = context = attempt_of(self._known, self._context.attempt + 1)
        if NEEDS_LOCKS:
            with self._retry._lock:
                self._retry.retries += 1
        else:
            self._retry.retries += 1
        # Only a deadline asks how long attempts take; and a limit of time around, which may be no deadline.
        self._began = _clock.monotonic() if usage.used or self._is_bounded else None
        return context

    def ended(self, outcome: Outcome[Any]) -> None:
        """Take note of how the attempt ended, as `take` does."""
        if self._began is not None:
            self._retry._durations.add(_clock.monotonic() - self._began)
        if self._is_granted:
            self._release()
        self.take(outcome)

    def ended_well(self) -> None:
        """Take note that the attempt ended with a good result, and the call with it."""
        if self._began is not None:
            self._retry._durations.add(_clock.monotonic() - self._began)
        self._reason, self._is_good = "success", True
        self.end()

    def end(self, inner_charges: int = 0) -> None:
        """
        Count the call, which has ended or was cut short. A second time counts nothing twice.

        Args:
            inner_charges: What policies further in were charged.

        """
        if not self._is_over:
            self._is_over = True
            if NEEDS_LOCKS:
                with self._retry._lock:
                    self._retry._stops[self._reason] += 1
            else:
                self._retry._stops[self._reason] += 1
        if self._is_granted:
            self._release()
        if self.reports and self.budget is not None:
            self.budget.finish(good=self._is_good, charges=self.charges + inner_charges)
            self.reports = False

    def _release(self) -> None:
        """Tell the budget that the attempt it granted is over, whether or not it was made."""
        self._is_granted = False
        if self.budget is not None:
            self.budget.release()

    def _end_with(self, reason: StopReason, outcome: Outcome[Any] | None) -> None:
        self._reason, self.delay = reason, None
        self.outcome = self._final(outcome)

    def _decide(  # noqa: PLR0911  # one return a reason, in the order in which they are asked
        self, outcome: Outcome[Any], verdict: Verdict
    ) -> StopReason | Seconds:
        """Return the delay before the next attempt, or why there is none."""
        error, context, settings = outcome.error, self._context, self._settings
        if verdict is _GOOD:
            return "success" if error is None else "not_retryable"
        if isinstance(error, DeadlineExceededError):
            return "deadline_exceeded"
        if verdict is _IGNORED:
            return "rejected" if isinstance(error, RejectedError) else "not_retryable"
        if context.idempotent is False and context.idempotency_key is None and not outcome.unsent:
            return "not_retryable"
        if settings.attempts is not None and context.attempt >= settings.attempts:
            return "attempts_exhausted"
        delay = self._delay(outcome)
        if delay is None:
            return "deadline_exceeded"
        if settings.stop is not None and settings.stop(self._state(outcome, delay)):
            return "attempts_exhausted"
        if self._is_bounded and self._is_too_late(delay):
            return "deadline_exceeded"
        if self.budget is not None:
            charge = self.budget.try_withdraw(verdict)
            if not charge:
                return "budget_exhausted"
            self._is_granted = self.is_in_flight
            self.charges += charge
        return delay

    def _is_too_late(self, delay: Seconds = 0.0) -> bool:
        """Whether an attempt that begins after *delay* is not worth beginning."""
        longest, deadline = self._settings.max_duration, self._context.deadline
        start = _clock.monotonic() + delay
        if longest is not None and start >= self._started + longest:
            return True
        # A usual attempt must fit, judged by the retries of this policy that were timed anyway.
        return deadline is not None and start + (self._retry._durations.median() or 0.0) >= deadline

    def _delay(self, outcome: Outcome[Any]) -> Seconds | None:
        """Return the delay before the next attempt; None if the dependency asks for more than it may."""
        delays, settings = self._delays, self._settings
        if delays is None and self.call is not None and is_tenacity(settings.backoff, "wait"):
            wait: Any = settings.backoff
            own = min(LONGEST, max(0.0, float(wait(self._state(outcome)))))
        else:
            if delays is None:
                backoff: Any = settings.backoff
                delays = self._delays = backoff.start(self._context)
            own = delays.before(self._context.attempt, self._retry._random.random())
        asked, window = outcome.retry_after, settings.retry_after_window
        if asked is None or window == 0 or asked <= own:
            return own
        if window is not None and asked > own + window:
            self.asked = asked
            return None
        # A dependency tells all its clients the same: our own jitter on top keeps them apart.
        return asked + own

    def _state(self, outcome: Outcome[Any], delay: Seconds = 0.0) -> object:
        now, call = _clock.monotonic(), cast("Call", self.call)
        return _tenacity.call_state(call, outcome, self._started, now, self._slept, delay)

    def _final(self, outcome: Outcome[Any] | None) -> Outcome[Any]:
        """Return how the call ends, and report it if that is giving up; None stands for a late attempt."""
        earlier, attempts = self._error, self._context.attempt
        if outcome is None:
            outcome = Outcome(error=earlier or DeadlineExceededError(started=True))
        error, reason, name = outcome.error, self._reason, self._retry.name
        if error is not None and not has_run(error) and earlier is not None and has_run(earlier):
            error = earlier
            outcome = Outcome(error=earlier)
        if (
            error is not None and reason != "rejected" and watch.note is not None
        ):  # who refuses says so itself
            told = {"resilience.outcome": "failure", "resilience.retry.stop_reason": reason}
            watch.note(name, lambda: told)
        if reason in _GAVE_UP:
            details: dict[str, object] = {"resilience.retry.stop_reason": reason}
            if error is not None:
                details["error.type"] = type(error).__qualname__
            emit("resilience.retry.exhausted", name, details)
        if error is not None and (attempts > 1 or reason in ("budget_exhausted", "deadline_exceeded")):
            why = reason.replace("_", " ")
            if self.asked is not None:
                why = f"asked to stay away for {self.asked:g} s, longer than retry_after_window allows"
            _note(error, f"{_NOTE}{attempts} attempt{'s' * (attempts > 1)}: {why}")
        return outcome


def has_run(error: Exception) -> bool:
    """Whether *error* is of the function itself: it was called."""
    if isinstance(error, DeadlineExceededError):
        return error.started
    return not isinstance(error, RejectedError)


def _note(error: Exception, text: str) -> None:
    # An error that is raised again and again, such as a constant, keeps one note of ours.
    try:
        error.__notes__ = [note for note in getattr(error, "__notes__", []) if not note.startswith(_NOTE)] + [
            text
        ]
    except Exception:  # noqa: BLE001, S110  # an error that takes no notes is still the one to raise
        pass
