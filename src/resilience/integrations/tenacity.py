"""
Budgets, circuits, deadlines and Retry-After for code that stays on tenacity.

    paid = Paid(RetryBudget.ratio())

    @tenacity.retry(
        retry=paid.retry(),
        stop=paid.stop(stop_after_attempt(3) | stop_before_deadline()),
        wait=wait_retry_after(wait_backoff(full_jitter())),
    )
    def stock(sku): ...

Each is an object of tenacity's own kind, and combines with tenacity's by ``|``, ``&`` and ``+``.
"""
# ruff: noqa: N801  # tenacity's strategies are classes named like functions

import random
import weakref
from collections.abc import Callable
from typing import Any, Final

from tenacity import RetryCallState, stop_never
from tenacity.retry import RetryBaseT, retry_base
from tenacity.stop import StopBaseT, stop_base
from tenacity.wait import WaitBaseT, wait_base

from resilience import CircuitBreaker, CircuitState, ConfigError
from resilience.backoff import RETRY_AFTER_WINDOW, Backoff, Delays, full_jitter, honour
from resilience.deadline import remaining
from resilience.errors import DeadlineExceededError, Problem
from resilience.outcome import CallContext, Classifier, Outcome, Verdict, any_error_is_bad
from resilience.typing import Budget, Random, Seconds

_FAILED: Final = frozenset({Verdict.BAD, Verdict.TIMED_OUT, Verdict.THROTTLED})
_LEDGER: Final = "_resilience_ledger"
_DELAYS: Final = "_resilience_delays"


class retry_if_bad(retry_base):
    """
    Retry what a classifier finds bad, timed out or throttled; never a refusal, nor a missed deadline.

    A refusal (`resilience.CircuitOpenError` and the like) is not retried at once by anybody: the function did
    not run, and would be refused again.

    Args:
        classify: Judge of outcomes, as for policies. Default: every error is bad.

    """

    def __init__(self, classify: Classifier = any_error_is_bad) -> None:
        self.classify = classify

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Whether the outcome is worth another attempt."""
        return _verdict(self.classify, retry_state) in _FAILED


class stop_before_deadline(stop_base):
    """Stop when the next attempt would begin after the caller's `resilience.deadline`."""

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Whether there is no time for the wait."""
        left = remaining()
        return left is not None and retry_state.upcoming_sleep >= left


class stop_while_open(stop_base):
    """
    Stop when the circuit will not be asked to let anybody through at the end of the wait.

    Args:
        breaker: The breaker that guards what is retried, from inside.

    """

    def __init__(self, breaker: CircuitBreaker) -> None:
        if not isinstance(breaker, CircuitBreaker):
            raise ConfigError("stop_while_open", [Problem("breaker", breaker, "must be a CircuitBreaker")])
        self.breaker = breaker

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Whether the next attempt would be refused."""
        state = self.breaker.state
        if state is CircuitState.ISOLATED:
            return True
        if state is not CircuitState.OPEN:
            return False
        left = self.breaker.snapshot()["retry_after"]
        return isinstance(left, (int, float)) and left > retry_state.upcoming_sleep


class wait_backoff(wait_base):
    """
    Wait as a schedule of `resilience.backoff` says.

    Args:
        backoff: The schedule. Default ``full_jitter()``.
        rng: Where jitter comes from: anything with a method ``random()``. Default: the process's own.

    """

    def __init__(self, backoff: Backoff | None = None, *, rng: Random | None = None) -> None:
        self.backoff = full_jitter() if backoff is None else backoff
        if not callable(getattr(self.backoff, "start", None)):
            rule = "must be a schedule of resilience.backoff"
            raise ConfigError("wait_backoff", [Problem("backoff", backoff, rule)])
        self.rng: Random = random if rng is None else rng

    def __call__(self, retry_state: RetryCallState) -> Seconds:
        """Return the seconds to wait."""
        mine: dict[int, Delays] = retry_state.__dict__.setdefault(_DELAYS, {})
        delays = mine.get(id(self))
        if delays is None:
            delays = mine[id(self)] = self.backoff.start(CallContext(attempt=retry_state.attempt_number))
        return delays.before(retry_state.attempt_number, self.rng.random())


class wait_retry_after(wait_base):
    """
    Wait as *wait* says, or longer if the dependency asked for it.

    What it asked for is the ``retry_after`` of the error, or what the classifier read from a response. A
    wait cannot give up, as `Retry` does: where it asks for more than *window*, the next attempt comes early,
    unless *window* is None and `stop_before_deadline` or tenacity's ``stop_before_delay`` bounds the wait.

    Args:
        wait: One's own delay: a ``wait_*`` object. Default `wait_backoff`.
        window: Seconds by which the dependency may prolong the delay, >= 0; None for as long as it asks.
            Default 5.0, as for `Retry`.
        classify: What finds the hint in results; see `resilience.integrations.httpx.http_verdict`.

    """

    def __init__(
        self,
        wait: WaitBaseT | None = None,
        *,
        window: Seconds | None = RETRY_AFTER_WINDOW,
        classify: Classifier = any_error_is_bad,
    ) -> None:
        if window is not None and not (isinstance(window, (int, float)) and 0 <= window < float("inf")):
            rule = "must be a finite number of seconds >= 0 or None"
            raise ConfigError("wait_retry_after", [Problem("window", window, rule)])
        self.wait: WaitBaseT = wait_backoff() if wait is None else wait
        self.window = window
        self.classify = classify

    def __call__(self, retry_state: RetryCallState) -> Seconds:
        """Return the seconds to wait."""
        own = float(self.wait(retry_state))
        outcome = _outcome(retry_state)
        if outcome is None:
            return own
        self.classify(outcome, CallContext(attempt=retry_state.attempt_number))
        wanted = honour(outcome.retry_after, own, self.window)
        # It tells all its clients the same: our own delay on top keeps them apart.
        return wanted + own if wanted > own else own


class Paid:
    """
    Let a retry budget pay for further attempts: one that is shared with policies, or tenacity's own.

    Give both parts to ``tenacity.retry``: `retry` sees how attempts end, `stop` asks the budget.

    Args:
        budget: The budget, such as ``RetryBudget.ratio()``. Give the same one to a `Retry` of the same
            dependency.

    Raises:
        ConfigError: *budget* is no budget.

    Example:
        >>> import tenacity
        >>> from resilience import RetryBudget
        >>> paid = Paid(RetryBudget.ratio())
        >>> @tenacity.retry(retry=paid.retry(), stop=paid.stop(tenacity.stop_after_attempt(3)))
        ... def stock() -> int:
        ...     return 7
        >>> stock()
        7

    """

    __slots__ = ("budget",)

    def __init__(self, budget: Budget) -> None:
        if not isinstance(budget, Budget):
            raise ConfigError("Paid", [Problem("budget", budget, "must be a RetryBudget")])
        self.budget = budget

    def retry(
        self, retry: RetryBaseT | None = None, *, classify: Classifier = any_error_is_bad
    ) -> retry_base:
        """
        Return a ``retry_*`` object: what *retry* says, noted in the budget.

        Args:
            retry: A ``retry_*`` object. Default: ``retry_if_bad(classify)``.
            classify: What tells a throttled attempt from a bad one.

        """
        return _retry_noted(self.budget, retry_if_bad(classify) if retry is None else retry, classify)

    def stop(self, stop: StopBaseT = stop_never) -> stop_base:
        """Return a ``stop_*`` object: stop when *stop* says so, or when the budget does not pay."""
        return _stop_unpaid(stop)


class _Ledger:
    """What one call owes to its budget."""

    __slots__ = ("budget", "charges", "is_granted", "is_open", "verdict")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.charges = 0
        self.is_granted = False
        self.is_open = True
        self.verdict = Verdict.IGNORED
        budget.deposit()

    def attempt_ended(self, verdict: Verdict) -> None:
        self.verdict = verdict
        if self.is_granted:
            self.is_granted = False
            self.budget.release()

    def pays(self) -> bool:
        charge = self.budget.try_withdraw(self.verdict)
        self.charges += charge
        self.is_granted = bool(charge)
        return self.is_granted

    def close(self, *, good: bool = False) -> None:
        """End the call, once; also where nobody said so, as when it was cancelled while it slept."""
        if self.is_open:
            self.is_open = False
            self.attempt_ended(self.verdict)
            self.budget.finish(good=good, charges=self.charges)


class _retry_noted(retry_base):
    def __init__(self, budget: Budget, retry: RetryBaseT, classify: Classifier) -> None:
        self.budget = budget
        self.retry = retry
        self.classify = classify

    def __call__(self, retry_state: RetryCallState) -> bool:
        ledger: _Ledger | None = retry_state.__dict__.get(_LEDGER)
        if ledger is None:
            ledger = retry_state.__dict__[_LEDGER] = _Ledger(self.budget)
            weakref.finalize(retry_state, ledger.close).atexit = False
        verdict = _verdict(self.classify, retry_state)
        ledger.attempt_ended(verdict)
        if self.retry(retry_state):
            return True
        if verdict in _FAILED:
            self.budget.fail(verdict)
        ledger.close(good=verdict is Verdict.GOOD)
        return False


class _stop_unpaid(stop_base):
    def __init__(self, stop: StopBaseT) -> None:
        self.stop = stop

    def __call__(self, retry_state: RetryCallState) -> bool:
        ledger: _Ledger | None = retry_state.__dict__.get(_LEDGER)
        if ledger is None:
            raise TypeError(
                "Paid.stop() needs Paid.retry() beside it: @tenacity.retry(retry=paid.retry(), ...)"
            )
        if self.stop(retry_state):
            ledger.budget.fail(ledger.verdict)
        elif ledger.pays():
            return False
        ledger.close()
        return True


def _outcome(retry_state: RetryCallState) -> Outcome[Any] | None:
    """Return how the attempt ended; None if it was cancelled or interrupted."""
    future = retry_state.outcome
    if future is None:
        return None
    error = future.exception()
    if error is None:
        return Outcome(future.result())
    return Outcome(error=error) if isinstance(error, Exception) else None


def _verdict(
    classify: Callable[[Outcome[object], CallContext], Verdict], retry_state: RetryCallState
) -> Verdict:
    outcome = _outcome(retry_state)
    if outcome is None or isinstance(outcome.error, DeadlineExceededError):
        return Verdict.IGNORED
    return classify(outcome, CallContext(attempt=retry_state.attempt_number))
