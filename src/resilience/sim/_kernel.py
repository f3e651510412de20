"""Virtual time: a heap of things to do, and a driver that runs the package's own flows on it."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from heapq import heappop, heappush
from itertools import count
from typing import Any, TypeAlias

from resilience import _clock
from resilience._runtime.flow import Bound, Call, Child, Command, Dispose, Flow, Nursery, Park, Sleep, Spawn
from resilience.outcome import Outcome
from resilience.typing import Seconds

Action: TypeAlias = Callable[[Any], None]
Entry: TypeAlias = list[Any]
"""One thing to do: instant, number, action, argument. Its action is None once it was called off."""


class Kernel:
    """
    The present instant, and what is to be done later, in order of time and then of asking.

    Attributes:
        now: The present instant, in virtual seconds.
        events: Things done so far.

    """

    __slots__ = ("_heap", "_number", "events", "now")

    def __init__(self) -> None:
        self.now: Seconds = 0.0
        self.events = 0
        self._heap: list[Entry] = []
        self._number = count()

    def after(self, seconds: Seconds, action: Action, argument: Any = None) -> Entry:
        """Do something *seconds* from now."""
        entry: Entry = [self.now + seconds, next(self._number), action, argument]
        heappush(self._heap, entry)
        return entry

    def at(self, instant: Seconds, action: Action, argument: Any = None) -> Entry:
        """Do something at an instant, at once if that is past."""
        return self.after(max(0.0, instant - self.now), action, argument)

    def run(self, until: Seconds) -> None:
        """Do everything that is due before *until*."""
        heap = self._heap
        while heap and heap[0][0] < until:
            self.now, _, action, argument = heappop(heap)
            if action is not None:
                self.events += 1
                action(argument)
        self.now = until

    @contextmanager
    def in_charge(self) -> Generator[None, None, None]:
        """Let every policy of this process live in virtual time inside the block."""
        before = _clock.monotonic
        _clock.replace(lambda: self.now)
        try:
            yield
        finally:
            _clock.replace(before)


def call_off(entry: Entry | None) -> None:
    """Call off something that is to be done later."""
    if entry is not None:
        entry[2] = None


class Cancelled(BaseException):
    """What a task is thrown when it is cancelled."""


Attempt: TypeAlias = Callable[[Call, Callable[[Outcome[Any]], None]], Action]
"""Begin a call in the world: report its outcome to the callback. Returns what to do if it is abandoned."""


class Task:
    """
    One flow, run in virtual time: the third driver beside threads and event loops.

    A `Call` is begun by *attempt*. *done* gets the outcome, or None if the task was cancelled.
    """

    __slots__ = ("_attempt", "_children", "_done", "_flow", "_kernel", "_stop", "_waiting")

    def __init__(
        self, kernel: Kernel, flow: Flow, attempt: Attempt, done: Callable[[Outcome[Any] | None], None]
    ) -> None:
        self._kernel = kernel
        self._flow = flow
        self._attempt = attempt
        self._done = done
        self._stop: Action | None = None  # ends what is being waited for
        self._waiting = 0  # number of the wait under way, so that an answer to an earlier one is dropped
        self._resume(flow.send, None)

    def cancel(self) -> None:
        """Throw `Cancelled` into the flow where it waits."""
        stop, self._stop = self._stop, None
        if stop is None:
            return
        self._waiting += 1
        stop(None)
        self._resume(self._flow.throw, Cancelled())

    def _resume(self, step: Callable[[Any], Command], value: Any) -> None:
        while True:
            try:
                command = step(value)
            except StopIteration as ended:
                self._stop = None
                self._done(ended.value)
                return
            except Cancelled:
                self._stop = None
                self._done(None)
                return
            step = self._flow.send
            if isinstance(command, (Dispose, Spawn)):
                value = self._spawned(command) if isinstance(command, Spawn) else None
                continue
            self._begin(command)
            return

    def _answer(self, number: int) -> Callable[[Any], None]:
        def answer(value: Any) -> None:
            if number == self._waiting and self._stop is not None:
                self._stop = None
                self._resume(self._flow.send, value)

        return answer

    def _begin(self, command: Command) -> None:
        self._waiting += 1
        answer = self._answer(self._waiting)
        kernel = self._kernel
        self._stop = _nothing
        match command:
            case Call():
                self._wait(self._waiting, self._attempt(command, answer))
            case Sleep():
                entry = kernel.after(command.seconds, answer)
                self._stop = lambda _: call_off(entry)
            case Park():
                self._park(command, answer)
            case Bound():
                self._bound(command, answer)
            case Nursery():
                child = Task(kernel, command.flow, self._attempt, answer)
                self._wait(self._waiting, lambda _: child.cancel())
            case _:  # pragma: no cover  # answered at once, above
                raise AssertionError(command)

    def _wait(self, number: int, stop: Action) -> None:
        # Unless it ended already, while it was begun.
        if number == self._waiting and self._stop is not None:
            self._stop = stop

    def _park(self, command: Park, answer: Action) -> None:
        kernel, waiter = self._kernel, command.waiter
        entry: Entry | None = None
        if waiter.woken:
            entry = kernel.after(0.0, answer)
        elif command.seconds is not None:
            entry = kernel.after(command.seconds, answer)

        def wake() -> None:
            kernel.after(0.0, answer)

        def stop(_: Any) -> None:
            waiter.signal = None
            call_off(entry)

        waiter.signal = wake
        self._stop = stop

    def _bound(self, command: Bound, answer: Action) -> None:
        number = self._waiting
        child: Task | None = None
        timer: Entry | None = None

        def ended(outcome: Outcome[Any] | None) -> None:
            call_off(timer)
            answer(outcome)

        def expire(_: Any) -> None:
            if child is not None:
                child.cancel()

        timer = self._kernel.at(command.until, expire)
        child = Task(self._kernel, command.flow, self._attempt, ended)

        def stop(_: Any) -> None:
            call_off(timer)
            child.cancel()

        self._wait(number, stop)

    def _spawned(self, command: Spawn) -> Child:
        child = Task(self._kernel, command.flow, self._attempt, _nothing)
        return Child(child.cancel)


def _nothing(_: Any) -> None:
    """Do nothing."""
