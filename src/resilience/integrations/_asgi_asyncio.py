"""One request that has a deadline, from its beginning to its end."""

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from resilience import _clock
from resilience._runtime._asyncio_cuts import Cuts, loops
from resilience.deadline import _innermost as block
from resilience.deadline import bounded
from resilience.errors import DeadlineExceededError
from resilience.integrations._asgi_messages import Message, Send, ends_answer
from resilience.typing import Seconds


class Timed(bounded):
    """
    A deadline block that is cut short, and ends with the last part of the answer.

    Like ``asyncio.timeout``, it cancels once: the application's own cleaning up is not cancelled again. And a
    cancellation by somebody else leaves as it came.

    Nothing is set when it is made, which would cost as much again: whoever makes one sets it all.

    Attributes:
        forward: Sends a message to the server.
        has_begun: Whether the answer has begun.
        has_ended: Whether it is complete.
        was_cut: Whether the request was cancelled because its time was up, even if it ended as it liked.
        task: The task that it cancels.
        cancels: How many cancellations that had to bear when the request began.

    """

    __slots__ = ("cancels", "forward", "has_begun", "has_ended", "task", "was_cut")

    cancels: int
    forward: Send
    has_begun: bool
    has_ended: bool
    task: "asyncio.Task[Any] | None"
    was_cut: bool

    if TYPE_CHECKING:

        def __init__(self) -> None: ...

    else:
        __init__ = object.__init__  # not that of `bounded`

    def send(self, message: Message) -> Awaitable[None]:
        """Send a part of the answer."""
        # No coroutine of its own: there is nothing to do afterwards.
        if not self.has_begun:
            # Noted before it is sent: who is cancelled meanwhile cannot know whether it was.
            if message["type"] == "http.response.start":
                self.has_begun = True
        elif (
            "more_body" not in message or not message["more_body"]
            if message["type"] == "http.response.body"
            else ends_answer(message)
        ):
            self.has_ended = True
            outer = self.outer
            self.until = outer.until if isinstance(outer, bounded) else outer
            if (inside := block.get()) is not self:
                self._let_go(inside)
        forward = self.forward
        return forward(message)

    def _let_go(self, inside: object) -> None:
        """Let those whose answers are complete, from *inside* outwards, have no deadline of this request."""
        ended: list[Timed] = []
        while isinstance(inside, Timed) and inside.has_ended and inside is not self:
            ended.append(inside)
            inside = inside.outer
        if inside is self:
            for each in ended:
                each.until = self.until

    def end(self, cuts: Cuts, error: BaseException | None) -> bool:
        """Leave the block, which ended with *error*; return whether that was our doing."""
        is_late = self.is_late()
        if block.get() is self:
            block.set(self.outer)
        else:
            self.__exit__(None, None, None)
        task, self.task = self.task, None  # no cycle: task -> error -> traceback -> frame -> task
        cuts.at.pop(self, None)
        if self.was_cut and task is not None:
            is_last = task.uncancel() <= self.cancels
            if is_last and isinstance(error, asyncio.CancelledError):
                return True
        # A policy inside has kept our deadline, and noticed first; or that one was its own.
        return is_late and isinstance(error, DeadlineExceededError)

    def is_late(self) -> bool:
        """Whether the time is up, and the answer has not begun."""
        return not self.has_begun and self.until is not None and self.until <= _clock.monotonic()

    def cancel(self) -> None:
        """Cut the request short, unless its answer is complete."""
        if self.task is not None and not self.has_ended:
            self.was_cut = True
            self.task.cancel()


def cuts_here(until: Seconds) -> "tuple[Cuts | None, asyncio.Task[Any] | None, Seconds]":
    """Return who cuts the current task short, and by which instant of theirs; no task if there is none."""
    loop = asyncio._get_running_loop()
    task = None if loop is None else asyncio.current_task(loop)
    if loop is None or task is None:
        return None, None, until
    cuts = loops.of(loop)
    if cuts is not None:
        return cuts, task, until
    by_its_own_time = loop.time() + until - _clock.monotonic()  # whatever that is
    return Cuts(loop, loop.time), task, by_its_own_time
