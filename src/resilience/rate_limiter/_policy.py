"""At most so many calls per second."""

from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Any, NamedTuple, Self

from resilience import _clock
from resilience._core.permit import Refusal
from resilience._runtime import drive
from resilience._runtime.flow import Call
from resilience._runtime.gate import Acquiring, Decision, Gate
from resilience._runtime.line import Line
from resilience._runtime.permit import Guard, Permit, Rejection
from resilience._runtime.policy import Traits, all_right
from resilience.deadline import current_deadline
from resilience.errors import Problem, RateLimitedError
from resilience.outcome import Classifier, ErrorMatch, Verdict
from resilience.rate_limiter._keyed import KeyedGcra, KeyedPermit
from resilience.rate_limiter._machine import RateMachine, RatePermit, make_machine
from resilience.rate_limiter._settings import Algorithm, RateLimiterSettings
from resilience.typing import Seconds

KeyOf = Callable[..., Hashable]
"""Takes the arguments of a call and returns whose permits it spends."""


class Ask(NamedTuple):
    """What a call asks for: so many permits of so and so."""

    permits: int = 1
    key: Hashable = None


class RateLimiter(Gate):
    """
    Let at most *rate* calls start per *per* seconds; refuse the others, or let them wait in line.

    Over any time w at most ``burst + rate / per * w`` calls start. A refusal says exactly when to come
    back. Those who wait are served first in, first out, however many permits they need; a call that
    would have to wait longer than *max_wait* is refused at once, and one that is cancelled while it
    waits gives its place back. A permit is spent when the call starts; only calls that are ignored or
    cancelled give back what is still unspent.

    Args:
        name: Name for telemetry and errors. Default: that of the pipeline or function.
        rate: Permits per *per*, > 0. Default 100.
        per: Seconds that *rate* is about, > 0. Default 1.0.
        burst: Permits that may be taken at once after a pause, >= 1. Default: those of one *per*.
        max_wait: Seconds a call may wait for its permit, >= 0. Default 0.0: nobody waits.
        algorithm: ``"gcra"``, or ``"sliding_window"`` or ``"fixed_window"`` to match a server's own
            rule; see `Algorithm`. Default ``"gcra"``.
        key: Takes the call's arguments and returns whose permits it spends; each key has *rate* and
            *burst* of its own. Default None: all calls share.
        max_keys: Keys kept apart at once, >= 1. Default 10 000.
        on: Errors that count as bad. They spend their permit like good calls.
        classify: Judge of outcomes, in place of *on*.

    Raises:
        ConfigError: A setting is wrong; every problem is listed.

    Example:
        >>> api = RateLimiter("api", rate=10, burst=2)
        >>> [bool(api.try_acquire()) for _ in range(3)]
        [True, True, False]
        >>> 0 < api.try_acquire().retry_after <= 0.1
        True

    """

    __slots__ = ("_lines", "_machine", "_settings")

    kind = "rate_limiter"
    error = RateLimitedError

    def __init__(
        self,
        name: str | None = None,
        *,
        rate: float = 100,
        per: Seconds = 1.0,
        burst: int | None = None,
        max_wait: Seconds = 0.0,
        algorithm: Algorithm = "gcra",
        key: KeyOf | None = None,
        max_keys: int = 10_000,
        on: ErrorMatch | None = None,
        classify: Classifier | None = None,
    ) -> None:
        settings = all_right(
            name,
            lambda: RateLimiterSettings(
                rate=rate,
                per=per,
                burst=burst,
                max_wait=max_wait,
                algorithm=algorithm,
                key=key,
                max_keys=max_keys,
            ),
            on=on,
            classify=classify,
        )
        super().__init__(name, on=on, classify=classify)
        self._settings = settings
        now = _clock.monotonic()
        self._machine: RateMachine | KeyedGcra = (
            make_machine(self._settings, now) if key is None else KeyedGcra(self._settings, now)
        )
        self._lines: dict[Hashable, Line] = {}  # of keys for which somebody waits

    @property
    def settings(self) -> RateLimiterSettings:
        """Its settings, frozen."""
        return self._settings

    @property
    def traits(self) -> Traits:
        """A gate that spends a permit."""
        return Traits(waits=self._settings.max_wait, rank=2)

    # By hand

    def try_acquire(self, permits: int = 1, *, key: Hashable = None) -> Permit | Rejection:
        """
        Ask for leave to make one call, without waiting.

        Args:
            permits: How many permits it needs, 1 to the burst.
            key: Whose permits, if the limiter keeps keys apart.

        Returns:
            A `Permit`, or a `Rejection` with the exact ``retry_after``.

        Raises:
            ValueError: So many permits can never be had.

        """
        return self._ask(self._checked(permits, key))

    def acquire(self, permits: int = 1, *, key: Hashable = None, max_wait: Seconds | None = None) -> Permit:
        """
        Wait in line for leave to make one call, blocking this thread.

        Args:
            permits: How many permits it needs, 1 to the burst.
            key: Whose permits, if the limiter keeps keys apart.
            max_wait: Seconds to wait at most, >= 0. Default: the limiter's own.

        Raises:
            RateLimitedError: The wait would be longer; known, and raised, at once.
            DeadlineExceededError: The caller's deadline passed in line.
            ValueError: So many permits can never be had.

        """
        permit = Permit(self)
        return self._admitted(permit, drive.result(self._acquiring(permit, permits, key, max_wait)))

    async def aacquire(
        self, permits: int = 1, *, key: Hashable = None, max_wait: Seconds | None = None
    ) -> Permit:
        """Wait in line for leave to make one call, as `acquire` does, suspending this task."""
        from resilience._runtime import adrive  # noqa: PLC0415  # anyio comes with the first async use

        permit = Permit(self)
        return self._admitted(permit, await adrive.result(self._acquiring(permit, permits, key, max_wait)))

    def guard(self, permits: int = 1, *, key: Hashable = None) -> Guard:
        """Guard a block whose body runs once, spending *permits* of *key*: see `Gate.guard`."""
        return Guard(self, self._checked(permits, key))

    def reserve(self, permits: int = 1) -> "Reservation | Rejection":
        """
        Book permits for as soon as there are enough, and say when that is.

        The bookings are served in order; whoever asks later comes later. Nobody can book ahead of
        those who wait in line: meanwhile the answer is a `Rejection`.

        Example:
            >>> api = RateLimiter("api", rate=10, burst=1)
            >>> round(api.reserve().wait, 3), round(api.reserve().wait, 3)
            (0.0, 0.1)

        Raises:
            ValueError: So many permits can never be had.
            TypeError: The limiter keeps keys apart; keys have no bookings.

        """
        machine = self._machine
        if isinstance(machine, KeyedGcra):
            msg = "a limiter with key= has no reservations: use acquire()"
            raise TypeError(msg)
        ask = self._checked(permits, None)
        with self._lock:
            now = _clock.monotonic()
            if self._line:
                return Rejection(self, self._wait_for(now, ask, self._line.permits))
            permit = machine.reserve(now, ask.permits)
        if isinstance(permit, Refusal):  # pragma: no cover  # checked above
            return Rejection(self, permit.retry_after)
        return Reservation(self, permit)

    def remaining(self, *, key: Hashable = None) -> int:
        """Return how many permits could be had now."""
        with self._lock:
            now, machine = _clock.monotonic(), self._machine
            return machine.remaining(key, now) if isinstance(machine, KeyedGcra) else machine.remaining(now)

    @property
    def is_idle(self) -> bool:
        """Whether it is as a new one would be, and nobody waits. One with keys never says so."""
        with self._lock:
            machine = self._machine
            return not self._line and isinstance(machine, RateMachine) and machine.is_idle(_clock.monotonic())

    def _checked(self, permits: int, key: Hashable) -> Ask:
        most = self._machine.capacity
        if not isinstance(permits, int) or isinstance(permits, bool) or not 1 <= permits <= most:
            rule = f"must be a whole number from 1 to {most}, the burst of {self.name!r}"
            msg = f"permits {rule}, got {permits!r}"
            raise ValueError(msg)
        if key is None and isinstance(self._machine, KeyedGcra):
            msg = f"{self.name!r} keeps keys apart: say which with key="
            raise TypeError(msg)
        return Ask(permits, key)

    def _acquiring(self, permit: Permit, permits: int, key: Hashable, max_wait: Seconds | None) -> Acquiring:
        ask = self._checked(permits, key)
        if max_wait is None:
            max_wait = self._max_wait
        elif not max_wait >= 0:
            msg = f"max_wait must be >= 0, got {max_wait!r}"
            raise ValueError(msg)
        return self._acquire(ask, max_wait, current_deadline(), permit)

    def _admitted(self, permit: Permit, decision: Decision) -> Permit:
        if isinstance(decision, Refusal):
            raise self._refused(decision)
        permit.begin()
        return permit

    # What a gate supplies

    @property
    def _max_wait(self) -> Seconds:
        return self._settings.max_wait

    def obstacles(self, settings: RateLimiterSettings) -> list[Problem]:
        """Return why the settings cannot be taken: another rule counts in another state."""
        before, problems = self._settings, list[Problem]()
        if settings.algorithm != before.algorithm:
            rule = f"must stay {before.algorithm!r}: make a new limiter"
            problems.append(Problem("algorithm", settings.algorithm, rule))
        if (settings.key is None) != (before.key is None):
            rule = "must stay given, or stay None: make a new limiter"
            problems.append(Problem("key", settings.key, rule))
        return problems

    def _configure(self, settings: RateLimiterSettings) -> None:
        with self._lock:
            self._machine.configure(settings, _clock.monotonic())
            self._settings = settings
            for line in (self._line, *self._lines.values()):
                line.wake_first()

    def _ask_of(self, call: Call) -> Ask:
        key_of = self._settings.key
        if key_of is None:
            return ANY
        key = key_of(*call.args, **call.kwargs)
        try:
            hash(key)
        except TypeError as error:
            msg = f"key= of {self.name!r} returned {key!r}, which is not hashable"
            raise TypeError(msg) from error
        return Ask(1, key)

    def _admit(self, now: Seconds, ask: Ask) -> Decision:
        machine = self._machine
        if isinstance(machine, KeyedGcra):
            return machine.admit(ask.key, now, ask.permits)
        return machine.admit(now, ask.permits)

    def _settle(
        self,
        token: Any,
        verdict: Verdict,
        now: Seconds,
        started: Seconds,  # noqa: ARG002  # a permit is spent at the start
        retry_after: Seconds | None,  # noqa: ARG002  # a rate that is set does not follow the server
    ) -> None:
        self._machine.settle(token, verdict, now)

    def _release(self, token: Any, now: Seconds, *, cancelled: bool) -> None:  # noqa: ARG002  # either way
        self._machine.release(token, now)

    def _wait_for(self, now: Seconds, ask: Ask, ahead: int) -> Seconds | None:
        machine = self._machine
        if isinstance(machine, KeyedGcra):
            return machine.wait_for(ask.key, now, ask.permits, ahead)
        return machine.wait_for(now, ask.permits, ahead)

    def _weight(self, ask: Ask) -> int:
        return ask.permits

    def _line_of(self, ask: Ask, *, join: bool = False) -> Line:
        if not isinstance(self._machine, KeyedGcra):
            return self._line
        line = self._lines.get(ask.key)
        if line is not None:
            return line
        if not join:
            return _NOBODY
        return self._lines.setdefault(ask.key, Line())

    def _line_left(self, ask: Ask) -> None:
        if ask.key in self._lines and not self._lines[ask.key]:
            del self._lines[ask.key]

    def _line_for(self, token: Any) -> Line:
        return self._lines.get(token.key, _NOBODY) if isinstance(token, KeyedPermit) else self._line

    def _after_fork(self) -> None:
        super()._after_fork()
        self._lines.clear()
        self._machine.after_fork(_clock.monotonic())


ANY = Ask()
_NOBODY = Line()


class Reservation:
    """
    Permits booked ahead of time. Wait *wait* seconds, then make the call.

    Attributes:
        wait: Seconds from the booking until the permits may be used.

    """

    __slots__ = ("_limiter", "_permit", "wait")

    def __init__(self, limiter: RateLimiter, permit: RatePermit) -> None:
        self._limiter = limiter
        self._permit = permit
        self.wait = permit.wait

    def cancel(self) -> None:
        """Give back what is still unspent, if nobody has booked behind it. Twice is once."""
        limiter = self._limiter
        with limiter._lock:  # its own limiter
            limiter._release(self._permit, _clock.monotonic(), cancelled=True)  # its own limiter
            limiter._line.wake_first()  # its own limiter

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.cancel()
