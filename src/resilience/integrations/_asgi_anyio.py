"""How a request is cut short where not asyncio runs. Imported when that is so."""

import math
from types import TracebackType

import anyio

from resilience.typing import Seconds


class Cut:
    """
    Cancel the block when *left* seconds have passed, and leave it without an error of its own then.

    Attributes:
        was_made: Whether the block was cancelled, even if it ended as it liked.

    """

    __slots__ = ("_scope", "was_made")

    def __init__(self, left: Seconds) -> None:
        self._scope = anyio.CancelScope(deadline=anyio.current_time() + left)
        self.was_made = False

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        is_swallowed = bool(self._scope.__exit__(kind, error, trace))
        self.was_made = self._scope.cancel_called
        return is_swallowed

    def lift(self) -> None:
        """Let the block take as long as it likes from here on, unless it was cut short already."""
        self._scope.deadline = math.inf
