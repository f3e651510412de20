"""At most so many calls at once."""

from typing import Any

from resilience import _clock
from resilience._core.check import Check
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

    __slots__ = ("_bulkhead", "_is_learning", "_pinned")

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
        self._pinned: int | None = None

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
        """Calls that may run at once now; 1 also where a learning limit went below 1."""
        return self._bulkhead.limit

    def pin(self, limit: int) -> None:
        """
        Hold the limit at *limit* until `unpin`, whatever is learnt meanwhile. Calls in flight go on.

        Args:
            limit: Calls that may run at once, >= 1.

        Raises:
            ConfigError: It is no whole number of at least 1. Nothing has changed then.

        Example:
            >>> reports = ConcurrencyLimiter("reports", limit=20)
            >>> reports.pin(2)
            >>> reports.limit
            2
            >>> reports.unpin()
            >>> reports.limit
            20

        """
        check = Check("ConcurrencyLimiter.pin")
        check.whole("limit", limit)
        check.done()
        self._pinned = limit
        self._resize(limit, "pinned")

    def unpin(self) -> None:
        """Let the limit be again what the settings say or what was learnt; without a pin nothing happens."""
        if self._pinned is not None:
            self._pinned = None
            self._resize(self._bulkhead.source.limit, "unpinned")

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
            before = self._bulkhead.limit
            self._bulkhead.configure(settings, terms, _clock.monotonic())
            if self._pinned is not None:
                self._bulkhead.resize(self._pinned)
            self._line.wake_first()
        self._report(before, "reconfigured")

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
            cause = str(getattr(source, "cause", "sample"))
        except Exception as error:  # noqa: BLE001  # a limit that cannot learn does not break the call it watches
            details = {"error.type": type(error).__qualname__}
            emit("resilience.concurrency_limiter.limit_failed", self.name, details)
            return
        with self._lock:
            if source is not self._bulkhead.source:  # replaced while it learnt
                return
            self._bulkhead.set_window(window)
            if self._pinned is not None:
                return
        self._resize(wanted, cause)

    def _resize(self, wanted: float, cause: str) -> None:
        with self._lock:
            before = self._bulkhead.limit
            self._bulkhead.resize(wanted)
            self._line.wake_first()
        self._report(before, cause)

    def _report(self, before: int, cause: str) -> None:
        after = self._bulkhead.limit
        if after != before:
            emit(
                "resilience.concurrency_limiter.limit_change",
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
        self._is_learning = False
        self._bulkhead.after_fork(_clock.monotonic())
