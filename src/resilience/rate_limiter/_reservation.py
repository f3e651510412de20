"""Permits booked ahead of time."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from resilience import _clock
from resilience.rate_limiter._rule import RatePermit

if TYPE_CHECKING:
    from resilience.rate_limiter._policy import RateLimiter


class Reservation:
    """
    Permits booked ahead of time. Wait *wait* seconds, then make the call.

    As a block, one that an error leaves gives back what `cancel` does; what was due by then counts as sent.

    Attributes:
        wait: Seconds from the booking until the permits may be used.

    """

    __slots__ = ("_due", "_limiter", "_permit", "wait")

    def __init__(self, limiter: "RateLimiter", permit: RatePermit) -> None:
        self._limiter = limiter
        self._permit = permit
        self._due = _clock.monotonic() + permit.wait
        self.wait = permit.wait

    def cancel(self) -> None:
        """
        Give back what is still unspent, if nobody has booked behind it. Twice is once.

        To a rate that learns, the call was never sent.
        """
        self._give_back(is_sent=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._give_back(is_sent=_clock.monotonic() >= self._due)

    def _give_back(self, *, is_sent: bool) -> None:
        limiter = self._limiter
        with limiter._lock:  # its own limiter, here and below
            limiter._release(self._permit, _clock.monotonic(), cancelled=is_sent)
            limiter._line.wake_first()
