"""A guarded block for which there is a place: `Bulkhead.admit` and `settle`, as in generated code."""

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, cast

from resilience._runtime.hot import has_gil
from resilience._runtime.permit import Guard, Permit
from resilience.concurrency_limiter._cell import Cell
from resilience.concurrency_limiter._limit import FixedLimit

if TYPE_CHECKING:
    from resilience.concurrency_limiter._gate import LimitGate


class PlaceGuard(Guard):
    """
    A guard that takes its place without the lock if there is one, nobody learns from it and nobody waits.

    Its token is the cell then. All else goes the way of every guard. Made by `LimitGate`, which sets what
    this needs: to make it is half of what it costs.
    """

    __slots__ = ()

    _gate: "LimitGate"

    if not TYPE_CHECKING:
        __init__ = object.__init__  # see above

    def __enter__(self) -> Permit:
        limiter = self._gate
        bulkhead = limiter._bulkhead  # its own, as all here
        if (
            self._is_used
            or limiter._classify is not None  # it wants to judge how the block ended
            or bulkhead.source.__class__ is not FixedLimit
        ):
            return super().__enter__()
        cell = bulkhead.cell
        # Up to the end no call, at which an interrupt could strike.
        cell.started = (n := cell.started) + (fits := n < cell.ceiling)
        if not fits:
            return super().__enter__()
        self.token = cell
        self._is_used = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None or (cell := self.token).__class__ is not Cell:
            super().__exit__(kind, error, trace)
            return
        cell.ceiling += 1.0
        self.token = None
        if (limiter := self._gate)._bulkhead.is_barred:
            limiter._wake_next()

    def __del__(self) -> None:
        try:
            token = self.token
        except AttributeError:  # its making was interrupted
            return
        if token is not None:
            super().__del__()


HAS_GIL: Final = has_gil()
"""Looked at once: a guard is made for each block."""

make_guard: Final = cast("Callable[[], PlaceGuard]", PlaceGuard)
"""Make one whose attributes are still to be set."""
