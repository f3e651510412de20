"""Try again, if that may help, is safe, is paid for and fits into the time there is."""

import random
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast, get_args

from resilience import _clock
from resilience._core.inherited import INHERITED, Inherited
from resilience._core.recent import Recent
from resilience._runtime import budgets, fork
from resilience._runtime.attempt import attempt_scope
from resilience._runtime.census import Reading
from resilience._runtime.flow import PLAIN, Call, Dispose, Flow, Inner, Sleep
from resilience._runtime.hot import Again, Fail, Hot, Tally
from resilience._runtime.locked import NEEDS_LOCKS
from resilience._runtime.policy import Binding, Judge, Policy, Step, Traits, all_right
from resilience.backoff import Backoff, DelayFunction
from resilience.errors import ConfigError, Problem, RejectedError
from resilience.outcome import Classifier, ErrorMatch, Outcome, Verdict
from resilience.retry import _tenacity
from resilience.retry._hot import Begun, Paying, hot
from resilience.retry._progress import Progress, StopReason
from resilience.retry._settings import (
    DEFAULT_BACKOFF,
    RetrySettings,
    counts_in_flight,
    has_tenacity,
    is_tenacity,
)
from resilience.typing import Budget, Random, Seconds


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
            >= 0: if it asks for more, the call is given up, since to come early is worse. 0 to
            take no notice of it, None to wait as long as it asks. Default 5.0, as in the AWS SDKs.
        on: Errors to retry: a type, a tuple of types, a predicate, or a tenacity ``retry_*``
            object. Default: what the pipeline judges bad, else every error.
        classify: Judge of outcomes, in place of *on*.
        rng: Where jitter comes from: anything with a method ``random()``. Default: the process's
            own generator.

    Attributes:
        retries: Further attempts made.
        delay: Seconds put between attempts, in all calls together.

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

    __slots__ = ("_durations", "_lock", "_random", "_settings", "_stops", "_tallies", "delay", "retries")

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
            lambda: _settings(
                rng,
                attempts=attempts,
                backoff=backoff,
                budget=budget,
                max_duration=max_duration,
                stop=stop,
                retry_after_window=retry_after_window,
            ),
            first="attempts",
            on=on,
            classify=classify,
        )
        super().__init__(name, on=on, classify=classify)
        self._settings = settings
        self._random: Random = random if rng is None else rng
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

    @property
    def stops(self) -> dict[StopReason, int]:
        """How often calls ended, by `StopReason`."""
        at_once = sum(int(tally.good) for _, tally in list(self._tallies.values()))
        return {**self._stops, "success": self._stops["success"] + at_once}

    @property
    def calls(self) -> int:
        """Calls made through it that have ended."""
        return sum(self.stops.values())

    def stop(self, reason: StopReason) -> None:
        """Count a call that ended so."""
        if NEEDS_LOCKS:
            with self._lock:
                self._stops[reason] += 1
        else:
            self._stops[reason] += 1

    def _configure(self, settings: RetrySettings) -> None:
        self._settings = settings

    def step_for(self, binding: Binding) -> Step:
        """Return the step that tries, judges, waits and tries again."""
        judge = self.judge(binding)

        def step(call: Call, inner: Inner) -> Flow:
            replay = call.replay
            # Those that the call began with, which may be others by now.
            begun: Begun | None = None if replay is None else replay.take(self)
            settings = self._settings if begun is None else begun.settings
            budget = self._budget(binding, settings)
            began = None if replay is None else replay.began
            started = _clock.monotonic() if began is None else began
            is_in_flight = budget is not None and counts_in_flight(budget)
            progress = Progress(self, judge, settings, budget, started, is_in_flight, call)
            return self._attempts(progress, inner, call, has_begun=begun is not None)

        return step

    def hot(self, binding: Binding) -> Hot | None:
        """Return what a call runs whose first attempt ends well."""
        settings, judge = self._settings, self.judge(binding)
        budget = self._budget(binding, settings)
        again = None if has_tenacity(settings) else self._beginning(judge)
        return hot(self, settings, self._tally(budget), budget, fail=self.failing(judge), again=again)

    def _tally(self, budget: Budget | None) -> Tally:
        """Return where generated code counts good calls that are paid for by *budget*."""
        known = self._tallies.get(id(budget))
        if known is None:
            # The budget is kept with it, so that no other one gets its id.
            known = self._tallies.setdefault(id(budget), (budget, Tally()))
            if budget is not None and not counts_in_flight(budget):
                paying = cast("Paying", budget)
                paying.enlist(known[1])
                weakref.finalize(self, paying.dismiss, known[1]).atexit = False
        return known[1]

    def failing(self, judge: Judge) -> Fail:
        """Return what ends a call that a refusal further in has ended: that alone needs no flow."""

        def fail(tokens: list[Any], place: int, outcome: Outcome[Any], began: Seconds | None) -> None:  # noqa: ARG001  # a refusal takes no time
            if not isinstance(outcome.error, RejectedError):
                return
            if judge(outcome, PLAIN) is not Verdict.IGNORED:
                return
            begun: Begun = tokens[place]
            if begun.earns:
                begun.budget.calls += 1
            begun.end("rejected")
            tokens[place] = None

        return fail

    def _beginning(self, judge: Judge) -> Again:
        """Return what goes on, without a flow, with a call whose first attempt has failed."""
        known = weakref.ref(self)  # no cycle: it may own the code that knows this

        def again(tokens: list[Any], place: int, outcome: Outcome[Any], began: Seconds | None) -> Progress:
            retry: Any = known()  # there for as long as a call is under way
            begun: Begun = tokens[place]
            settings = begun.settings
            if began is None:
                began = 0.0 if settings.max_duration is None else _clock.monotonic()
            progress = tokens[place] = Progress(
                retry, judge, settings, begun.budget, began, begun.is_in_flight
            )
            if begun.earns:
                begun.budget.calls += 1
            progress.take(outcome)
            return progress

        return again

    def _budget(self, binding: Binding, settings: RetrySettings) -> Budget | None:
        given = settings.budget
        return budgets.named(binding.name) if isinstance(given, Inherited) else given

    def _attempts(self, progress: Progress, inner: Inner, call: Call, *, has_begun: bool) -> Flow:
        budget = progress.budget
        progress.reports = reports = budget is not None and call.report_to(budget)
        # A call earns once its first attempt has ended, so that a good one is counted in one place.
        earns = reports
        if budget is not None and reports and progress.is_in_flight:
            earns = False
            if not has_begun:
                budget.deposit()
        attempt = call
        try:
            outcome = yield from inner(call)
            if budget is not None and earns:
                budget.deposit()
            progress.take(outcome)
            while (delay := progress.delay) is not None:
                if outcome.error is None:  # first: a response holds its place until it is closed
                    yield Dispose(outcome.value)
                attempt.let_go(outcome)
                del outcome
                # The first time at once, if that is what was asked for. Later it waits even then, so that a
                # function which always fails at once leaves an event loop time for others.
                if delay > 0 or not progress.is_first:
                    yield Sleep(delay)
                context = progress.begin()
                if context is None:
                    break
                attempt = progress.call = call.again(context)
                scope = attempt_scope(context)
                try:
                    with scope:
                        outcome = yield from inner(attempt)
                except BaseException:
                    # Interrupted on the way out of the block: later calls are no attempts of this one.
                    scope.__exit__(None, None, None)
                    raise
                progress.ended(outcome)
            else:
                call.adopt(attempt)
        except BaseException:
            attempt.let_go(None)
            raise
        finally:
            progress.end(sum(call.bill) if reports else 0)
            if progress.charges and not reports:
                call.bill.append(progress.charges)
        return progress.outcome

    def _give_back_token(self, token: Begun | Progress) -> None:
        """Count a call that was cut short in generated code."""
        token.end()

    def readings(self) -> Iterator[Reading]:
        """Return how calls ended, and how many attempts they took."""
        for reason, count in self.stops.items():
            yield Reading("resilience.retry.calls", count, (("resilience.retry.stop_reason", reason),))
        if not self._is_inner:
            yield Reading("resilience.attempts", self.calls, (("resilience.attempt.type", "initial"),))
        yield Reading("resilience.attempts", self.retries, (("resilience.attempt.type", "retry"),))
        yield Reading("resilience.retry.delay", self.delay)

    def _zero(self) -> None:
        self._lock = threading.RLock()
        self.retries = 0
        self.delay: Seconds = 0.0
        # Every reason from the start, so that counting is one statement without a call.
        self._stops: dict[StopReason, int] = dict.fromkeys(get_args(StopReason), 0)
        self._tallies: dict[int, tuple[Budget | None, Tally]] = {}

    def _after_fork(self) -> None:
        self._zero()


def _settings(rng: object, **settings: Any) -> RetrySettings:
    """Return the settings; what is wrong with *rng* is listed with what is wrong with them."""
    problems: list[Problem] = []
    if rng is not None and not callable(getattr(rng, "random", None)):
        problems.append(Problem("rng", rng, "must have a random() method or be None"))
    try:
        checked = RetrySettings(**settings)
    except ConfigError as error:
        raise ConfigError(error.subject, [*error.problems, *problems]) from None
    if problems:
        raise ConfigError("Retry", problems)
    return checked
