"""A rate limiter whose rate may change: who asks the `Rate`, and what others may say about it."""

from resilience import _clock
from resilience._core.check import is_finite
from resilience.errors import shown
from resilience.events import emit
from resilience.outcome import Classifier, ErrorMatch
from resilience.rate_limiter._adaptive import AdaptiveGcra, Change
from resilience.rate_limiter._gate import RateGate
from resilience.rate_limiter._settings import FASTEST, SLOWEST, RateLimiterSettings
from resilience.rates import Rate, RateSample
from resilience.typing import Seconds


class AdaptingGate(RateGate):
    """What a rate limiter does with a `Rate` in place of a number. One with a number does not learn."""

    __slots__ = ("_learning_from",)

    def __init__(
        self,
        settings: RateLimiterSettings,
        name: str | None,
        *,
        on: ErrorMatch | None = None,
        classify: Classifier | None = None,
    ) -> None:
        super().__init__(settings, name, on=on, classify=classify)
        self._learning_from: RateSample | None = None

    @property
    def rate(self) -> float:
        """Permits per second now, for each key if it keeps keys apart; infinite while there is no limit."""
        machine = self._adaptive
        return self._machine.rate if machine is None else machine.rate_at(_clock.monotonic())

    def follow(
        self,
        *,
        remaining: float | None = None,
        reset_after: Seconds | None = None,
        quota: float | None = None,
        window: Seconds | None = None,
    ) -> None:
        """
        Take the server's word for how much it allows.

        *remaining* over *reset_after* is the highest rate until the reset, and a pause until then if
        nothing remains. *quota* over *window* is the highest rate until the server says otherwise. A pair of
        which one is missing says nothing, nor does what makes no sense: it comes from outside. While the
        rate is pinned the server's word is noted and comes into force when it is let go.

        Args:
            remaining: Calls left until the reset, >= 0.
            reset_after: Seconds until the reset, >= 0; a day at most.
            quota: Calls allowed within a window, > 0.
            window: Seconds of the window, > 0.

        Raises:
            TypeError: The limiter was made with a number as its rate.

        Example:
            >>> from resilience import RateLimiter, rates
            >>> api = RateLimiter("api", rate=rates.Aimd(start=100))
            >>> api.follow(remaining=50, reset_after=10)
            >>> api.rate
            5.0

        """
        machine = self._learner("follow")
        with self._lock:
            machine.follow(_clock.monotonic(), remaining, reset_after, quota, window)
            changes = self._changes(machine)
        self._report(changes)

    def pin(self, rate: float) -> None:
        """
        Hold the rate until `unpin`, whatever calls show and the server says; a pause ends.

        While it is pinned nothing is learnt.

        Args:
            rate: Permits per second, 1e-9 to 1e9.

        Raises:
            ValueError: It is no such number.
            TypeError: The limiter was made with a number as its rate.

        """
        machine = self._learner("pin")
        if not is_finite(rate) or not SLOWEST <= rate <= FASTEST:
            msg = f"rate must be a number from {SLOWEST:g} to {FASTEST:g} a second, got {shown(rate)}"
            raise ValueError(msg)
        self._pin(machine, float(rate))

    def unpin(self) -> None:
        """
        Go on with the rate learnt before it was pinned, and with what the server said. Twice is once.

        Raises:
            TypeError: The limiter was made with a number as its rate.

        """
        self._pin(self._learner("unpin"), None)

    def _pin(self, machine: AdaptiveGcra, rate: float | None) -> None:
        with self._lock:
            machine.pin(rate, _clock.monotonic())
            changes = self._changes(machine)
            self._line.wake_first()  # also at the same rate: a pause may have ended
        self._report(changes)

    def _learner(self, method: str) -> AdaptiveGcra:
        if self._adaptive is None:
            msg = (
                f"{method}() needs a rate that may change: {self.name!r} was made with a number; give"
                f" rate=rates.Fixed(...), or use reconfigure(rate=...)"
            )
            raise TypeError(msg)
        return self._adaptive

    def _configure(self, settings: RateLimiterSettings) -> None:
        super()._configure(settings)
        self._changed()

    def _changed(self) -> None:
        machine = self._adaptive
        if machine is None or not machine.is_due or self._learning_from is not None:
            return
        sample: RateSample | None = None
        try:
            with self._lock:
                if self._learning_from is not None:
                    return
                sample = machine.take_sample(_clock.monotonic())
                self._learning_from = sample
                source, changes = machine.source, self._changes(machine)
            self._report(changes)
            if sample is not None:
                self._learn(machine, source, sample)
        finally:
            # An interrupt may come at any line above: only who learns may say that nobody does any more.
            if sample is not None and self._learning_from is sample:
                self._learning_from = None

    def _learn(self, machine: AdaptiveGcra, source: Rate, sample: RateSample) -> None:
        # Outside the lock, because the rate may be a user's.
        try:
            source.on_sample(sample)
            wanted, window = source.rate, source.window
        except Exception as error:  # noqa: BLE001  # a rate that cannot learn does not break the call it watches
            details = {"error.type": type(error).__qualname__}
            emit("resilience.rate_limiter.limit_failed", self.name, details)
            return
        with self._lock:
            if source is not machine.source or machine.pinned is not None:
                return
            machine.learn(wanted, window, _clock.monotonic(), "throttled" if sample.throttled else "good")
            changes = self._changes(machine)
        self._report(changes)

    def _changes(self, machine: AdaptiveGcra) -> list[Change]:
        """Return what changed, and let those who wait look again. The lock is held."""
        changes = machine.take_changes()
        if changes:
            self._line.wake_first()
        return changes

    def _report(self, changes: list[Change]) -> None:
        for before, after, cause in changes:
            self.counts.change(is_raised=after > before)
            emit(
                "resilience.rate_limiter.limit_change",
                self.name,
                {
                    "resilience.limiter.change": "increase" if after > before else "decrease",
                    "resilience.limiter.previous_limit": before,
                    "resilience.limiter.limit": after,
                    "resilience.limiter.cause": cause,
                },
            )

    def _after_fork(self) -> None:
        super()._after_fork()
        self._learning_from = None
