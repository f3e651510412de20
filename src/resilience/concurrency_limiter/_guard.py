"""A guarded block for which there is a place: `Bulkhead.admit` and `settle`, as in generated code."""

from types import TracebackType
from typing import TYPE_CHECKING

from resilience._runtime.permit import Guard, Permit
from resilience.concurrency_limiter._cell import Cell
from resilience.concurrency_limiter._limit import FixedLimit

if TYPE_CHECKING:
    from resilience.concurrency_limiter._gate import LimitGate


class PlaceGuard(Guard):
    """
    A guard that takes its place without the lock if there is one, nobody learns from it and nobody waits.

    Its token is the cell then. All else goes the way of every guard. Made by `place_guard`.
    """

    __slots__ = ()

    _gate: "LimitGate"

    def __enter__(self) -> Permit:
        limiter = self._gate
        if (
            self._is_used
            or limiter.waiters
            or limiter._classify is not None  # its own; it wants to judge how the block ended
            or type(limiter._bulkhead.source) is not FixedLimit
        ):
            return super().__enter__()
        cell = limiter._bulkhead.cell
        # Up to the end no call, at which an interrupt could strike.
        if (n := cell.inflight) < cell.limit: cell.inflight = n + 1  # noqa: E701  # one line, as in generated code
        else:
            return super().__enter__()
        self.token = cell
        self._is_used = True
        limiter.counts.acquired += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None or type(cell := self.token) is not Cell:
            super().__exit__(kind, error, trace)
            return
        cell.inflight -= 1
        self.token = None
        if (limiter := self._gate).waiters:
            limiter._wake_next()


def place_guard(limiter: "LimitGate") -> PlaceGuard:
    """Return a guard for one place of *limiter*, made without a call in Python."""
    guard = new(PlaceGuard)
    guard._gate = limiter
    guard._ask = 1
    guard._is_used = False
    guard.token = None
    guard._started = 0.0
    return guard


new = object.__new__
