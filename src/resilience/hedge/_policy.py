"""Make a slow call again beside itself, and take the first good answer."""

import threading
from collections.abc import Generator
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from resilience import _clock
from resilience._core.inherited import INHERITED, Inherited
from resilience._runtime import budgets, fork
from resilience._runtime.attempt import attempt_scope, take_over
from resilience._runtime.flow import Call, Child, Command, Dispose, Flow, Inner, Nursery, Park, Spawn, Waiter
from resilience._runtime.policy import Binding, Judge, Policy, Step, Traits, all_right
from resilience.errors import DeadlineExceededError
from resilience.events import emit
from resilience.hedge._machine import Latencies, Race
from resilience.hedge._settings import MAX_ABANDONED, DelayOf, HedgeSettings, Idempotent, Quantile
from resilience.outcome import CallContext, Classifier, ErrorMatch, Outcome, Verdict
from resilience.typing import Budget, Seconds

FIRST: Final = 1
"""Number of the attempt that is made in any case."""


class Hedge(Policy):
    """
    Make a call again when it takes longer than *after*; the first good outcome counts.

    A failure starts the next attempt at once. If no attempt is good, the outcome of the first is
    that of the call. Every further attempt is paid from the budget; when that does not pay, or a
    thread cannot be had, the attempts under way go on alone. Those that lose are cancelled, and
    what they return is closed. A refusal by an inner policy, a throttled outcome and a missed
    deadline start nothing more.

    Each attempt has a copy of the caller's context variables; only what the one that counts has
    set is seen afterwards. On threads every attempt, the first included, runs in a thread of its
    own. A generator cannot be hedged.

    Args:
        name: Name for telemetry. Default: that of the pipeline or function.
        after: Seconds to wait before the next attempt, >= 0; `quantile` to learn them; None to wait
            for a failure; or a callable that takes the `CallContext` of the attempt to start and
            returns seconds or None. Default 0.2.
        idempotent: Which calls may be made more than once: True, ``"context"`` or a predicate of
            the `CallContext`. It has no default, for only the caller can know.
        max_extra: Attempts beside the first, 1 to 10. Default 1, as in Polly and failsafe-go.
        budget: What further attempts are paid from; None for no budget. Default: the budget of the
            pipeline's name, shared by all that retry or hedge under it.
        max_abandoned: Losing attempts that may be at work before calls are no longer hedged, >= 1,
            or None. Default 40, as AnyIO's worker threads.
        on: Errors that start the next attempt: a type, a tuple of types, or a predicate.
        classify: Judge of outcomes, in place of *on*.

    Attributes:
        calls: Calls made through it.
        hedges: Further attempts started.
        denied: Further attempts that the budget did not pay for.
        crowded: Calls that were not hedged because too many losing attempts were at work.
        wins: How often the attempt of each number, from 1, was good first.

    Raises:
        ConfigError: A setting is wrong, or *idempotent* is missing; see `HedgeSettings`.

    Example:
        >>> from resilience.retry_budget import RetryBudget
        >>> @Hedge(after=0.05, idempotent=True, budget=RetryBudget.ratio())
        ... def price(sku: str) -> int:
        ...     return 7
        >>> price("a-1")
        7

    """

    __slots__ = (
        "_abandoned",
        "_is_dry",
        "_latencies",
        "_lock",
        "_settings",
        "calls",
        "crowded",
        "denied",
        "hedges",
        "wins",
    )

    kind = "hedge"
    streams = False

    def __init__(
        self,
        name: str | None = None,
        *,
        after: Seconds | Quantile | DelayOf | None = 0.2,
        idempotent: Idempotent = None,
        max_extra: int = 1,
        budget: Budget | Inherited | None = INHERITED,
        max_abandoned: int | None = MAX_ABANDONED,
        on: ErrorMatch | None = None,
        classify: Classifier | None = None,
    ) -> None:
        settings = all_right(
            name,
            lambda: HedgeSettings(
                after=after,
                idempotent=idempotent,
                max_extra=max_extra,
                budget=budget,
                max_abandoned=max_abandoned,
            ),
            on=on,
            classify=classify,
        )
        super().__init__(name, on=on, classify=classify)
        self._latencies: Latencies | None = None
        self._lock = threading.RLock()
        self._abandoned = 0
        self._is_dry = False
        self._zero()
        self._configure(settings)
        fork.register(self)

    @property
    def settings(self) -> HedgeSettings:
        """Its settings, frozen."""
        return self._settings

    @property
    def traits(self) -> Traits:
        """It makes a call again while one is under way."""
        return Traits(races=True, budgeted=self._settings.budget is not None)

    @property
    def abandoned(self) -> int:
        """How many attempts are at work now that have lost, or whose caller has stopped waiting."""
        return self._abandoned

    @property
    def delay(self) -> Seconds | None:
        """Seconds until the next attempt is due: *after*, or what was learnt; None if not known."""
        after = self._settings.after
        if isinstance(after, Quantile):
            with self._lock:
                return None if self._latencies is None else self._latencies.quantile()
        return None if callable(after) else after

    def step_for(self, binding: Binding) -> Step:
        """Return the step that holds the race."""
        judge = self.judge(binding)

        def step(call: Call, inner: Inner) -> Flow:
            given = self._settings.budget
            budget = budgets.named(binding.name) if isinstance(given, Inherited) else given
            return self._around(judge, budget, call, inner)

        return step

    def _configure(self, settings: HedgeSettings) -> None:
        with self._lock:
            if not isinstance(settings.after, Quantile):
                self._latencies = None
            elif self._latencies is None:
                self._latencies = Latencies(settings.after)
            else:
                self._latencies.configure(settings.after)
            self._settings = settings

    def _around(self, judge: Judge, budget: Budget | None, call: Call, inner: Inner) -> Flow:
        deadline = call.context.deadline
        if deadline is not None and deadline <= _clock.monotonic():
            return Outcome(error=DeadlineExceededError("deadline exceeded: not started"))
        races = self._settings.may_repeat(call.context) and self._has_room()
        self.calls += 1
        heat = _Heat(self, judge, budget, call, inner)
        reports = budget is not None and call.report_to(budget)
        if budget is not None and reports:
            budget.deposit()
        try:
            outcome: Outcome[Any]
            if races:
                outcome = yield Nursery(heat.run())
            else:
                outcome = yield from heat.alone()
            return outcome
        finally:
            if budget is not None:
                for verdict in heat.race.failures:
                    budget.fail(verdict)
                if reports:
                    budget.finish(good=heat.good, charges=heat.charges + sum(call.bill))
                elif heat.charges:
                    call.bill.append(heat.charges)

    def _has_room(self) -> bool:
        limit = self._settings.max_abandoned
        if limit is None or self._abandoned < limit:
            return True
        self.crowded += 1
        return False

    def _delay_before(self, context: CallContext) -> Seconds | None:
        after = self._settings.after
        if callable(after):
            return self._settings.checked(after(context))
        return self.delay

    def _pays(self, budget: Budget | None, verdict: Verdict) -> int:
        """Withdraw one attempt from the budget; report when it runs dry."""
        charge = 1 if budget is None else budget.try_withdraw(verdict)
        if charge:
            self._is_dry = False
            return charge
        self.denied += 1
        if not self._is_dry:
            self._is_dry = True
            emit("resilience.hedge.budget_exhausted", self.name, {})
        return 0

    def _learn(self, seconds: Seconds, *, cut_off: bool) -> None:
        with self._lock:
            if self._latencies is None:
                return
            if cut_off:
                self._latencies.cut_off(seconds)
            else:
                self._latencies.add(seconds)

    def _zero(self) -> None:
        self.calls = 0
        self.hedges = 0
        self.denied = 0
        self.crowded = 0
        self.wins: dict[int, int] = {}

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._abandoned = 0
        self._zero()


@dataclass(slots=True, eq=False)
class _Attempt:
    """
    One attempt, for its caller and for itself.

    Attributes:
        number: Its number in this race, from 1.
        call: What it calls.
        started: When, in seconds.
        child: Where it runs; None until it was started.
        outcome: How it ended; None if it has not, or was late.
        verdict: What that means.
        context: The context variables at its end.
        ended: When, in seconds.
        is_cancelled: Whether it was told to stop.

    """

    number: int
    call: Call
    started: Seconds
    child: Child | None = None
    outcome: Outcome[Any] | None = None
    verdict: Verdict = Verdict.IGNORED
    context: Context | None = None
    ended: Seconds = 0.0
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Stop it, once: a second cancellation would strike while it cleans up after the first."""
        if self.child is not None and not self.is_cancelled:
            self.is_cancelled = True
            self.child.cancel()


class _Heat:
    """
    One call's race. Its lock is the policy's, for the decisions only.

    Attributes:
        race: Which attempt is due, and which one won.
        charges: What the budget took for attempts that answer a failure. Those beside a slow attempt are
            not given back when the call ends well, or they would be free.
        good: Whether the call ended good.

    """

    __slots__ = (
        "_attempts",
        "_budget",
        "_call",
        "_escaped",
        "_extra",
        "_inbox",
        "_inner",
        "_is_over",
        "_judge",
        "_open",
        "_policy",
        "_taken",
        "_waiter",
        "charges",
        "good",
        "race",
    )

    def __init__(self, policy: Hedge, judge: Judge, budget: Budget | None, call: Call, inner: Inner) -> None:
        self._policy = policy
        self._judge = judge
        self._budget = budget
        self._call = call
        self._inner = inner
        self._waiter = Waiter()
        self._attempts: dict[int, _Attempt] = {}
        self._open: set[int] = set()  # attempts that are at work
        self._inbox: list[_Attempt] = []
        self._escaped: BaseException | None = None
        self._is_over = False
        self._taken: object = None
        self._extra = policy.settings.max_extra
        self.race = Race(1 + self._extra)
        self.charges = 0
        self.good = False

    # In the caller's own flow.

    def alone(self) -> Flow:
        """Make the call once, right here."""
        outcome = yield from self._inner(self._call)
        verdict = self._judge(outcome, self._call.context)
        self.good = verdict is Verdict.GOOD
        if verdict not in (Verdict.GOOD, Verdict.IGNORED):
            self.race.failures.append(verdict)
        return outcome

    def run(self) -> Flow:
        """Start attempts until one is good or nothing is left to wait for."""
        try:
            outcome = yield from self._decide()
        except GeneratorExit:
            self._close(None)
            raise
        except BaseException:
            yield from self._clear(self._close(None))
            raise
        yield from self._clear(self._close(outcome))
        return outcome

    def _decide(self) -> Flow:
        race, waiter, deadline = self.race, self._waiter, self._call.context.deadline
        while True:
            waiter.woken = False
            self._read()
            if race.result is not None:
                return self._result(race.result)
            now = _clock.monotonic()
            left = None if deadline is None else deadline - now
            if left is not None and left <= 0:
                race.stop()
                if race.result is None:
                    return Outcome(error=DeadlineExceededError(started=True))
                continue
            pause = race.pause(now)
            if pause == 0:
                if not (yield from self._start(now)):
                    return (yield from self.alone())
            elif pause is None or left is None:
                yield Park(waiter, left if pause is None else pause)
            else:
                yield Park(waiter, min(left, pause))

    def _read(self) -> None:
        """Tell the race who has ended. Raises what escaped from an attempt and is not an outcome."""
        with self._policy._lock:
            ended, self._inbox = self._inbox, []
            escaped, self._escaped = self._escaped, None
        if escaped is not None:
            try:
                raise escaped
            finally:
                escaped = None  # no cycle: frame -> error -> traceback -> frame
        for attempt in ended:
            if attempt.number == FIRST and attempt.verdict in (Verdict.GOOD, Verdict.TIMED_OUT):
                self._policy._learn(attempt.ended - attempt.started, cut_off=False)
            self.race.end(attempt.number, attempt.verdict)
            if attempt.outcome is not None and isinstance(attempt.outcome.error, DeadlineExceededError):
                self.race.stop()

    def _start(self, now: Seconds) -> Generator[Command, Any, bool]:
        """Start the attempt that is due, if it is paid for. False if not even the first gets a thread."""
        policy, race = self._policy, self.race
        number = race.started + 1
        context = replace(self._call.context, attempt=self._call.context.attempt + number - 1)
        delay = None
        if number <= self._extra:
            delay = policy._delay_before(replace(context, attempt=context.attempt + 1))
        if number != FIRST:
            verdict = race.take_failure()
            charge = policy._pays(self._budget, verdict)
            if not charge:
                race.stop()
                return True
            if verdict is not Verdict.IGNORED:
                self.charges += charge
        race.begin(now, delay)
        attempt = _Attempt(number, self._call.again(context), now)
        with policy._lock:
            self._attempts[number] = attempt
            self._open.add(number)
        try:
            attempt.child = yield Spawn(self._attempt(attempt), partial(self._failed, attempt))
        except RuntimeError:  # the system has no thread left
            self._closed(attempt)
            race.end(number, Verdict.IGNORED)
            return number != FIRST
        if number != FIRST:
            policy.hedges += 1
        return True

    def _result(self, number: int) -> Outcome[Any]:
        attempt = self._attempts[number]
        if attempt.verdict is Verdict.GOOD:
            self.good = True
            with self._policy._lock:
                self._policy.wins[number] = self._policy.wins.get(number, 0) + 1
        if attempt.context is not None:
            take_over(attempt.context)
        self._call.adopt(attempt.call)
        outcome = attempt.outcome
        if outcome is None:  # pragma: no cover  # the race names only those that have ended
            raise RuntimeError("an attempt that has not ended cannot be the result")
        return outcome

    def _close(self, outcome: Outcome[Any] | None) -> list[_Attempt]:
        """End the race, stop those who are at work, and return those whose outcome is of no use."""
        policy = self._policy
        with policy._lock:
            self._is_over = True
            if outcome is not None:
                self._taken = outcome.value
            losers = [self._attempts[number] for number in self._open]
            policy._abandoned += len(losers)
        for attempt in losers:
            attempt.cancel()
        first = self._attempts.get(FIRST)
        if outcome is not None and first is not None and first.child is not None and first.outcome is None:
            policy._learn(_clock.monotonic() - first.started, cut_off=True)
        # Emptied: an error's traceback leads to the frames of the thread that made the attempt, and so here.
        attempts, self._attempts = self._attempts, {}
        useless = [attempt for attempt in attempts.values() if attempt.outcome not in (None, outcome)]
        for attempt in attempts.values():
            if attempt not in useless:
                attempt.outcome = None
        return useless

    def _clear(self, attempts: list[_Attempt]) -> Generator[Command, Any, None]:
        for attempt in attempts:
            outcome, attempt.outcome = attempt.outcome, None
            if outcome is not None:
                yield from self._drop(attempt, outcome)

    def _drop(self, attempt: _Attempt, outcome: Outcome[Any]) -> Generator[Command, Any, None]:
        attempt.call.let_go(None)
        if outcome.value is not self._taken:  # attempts may return one and the same object
            yield Dispose(outcome.value)

    # In the flows of the attempts: other threads, or other tasks.

    def _attempt(self, attempt: _Attempt) -> Flow:
        try:
            with attempt_scope(attempt.call.context):
                outcome = yield from self._inner(attempt.call)
            verdict = Verdict.IGNORED if self._is_over else self._judge(outcome, attempt.call.context)
            now, context = _clock.monotonic(), copy_context()
            rivals: list[_Attempt] = []
            with self._policy._lock:
                is_late = self._is_over
                if not is_late:
                    attempt.outcome, attempt.verdict = outcome, verdict
                    attempt.ended, attempt.context = now, context
                    self._inbox.append(attempt)
                    if verdict is Verdict.GOOD:
                        rivals = [self._attempts[number] for number in self._open if number != attempt.number]
            if is_late:
                yield from self._drop(attempt, outcome)
        finally:
            self._closed(attempt)
        # At once, and not only when the caller gets to run: one of them may be about to begin, with the
        # permit that this one has just given back.
        for rival in rivals:
            rival.cancel()
        self._waiter.wake()
        return outcome

    def _closed(self, attempt: _Attempt) -> None:
        """Note, once, that an attempt is no longer at work."""
        with self._policy._lock:
            if attempt.number not in self._open:
                return
            self._open.remove(attempt.number)
            if self._is_over:
                self._policy._abandoned -= 1
        if attempt.number != FIRST and self._budget is not None:
            self._budget.release()

    def _failed(self, attempt: _Attempt, error: BaseException) -> None:
        """Take what escaped from an attempt; it may not even have begun."""
        self._closed(attempt)
        with self._policy._lock:
            matters = not (self._is_over or attempt.is_cancelled)
            if matters:
                self._escaped = error
        if matters:
            self._waiter.wake()
        elif isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error  # nobody waits for it any more, but it is not about this attempt either
