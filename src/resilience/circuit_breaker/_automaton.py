"""
Closed, open, half-open: which calls pass, and what their results change.

A *generation* is one stay in one state, cut short by a fork or a new window. A call is admitted
with a token of the present generation: in a closed or disabled circuit the `Cell` of good results,
in a half-open one a `Probe`. A result counts only in the generation of its token. The cell of an
earlier generation may still be added to; no window reads it any more, only the total for telemetry.

**What generated code may do itself.** A closed circuit shows its cell in `Automaton.cell` for as long
as good results alone cannot change the state before `Automaton.bucket_end`. Then this is the whole
success path, and it decides exactly as `Automaton.admit` and `Automaton.settle` do::

    if (cell := circuit.cell) is None: ...      # ask admit()
    ...                                         # the call
    if (now := clock()) >= circuit.bucket_end: circuit.rotate(now, cell)
    cell.good += 1.0

The cell is hidden (None) and ``bucket_end`` lies in the infinite past, so that calls that are under
way come to `rotate` too, when the circuit is closed but good results matter: slow calls are looked
for, admission is ramping up, or the window is *poised*: it holds enough bad results already and
only lacks throughput. It is hidden, too, until the first call of a generation asks.

In a window of calls only bad and slow results have a place, so that a good one is a bare increment
there as well. Its ``bucket_end`` is never reached: `Automaton.is_watched` says what the infinite past
does, and there is no clock to read.
"""

import math
from dataclasses import replace
from typing import Any, Final, TypeAlias, cast

from resilience._core.permit import NEVER, Refusal
from resilience._core.window import Cell, CountWindow, TimeWindow
from resilience.circuit_breaker import _breaks
from resilience.circuit_breaker._history import GoodTotal, History
from resilience.circuit_breaker._probes import Probe, Round
from resilience.circuit_breaker._ramp import Ramp
from resilience.circuit_breaker._rules import Row, broken_rule, is_poised, spare
from resilience.circuit_breaker._settings import SAMPLING_DURATION, Break, CircuitBreakerSettings
from resilience.circuit_breaker._state import CircuitState, Reason, Transition
from resilience.outcome import Verdict
from resilience.typing import Seconds

SOON: Final = Refusal(0.0)
"""A refusal that may end at any moment: a probe may give its place back, a ramp may let one pass."""

# Names of their own for what is asked of every failure: enums look their members up slowly.
GOOD: Final = Verdict.GOOD
IGNORED: Final = Verdict.IGNORED
THROTTLED: Final = Verdict.THROTTLED
OPEN: Final = CircuitState.OPEN
ISOLATED: Final = CircuitState.ISOLATED

Token: TypeAlias = Cell | Probe


class Automaton:
    """
    The states that calls lead to. What people order, and other processes know, is `Circuit`'s part.

    Every instant that is passed in is one of the monotonic clock, in seconds; one that is earlier
    than the latest seen counts as that one.

    Attributes:
        settings: The settings in force.
        state: The state. An open circuit stays so after its break until a call comes.
        generation: Number of the present generation.
        cell: Where generated code counts good results, or None if each call has to ask.
        bucket_end: Instant from which `rotate` comes before counting.
        cause: What was known when a result last opened the circuit; None once it closed.
        is_watched: Whether calls under way come to `rotate` at any time.
        history: The changes of state.
        pending: The break under way, while its length is still to be asked for; else None.
        rejected: Calls refused.
        spared: Calls let pass, while in shadow, that would have been refused.
        probed: Calls let pass as probes.
        ignored: Calls that ended and taught nothing.
        cancelled: Calls that were cancelled.
        ended: Calls that ended, by verdict. For the good ones call `good`.

    """

    __slots__ = (
        "_attempt",
        "_bypass",
        "_good",
        "_now",
        "_ramp",
        "_round",
        "_row",
        "_shadows",
        "_spare",
        "_stray",
        "_until",
        "_window",
        "bucket_end",
        "cancelled",
        "cause",
        "cell",
        "ended",
        "generation",
        "history",
        "ignored",
        "is_watched",
        "pending",
        "probed",
        "rejected",
        "settings",
        "spared",
        "state",
    )

    def __init__(self, settings: CircuitBreakerSettings, now: Seconds) -> None:
        self.settings = settings
        self.state = CircuitState.CLOSED
        self.generation = 0
        self._now = now
        self._window = make_window(settings)
        self._bypass = Cell()  # token of calls while disabled
        self._stray = Cell()  # token of calls that a shadow let pass: no generation's
        self._row = Row()
        self._attempt = 0
        self.cause: Break | None = None
        self._until: Seconds = now
        self._round = Round()
        self._ramp = Ramp()
        self._shadows = 0
        self._spare: float = 0  # bad results that change nothing, while the cell is shown
        self._good = GoodTotal()
        self.history = History(now)
        self.pending: _breaks.Pending | None = None
        self._zero()
        self.bucket_end: Seconds = -math.inf
        self.is_watched = True
        self.cell: Cell | None = None
        self._tune_now(now)

    # Calls

    def admit(  # noqa: PLR0911  # one return a state
        self, now: Seconds, draw: float = 0.0
    ) -> Token | Refusal:
        """
        Admit a call that would start at *now*, or say when to come back.

        Args:
            now: Instant.
            draw: Chance, in [0, 1): which share of the ramp lets this call pass.

        Returns:
            A token for `settle` or `release`; or a `Refusal`.

        """
        if (cell := self.cell) is not None:
            return cell
        now = self._advance(now)
        if self.state is CircuitState.OPEN and now >= self._until:
            self._round.begin()
            self._enter(CircuitState.HALF_OPEN, now, Reason.BREAK_OVER)
        if self.state is CircuitState.CLOSED:
            return self._admit_watched(now, draw)
        if self.state is CircuitState.OPEN:
            return self._refuse(Refusal(self._until - now))
        if self.state is CircuitState.HALF_OPEN:
            probe = self._round.admit(now, self.settings)
            if probe is None:
                return self._refuse(SOON)
            self.probed += 1
            return probe
        if self.state is CircuitState.DISABLED:
            self.cell = self._bypass
            return self._bypass
        self.rejected += 1  # isolated: an order, which a shadow does not soften
        return NEVER

    def refuse(self, now: Seconds) -> Refusal | None:
        """Refuse a call at *now* if that is all there is to it; None if `admit` must say."""
        state = self.state
        if state is OPEN and not self._shadows and self._advance(now) < self._until:
            refusal = Refusal(self._until - self._now)
        elif state is ISOLATED:
            refusal = NEVER
        else:
            return None
        self.rejected += 1
        return refusal

    def settle(
        self,
        token: Token,
        verdict: Verdict,
        now: Seconds,
        *,
        duration: Seconds | None = None,
        retry_after: Seconds | None = None,
        draw: float = 0.0,
    ) -> None:
        """
        Take *token* back, with what its call taught us.

        Bad, timed out and throttled results are bad. A good result is judged too: it may bring the
        throughput that was lacking, or be slow. A result of an earlier generation, or of a probe
        whose lease ran out, changes nothing.

        Args:
            token: What `admit` returned.
            verdict: What the result says. IGNORED is a `release`.
            now: Instant at which the call ended.
            duration: Seconds the call took, or None if unknown: then it was not slow.
            retry_after: Seconds the dependency asked us to stay away; heard if throttled.
            draw: Chance, in [0, 1): how much of the jitter lengthens a break that begins now.

        """
        if verdict is IGNORED:
            self.release(token, now)
            return
        is_shown = token is self.cell and now < self.bucket_end
        if is_shown and verdict is GOOD:
            cast("Cell", token).good += 1.0  # as generated code does
            return
        if now > self._now:  # as in `_advance`
            self._now = now
        else:
            now = self._now
        if is_shown and self._spare >= 1 and verdict is not THROTTLED and now < self.bucket_end:
            self.ended[verdict] += 1
            self._spare -= 1
            self._window.add(now, bad=True)
            shown: Any = token
            self._row.add(shown)
            return
        limit = self.settings.slow_call_duration
        slow = limit is not None and duration is not None and duration > limit
        bad = verdict is not Verdict.GOOD
        hint = retry_after if verdict is Verdict.THROTTLED else None
        if bad:
            self.ended[verdict] += 1
        if self.state is CircuitState.CLOSED and token is self._window.cell:
            self._learn(now, bad=bad, slow=slow, hint=hint, draw=draw)
            return
        if not bad:
            self._good.add()
        if isinstance(token, Probe):
            self._settle_probe(token, now, bad=bad or slow, hint=hint, draw=draw)

    def release(self, token: Token, now: Seconds, *, cancelled: bool = False) -> None:  # noqa: ARG002  # every gate machine is told the time
        """Take *token* back; nothing is learnt. A probe's place is free again."""
        if cancelled:
            self.cancelled += 1
        else:
            self.ignored += 1
        if isinstance(token, Probe):
            self._round.release(token)

    def rotate(self, now: Seconds, token: Token, draw: float = 0.0) -> None:
        """
        Get ready for one good result of *token* that ended at *now* and is about to be counted.

        For generated code, which adds it to the cell itself. What that result would change is
        decided here, so that both ways of counting agree.
        """
        if self.state is not CircuitState.CLOSED or token is not self._window.cell:
            return
        now = self._advance(now)
        total, bad, slow = self._window.count(now, coming=1)
        reason = broken_rule(self.settings, total, bad, slow, row=0)
        if reason is None:
            self._tune(total, bad)
        else:
            self._open(now, reason, total, bad, None, draw)

    @property
    def good(self) -> int:
        """Calls that ended well, late ones included."""
        return self._good.read(self._window.cell, self._bypass)

    # Closed

    def _admit_watched(self, now: Seconds, draw: float) -> Token | Refusal:
        length = self.settings.ramp_duration
        if self._ramp.is_on(now, length):
            if not self._ramp.admits(now, length, draw):
                return self._refuse(SOON)
        elif self.settings.slow_call_duration is None:
            self._tune_now(now)
        return self._window.cell

    def _learn(self, now: Seconds, *, bad: bool, slow: bool, hint: Seconds | None, draw: float) -> None:
        self._window.add(now, bad=bad, slow=slow)
        row = self._row.add(self._window.cell) if bad else 0  # a good one ends the row by itself
        total, bads, slows = self._window.count(now)
        reason = broken_rule(self.settings, total, bads, slows, row)
        if reason is None and _breaks.wanted(self.settings, hint):
            reason = Reason.THROTTLED
        if reason is None:
            self._tune(total, bads)
        else:
            self._open(now, reason, total, bads, hint, draw)

    def _tune(self, total: int, bad: int) -> None:
        """Show the cell for as long as good results alone change nothing."""
        hidden = (
            self.settings.slow_call_duration is not None
            or self._is_ramping(self._now)
            or is_poised(self.settings, total, bad)
        )
        if hidden:
            # First, for calls under way that look without a lock.
            self.bucket_end, self.is_watched = -math.inf, True
            self.cell = None
        else:
            self._spare = spare(self.settings, total, bad, self._row.length(self._window.cell))
            self.bucket_end, self.is_watched = self._window.end, False
            self.cell = self._window.cell

    def _tune_now(self, now: Seconds) -> None:
        total, bad, _ = self._window.count(now)
        self._tune(total, bad)

    def _is_ramping(self, now: Seconds) -> bool:
        return self._ramp.is_on(now, self.settings.ramp_duration)

    # Open

    def _open(
        self, now: Seconds, reason: Reason, total: int, bad: int, hint: Seconds | None, draw: float
    ) -> None:
        """Begin a break: the longest, until who holds no lock has asked a user's callable for its length."""
        cause = Break(self._attempt + 1, bad / total, bad, hint)
        plan = self.settings.break_duration
        seconds = 0.0 if reason is Reason.THROTTLED else _breaks.planned(self.settings, cause)
        seconds = max(seconds, _breaks.wanted(self.settings, hint))
        seconds = _breaks.bounded(self.settings, seconds, draw)
        self._leave()
        self.cause = cause
        self._attempt = cause.attempt
        self._until = now + seconds
        self._enter(CircuitState.OPEN, now, reason, retry_after=seconds, cause=cause)
        if callable(plan) and reason is not Reason.THROTTLED:
            self.pending = _breaks.Pending(plan=plan, cause=cause, began=now, hint=hint, draw=draw)

    def take_pending(self) -> _breaks.Pending | None:
        """Return the break whose length the caller has to ask for, outside of its lock; once each."""
        pending = self.pending
        if pending is None or pending.is_asked:
            return None
        pending.is_asked = True
        return pending

    def set_break(self, pending: _breaks.Pending, seconds: Seconds | None, problem: str | None) -> None:
        """
        Give the break of *pending* its length; None for the longest. Too late, if it is no longer under way.

        Args:
            pending: What `take_pending` returned.
            seconds: The length that was asked for.
            problem: What was wrong with the answer, or None.

        """
        if self.pending is not pending:
            return
        settings, news = self.settings, self.history.news
        wanted = _breaks.wanted(settings, pending.hint)
        seconds = max(settings.max_break_duration if seconds is None else seconds, wanted)
        seconds = _breaks.bounded(settings, seconds, pending.draw)
        news[-1] = replace(news[-1], retry_after=seconds, problem=problem)
        self._until = pending.began + seconds
        self.pending = None

    def drain(self) -> list[Transition]:
        """Return the changes of state to report, oldest first: not yet that to a break of unknown length."""
        return self.history.drain(keep_last=self.pending is not None)

    # Half-open

    def _settle_probe(
        self, probe: Probe, now: Seconds, *, bad: bool, hint: Seconds | None, draw: float
    ) -> None:
        probes = self._round
        try:
            if not probes.settle(probe, now, bad=bad):
                return
            if probes.is_won(self.settings):
                self._close(now, Reason.PROBES, ramp=True)
            elif probes.is_lost(self.settings) or _breaks.wanted(self.settings, hint):
                self._open(now, Reason.PROBES, probes.good + probes.bad, probes.bad, hint, draw)
        except BaseException:
            # Interrupted between the answer and what it decides. With every place taken by answers no
            # other probe would come, and the circuit would be half-open for ever.
            probes.begin()
            raise

    # From one state to the next

    def _close(self, now: Seconds, reason: Reason, *, ramp: bool = False) -> None:
        self._leave()
        self.cause = None
        self._attempt = 0
        self._row.clear()
        if ramp:
            self._ramp.begin(now)
        self._enter(CircuitState.CLOSED, now, reason)

    def _leave(self) -> None:
        """
        End the present generation: from here on its tokens change nothing.

        Until `_enter` the circuit is one of the old state that has just begun, so that an interrupt
        between the two leaves a circuit that works. The next call that asks shows the cell again.
        """
        self.cell = None
        self._spare = 0
        self.bucket_end, self.is_watched = math.inf, False  # late good results need no attention
        self._round.drop()
        self._ramp.end()
        self._retire_cell()
        self._window.clear()

    def _enter(
        self,
        state: CircuitState,
        now: Seconds,
        reason: Reason,
        *,
        retry_after: Seconds | None = None,
        cause: Break | None = None,
    ) -> None:
        self.generation += 1
        self.pending = None
        previous, self.state = self.state, state
        if previous is not state:
            self.history.add(Transition(previous, state, reason, now, retry_after, cause))

    def _refuse(self, refusal: Refusal) -> Token | Refusal:
        if self._shadows:
            self.spared += 1
            return self._stray
        self.rejected += 1
        return refusal

    def _retire_cell(self) -> None:
        """Let calls under way count on in the cell that the window will let go."""
        if self.state is CircuitState.CLOSED:
            self._good.retire(self._window.cell)

    def _advance(self, now: Seconds) -> Seconds:
        if now > self._now:  # noqa: PLR1730  # a call less, in every failing call
            self._now = now
        return self._now

    def _zero(self) -> None:
        self.rejected = self.spared = self.probed = self.ignored = self.cancelled = 0
        self.ended = {Verdict.BAD: 0, Verdict.TIMED_OUT: 0, Verdict.THROTTLED: 0}


def make_window(settings: CircuitBreakerSettings) -> TimeWindow | CountWindow:
    """Return an empty window of the kind and length that the settings ask for."""
    if settings.sampling_calls is not None:
        return CountWindow(settings.sampling_calls)
    return TimeWindow(settings.sampling_duration or SAMPLING_DURATION)
