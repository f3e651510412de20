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
    A deadline block that is cut short, and is over with the last part of the answer, or with its head.

    Like ``asyncio.timeout``, it cancels once: the application's own cleaning up is not cancelled again. And a
    cancellation by somebody else leaves as it came.

    Nothing is set when it is made, which would cost as much again: whoever makes one sets it all.

    Attributes:
        at: When each request of its loop is cut short, this one among them; empty where asyncio does not run.
        beyond: Instant of what is outside of it and of the requests around it, or None. Set like *own*.
        cancels: How many cancellations its task had to bear when the request began.
        forward: Sends a message to the server.
        has_begun: Whether the answer has begun.
        has_ended: Whether it is complete.
        inside: The request directly inside of it that began last, of another layer as a rule; None if there
            is none.
        own: Instant at which it is cut short, whatever requests are around it; None when its time does not
            matter any more. Not set if nothing is around it.
        was_cut: Whether the request was cancelled because its time was up, even if it ended as it liked.
        task: The task that it cancels.

    """

    __slots__ = (
        "at", "beyond", "cancels", "forward", "has_begun", "has_ended", "inside", "own", "task", "was_cut",
    )  # fmt: skip

    at: "dict[Any, Seconds]"
    beyond: Seconds | None
    cancels: int
    forward: Send
    has_begun: bool
    has_ended: bool
    inside: "Timed | None"
    own: Seconds | None
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
            if (outer := self.outer) is None:
                self.until = None
            else:
                self.until = outer.until if isinstance(outer, bounded) else outer
                self.own = None
            if (inside := self.inside) is not None:
                self._let_go(inside)
        forward = self.forward
        return forward(message)

    def send_head(self, message: Message) -> Awaitable[None]:
        """Send a part of an answer that need only begin in time."""
        # Written out as in `send`: a method of both would cost as much again.
        if not self.has_begun:
            if message["type"] == "http.response.start":
                self.has_begun = True
                self.at.pop(self, None)
                if (outer := self.outer) is None:
                    self.until = None
                else:
                    self.until = outer.until if isinstance(outer, bounded) else outer
                    self.own = None
                if (inside := self.inside) is not None:
                    self._let_go(inside)
        elif (
            "more_body" not in message or not message["more_body"]
            if message["type"] == "http.response.body"
            else ends_answer(message)
        ):
            self.has_ended = True
        forward = self.forward
        return forward(message)

    def _let_go(self, inside: "Timed | None") -> None:
        """Let *inside*, and the requests inside of that, have no deadline of this one, which is over."""
        left = self.until
        while inside is not None:
            own = inside.own
            if own is not None and (left is None or own < left):
                left = own
            inside.until = left
            inside = inside.inside

    def end(self, error: BaseException | None) -> bool:
        """Leave the block, which ended with *error*; return whether that was our doing."""
        is_late = self.is_late()
        if block.get() is self:
            block.set(self.outer)
        else:
            self.__exit__(None, None, None)
        task, self.task = self.task, None  # no cycle: task -> error -> traceback -> frame -> task
        self.at.pop(self, None)
        self.inside = None  # no cycle: this one is outside of that one
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
