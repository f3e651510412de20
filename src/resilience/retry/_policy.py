"""Try again, if that may help, is safe, is paid for and fits into the time there is."""

import random
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from resilience import _clock
from resilience._core.inherited import INHERITED, Inherited
from resilience._core.recent import Recent
from resilience._runtime import budgets, fork
from resilience._runtime.attempt import attempt_scope
from resilience._runtime.flow import Call, Command, Dispose, Flow, Inner, Sleep
from resilience._runtime.policy import Binding, Judge, Policy, Step, Traits, all_right
from resilience.backoff import LONGEST, Backoff, DelayFunction, Delays, honour
from resilience.errors import DeadlineExceededError, RejectedError
from resilience.events import emit
from resilience.outcome import CallContext, Classifier, ErrorMatch, Outcome, Verdict
from resilience.retry import _tenacity
from resilience.retry._settings import DEFAULT_BACKOFF, RetrySettings, is_tenacity
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

_NOTE: Final = "resilience: gave up after "
_FAILED: Final = frozenset({Verdict.BAD, Verdict.TIMED_OUT, Verdict.THROTTLED})
_UNPAID: Final = frozenset({"attempts_exhausted", "deadline_exceeded", "not_retryable"})
_GAVE_UP: Final = frozenset({"attempts_exhausted", "budget_exhausted", "deadline_exceeded"})


class Retry(Policy):
    """
    Call again after a bad outcome, if that may help, is safe, is paid for and fits the time there is.

    A further attempt is made only while all of this holds: the outcome is bad (not good, not
    ignored), the call is not known to be unsafe to repeat, *attempts*, *stop* and *max_duration*
    allow it, the delay and a usual attempt fit into the caller's deadline, and the budget pays.
    When it gives up, the last real error is raised as it is, with one note; a bad result is
    returned. A refusal by an inner policy is not retried unless *on* names it.

    Args:
        name: Name for telemetry. Default: that of the pipeline or function.
        attempts: Attempts in all, the first included, >= 1; None for no limit, which then needs
            *max_duration* or *stop*. Default 3, as in Resilience4j and the AWS SDKs.
        backoff: Delay before each retry: a schedule of `resilience.backoff`, a tenacity
            ``wait_*`` object, or a callable that takes the `CallContext` of the coming retry
            and returns seconds. Default ``full_jitter()``.
        budget: What further attempts are paid from; None for no budget. Default: the budget of
            the pipeline's name, shared by all that retry or hedge under it.
        max_duration: Seconds after the start beyond which no attempt begins, > 0, or None.
        stop: A tenacity ``stop_*`` object or a callable that takes a ``RetryCallState``.
        retry_after_window: Seconds by which a dependency may prolong a delay with Retry-After,
            >= 0; None to wait as long as it asks. Default 5.0, as in the AWS SDKs.
        on: Errors to retry: a type, a tuple of types, a predicate, or a tenacity ``retry_*``
            object. Default: what the pipeline judges bad, else every error.
        classify: Judge of outcomes, in place of *on*.
        rng: Where jitter comes from. Default: the process's own generator.

    Attributes:
        calls: Calls made through it.
        retries: Further attempts made.
        stops: How often calls ended, by `StopReason`.

    Raises:
        ConfigError: A setting is wrong; see `RetrySettings`.

    Example:
        >>> from resilience.backoff import constant
        >>> answers = iter([ConnectionError("down"), "up"])
        >>> @Retry(attempts=2, backoff=constant(0.0), on=ConnectionError)
        ... def ask():
        ...     answer = next(answers)
        ...     if isinstance(answer, Exception):
        ...         raise answer
        ...     return answer
        >>> ask()
        'up'

    """

    __slots__ = ("_durations", "_random", "_settings", "calls", "retries", "stops")

    kind = "retry"

    def __init__(
        self,
        name: str | None = None,
        *,
        attempts: int | None = 3,
        backoff: Backoff | DelayFunction | Callable[[Any], float] = DEFAULT_BACKOFF,
        budget: Budget | Inherited | None = INHERITED,
        max_duration: Seconds | None = None,
        stop: Callable[[Any], bool] | None = None,
        retry_after_window: Seconds | None = 5.0,
        on: ErrorMatch | Callable[[Any], bool] | None = None,
        classify: Classifier | None = None,
        rng: Random | None = None,
    ) -> None:
        if classify is None and is_tenacity(on):
            classify = _tenacity.classifier(cast("Callable[[Any], bool]", on))
            on = None
        settings = all_right(
            name,
            lambda: RetrySettings(
                attempts=attempts,
                backoff=backoff,
                budget=budget,
                max_duration=max_duration,
                stop=stop,
                retry_after_window=retry_after_window,
            ),
            on=on,
            classify=classify,
        )
        super().__init__(name, on=on, classify=classify)
        self._settings = settings
        self._random = rng or random
        self._durations = Recent(31)
        self._zero()
        fork.register(self)

    @property
    def settings(self) -> RetrySettings:
        """Its settings, frozen."""
        return self._settings

    @property
    def traits(self) -> Traits:
        """It repeats the call."""
        repeats = self._settings.attempts != 1
        return Traits(repeats=repeats, budgeted=self._settings.budget is not None)

    def _configure(self, settings: RetrySettings) -> None:
        self._settings = settings

    def step_for(self, binding: Binding) -> Step:
        """Return the step that tries, judges, waits and tries again."""
        judge = self.judge(binding)

        def step(call: Call, inner: Inner) -> Flow:
            given = self._settings.budget  # may be another one by now
            budget = budgets.named(binding.name) if isinstance(given, Inherited) else given
            return self._attempts(judge, budget, call, inner)

        return step

    def _attempts(self, judge: Judge, budget: Budget | None, call: Call, inner: Inner) -> Flow:
        self.calls += 1
        reports = budget is not None and call.report_to(budget)
        if budget is not None and reports:
            budget.deposit()
        progress = _Progress(self._settings, self._random, self._durations, budget)
        reason: StopReason = "cancelled"
        attempt = call
        good = False
        try:
            outcome = yield from inner(call)
            while True:
                verdict = judge(outcome, attempt.context)
                good = verdict is Verdict.GOOD
                decision = progress.decide(attempt, outcome, verdict)
                if isinstance(decision, str):
                    reason = decision
                    if budget is not None and reason in _UNPAID and verdict in _FAILED:
                        budget.fail(verdict)
                    call.adopt(attempt)
                    return self._final(progress, outcome, reason, attempt.context.attempt)
                yield from progress.discard(attempt, outcome)
                del outcome
                yield Sleep(decision)
                if progress.is_too_late(attempt.context, _clock.monotonic()):
                    reason = "deadline_exceeded"
                    late: Outcome[Any] = Outcome(error=progress.error or DeadlineExceededError(started=True))
                    return self._final(progress, late, reason, attempt.context.attempt)
                attempt = call.again(replace(call.context, attempt=attempt.context.attempt + 1))
                outcome = yield from self._further(attempt, inner)
                progress.release()
        except BaseException:
            attempt.let_go(None)
            raise
        finally:
            self.stops[reason] += 1
            progress.release()
            if budget is not None and reports:
                budget.finish(good=good, charges=progress.charges + sum(call.bill))
            elif progress.charges:
                call.bill.append(progress.charges)

    def _further(self, attempt: Call, inner: Inner) -> Flow:
        self.retries += 1
        began = _clock.monotonic()
        with attempt_scope(attempt.context):
            outcome = yield from inner(attempt)
        self._durations.add(_clock.monotonic() - began)
        return outcome

    def _final(
        self, progress: "_Progress", outcome: Outcome[Any], reason: StopReason, attempts: int
    ) -> Outcome[Any]:
        error, earlier = outcome.error, progress.error
        if error is not None and not _has_run(error) and earlier is not None and _has_run(earlier):
            error = earlier
            outcome = Outcome(error=earlier)
        if reason in _GAVE_UP:
            details: dict[str, object] = {"resilience.retry.stop_reason": reason}
            if error is not None:
                details["error.type"] = type(error).__qualname__
            emit("resilience.retry.exhausted", self.name, details)
        if error is not None and (attempts > 1 or reason in ("budget_exhausted", "deadline_exceeded")):
            _note(error, f"{_NOTE}{attempts} attempt{'s' * (attempts > 1)}: {reason.replace('_', ' ')}")
        return outcome

    def _zero(self) -> None:
        self.calls = 0
        self.retries = 0
        # Every reason from the start, so that counting is one statement without a call.
        self.stops: dict[StopReason, int] = dict.fromkeys(get_args(StopReason), 0)

    def _after_fork(self) -> None:
        self._zero()


class _Progress:
    """
    One call's way through its attempts.

    Attributes:
        charges: What the budget took for further attempts.
        error: The last real error that was put aside for another attempt; a refusal if there was none.

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
        "charges",
        "error",
    )

    def __init__(
        self, settings: RetrySettings, rng: Random, durations: Recent, budget: Budget | None
    ) -> None:
        self._settings = settings
        self._random = rng
        self._durations = durations
        self._budget = budget
        self._started = _clock.monotonic()
        self._slept = 0.0
        self._delays: Delays | None = None
        self._is_granted = False
        self.charges = 0
        self.error: Exception | None = None

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
        if settings.stop is not None and settings.stop(self._state(attempt, outcome, now, delay)):
            return "attempts_exhausted"
        if self.is_too_late(context, now + delay):
            return "deadline_exceeded"
        if self._budget is not None:
            charge = self._budget.try_withdraw(verdict)
            if not charge:
                return "budget_exhausted"
            self._is_granted = True
            self.charges += charge
        self._slept += delay
        return delay

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

    def discard(self, attempt: Call, outcome: Outcome[Any]) -> Generator[Command, Any, None]:
        """Put the outcome aside: remember its error, settle what its attempt holds, close its result."""
        error = outcome.error
        if error is not None and (self.error is None or _has_run(error) or not _has_run(self.error)):
            self.error = error
        attempt.let_go(outcome)
        if outcome.error is None:
            yield Dispose(outcome.value)

    def _delay(self, attempt: Call, outcome: Outcome[Any], now: Seconds) -> Seconds:
        backoff = self._settings.backoff
        if is_tenacity(backoff, "wait"):
            wait = cast("Callable[[object], Seconds]", backoff)
            own = min(LONGEST, max(0.0, float(wait(self._state(attempt, outcome, now)))))
        else:
            if self._delays is None:
                self._delays = cast("Backoff", backoff).start(attempt.context)
            own = self._delays.before(attempt.context.attempt, self._random.random())
        wanted = honour(outcome.retry_after, own, self._settings.retry_after_window)
        # A dependency tells all its clients the same: our own jitter on top keeps them apart.
        return wanted + own if wanted > own else own

    def _state(self, attempt: Call, outcome: Outcome[Any], now: Seconds, delay: Seconds = 0.0) -> object:
        return _tenacity.call_state(attempt, outcome, self._started, now, self._slept, delay)


def _has_run(error: Exception) -> bool:
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
