"""Make a slow call again beside itself, and take the first good answer."""

import threading
from collections.abc import Iterator
from typing import Any

from resilience import _clock
from resilience._core.inherited import INHERITED, Inherited
from resilience._runtime import budgets, fork
from resilience._runtime.census import Reading
from resilience._runtime.flow import Call, Flow, Inner, Nursery
from resilience._runtime.policy import Binding, Judge, Policy, Step, Traits, all_right
from resilience.errors import DeadlineExceededError
from resilience.events import emit
from resilience.hedge._heat import Heat
from resilience.hedge._machine import Latencies
from resilience.hedge._settings import MAX_ABANDONED, DelayOf, HedgeSettings, Idempotent, Quantile
from resilience.outcome import CallContext, Classifier, ErrorMatch, Outcome, Verdict
from resilience.typing import Budget, Seconds


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
            first="after",
            needed="idempotent=...",
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
        with self._lock:
            self.calls += 1
        heat = Heat(self, judge, budget, call, inner)
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
        with self._lock:
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
        with self._lock:
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

    def readings(self) -> Iterator[Reading]:
        """Return how many attempts calls took, which of them won, and why there were no more."""
        kind = "resilience.attempt.type"
        if not self._is_inner:
            yield Reading("resilience.attempts", self.calls, ((kind, "initial"),))
        yield Reading("resilience.attempts", self.hedges, ((kind, "hedge"),))
        with self._lock:
            first, good = self.wins.get(1, 0), sum(self.wins.values())
        yield Reading("resilience.hedge.wins", first, ((kind, "initial"),))
        yield Reading("resilience.hedge.wins", good - first, ((kind, "hedge"),))
        denials, reason = "resilience.hedge.denials", "resilience.hedge.denial_reason"
        yield Reading(denials, self.denied, ((reason, "budget_exhausted"),))
        yield Reading(denials, self.crowded, ((reason, "too_many_abandoned"),))
        yield Reading("resilience.hedge.abandoned", self._abandoned, is_level=True)
        if (delay := self.delay) is not None:
            yield Reading("resilience.hedge.delay", delay, is_level=True)

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
