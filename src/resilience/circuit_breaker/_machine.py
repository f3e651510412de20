"""
The circuit: when calls may pass, and what their results change.

A *generation* is one stay in one state, cut short by a fork or a new window. A call is admitted
with a token of the present generation: in a closed or disabled circuit the `Cell` of good results,
in a half-open one a `Probe`. A result counts only in the generation of its token. The cell of an
earlier generation may still be added to; no window reads it any more, only the total for telemetry.

**What generated code may do itself.** A closed circuit shows its cell in `Circuit.cell` for as long
as good results alone cannot change the state before `Circuit.bucket_end`. Then this is the whole
success path, and it decides exactly as `Circuit.admit` and `Circuit.settle` do::

    if (cell := circuit.cell) is None: ...      # ask admit()
    ...                                         # the call
    if (now := clock()) >= circuit.bucket_end: circuit.rotate(now, cell)
    cell.good += 1

The cell is hidden (None) and ``bucket_end`` lies in the infinite past, so that calls that are under
way come to `rotate` too, when the circuit is closed but good results matter: slow calls are looked
for, admission is ramping up, or the window is *poised*: it holds enough bad results already and
only lacks throughput. It is hidden, too, until the first call of a generation asks.

A failure is known to follow the one before it in a row by the cell not having grown between them.
In a window of calls only bad and slow results have a place, so that a good one is a bare increment
there as well, and its ``bucket_end`` is never reached.
"""

import enum
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from resilience._core.check import Check, is_finite
from resilience._core.permit import NEVER, Refusal
from resilience._core.window import Cell, CountWindow, TimeWindow
from resilience.circuit_breaker._settings import (
    SAMPLING_DURATION,
    Break,
    CircuitBreakerSettings,
)
from resilience.outcome import Verdict
from resilience.typing import Ratio, Seconds

SOON: Final = Refusal(0.0)
"""A refusal that may end at any moment: a probe may give its place back, a ramp may let one pass."""

TRANSITIONS_KEPT: Final = 16
"""How many transitions wait to be reported; beyond that the oldest are dropped."""

CELLS_KEPT: Final = 16
"""How many cells of earlier generations are still read for the total of good results."""

SNAPSHOT_VERSION: Final = 1
"""Which form of snapshot this is."""


class CircuitState(enum.Enum):
    """Where a circuit stands. The values are those of telemetry."""

    CLOSED = "closed"
    """Calls pass, and their results are watched."""
    OPEN = "open"
    """Calls are refused until the break is over."""
    HALF_OPEN = "half_open"
    """A few calls pass as probes; their results decide."""
    ISOLATED = "forced_open"
    """Somebody ordered that calls are refused."""
    DISABLED = "disabled"
    """Somebody ordered that calls pass; results change nothing."""


class Reason(enum.Enum):
    """Why a circuit changed its state."""

    FAILURE_RATIO = "failure_ratio"
    """The share of bad results was reached."""
    SLOW_CALL_RATIO = "slow_call_ratio"
    """The share of slow results was reached."""
    CONSECUTIVE_FAILURES = "consecutive_failures"
    """Enough results in a row were bad."""
    THROTTLED = "throttled"
    """The dependency said when to return."""
    BREAK_OVER = "break_over"
    """The time of the break was over when a call came."""
    PROBES = "probes"
    """The results of the probes."""
    MANUAL = "manual"
    """Somebody ordered it."""
    RESTORED = "restored"
    """A snapshot was restored."""


@dataclass(frozen=True, slots=True)
class Transition:
    """
    One change of state.

    Attributes:
        previous: State before.
        state: State after.
        reason: Why.
        at: Instant of the change, in seconds on the monotonic clock.
        retry_after: Seconds until the circuit lets a probe pass, if it opened.
        cause: What was known when it opened by a result, or None.
        problem: What went wrong when the ``break_duration`` callable was asked, or None. The
            circuit then opened for its longest break.

    """

    previous: CircuitState
    state: CircuitState
    reason: Reason
    at: Seconds
    retry_after: Seconds | None = None
    cause: Break | None = None
    problem: str | None = None


class Probe:
    """
    Leave to make one call through a half-open circuit; a lease.

    Attributes:
        expires: Instant from which its result changes nothing and its place is free.

    """

    __slots__ = ("expires",)

    def __init__(self, expires: Seconds) -> None:
        self.expires = expires


Token: TypeAlias = Cell | Probe


class Circuit:
    """
    Decide which calls may pass. Not thread-safe: the policy holds a lock.

    Every instant that is passed in is one of the monotonic clock, in seconds; one that is earlier
    than the latest seen counts as that one.

    Attributes:
        settings: The settings in force.
        state: The state. An open circuit stays so after its break until a call comes.
        generation: Number of the present generation.
        cell: Where generated code counts good results, or None if each call has to ask.
        bucket_end: Instant from which `rotate` comes before counting.
        cause: What was known when a result last opened the circuit; None once it closed.
        transitions: How often each change of state happened, by (previous, state).
        rejected: Calls refused.
        spared: Calls let pass, while in shadow, that would have been refused.
        ignored: Calls that ended and taught nothing.
        cancelled: Calls that were cancelled.
        ended: Calls that ended, by verdict. For the good ones call `good`.

    """

    __slots__ = (
        "_attempt",
        "_bad_probes",
        "_bypass",
        "_disablers",
        "_good",
        "_good_probes",
        "_isolators",
        "_leases",
        "_now",
        "_ramp_start",
        "_retired",
        "_run",
        "_run_mark",
        "_seconds",
        "_shadows",
        "_since",
        "_stray",
        "_undrained",
        "_until",
        "_window",
        "bucket_end",
        "cancelled",
        "cause",
        "cell",
        "ended",
        "generation",
        "ignored",
        "rejected",
        "settings",
        "spared",
        "state",
        "transitions",
    )

    def __init__(self, settings: CircuitBreakerSettings, now: Seconds) -> None:
        self.settings = settings
        self.state = CircuitState.CLOSED
        self.generation = 0
        self._now = self._since = now
        self._window = _make_window(settings)
        self._bypass = Cell()  # token of calls while disabled
        self._stray = Cell()  # token of calls that a shadow let pass: no generation's
        self._run = 0  # bad results in a row, if no good one came since `_run_mark`
        self._run_mark = 0
        self._attempt = 0
        self.cause: Break | None = None
        self._until: Seconds = now
        self._leases: list[Probe] = []
        self._good_probes = self._bad_probes = 0
        self._ramp_start: Seconds = -math.inf
        self._isolators = self._disablers = self._shadows = 0
        self._retired: deque[Cell] = deque()
        self._forget_counts()
        self.bucket_end: Seconds = -math.inf
        self.cell: Cell | None = None
        self._tune_now(now)

    # Calls

    def admit(self, now: Seconds, draw: float = 0.0) -> Token | Refusal:
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
            self._half_open(now)
        if self.state is CircuitState.CLOSED:
            return self._admit_watched(now, draw)
        if self.state is CircuitState.OPEN:
            return self._refuse(Refusal(self._until - now))
        if self.state is CircuitState.HALF_OPEN:
            return self._admit_probe(now)
        if self.state is CircuitState.DISABLED:
            self.cell = self._bypass
            return self._bypass
        self.rejected += 1  # isolated: an order, which a shadow does not soften
        return NEVER

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
        cell = self.cell
        if cell is not None and token is cell and verdict is Verdict.GOOD and now < self.bucket_end:
            cell.good += 1  # as generated code does
            return
        if verdict is Verdict.IGNORED:
            self.release(token, now)
            return
        now = self._advance(now)
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
            self._good += 1
        if isinstance(token, Probe):
            self._settle_probe(token, now, bad=bad or slow, hint=hint, draw=draw)

    def release(self, token: Token, now: Seconds, *, cancelled: bool = False) -> None:  # noqa: ARG002  # every gate machine is told the time
        """Take *token* back; nothing is learnt. A probe's place is free again."""
        if cancelled:
            self.cancelled += 1
        else:
            self.ignored += 1
        if isinstance(token, Probe) and token in self._leases:
            self._leases.remove(token)

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
        reason = self._tripped(total, bad, slow, run=0)
        if reason is None:
            self._tune(total, bad)
        else:
            self._open(now, reason, total, bad, None, draw)

    # Orders

    def isolate(self, now: Seconds) -> None:
        """Refuse every call until each `isolate` was answered by an `end_isolation`."""
        self._isolators += 1
        self._obey(now)

    def end_isolation(self, now: Seconds) -> None:
        """Take back one `isolate`. After the last one the circuit closes, cold."""
        self._isolators = max(0, self._isolators - 1)
        self._obey(now)

    def disable(self, now: Seconds) -> None:
        """Let every call pass and learn nothing until each `disable` was answered. Isolation is stronger."""
        self._disablers += 1
        self._obey(now)

    def end_disabling(self, now: Seconds) -> None:
        """Take back one `disable`. After the last one the circuit is closed, cold."""
        self._disablers = max(0, self._disablers - 1)
        self._obey(now)

    def shadow(self) -> None:
        """Learn, change state and report, but refuse nobody, until each `shadow` was answered."""
        self._shadows += 1

    def end_shadow(self) -> None:
        """Take back one `shadow`."""
        self._shadows = max(0, self._shadows - 1)

    def reset(self, now: Seconds) -> None:
        """Close the circuit as if it were new, without a ramp. Orders stay in force."""
        if not self._is_under_orders():
            self._close(self._advance(now), Reason.MANUAL)

    # Settings, processes

    def configure(self, settings: CircuitBreakerSettings, now: Seconds) -> None:
        """
        Replace the settings; the state stays.

        The window is kept unless its kind or length changed; then it starts cold, and calls under
        way do not count in it. A break under way ends no later than the new longest break would. A
        half-open round starts anew if it asks for other numbers. A ramp under way takes on its new
        length; one that is over does not begin again.
        """
        now = self._advance(now)
        if not self._is_ramping(now):
            self._ramp_start = -math.inf
        old, self.settings = self.settings, settings
        if (old.probes, old.needed_successes) != (settings.probes, settings.needed_successes):
            self._good_probes = self._bad_probes = 0
        self._until = min(self._until, now + settings.longest_break)
        kind = (old.window_duration, old.sampling_calls)
        if kind != (settings.window_duration, settings.sampling_calls):
            self._run, self._run_mark = self._failures_in_a_row(), 0
            self._retire_cell()
            self.generation += 1
            self._window = _make_window(settings)
        if self.state is CircuitState.CLOSED:
            self._tune_now(now)

    def after_fork(self, now: Seconds) -> None:
        """Forget calls under way and what was counted for telemetry; keep what was learnt."""
        self._advance(now)
        self.generation += 1
        self._leases.clear()
        self._run, self._run_mark = self._failures_in_a_row(), 0
        self._retire_cell()
        self._window.renew()
        self._forget_counts()
        self.cell = None  # until the next call asks

    def snapshot(self, now: Seconds) -> dict[str, str | int | float]:
        """
        Return what another process needs to carry on, ready for JSON.

        Times are lengths, not instants. A half-open circuit is one whose break is just over. What
        the window holds is left out, since nobody knows how old it will be when it is read; so are
        orders, which belong to those who gave them.
        """
        now = self._advance(now)
        is_open = self.state in (CircuitState.OPEN, CircuitState.HALF_OPEN)
        left = self._until - now if self.state is CircuitState.OPEN else 0.0
        ramp = self._ramp_start + self.settings.ramp_duration - now if self._is_ramping(now) else 0.0
        return {
            "version": SNAPSHOT_VERSION,
            "state": (CircuitState.OPEN if is_open else CircuitState.CLOSED).value,
            "retry_after": max(0.0, left),
            "attempt": self._attempt,
            "ramp": ramp,
        }

    def restore(self, snapshot: Mapping[str, object], now: Seconds) -> None:
        """
        Carry on from a `snapshot`, with a cold window. While under orders nothing is restored.

        Times longer than the settings allow are shortened to what they allow.

        Raises:
            ConfigError: It is no such snapshot; nothing was changed.

        """
        retry_after, attempt, ramp = _checked(snapshot)
        now = self._advance(now)
        if self._is_under_orders():
            return
        if attempt == 0:
            self._close(now, Reason.RESTORED)
            most = self.settings.ramp_duration
            self._ramp_start = now - most + min(ramp, most)
            return
        self._leave()
        self.cause = None
        self._attempt = attempt
        self._until = now + min(retry_after, self.settings.longest_break)
        self._enter(CircuitState.OPEN, now, Reason.RESTORED, retry_after=self._until - now)

    # What it knows

    def state_at(self, now: Seconds) -> CircuitState:
        """Return the state that a call would find at *now*: half-open as soon as the break is over."""
        if self.state is CircuitState.OPEN and max(now, self._now) >= self._until:
            return CircuitState.HALF_OPEN
        return self.state

    def is_idle(self, now: Seconds) -> bool:
        """Whether it is as a new one would be: closed, cold, under no orders."""
        return (
            self.state is CircuitState.CLOSED
            and not self._shadows
            and not self._is_ramping(now)
            and self._window.count(self._advance(now)) == (0, 0, 0)
            and (self.settings.consecutive_failures is None or self._failures_in_a_row() == 0)
        )

    def failure_ratio(self, now: Seconds) -> Ratio | None:
        """Return the share of bad results in the window; None below the minimum throughput."""
        total, bad, _ = self._window.count(self._advance(now))
        return bad / total if total >= self.settings.minimum_throughput else None

    def slow_call_ratio(self, now: Seconds) -> Ratio | None:
        """Return the share of slow results in the window; None below the minimum throughput."""
        total, _, slow = self._window.count(self._advance(now))
        return slow / total if total >= self.settings.minimum_throughput else None

    @property
    def good(self) -> int:
        """Calls that ended well, late ones included."""
        cells = (self._window.cell, self._bypass, *self._retired)
        return self._good + sum(cell.good for cell in cells)

    def seconds(self, now: Seconds) -> dict[CircuitState, Seconds]:
        """Return the time spent in each state."""
        spent = dict(self._seconds)
        spent[self.state] += self._advance(now) - self._since
        return spent

    @property
    def has_news(self) -> bool:
        """Whether `drain` would return any transition. May be asked without the lock."""
        return bool(self._undrained)

    def drain(self) -> list[Transition]:
        """Return the transitions that were not reported yet, oldest first, and forget them."""
        drained = list(self._undrained)
        self._undrained.clear()
        return drained

    # Closed

    def _admit_watched(self, now: Seconds, draw: float) -> Token | Refusal:
        if self._is_ramping(now):
            if draw >= (now - self._ramp_start) / self.settings.ramp_duration:
                return self._refuse(SOON)
        elif self.settings.slow_call_duration is None:
            self._tune_now(now)
        return self._window.cell

    def _learn(self, now: Seconds, *, bad: bool, slow: bool, hint: Seconds | None, draw: float) -> None:
        run = self._failures_in_a_row() + 1 if bad else 0
        self._window.add(now, bad=bad, slow=slow)
        self._run, self._run_mark = run, self._window.cell.good
        total, bads, slows = self._window.count(now)
        reason = self._tripped(total, bads, slows, run)
        if reason is None and self._obeys(hint):
            reason = Reason.THROTTLED
        if reason is None:
            self._tune(total, bads)
        else:
            self._open(now, reason, total, bads, hint, draw)

    def _tripped(self, total: int, bad: int, slow: int, run: int) -> Reason | None:
        """Return the rule that opens the circuit, if one does."""
        rules = self.settings
        if rules.consecutive_failures is not None and run >= rules.consecutive_failures:
            return Reason.CONSECUTIVE_FAILURES
        if total < rules.minimum_throughput:
            return None
        # Divided, not multiplied: 7 of 100 then reaches 0.07, whose hundredfold is above 7.
        if rules.failure_ratio is not None and bad / total >= rules.failure_ratio:
            return Reason.FAILURE_RATIO
        if rules.slow_call_duration is not None and slow / total >= rules.slow_call_ratio:
            return Reason.SLOW_CALL_RATIO
        return None

    def _is_poised(self, total: int, bad: int) -> bool:
        """
        Whether good results alone may open the circuit.

        They only lower the ratio; so if they open it, it is when there are just enough results.
        """
        rules = self.settings
        if rules.failure_ratio is None:
            return False
        enough = max(total + 1, rules.minimum_throughput)
        if rules.sampling_calls is not None:
            enough = min(enough, rules.sampling_calls)
        return bad / enough >= rules.failure_ratio

    def _tune(self, total: int, bad: int) -> None:
        """Show the cell for as long as good results alone change nothing."""
        hidden = (
            self.settings.slow_call_duration is not None
            or self._is_ramping(self._now)
            or self._is_poised(total, bad)
        )
        if hidden:
            self.bucket_end = -math.inf  # first, for calls under way that look without a lock
            self.cell = None
        else:
            self.bucket_end = self._window.end
            self.cell = self._window.cell

    def _tune_now(self, now: Seconds) -> None:
        total, bad, _ = self._window.count(now)
        self._tune(total, bad)

    def _is_ramping(self, now: Seconds) -> bool:
        return now < self._ramp_start + self.settings.ramp_duration

    def _failures_in_a_row(self) -> int:
        return self._run if self._window.cell.good == self._run_mark else 0

    # Open

    def _obeys(self, hint: Seconds | None) -> bool:
        return self.settings.open_on_throttle and hint is not None and hint > 0

    def _open(
        self, now: Seconds, reason: Reason, total: int, bad: int, hint: Seconds | None, draw: float
    ) -> None:
        """Begin a break. Commits nothing before the user's callable has answered."""
        cause = Break(self._attempt + 1, bad / total, bad, hint)
        generation = self.generation
        problem: str | None = None
        seconds = 0.0
        if reason is not Reason.THROTTLED:
            seconds, problem = self._planned(cause)
            if self.generation != generation:
                return  # the callable used this circuit, and that already changed its state
        if hint is not None and self._obeys(hint):
            seconds = max(seconds, hint)
        longest = self.settings.max_break_duration
        seconds = min(seconds, longest) * (1.0 + self.settings.break_jitter * draw)
        self._leave()
        self.cause = cause
        self._attempt = cause.attempt
        self._until = now + seconds
        self._enter(CircuitState.OPEN, now, reason, retry_after=seconds, cause=cause, problem=problem)

    def _planned(self, cause: Break) -> tuple[Seconds, str | None]:
        """Return the length of the break by the settings, and what was wrong with a callable's."""
        plan = self.settings.break_duration
        longest = self.settings.max_break_duration
        if not callable(plan):
            try:
                return plan * float(self.settings.break_factor) ** (cause.attempt - 1), None
            except OverflowError:
                return longest, None
        try:
            seconds = plan(cause)
        except Exception as error:  # noqa: BLE001  # the call's own error must reach the caller, not this one
            return longest, f"break_duration raised {error!r}"
        if is_finite(seconds) and seconds > 0:
            return seconds, None
        return longest, f"break_duration returned {seconds!r}"

    # Half-open

    def _half_open(self, now: Seconds) -> None:
        self._good_probes = self._bad_probes = 0
        self._enter(CircuitState.HALF_OPEN, now, Reason.BREAK_OVER)

    def _admit_probe(self, now: Seconds) -> Token | Refusal:
        self._leases = [probe for probe in self._leases if now < probe.expires]
        if len(self._leases) + self._good_probes + self._bad_probes >= self.settings.probes:
            return self._refuse(SOON)
        probe = Probe(now + self.settings.probe_timeout)
        self._leases.append(probe)
        return probe

    def _settle_probe(
        self, probe: Probe, now: Seconds, *, bad: bool, hint: Seconds | None, draw: float
    ) -> None:
        if probe not in self._leases:
            return
        self._leases.remove(probe)
        if now >= probe.expires:
            return
        if bad:
            self._bad_probes += 1
        else:
            self._good_probes += 1
        rules = self.settings
        if self._good_probes >= rules.needed_successes:
            self._close(now, Reason.PROBES, ramp=True)
        elif self._bad_probes > rules.probes - rules.needed_successes or self._obeys(hint):
            answered = self._good_probes + self._bad_probes
            self._open(now, Reason.PROBES, answered, self._bad_probes, hint, draw)

    # From one state to the next

    def _close(self, now: Seconds, reason: Reason, *, ramp: bool = False) -> None:
        self._leave()
        self.cause = None
        self._attempt = self._run = self._run_mark = 0
        if ramp:
            self._ramp_start = now
        self._enter(CircuitState.CLOSED, now, reason)

    def _obey(self, now: Seconds) -> None:
        """Go where the orders say."""
        now = self._advance(now)
        if self._isolators:
            wanted = CircuitState.ISOLATED
        elif self._disablers:
            wanted = CircuitState.DISABLED
        elif self.state in (CircuitState.ISOLATED, CircuitState.DISABLED):
            # A disabled circuit carried all calls; to ramp would take them away.
            self._close(now, Reason.MANUAL, ramp=self.state is CircuitState.ISOLATED)
            return
        else:
            return
        if wanted is self.state:
            return
        self._leave()
        self.cause = None
        self._attempt = 0
        self._enter(wanted, now, Reason.MANUAL)

    def _is_under_orders(self) -> bool:
        return self._isolators > 0 or self._disablers > 0

    def _leave(self) -> None:
        """
        End the present generation: from here on its tokens change nothing.

        Until `_enter` the circuit is one of the old state that has just begun, so that an interrupt
        between the two leaves a circuit that works. The next call that asks shows the cell again.
        """
        self.cell = None
        self.bucket_end = math.inf  # late good results need no attention
        self._leases.clear()
        self._ramp_start = -math.inf
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
        problem: str | None = None,
    ) -> None:
        self.generation += 1
        previous, self.state = self.state, state
        if previous is state:
            return
        self._seconds[previous] += now - self._since
        self._since = now
        self.transitions[previous, state] = self.transitions.get((previous, state), 0) + 1
        self._undrained.append(Transition(previous, state, reason, now, retry_after, cause, problem))

    def _refuse(self, refusal: Refusal) -> Token | Refusal:
        if self._shadows:
            self.spared += 1
            return self._stray
        self.rejected += 1
        return refusal

    def _retire_cell(self) -> None:
        """Keep an eye on the cell that the window will let go: calls under way still add to it."""
        if self.state is CircuitState.CLOSED:
            if len(self._retired) == CELLS_KEPT:
                self._good += self._retired.popleft().good
            self._retired.append(self._window.cell)

    def _advance(self, now: Seconds) -> Seconds:
        self._now = max(self._now, now)
        return self._now

    def _forget_counts(self) -> None:
        self.transitions: dict[tuple[CircuitState, CircuitState], int] = {}
        self._undrained: deque[Transition] = deque(maxlen=TRANSITIONS_KEPT)
        self._good = 0
        self._good = -self.good  # cells are never set back; calls under way may still add to them
        self.rejected = self.spared = self.ignored = self.cancelled = 0
        self.ended = {Verdict.BAD: 0, Verdict.TIMED_OUT: 0, Verdict.THROTTLED: 0}
        self._seconds = dict.fromkeys(CircuitState, 0.0)
        self._since = self._now


def _make_window(settings: CircuitBreakerSettings) -> TimeWindow | CountWindow:
    if settings.sampling_calls is not None:
        return CountWindow(settings.sampling_calls)
    return TimeWindow(settings.sampling_duration or SAMPLING_DURATION)


def _checked(snapshot: Mapping[str, object]) -> tuple[Seconds, int, Seconds]:
    """Return ``retry_after``, ``attempt`` and ``ramp`` of a snapshot that is one."""
    check = Check("CircuitBreaker snapshot")
    if not check.that(isinstance(snapshot, Mapping), "snapshot", snapshot, "must be a mapping"):
        check.done()
    version, state = snapshot.get("version"), snapshot.get("state")
    retry_after, attempt, ramp = (snapshot.get(key) for key in ("retry_after", "attempt", "ramp"))
    check.that(
        version == SNAPSHOT_VERSION and not isinstance(version, bool),
        "version",
        version,
        f"must be {SNAPSHOT_VERSION}",
    )
    check.that(state in ("closed", "open"), "state", state, "must be 'closed' or 'open'")
    check.seconds("retry_after", retry_after, zero=True)
    if check.whole("attempt", attempt, at_least=0):
        agrees = (attempt != 0) == (state == "open")
        check.that(agrees, "attempt", attempt, "must be 0 if closed and >= 1 if open")
    check.seconds("ramp", ramp, zero=True)
    for key in snapshot.keys() - {"version", "state", "retry_after", "attempt", "ramp"}:
        check.that(False, str(key), snapshot[key], "must not be there")
    check.done()
    return cast("Seconds", retry_after), cast("int", attempt), cast("Seconds", ramp)
