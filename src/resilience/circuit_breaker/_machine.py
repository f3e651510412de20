"""
The circuit as a whole: what calls lead to, and what people and other processes ask of it.

    _state       the states, and what is told of a change
    _automaton   closed, open, half-open: which calls pass, and what their results change
    _rules       which results open a closed circuit
    _breaks      how long it stays open then
    _probes      the round of calls that decides in half-open
    _ramp        the time after closing, while admission rises
    _history     changes of state and good results, for telemetry
    _snapshot    what one process tells another
"""

from collections.abc import Mapping

from resilience.circuit_breaker import _snapshot
from resilience.circuit_breaker._automaton import Automaton, make_window
from resilience.circuit_breaker._settings import CircuitBreakerSettings
from resilience.circuit_breaker._snapshot import Snapshot
from resilience.circuit_breaker._state import CircuitState, Reason
from resilience.typing import Ratio, Seconds


class Circuit(Automaton):
    """
    Decide which calls may pass. Not thread-safe: the policy holds a lock.

    Orders of one kind are counted, so that several people may give and take back theirs.
    """

    __slots__ = ("_disablers", "_isolators")

    def __init__(self, settings: CircuitBreakerSettings, now: Seconds) -> None:
        super().__init__(settings, now)
        self._isolators = self._disablers = 0

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
            self._ramp.end()
        old, self.settings = self.settings, settings
        if (old.probes, old.needed_successes) != (settings.probes, settings.needed_successes):
            self._round.begin()
        self._until = min(self._until, now + settings.longest_break)
        kind = (old.window_duration, old.sampling_calls)
        if kind != (settings.window_duration, settings.sampling_calls):
            self._row.move(self._window.cell)
            self._retire_cell()
            self.generation += 1
            self._window = make_window(settings)
        if self.state is CircuitState.CLOSED:
            self._tune_now(now)

    def after_fork(self, now: Seconds) -> None:
        """Forget calls under way and what was counted for telemetry; keep what was learnt."""
        now = self._advance(now)
        self.generation += 1
        self._round.drop()
        self._row.move(self._window.cell)
        self._retire_cell()
        self._window.renew()
        self._good.clear(self._window.cell, self._bypass)
        self.history.clear(now)
        self.pending = None  # who asks for its length may be a thread of the parent's: it stays the longest
        self._zero()
        self.cell = None  # until the next call asks

    def snapshot(self, now: Seconds) -> dict[str, str | int | float]:
        """
        Return what another process needs to carry on, ready for JSON.

        Times are lengths, not instants. A half-open circuit is one whose break is just over. What
        the window holds is left out, since nobody knows how old it will be when it is read. Orders
        belong to those who gave them: the state names them, but nobody carries them on.
        """
        now = self._advance(now)
        left = self._until - now if self.state is CircuitState.OPEN else 0.0
        ramp = self._ramp.left(now, self.settings.ramp_duration)
        return Snapshot(self.state, max(0.0, left), self._attempt, ramp).as_dict()

    def restore(self, snapshot: Mapping[str, object], now: Seconds) -> None:
        """
        Carry on from a `snapshot`, with a cold window. While under orders nothing is restored.

        That of a circuit under orders is restored as closed, as it would be after them. Times longer
        than the settings allow are shortened to what they allow.

        Raises:
            ConfigError: It is no such snapshot; nothing was changed.

        """
        known = _snapshot.parse(snapshot)
        now = self._advance(now)
        if self._is_under_orders():
            return
        if known.attempt == 0:
            self._close(now, Reason.RESTORED)
            self._ramp.resume(now, self.settings.ramp_duration, known.ramp)
            return
        self._leave()
        self.cause = None
        self._attempt = known.attempt
        self._until = now + min(known.retry_after, self.settings.longest_break)
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
            and (self.settings.consecutive_failures is None or self._row.length(self._window.cell) == 0)
        )

    def failure_ratio(self, now: Seconds) -> Ratio | None:
        """Return the share of bad results in the window; None below the minimum throughput."""
        total, bad, _ = self._window.count(self._advance(now))
        return bad / total if total >= self.settings.minimum_throughput else None

    def slow_call_ratio(self, now: Seconds) -> Ratio | None:
        """Return the share of slow results in the window; None below the minimum throughput."""
        total, _, slow = self._window.count(self._advance(now))
        return slow / total if total >= self.settings.minimum_throughput else None

    def seconds(self, now: Seconds) -> dict[CircuitState, Seconds]:
        """Return the time spent in each state."""
        return self.history.seconds(self.state, self._advance(now))
