"""At most so many calls per second."""

from collections.abc import Callable, Hashable
from typing import Final

from resilience import _clock
from resilience._core.permit import Refusal
from resilience._runtime import drive
from resilience._runtime.gate import Acquiring, Decision
from resilience._runtime.permit import Guard, Permit, Rejection
from resilience._runtime.policy import all_right
from resilience.deadline import current_deadline
from resilience.outcome import Classifier, ErrorMatch
from resilience.rate_limiter._adapting import AdaptingGate
from resilience.rate_limiter._ask import (
    Ask,
    check_key,
    check_permits,
    check_wait,
)
from resilience.rate_limiter._keyed import KeyedGcra
from resilience.rate_limiter._machine import RateMachine
from resilience.rate_limiter._reservation import Reservation
from resilience.rate_limiter._settings import Algorithm, RateLimiterSettings
from resilience.rates import Rate
from resilience.typing import Seconds

KeyOf = Callable[..., Hashable]
"""Takes the arguments of a call and returns whose permits it spends."""

_ONE: Final = 1
"""What is asked for unless more is said, to be compared as an object: True and 1.0 are no such number."""


class RateLimiter(AdaptingGate):
    """
    Let at most *rate* calls start per *per* seconds; refuse the others, or let them wait in line.

    Over any time w at most ``burst + rate / per * w`` calls start. A refusal says exactly when to come
    back. Those who wait are served first in, first out, however many permits they need; a call that
    would have to wait longer than *max_wait* is refused at once, and one that is cancelled while it
    waits gives its place back. A permit is spent when the call starts; only calls that are ignored or
    cancelled give back what is still unspent.

    Args:
        name: Name for telemetry and errors. Default: that of the pipeline or function.
        rate: Permits per *per*, > 0; or a `Rate` that learns it, such as ``rates.Cubic()``. Default 100.
        per: Seconds that *rate* is about, > 0. Default 1.0.
        burst: Permits that may be taken at once after a pause, >= 1. Default: those of one *per* at the
            present rate.
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

    __slots__ = ()

    def __init__(
        self,
        name: str | None = None,
        *,
        rate: float | Rate = 100,
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
            first="rate",
            on=on,
            classify=classify,
        )
        super().__init__(settings, name, on=on, classify=classify)

    # By hand

    def try_acquire(self, permits: int = 1, *, key: Hashable = None) -> Permit | Rejection:
        """
        Ask for leave to make one call, without waiting.

        Args:
            permits: How many permits it needs: 1 to the burst, or more if the burst follows a `Rate`.
            key: Whose permits, if the limiter keeps keys apart.

        Returns:
            A `Permit`, or a `Rejection` with the exact ``retry_after``.

        Raises:
            ValueError: So many permits can never be had.
            TypeError: There is a *key* too many or too few, or it is not hashable.

        """
        return self._ask(self._checked(permits, key))

    def acquire(self, permits: int = 1, *, key: Hashable = None, max_wait: Seconds | None = None) -> Permit:
        """
        Wait in line for leave to make one call, blocking this thread.

        Args:
            permits: How many permits it needs: 1 to the burst, or more if the burst follows a `Rate`.
            key: Whose permits, if the limiter keeps keys apart.
            max_wait: Seconds to wait at most, finite and >= 0. Default None: the limiter's own.

        Raises:
            RateLimitedError: The wait would be longer; known, and raised, at once.
            DeadlineExceededError: The caller's deadline passed in line.
            ValueError: So many permits can never be had, be it since the burst was lowered while it
                waited; or *max_wait* is no such length of time.
            TypeError: There is a *key* too many or too few, or it is not hashable.

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
        if key is not None or permits is not _ONE or (make := self._make) is None:
            return self._guard_for(self._checked(permits, key))
        # As every gate does: not by way of it, since a call costs as much as what it does.
        guard = make()
        guard.token = None
        guard._gate = self
        return guard

    def reserve(self, permits: int = 1) -> Reservation | Rejection:
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
        """
        Return how many permits could be had now.

        Args:
            key: Whose permits, if the limiter keeps keys apart.

        Raises:
            TypeError: There is a *key* too many or too few, or it is not hashable.

        """
        machine = self._machine
        check_key(self.name, key, keyed=isinstance(machine, KeyedGcra))
        with self._lock:
            now = _clock.monotonic()
            return machine.remaining(key, now) if isinstance(machine, KeyedGcra) else machine.remaining(now)

    @property
    def is_idle(self) -> bool:
        """Whether it is as a new one would be, and nobody waits. One with keys never says so."""
        with self._lock:
            machine = self._machine
            return not self._line and isinstance(machine, RateMachine) and machine.is_idle(_clock.monotonic())

    def _checked(self, permits: int, key: Hashable) -> Ask:
        machine = self._machine
        check_permits(self.name, permits, machine.capacity)
        check_key(self.name, key, keyed=isinstance(machine, KeyedGcra))
        return Ask(permits, key)

    def _acquiring(self, permit: Permit, permits: int, key: Hashable, max_wait: Seconds | None) -> Acquiring:
        ask = self._checked(permits, key)
        longest = self._max_wait if max_wait is None else check_wait(max_wait)
        return self._acquire(ask, longest, current_deadline(), permit)

    def _admitted(self, permit: Permit, decision: Decision) -> Permit:
        if isinstance(decision, Refusal):
            raise self._refused(decision)
        permit.begin()
        return permit
