"""How a request is cut short on asyncio."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from resilience.typing import Seconds


def is_running() -> bool:
    """Whether this code runs in a task of asyncio."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:  # no loop of asyncio runs in this thread
        return False


class Cut:
    """
    Cancel the block when *left* seconds have passed, and leave it without an error of its own then.

    Like ``asyncio.timeout``, it cancels once: the application's own cleaning up is not cancelled again.

    Attributes:
        was_made: Whether the block was cancelled, even if it ended as it liked.

    """

    __slots__ = ("_timeout", "was_made")

    def __init__(self, left: Seconds) -> None:
        self._timeout = asyncio.timeout_at(asyncio.get_running_loop().time() + left)
        self.was_made = False

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.was_made = self._timeout.expired()
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            # The timeout's own: an error of the block came in as *error*, and leaves by itself.
            return True
        return False

    def lift(self) -> None:
        """Let the block take as long as it likes from here on, unless it was cut short already."""
        with suppress(RuntimeError):  # cut already, or over
            self._timeout.reschedule(None)
