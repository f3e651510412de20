"""What every gate is: it admits a call or refuses it, and learns from how the call ended."""

from typing import Any, ClassVar, Final, TypeVar

from resilience import _clock
from resilience._core.permit import Refusal
from resilience._runtime.admission import Acquiring, Admission, Ask, Decision
from resilience._runtime.flow import PLAIN, Call, Flow, Inner
from resilience._runtime.guards import Guards, QuickGuard
from resilience._runtime.hot import Fail, weakly
from resilience._runtime.permit import Guard, Hold, Permit, Rejection
from resilience._runtime.policy import Binding, Judge, Step
from resilience._runtime.watch import watch
from resilience.errors import DeadlineExceededError, RejectedError
from resilience.outcome import Classifier, ErrorMatch, Outcome, Verdict
from resilience.typing import Seconds

__all__ = ["Acquiring", "Ask", "Decision", "Gate"]

S = TypeVar("S")

IGNORED: Final = Verdict.IGNORED


class Gate(Admission):
    """
    A policy that decides before each call whether it may start.

    What a primitive supplies is said in `Admission`. Waiting, guards, permits and streams are the same
    for all.
    """

    __slots__ = ("_guards", "_make")

    _one: ClassVar[Ask] = 1
    """What a guard asks for unless more is said."""

    error: ClassVar[type[RejectedError]]
    """What a refused call raises."""

    def __init__(
        self, name: str | None, *, on: ErrorMatch | None = None, classify: Classifier | None = None
    ) -> None:
        super().__init__(name, on=on, classify=classify)
        self._guards: Guards | None = None  # there once it was asked for one
        self._make: type[QuickGuard] | None = None  # there while guards are quick

    def try_acquire(self) -> Permit | Rejection:
        """
        Ask for leave to make one call, without waiting.

        Returns:
            A `Permit` to settle or release when the call has ended, or a `Rejection`, which is
            false and carries ``retry_after`` and ``error()``.

        """
        return self._ask(1)

    def _ask(self, ask: Ask) -> Permit | Rejection:
        permit = Permit(self)
        try:
            decision = self._decide(ask, permit)
            if isinstance(decision, Refusal):
                with self._lock:
                    self.counts.rejected += 1
                return Rejection(self, decision.retry_after)
            permit.begin()
        except BaseException:
            self._give_back(permit)
            raise
        return permit

    def guard(self) -> Guard:
        """
        Guard a block whose body runs once: ``with gate.guard() as permit:``, or ``async with``.

        An error that leaves the block is judged like an error of a function; the block may settle
        or release the permit itself instead.
        """
        if (make := self._make) is None:
            return self._guard_for(self._one)
        guard = make()
        guard.token = None
        guard._gate = self
        return guard

    def _guard_for(self, ask: Ask) -> Guard:
        """Return a guard that asks for *ask*, and see to it that those who ask for no more become quick."""
        if ask == self._one:
            if self._guards is None:
                self._guards = Guards(self)
            if self._guards.renewed() is not None:
                return self.guard()
        return Guard(self, ask)

    def step_for(self, binding: Binding) -> Step:
        """Return the step that admits, calls and settles."""
        judge = self.judge(binding)

        def step(call: Call, inner: Inner) -> Flow:
            return self._around(judge, call, inner)

        return step

    def _around(self, judge: Judge, call: Call, inner: Inner) -> Flow:
        hold = Hold()
        try:
            replay = call.replay
            if replay is not None and (token := replay.take(self)) is not None:
                hold.token = token
                started = _clock.monotonic() if replay.began is None else replay.began
            else:
                ask = self._ask_of(call)
                decision = self._decide(ask, hold)
                if isinstance(decision, Refusal):
                    decision = yield from self._refused_at_once(
                        ask, decision, self._max_wait, call.context.deadline, hold
                    )
                    if isinstance(decision, Refusal):
                        return Outcome(error=self._refused(decision))
                started = _clock.monotonic()
            outcome = yield from inner(call)
            verdict = judge(outcome, call.context)
            held, hint = call.held, outcome.retry_after
            if held is None or outcome.error is not None:
                self._take_back(hold, verdict, started, hint)
            elif verdict is Verdict.GOOD:
                held.append(lambda ending: self._end(hold, judge, call, started, ending))
            elif self.settling_frees:
                # How it went is known, and its place is taken until it was read or thrown away.
                held.append(lambda _ending: self._settle_late(hold, verdict, started, hint))
            else:
                self._take_back(hold, verdict, started, hint)
        except DeadlineExceededError as late:
            if hold.is_empty:  # the deadline passed in the waiting line
                return Outcome(error=late.with_traceback(None))
            self._give_back(hold)
            raise
        except BaseException:
            self._give_back(hold)
            raise
        return outcome

    def failing(self, judge: Judge) -> Fail:
        """Return what settles a call that failed in generated code, as `step_for` does."""
        settle = weakly(self._settle_failed)

        def fail(tokens: list[Any], place: int, outcome: Outcome[Any], began: Seconds | None) -> None:
            settle(judge(outcome, PLAIN), tokens, place, outcome, began)

        return fail

    def _settle_failed(
        self, verdict: Verdict, tokens: list[Any], place: int, outcome: Outcome[Any], began: Seconds | None
    ) -> None:
        token = tokens[place]
        with self._lock:
            now = _clock.monotonic()
            if verdict is IGNORED:
                tokens[place] = self._release(token, now, cancelled=False)
                self._wake_for(token)
            else:
                started = now if began is None else began
                tokens[place] = self._settle(token, verdict, now, started, outcome.retry_after)
                if self.settling_frees:
                    self._wake_for(token)
        self._changed()

    def _end(
        self, hold: Hold, judge: Judge, call: Call, started: Seconds, ending: Outcome[Any] | None
    ) -> None:
        if ending is None:
            self._give_back(hold)
        else:
            self._take_back(hold, judge(ending, call.context), started, ending.retry_after)

    def _settle_late(
        self, hold: Hold, verdict: Verdict, started: Seconds, retry_after: Seconds | None
    ) -> None:
        try:
            self._take_back(hold, verdict, started, retry_after)
        except BaseException:
            self._give_back(hold)
            raise

    def _give_back_token(self, token: Any) -> None:
        """Release what generated code took, and no flow has taken over."""
        hold = Hold()
        hold.token = token
        self._give_back(hold)

    def _refused(self, refusal: Refusal) -> RejectedError:
        name = self.name
        if watch.note is not None:
            watch.note(name, self._told)
        return self.error(name, refusal.retry_after)

    def _told(self) -> dict[str, str]:
        """Return what a refused call's span is told, by the names of the telemetry registry."""
        return {"resilience.outcome": "rejected"}
