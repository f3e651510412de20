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

    Attributes:
        wait: Seconds from the booking until the permits may be used.

    """

    __slots__ = ("_limiter", "_permit", "wait")

    def __init__(self, limiter: "RateLimiter", permit: RatePermit) -> None:
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
