"""One call's race: its attempts, in threads or tasks of their own, and the caller who waits for them."""

from collections.abc import Generator
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from resilience import _clock
from resilience._runtime.attempt import attempt_scope, take_over
from resilience._runtime.flow import Call, Command, Dispose, Flow, Inner, Park, Spawn, Waiter
from resilience._runtime.policy import Judge
from resilience.errors import DeadlineExceededError
from resilience.hedge._attempt import Attempt
from resilience.hedge._machine import Race
from resilience.outcome import Outcome, Verdict
from resilience.typing import Budget, Seconds

if TYPE_CHECKING:
    from resilience.hedge._policy import Hedge

FIRST: Final = 1
"""Number of the attempt that is made in any case."""


class Heat:
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

    def __init__(
        self, policy: "Hedge", judge: Judge, budget: Budget | None, call: Call, inner: Inner
    ) -> None:
        self._policy = policy
        self._judge = judge
        self._budget = budget
        self._call = call
        self._inner = inner
        self._waiter = Waiter()
        self._attempts: dict[int, Attempt] = {}
        self._open: set[int] = set()  # attempts that are at work
        self._inbox: list[Attempt] = []
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
                if race.started == 0:
                    return Outcome(error=DeadlineExceededError("deadline exceeded: not started"))
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
        attempt = Attempt(number, self._call.again(context), now)
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
            with policy._lock:
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

    def _close(self, outcome: Outcome[Any] | None) -> list[Attempt]:
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

    def _clear(self, attempts: list[Attempt]) -> Generator[Command, Any, None]:
        for attempt in attempts:
            outcome, attempt.outcome = attempt.outcome, None
            if outcome is not None:
                yield from self._drop(attempt, outcome)

    def _drop(self, attempt: Attempt, outcome: Outcome[Any]) -> Generator[Command, Any, None]:
        attempt.call.let_go(None)
        if outcome.value is not self._taken:  # attempts may return one and the same object
            yield Dispose(outcome.value)

    # In the flows of the attempts: other threads, or other tasks.

    def _attempt(self, attempt: Attempt) -> Flow:
        scope = attempt_scope(attempt.call.context)
        try:
            with scope:
                outcome = yield from self._inner(attempt.call)
            verdict = Verdict.IGNORED if self._is_over else self._judge(outcome, attempt.call.context)
            now, context = _clock.monotonic(), copy_context()
            rivals: list[Attempt] = []
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
        except BaseException:
            # Interrupted on the way out of the block: later calls are no attempts of this one.
            scope.__exit__(None, None, None)
            raise
        finally:
            self._closed(attempt)
        # At once, and not only when the caller gets to run: one of them may be about to begin, with the
        # permit that this one has just given back.
        for rival in rivals:
            rival.cancel()
        self._waiter.wake()
        return outcome

    def _closed(self, attempt: Attempt) -> None:
        """Note, once, that an attempt is no longer at work."""
        with self._policy._lock:
            if attempt.number not in self._open:
                return
            self._open.remove(attempt.number)
            if self._is_over:
                self._policy._abandoned -= 1
        if attempt.number != FIRST and self._budget is not None:
            self._budget.release()

    def _failed(self, attempt: Attempt, error: BaseException) -> None:
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
