"""Stop calling a dependency that keeps failing, and probe until it recovers."""

import random
from collections.abc import Callable, Mapping
from typing import Any

from resilience import _clock
from resilience._core.window import Cell
from resilience._runtime.census import Reading
from resilience._runtime.gate import Ask, Decision, Gate
from resilience._runtime.hot import Hot, weakly
from resilience._runtime.permit import Hold
from resilience._runtime.policy import Binding, Traits, all_right
from resilience.circuit_breaker._hot import hot
from resilience.circuit_breaker._machine import Circuit
from resilience.circuit_breaker._order import Order
from resilience.circuit_breaker._readings import readings
from resilience.circuit_breaker._settings import Break, CircuitBreakerSettings
from resilience.circuit_breaker._state import CircuitState
from resilience.errors import CircuitOpenError, ConfigError, Problem, RejectedError
from resilience.events import emit
from resilience.outcome import Classifier, ErrorMatch, Outcome, Verdict
from resilience.typing import Random, Ratio, Seconds


class CircuitBreaker(Gate):
    """
    Stop calling a dependency that keeps failing, and probe until it recovers.

    The circuit opens when any of its rules holds: the share of bad results among at least
    *minimum_throughput* reached *failure_ratio*, the share of slow ones reached *slow_call_ratio*,
    or *consecutive_failures* bad results came in a row. While it is open, calls raise
    `CircuitOpenError` at once. After the break it is half-open: *probes* calls pass, each for at
    most *probe_timeout*, and their results close it or open it again for longer.

    Ignored and cancelled calls teach nothing. A result that comes back after the state changed
    changes nothing.

    Args:
        name: Name for telemetry and errors. Default: that of the pipeline or function.
        failure_ratio: Share of bad results that opens the circuit, 0 < r <= 1, or None.
            Default 0.5 (Hystrix, Resilience4j).
        minimum_throughput: Results needed before a share counts, >= 1. Default 20 (Hystrix).
        sampling_duration: Seconds of history the shares are taken over. Default 30.0 (Polly).
        sampling_calls: Instead: number of latest results they are taken over, 1 to 1 000 000.
        consecutive_failures: Bad results in a row that open the circuit, >= 1, or None.
        slow_call_duration: Seconds after which a call was slow, > 0, or None.
        slow_call_ratio: Share of slow calls that opens the circuit, 0 < r <= 1. Default 1.0.
        break_duration: Seconds the circuit stays open at first, > 0, or a callable that takes a
            `Break` and returns them; until it has answered, the break is *max_break_duration*.
            Default 5.0 (Polly).
        break_factor: Growth of the break after each failed round, >= 1. Default 2.0 (Finagle).
        max_break_duration: Longest break in seconds, before jitter. Default 60.0 (Finagle).
        break_jitter: Share by which chance may lengthen a break, 0 to 1. Default 0.2.
        probes: Calls that a half-open circuit lets pass, >= 1. Default 1 (Polly).
        required_successes: Good ones among them that close it. Default: all.
        probe_timeout: Seconds after which an unanswered probe gives up its place. Default 60.0.
        ramp_duration: Seconds over which admission rises to all after closing. Default 0.0.
        open_on_throttle: Whether a throttled result with a ``retry_after`` opens the circuit for
            that long. Default False.
        on: Errors that count as bad: a type, a tuple of types, or a predicate.
        classify: Judge of outcomes, in place of *on*.
        rng: Where jitter comes from: anything with a method ``random()``. Default: the process's
            own generator.

    Raises:
        ConfigError: A setting is wrong, see `CircuitBreakerSettings`; every problem is listed.

    Example:
        >>> payments = CircuitBreaker("payments", consecutive_failures=3)
        >>> @payments
        ... def charge(amount: int) -> str:
        ...     return f"charged {amount}"
        >>> charge(100), payments.state
        ('charged 100', <CircuitState.CLOSED: 'closed'>)

    """

    __slots__ = ("_circuit", "_random")

    kind = "circuit_breaker"
    error = CircuitOpenError
    counts_acquired = False

    def __init__(  # one argument a setting
        self,
        name: str | None = None,
        *,
        failure_ratio: Ratio | None = 0.5,
        minimum_throughput: int = 20,
        sampling_duration: Seconds | None = None,
        sampling_calls: int | None = None,
        consecutive_failures: int | None = None,
        slow_call_duration: Seconds | None = None,
        slow_call_ratio: Ratio = 1.0,
        break_duration: Seconds | Callable[[Break], Seconds] = 5.0,
        break_factor: float = 2.0,
        max_break_duration: Seconds = 60.0,
        break_jitter: Ratio = 0.2,
        probes: int = 1,
        required_successes: int | None = None,
        probe_timeout: Seconds = 60.0,
        ramp_duration: Seconds = 0.0,
        open_on_throttle: bool = False,
        on: ErrorMatch | None = None,
        classify: Classifier | None = None,
        rng: Random | None = None,
    ) -> None:
        settings = all_right(
            name,
            lambda: _settings(
                rng,
                failure_ratio=failure_ratio,
                minimum_throughput=minimum_throughput,
                sampling_duration=sampling_duration,
                sampling_calls=sampling_calls,
                consecutive_failures=consecutive_failures,
                slow_call_duration=slow_call_duration,
                slow_call_ratio=slow_call_ratio,
                break_duration=break_duration,
                break_factor=break_factor,
                max_break_duration=max_break_duration,
                break_jitter=break_jitter,
                probes=probes,
                required_successes=required_successes,
                probe_timeout=probe_timeout,
                ramp_duration=ramp_duration,
                open_on_throttle=open_on_throttle,
            ),
            first="consecutive_failures",
            on=on,
            classify=classify,
        )
        super().__init__(name, on=on, classify=classify)
        self._random: Random = random if rng is None else rng
        self._circuit = Circuit(
            settings,
            _clock.monotonic(),
        )

    @property
    def settings(self) -> CircuitBreakerSettings:
        """Its settings, frozen."""
        return self._circuit.settings

    @property
    def traits(self) -> Traits:
        """A gate that holds nothing, and looks back over its window."""
        return Traits(window=self.settings.window_duration, rank=1)

    # What is known

    @property
    def state(self) -> CircuitState:
        """The state that a call would find now."""
        with self._lock:
            return self._circuit.state_at(_clock.monotonic())

    @property
    def failure_ratio(self) -> Ratio | None:
        """Share of bad results in the window; None below the minimum throughput."""
        with self._lock:
            return self._circuit.failure_ratio(_clock.monotonic())

    @property
    def slow_call_ratio(self) -> Ratio | None:
        """Share of slow results in the window; None below the minimum throughput."""
        with self._lock:
            return self._circuit.slow_call_ratio(_clock.monotonic())

    @property
    def is_idle(self) -> bool:
        """Whether it is as a new one would be: closed, with nothing in its window, under no orders."""
        with self._lock:
            return self._circuit.is_idle(_clock.monotonic())

    # Orders

    def isolate(self) -> Order:
        """
        Refuse every call until the returned order, and every other one, has been ended.

        Example:
            >>> breaker = CircuitBreaker("stock")
            >>> with breaker.isolate():
            ...     breaker.state
            <CircuitState.ISOLATED: 'forced_open'>

        """
        return self._order(Circuit.isolate, Circuit.end_isolation)

    def disable(self) -> Order:
        """Let every call pass and learn nothing, until the order is ended. Isolation is stronger."""
        return self._order(Circuit.disable, Circuit.end_disabling)

    def shadow(self) -> Order:
        """Learn, change state and report, but refuse nobody, until the order is ended."""
        return self._order(lambda circuit, _: circuit.shadow(), lambda circuit, _: circuit.end_shadow())

    def reset(self) -> None:
        """Close the circuit as if it were new. Orders stay in force."""
        with self._lock:
            self._circuit.reset(_clock.monotonic())
        self._changed()

    # From one process to the next

    def snapshot(self) -> dict[str, str | int | float]:
        """
        Return what another process needs to carry on: a plain dict, ready for JSON.

        The state is ``forced_open`` while it is isolated, and ``disabled`` while it is that. `restore` does
        not carry such orders on.
        """
        with self._lock:
            return self._circuit.snapshot(_clock.monotonic())

    def restore(self, snapshot: Mapping[str, object]) -> None:
        """
        Carry on from a `snapshot`.

        Raises:
            ConfigError: It is no such snapshot; nothing was changed.

        """
        with self._lock:
            self._circuit.restore(snapshot, _clock.monotonic())
        self._changed()

    # What a gate supplies

    def _configure(self, settings: CircuitBreakerSettings) -> None:
        with self._lock:
            self._circuit.configure(settings, _clock.monotonic())

    def _decide(self, ask: Ask, hold: Hold) -> Decision:  # noqa: ARG002  # a call is a call
        # Drawn outside the lock, here and below, because the generator may be a user's.
        return super()._decide(self._random.random(), hold)

    def _admit(self, now: Seconds, ask: Ask) -> Decision:
        return self._circuit.admit(now, ask)

    def _take_back(
        self, hold: Hold, verdict: Verdict, started: Seconds | None, retry_after: Seconds | None
    ) -> None:
        # As for every gate, with a draw; and nobody waits in line.
        draw = 0.0 if verdict is Verdict.IGNORED else self._random.random()
        with self._lock:
            if hold.is_empty:
                return
            now = _clock.monotonic()
            began = now if started is None else started
            hold.token = self._settle(hold.token, verdict, now, began, retry_after, draw)  # type: ignore[func-returns-value]  # None: taken, and forgotten in one line
        self._changed()

    def _settle(
        self,
        token: Any,
        verdict: Verdict,
        now: Seconds,
        started: Seconds,
        retry_after: Seconds | None,
        draw: float = 0.0,
    ) -> None:
        self._circuit.settle(
            token,
            verdict,
            now,
            duration=now - started,
            retry_after=retry_after,
            draw=draw,
        )

    def _release(self, token: Any, now: Seconds, *, cancelled: bool) -> None:
        self._circuit.release(token, now, cancelled=cancelled)

    def hot(self, binding: Binding) -> Hot:
        """Return what a call through a closed circuit runs."""
        return hot(self, self._circuit, weakly(self._refuse), self.failing(self.judge(binding)))

    def _settle_failed(
        self, verdict: Verdict, tokens: list[Any], place: int, outcome: Outcome[Any], began: Seconds | None
    ) -> None:
        # As for every gate, with fewer steps.
        circuit = self._circuit
        draw = self._random.random()
        with self._lock:
            now = _clock.monotonic()
            tokens[place] = circuit.settle(  # type: ignore[func-returns-value]  # None: taken, and forgotten in one line
                tokens[place],
                verdict,
                now,
                duration=0.0 if began is None else now - began,
                retry_after=outcome.retry_after,
                draw=draw,
            )
        if circuit.history.news:
            self._changed()

    def _refuse(self) -> RejectedError | None:
        """Refuse a call, for generated code, if the circuit is open; None if a flow must say."""
        with self._lock:
            refusal = self._circuit.refuse(_clock.monotonic())
            if refusal is None:
                return None
            self.counts.rejected += 1
        return self._refused(refusal)

    def _rotate(self, now: Seconds, cell: Cell) -> None:
        """Get ready for one good result, which generated code is about to count in *cell*."""
        draw = self._random.random()
        with self._lock:
            self._circuit.rotate(now, cell, draw)
        self._changed()

    def _changed(self) -> None:
        circuit = self._circuit
        if not circuit.history.news:
            return
        if circuit.pending is not None:
            self._ask_for_break()
        with self._lock:
            transitions = circuit.drain()
        for transition in transitions:
            emit(
                "resilience.circuit_breaker.state_change",
                self.name,
                {
                    "resilience.circuit_breaker.state": transition.state.value,
                    "resilience.circuit_breaker.previous_state": transition.previous.value,
                    "resilience.circuit_breaker.reason": transition.reason.value,
                    "resilience.retry_after": transition.retry_after,
                },
            )

    def _ask_for_break(self) -> None:
        """Let the user's callable say how long the break is, if nobody has asked it yet. No lock is held."""
        with self._lock:
            pending = self._circuit.take_pending()
        if pending is None:
            return
        seconds: Seconds | None = None
        problem: str | None = "break_duration was interrupted"
        try:
            seconds, problem = pending.ask()
        finally:
            with self._lock:
                self._circuit.set_break(pending, seconds, problem)

    def readings(self) -> list[Reading]:
        """Return what telemetry knows of the circuit."""
        with self._lock:
            return list(readings(self._circuit, _clock.monotonic()))

    def _told(self) -> dict[str, str]:
        return {**super()._told(), "resilience.circuit_breaker.state": self.state.value}

    def _after_fork(self) -> None:
        super()._after_fork()
        self._circuit.after_fork(_clock.monotonic())

    def _order(
        self, begin: Callable[[Circuit, Seconds], None], end: Callable[[Circuit, Seconds], None]
    ) -> Order:
        self._command(begin)
        return Order(lambda: self._command(end))

    def _command(self, command: Callable[[Circuit, Seconds], None]) -> None:
        with self._lock:
            command(self._circuit, _clock.monotonic())
        self._changed()


def _settings(rng: object, **settings: Any) -> CircuitBreakerSettings:
    """Return the settings; what is wrong with *rng* is listed with what is wrong with them."""
    problems: list[Problem] = []
    if rng is not None and not callable(getattr(rng, "random", None)):
        problems.append(Problem("rng", rng, "must have a random() method or be None"))
    try:
        checked = CircuitBreakerSettings(**settings)
    except ConfigError as error:
        raise ConfigError(error.subject, [*error.problems, *problems]) from None
    if problems:
        raise ConfigError("CircuitBreaker", problems)
    return checked
