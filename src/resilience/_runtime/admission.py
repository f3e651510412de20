"""How a call gets into a gate and out again: admitted, refused, or served after waiting in line."""

import threading
from abc import abstractmethod
from collections.abc import Generator, Iterator
from typing import Any, ClassVar, TypeAlias

from resilience import _clock
from resilience._core.permit import Refusal
from resilience._runtime import fork
from resilience._runtime.census import Reading
from resilience._runtime.flow import Call, Command, Park, Waiter
from resilience._runtime.line import Line
from resilience._runtime.locked import NEEDS_LOCKS
from resilience._runtime.permit import Hold
from resilience._runtime.policy import Policy
from resilience.errors import DeadlineExceededError
from resilience.outcome import Classifier, ErrorMatch, Verdict
from resilience.typing import Seconds

Decision: TypeAlias = Any
"""A machine's token, or a `Refusal`."""

Ask: TypeAlias = Any
"""What a call asks for: 1, a number of permits, or what the gate makes of it."""

Acquiring: TypeAlias = Generator[Command, Any, Decision]


class Admission(Policy):
    """
    The part of a gate that takes decisions, each under the lock, and keeps the line of those who wait.

    A primitive supplies three decisions, each short and holding the lock only for itself: `_admit`,
    `_settle` and `_release`.
    """

    __slots__ = ("_line", "_lock", "counts")

    counts_acquired: ClassVar[bool] = True
    """Whether admissions are counted: not where the machine does so, or counts how calls ended."""

    settling_frees: ClassVar[bool] = False
    """Whether the end of a call makes room for one that waits."""

    def __init__(
        self, name: str | None, *, on: ErrorMatch | None = None, classify: Classifier | None = None
    ) -> None:
        super().__init__(name, on=on, classify=classify)
        self._lock = threading.RLock()
        self._line = Line()
        self.counts = Counts()
        fork.register(self)

    # What a primitive supplies. The lock is held.

    @abstractmethod
    def _admit(self, now: Seconds, ask: Ask) -> Decision:
        """Admit a call that would start at *now*, or refuse it."""

    @abstractmethod
    def _settle(
        self, token: Any, verdict: Verdict, now: Seconds, started: Seconds, retry_after: Seconds | None
    ) -> None:
        """Take the token back, with what its call taught us."""

    @abstractmethod
    def _release(self, token: Any, now: Seconds, *, cancelled: bool) -> None:
        """Take the token back; nothing is learnt. *cancelled* tells whether the call was cut short."""

    def _wait_for(self, now: Seconds, ask: Ask, ahead: int) -> Seconds | None:  # noqa: ARG002  # for gates that know
        """Return the seconds until *ask* can be met after *ahead* other permits, or None if unknown."""
        return None

    def _hopeless(self, ask: Ask) -> Exception | None:  # noqa: ARG002  # for gates whose settings may rule it out
        """Return what to raise in one who waits for what, since the settings changed, can never be had."""
        return None

    # What a primitive may supply, if not all its calls are alike. For `_ask_of` the lock is not held.

    def _ask_of(self, call: Call) -> Ask:  # noqa: ARG002  # see above
        """Return what *call* asks for."""
        return 1

    def _weight(self, ask: Ask) -> int:
        """Return how many permits *ask* is for."""
        return int(ask)

    def _waiter(self, ask: Ask) -> Waiter:
        """Return one who waits for *ask*."""
        return Waiter(self._weight(ask))

    def _line_of(self, ask: Ask, *, join: bool = False) -> Line:  # noqa: ARG002  # see above
        """Return the line of those who ask for the same, one to *join* or just to look at."""
        return self._line

    def _wake_for(self, token: Any) -> None:  # noqa: ARG002  # see above
        """Let those look again who may be served now that *token* has come back."""
        self._line.wake_first()

    def _line_left(self, ask: Ask) -> None:
        """Take note that somebody left the line of *ask*."""

    def _changed(self) -> None:
        """Report, after the lock was released, what the last decision changed."""

    @property
    def _max_wait(self) -> Seconds:
        return 0.0

    @property
    def _max_queue(self) -> int | None:
        return None

    # The same for all.

    def _decide(self, ask: Ask, hold: Hold) -> Decision:
        """Admit a call or refuse it at once; *hold* gets the token."""
        with self._lock:
            now = _clock.monotonic()
            line = self._line_of(ask)
            if line.waiters:  # not its length: a look at who is in line is part of every call
                line.forget_first_if_gone()  # who would keep everybody out for ever
                if line.waiters and line.bars(ask):  # nobody overtakes those who wait
                    return Refusal(self._wait_for(now, ask, line.permits))
            hold.token = decision = self._admit(now, ask)
            if self.counts_acquired and not isinstance(decision, Refusal):
                self.counts.at_once += 1.0
        self._changed()
        return decision

    def _acquire(self, ask: Ask, max_wait: Seconds, deadline: Seconds | None, hold: Hold) -> Acquiring:
        """Admit a call or refuse it, after *max_wait* seconds at most; *hold* gets the token."""
        decision = self._decide(ask, hold)
        if isinstance(decision, Refusal):
            decision = yield from self._refused_at_once(ask, decision, max_wait, deadline, hold)
        return decision

    def _refused_at_once(
        self, ask: Ask, refusal: Refusal, max_wait: Seconds, deadline: Seconds | None, hold: Hold
    ) -> Acquiring:
        """Go on with what was refused at once: wait, or count it; return the last decision."""
        if max_wait > 0:
            return (yield from self._wait(ask, max_wait, deadline, hold))
        if NEEDS_LOCKS:
            with self._lock:
                self.counts.rejected += 1
        else:
            self.counts.rejected += 1
        return refusal

    def _wait(self, ask: Ask, max_wait: Seconds, deadline: Seconds | None, hold: Hold) -> Acquiring:
        now = began = _clock.monotonic()
        give_up = now + max_wait if deadline is None else min(now + max_wait, deadline)
        waiter = self._waiter(ask)
        ending = "rejected"
        try:
            with self._lock:
                line, limit = self._line_of(ask, join=True), self._max_queue
                known = self._wait_for(now, ask, line.permits)
                if known is not None and now + known > give_up:
                    return Refusal(known)
                if limit is not None and len(line) >= limit:
                    line.forget_gone()
                    if len(line) >= limit and not line.make_room(waiter):
                        return Refusal(known)
                line.join(waiter)
            ending = "cancelled"
            while True:
                with self._lock:
                    waiter.woken = False
                    now = _clock.monotonic()
                    if (hopeless := self._hopeless(ask)) is not None:
                        ending = "rejected"
                        raise hopeless
                    pause: Seconds | None = None
                    if line.is_first(waiter):
                        hold.token = decision = self._admit(now, ask)
                        if not isinstance(decision, Refusal):
                            ending = "waited"
                            return decision
                        pause = decision.retry_after
                    known = self._wait_for(now, ask, 0)
                    if waiter not in line:  # somebody who matters more stands in its place
                        ending = "rejected"
                        return Refusal(known)
                left = give_up - now
                if left <= 0:
                    ending = "timed_out"
                    if deadline is not None and deadline <= now:
                        raise DeadlineExceededError
                    return Refusal(known)
                try:
                    yield Park(waiter, left if pause is None else min(left, pause))
                except BaseException:
                    # A task whose time is up is cut short here, before it can see that for itself.
                    if _clock.monotonic() >= give_up:
                        ending = "timed_out"
                    raise
        finally:
            try:
                self._step_out(ask, waiter)
            except BaseException:
                # Interrupted: one who is gone but still in line would keep everybody waiting for ever.
                self._step_out(ask, waiter, wake=True)
                raise
            with self._lock:
                self.counts.add(ending)
                self.counts.seconds += _clock.monotonic() - began

    def _step_out(self, ask: Ask, waiter: Waiter, *, wake: bool = False) -> None:
        with self._lock:
            line = self._line_of(ask)
            line.leave(waiter)
            if wake:
                line.wake_first()
            self._line_left(ask)
        self._changed()

    def _take_back(
        self, hold: Hold, verdict: Verdict, started: Seconds | None, retry_after: Seconds | None
    ) -> None:
        """Settle what *hold* holds, if anything; *started* is None if nobody looked."""
        with self._lock:
            token = hold.token
            if token is None or token.__class__ is Refusal:
                return
            now = _clock.monotonic()
            # None comes back: the token is taken and forgotten in one line.
            if verdict is Verdict.IGNORED:
                hold.token = self._release(token, now, cancelled=False)
            else:
                began = now if started is None else started
                hold.token = self._settle(token, verdict, now, began, retry_after)
            if self.settling_frees or verdict is Verdict.IGNORED:
                self._wake_for(token)
        self._changed()

    def _give_back(self, hold: Hold, *, cancelled: bool = True) -> None:
        """Release what *hold* holds, if anything."""
        with self._lock:
            now, token = _clock.monotonic(), hold.token
            if not hold.is_empty:
                hold.token = self._release(token, now, cancelled=cancelled)
            # Even so: an interrupt may have struck after the token was taken, and before this.
            self._wake_for(token)
        self._changed()

    def _wake_next(self) -> None:
        """Let the first in line look again: something was given back. For generated code."""
        with self._lock:
            self._line.wake_first()

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._line.clear()
        self.counts = Counts()


class Counts:
    """
    How calls fared at a gate, in this process.

    Attributes:
        at_once: Admitted at once, where no machine counts that. A float, which is quicker to add to than an
            int, and exact up to 2**53.
        waited: Admitted after waiting.
        rejected: Refused at once.
        timed_out: Gave up waiting.
        cancelled: Cancelled while waiting.
        seconds: Time spent waiting, however it ended.
        raised: How often the limit was raised.
        lowered: How often it was lowered.

    """

    __slots__ = (
        "at_once", "cancelled", "lowered", "raised", "rejected", "seconds", "timed_out", "waited",
    )  # fmt: skip

    def __init__(self) -> None:
        self.at_once = 0.0
        self.waited = self.rejected = self.timed_out = self.cancelled = 0
        self.seconds: Seconds = 0.0
        self.raised = self.lowered = 0

    @property
    def acquired(self) -> int:
        """Admitted at once. A circuit breaker leaves it at 0: its circuit counts how calls ended."""
        return int(self.at_once)

    def change(self, *, is_raised: bool) -> None:
        """Count one change of the limit."""
        if is_raised:
            self.raised += 1
        else:
            self.lowered += 1

    def readings(self, kind: str) -> Iterator[Reading]:
        """Return what telemetry knows of a limiter of that *kind*."""
        requests, result = f"resilience.{kind}.requests", "resilience.limiter.result"
        yield Reading(requests, self.acquired, ((result, "acquired"),))
        yield Reading(requests, self.waited, ((result, "acquired_after_wait"),))
        yield Reading(requests, self.rejected, ((result, "rejected"),))
        yield Reading(requests, self.timed_out, ((result, "wait_timeout"),))
        yield Reading(requests, self.cancelled, ((result, "cancelled"),))
        yield Reading(f"resilience.{kind}.wait.time", self.seconds)
        changes, change = f"resilience.{kind}.limit_changes", "resilience.limiter.change"
        yield Reading(changes, self.raised, ((change, "increase"),))
        yield Reading(changes, self.lowered, ((change, "decrease"),))

    def add(self, ending: str) -> None:
        """Count one more of the kind named *ending*."""
        setattr(self, ending, getattr(self, ending) + 1)
