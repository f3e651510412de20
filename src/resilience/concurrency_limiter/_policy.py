"""At most so many calls at once."""

from collections.abc import Callable, Hashable

from resilience._core.check import Check, is_finite
from resilience._runtime.permit import Guard, Permit, Rejection
from resilience._runtime.policy import all_right
from resilience.concurrency_limiter._gate import LimitGate, checked
from resilience.concurrency_limiter._limit import Limit
from resilience.concurrency_limiter._settings import TOO_MANY, ConcurrencyLimiterSettings, Order, Shares
from resilience.outcome import Classifier, ErrorMatch
from resilience.typing import Seconds


class ConcurrencyLimiter(LimitGate):
    """
    Let at most *limit* calls run at once; refuse the others, or let a few wait their turn.

    Those who wait are served by `Priority`, and within a class first in, first out, threads and tasks of
    any event loop in one line. One who finds the line full takes the place of the last who came of the
    least important class, if that is less important than itself, and is refused otherwise. A place is
    free again when the call has ended, however it ended. With a `Limit` in place of a number the limit
    learns from how calls end; ignored and cancelled calls teach it nothing.

    With *shares* each key can always have ``max(1, ceil(limit * share))`` places, even while others hold
    all of them; so up to the sum of these places more than *limit* may be taken. A share is no upper
    bound: what nobody uses is there for all, and calls of other keys have nothing else.

    Args:
        name: Name for telemetry and errors. Default: that of the pipeline or function.
        limit: Calls that may run at once, >= 1, or a `Limit`. Default 20 (Netflix, failsafe-go).
        max_queue: Calls that may wait, >= 0; needs *max_wait*. Default 0 (Polly).
        max_wait: Seconds a call may wait, >= 0; needs *max_queue*. Default 0.0 (Resilience4j).
        order: Who of those alike in importance goes first: ``"fifo"``, or ``"adaptive_lifo"`` for the last
            who came while the line is more than half full. Default ``"fifo"``.
        shares: Key to the share of the limit that its calls can always have, each in (0, 1] and 1 in all at
            most. Default None: all calls are alike.
        share_of: Takes the call's arguments and returns whose share it takes; needs *shares*. Default
            None: the keys are priorities.
        on: Errors that count as bad for a learning limit.
        classify: Judge of outcomes, in place of *on*.

    Raises:
        ConfigError: A setting is wrong; every problem is listed.

    Example:
        >>> reports = ConcurrencyLimiter("reports", limit=2)
        >>> with reports.guard():
        ...     reports.inflight, reports.limit
        (1, 2)

        >>> search = ConcurrencyLimiter("search", limit=10, shares={"live": 0.7}, share_of=lambda who: who)
        >>> batch = [search.try_acquire(share="batch") for _ in range(11)]
        >>> batch.count(batch[-1]), bool(batch[-1]), bool(search.try_acquire(share="live"))
        (1, False, True)

    """

    __slots__ = ()

    def __init__(
        self,
        name: str | None = None,
        *,
        limit: int | Limit = 20,
        max_queue: int = 0,
        max_wait: Seconds = 0.0,
        order: Order = "fifo",
        shares: Shares | None = None,
        share_of: Callable[..., Hashable] | None = None,
        on: ErrorMatch | None = None,
        classify: Classifier | None = None,
    ) -> None:
        settings = all_right(
            name,
            lambda: checked(
                lambda: ConcurrencyLimiterSettings(
                    limit=limit,
                    max_queue=max_queue,
                    max_wait=max_wait,
                    order=order,
                    shares=shares,
                    share_of=share_of,
                ),
                shares,
                share_of,
            ),
            first="limit",
            on=on,
            classify=classify,
        )
        super().__init__(settings, name, on=on, classify=classify)

    def try_acquire(self, *, share: Hashable = None) -> Permit | Rejection:
        """
        Ask for leave to make one call, without waiting.

        Args:
            share: Whose share it takes, if there are shares. Default None: that of the current priority,
                if the keys are priorities.

        Returns:
            A `Permit` to settle or release when the call has ended, or a `Rejection`, which is false.

        Raises:
            TypeError: There is a *share* too many or too few, or it is not hashable.

        """
        return self._ask(self._asked_by_hand(share))

    def guard(self, *, share: Hashable = None) -> Guard:
        """Guard a block whose body runs once, in the share of *share*: see `try_acquire`, `Gate.guard`."""
        if share is not None or (make := self._make) is None:
            return self._guard_for(self._asked_by_hand(share))
        # As every gate does: not by way of it, since a call costs as much as what it does.
        guard = make()
        guard.token = None
        guard._gate = self
        return guard

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
        if check.whole("limit", limit):
            check.that(is_finite(limit), "limit", limit, TOO_MANY)
        check.done()
        with self._lock:
            self._pinned = limit
            before, after = self._resize(limit)
        self._report(before, after, "pinned")

    def unpin(self) -> None:
        """Let the limit be again what the settings say or what was learnt; without a pin nothing happens."""
        while self._pinned is not None:
            source = self._bulkhead.source
            wanted = source.limit  # outside the lock, because the limit may be a user's; it may raise, too
            with self._lock:
                if source is not self._bulkhead.source:  # replaced meanwhile
                    continue
                self._pinned = None
                before, after = self._resize(wanted)
            self._report(before, after, "unpinned")

    @property
    def inflight(self) -> int:
        """Calls that run now; more than the limit for a while after it was lowered."""
        with self._lock:  # two numbers, which change together
            return self._bulkhead.inflight

    @property
    def queued(self) -> int:
        """Calls that wait for their turn now."""
        return len(self._line)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nobody waits."""
        return self.inflight == 0 and not self._line
