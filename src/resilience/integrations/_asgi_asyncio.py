"""One request that has a deadline, from its beginning to its end."""

import asyncio
import math
from collections.abc import Awaitable
from threading import get_ident
from typing import Any

from resilience import _clock
from resilience._runtime._asyncio_cuts import Cuts, loops, task_of
from resilience.deadline import _innermost as block
from resilience.deadline import bounded, until_of, usage
from resilience.errors import DeadlineExceededError
from resilience.integrations._asgi_messages import Message, Send, ends_answer
from resilience.typing import Seconds


class Timed(bounded):
    """
    A deadline block that begins at once, is cut short, and ends with the last part of the answer.

    Like ``asyncio.timeout``, it cancels once: the application's own cleaning up is not cancelled again. And a
    cancellation by somebody else leaves as it came.

    Args:
        left: Seconds, > 0, that there are.
        send: Sends a message of the answer.

    Attributes:
        has_begun: Whether the answer has begun.
        has_ended: Whether it is complete.
        was_cut: Whether the request was cancelled because its time was up, even if it ended as it liked.

    """

    __slots__ = ("_cancels", "_cuts", "_scope", "_send", "_task", "has_begun", "has_ended", "was_cut")

    def __init__(self, left: Seconds, send: Send) -> None:
        # What `bounded` does when it is made and entered is done here: two calls less for each request.
        self.has_begun = self.has_ended = self.was_cut = False
        self._send = send
        now = _clock.monotonic()
        until = now + left
        self.outer = outer = block.get()
        outside = None if outer is None else until_of(outer)
        if outside is not None and outside < until:
            until, left = outside, outside - now
        self.until = until
        cuts: Any
        task: Any
        if (cuts := loops.cuts).runner._thread_id != get_ident() or (task := task_of(cuts.loop)) is None:
            cuts, task, until = _here(until, left)
        self._cuts, self._task = cuts, task
        if cuts is None or task is None:
            from resilience.integrations import _asgi_anyio  # noqa: PLC0415  # AnyIO comes when it is needed

            self._scope = _asgi_anyio.scope_for(left)
            self._scope.__enter__()
        else:
            self._cancels = task.cancelling()
            if until < cuts.next:
                cuts.arm(until)
            cuts.at[self] = until
        if not usage.used:
            usage.begin()
        block.set(self)

    def send(self, message: Message) -> Awaitable[None]:
        """Send a part of the answer."""
        # No coroutine of its own: there is nothing to do afterwards.
        if not self.has_begun:
            # Noted before it is sent: who is cancelled meanwhile cannot know whether it was.
            self.has_begun = message["type"] == "http.response.start"
        elif not self.has_ended and ends_answer(message):
            self.has_ended = True
            self.until = until_of(self.outer)
            if self._cuts is None:
                self._scope.deadline = math.inf
            elif not self.was_cut:
                del self._cuts.at[self]
        return self._send(message)

    def end(self, error: BaseException | None) -> bool:
        """Leave the block, which ended with *error*; return whether that was our doing."""
        until = self.until
        if block.get() is self:
            block.set(self.outer)
        else:
            self.__exit__(None, None, None)
        cuts, task = self._cuts, self._task
        self._task = None  # no cycle: task -> error -> traceback -> frame -> task
        is_ours = False
        if cuts is None or task is None:
            is_ours = bool(self._scope.__exit__(None if error is None else type(error), error, None))
            self.was_cut = self._scope.cancel_called
        elif self.was_cut:
            is_ours = task.uncancel() <= self._cancels and isinstance(error, asyncio.CancelledError)
        elif not self.has_ended:
            del cuts.at[self]
        if error is None or is_ours or self.has_begun or not isinstance(error, DeadlineExceededError):
            return is_ours
        # A policy inside has kept our deadline, and noticed first; or that one was its own.
        return until is not None and until <= _clock.monotonic()

    def cancel(self) -> None:
        """Cut the request short."""
        self.was_cut = True
        if self._task is not None:
            self._task.cancel()


def _here(until: Seconds, left: Seconds) -> "tuple[Cuts | None, asyncio.Task[Any] | None, Seconds]":
    """Return who cuts the current task short, and by which instant of theirs; no task if there is none."""
    loop = asyncio._get_running_loop()
    task = None if loop is None else asyncio.current_task(loop)
    if loop is None or task is None:
        return None, None, until
    cuts = loops.of(loop)
    if cuts is not None:
        return cuts, task, until
    return Cuts(loop, loop.time), task, loop.time() + left  # by its own time, whatever that is
