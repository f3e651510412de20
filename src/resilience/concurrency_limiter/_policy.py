"""At most so many calls at once."""

from typing import Any

from resilience import _clock
from resilience._runtime.gate import Ask, Decision, Gate, gate_settings
from resilience._runtime.policy import Traits
from resilience.concurrency_limiter._limit import Limit, Sample, terms_of
from resilience.concurrency_limiter._machine import Bulkhead
from resilience.concurrency_limiter._settings import ConcurrencyLimiterSettings
from resilience.errors import ConcurrencyLimitedError
from resilience.events import emit
from resilience.outcome import Classifier, ErrorMatch, Verdict
from resilience.typing import Seconds


class ConcurrencyLimiter(Gate):
    """
    Let at most *limit* calls run at once; refuse the others, or let a few wait their turn.

    Those who wait are served first in, first out, threads and tasks of any event loop in one line. A
    place is free again when the call has ended, however it ended. With a `Limit` in place of a number
    the limit learns from how calls end; ignored and cancelled calls teach it nothing.

    Args:
        name: Name for telemetry and errors. Default: that of the pipeline or function.
        limit: Calls that may run at once, >= 1, or a `Limit`. Default 20 (Netflix, failsafe-go).
        max_queue: Calls that may wait, >= 0; needs *max_wait*. Default 0 (Polly).
        max_wait: Seconds a call may wait, >= 0; needs *max_queue*. Default 0.0 (Resilience4j).
        on: Errors that count as bad for a learning limit.
        classify: Judge of outcomes, in place of *on*.

    Raises:
        ConfigError: A setting is wrong; every problem is listed.

    Example:
        >>> reports = ConcurrencyLimiter("reports", limit=2)
        >>> with reports.guard():
        ...     reports.inflight, reports.limit
        (1, 2)

    """

    __slots__ = ("_bulkhead", "_is_learning")

    kind = "concurrency_limiter"
    error = ConcurrencyLimitedError
    settling_frees = True

    def __init__(
        self,
        name: str | None = None,
        *,
        limit: int | Limit = 20,
        max_queue: int = 0,
        max_wait: Seconds = 0.0,
        on: ErrorMatch | None = None,
        classify: Classifier | None = None,
    ) -> None:
        settings = gate_settings(
            name,
            lambda: ConcurrencyLimiterSettings(limit=limit, max_queue=max_queue, max_wait=max_wait),
            first="limit",
            on=on,
            classify=classify,
        )
        super().__init__(name, on=on, classify=classify)
        self._bulkhead = Bulkhead(settings, _clock.monotonic())
        self._is_learning = False

    @property
    def settings(self) -> ConcurrencyLimiterSettings:
        """Its settings, frozen."""
        return self._bulkhead.settings

    @property
    def traits(self) -> Traits:
        """A gate that holds a place, and so is asked last."""
        return Traits(waits=self.settings.max_wait, rank=3)

    @property
    def limit(self) -> int:
        """Calls that may run at once now."""
        return self._bulkhead.limit

    @property
    def inflight(self) -> int:
        """Calls that run now; more than the limit for a while after it was lowered."""
        return self._bulkhead.inflight

    @property
    def queued(self) -> int:
        """Calls that wait for their turn now."""
        return len(self._line)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nobody waits."""
        return self._bulkhead.inflight == 0 and not self._line

    @property
    def _max_wait(self) -> Seconds:
        return self.settings.max_wait

    @property
    def _max_queue(self) -> int:
        return self.settings.max_queue

    def _configure(self, settings: ConcurrencyLimiterSettings) -> None:
        terms = terms_of(settings.make_limit())  # outside the lock, because the limit may be a user's
        with self._lock:
            self._bulkhead.configure(settings, terms, _clock.monotonic())
            self._line.wake_first()

    def _admit(self, now: Seconds, ask: Ask) -> Decision:  # noqa: ARG002  # a call takes one place
        return self._bulkhead.admit(now)

    def _settle(
        self,
        token: Any,
        verdict: Verdict,
        now: Seconds,
        started: Seconds,  # noqa: ARG002  # the slot knows it
        retry_after: Seconds | None,  # noqa: ARG002  # when to return is a question of rate
    ) -> None:
        self._bulkhead.settle(token, verdict, now)

    def _release(self, token: Any, now: Seconds, *, cancelled: bool) -> None:  # noqa: ARG002  # either way
        self._bulkhead.release(token, now)

    def _changed(self) -> None:
        if _clock.monotonic() < self._bulkhead.window_end or self._is_learning:
            return
        with self._lock:
            sample = None if self._is_learning else self._bulkhead.take_sample(_clock.monotonic())
            if sample is None:
                return
            self._is_learning = True
            source = self._bulkhead.source
        try:
            self._learn(source, sample)
        finally:
            self._is_learning = False

    def _learn(self, source: Limit, sample: Sample) -> None:
        # Outside the lock, because the limit may be a user's.
        try:
            source.on_sample(sample)
            wanted, window = source.limit, source.window
        except Exception as error:  # noqa: BLE001  # a limit that cannot learn does not break the call it watches
            details = {"error.type": type(error).__qualname__}
            emit("resilience.concurrency_limiter.limit_failed", self.name, details)
            return
        with self._lock:
            if source is not self._bulkhead.source:  # replaced while it learnt
                return
            before = self._bulkhead.limit
            self._bulkhead.resize(wanted)
            self._bulkhead.set_window(window)
            after = self._bulkhead.limit
            self._line.wake_first()
        if after != before:
            emit(
                "resilience.concurrency_limiter.limit_change",
                self.name,
                {
                    "resilience.limiter.change": "increase" if after > before else "decrease",
                    "resilience.limiter.previous_limit": before,
                    "resilience.limiter.limit": after,
                },
            )

    def _after_fork(self) -> None:
        super()._after_fork()
        self._is_learning = False
        self._bulkhead.after_fork(_clock.monotonic())
