"""The slow path on a thread."""

import contextvars
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from types import CoroutineType
from typing import Any, TypeVar, cast

from resilience import _clock
from resilience._runtime.flow import (
    Bound,
    Call,
    Child,
    Command,
    Dispose,
    Flow,
    Generated,
    Nursery,
    Park,
    Sleep,
    Spawn,
    Waiter,
)
from resilience._runtime.replay import outcome_of
from resilience.deadline import _innermost as innermost
from resilience.deadline import bounded, current_deadline, until_of, usage
from resilience.errors import DeadlineExceededError
from resilience.outcome import Outcome
from resilience.priority import priority_of, priority_scope
from resilience.typing import Seconds

T = TypeVar("T")


def run(flow: Flow) -> Outcome[Any]:
    """Run *flow* to its end, blocking this thread for every command."""
    # Not kept in a local: an error remembers the frames that called, with all that they hold.
    return cast("Outcome[Any]", result(flow))


def result(
    flow: Generator[Command, Any, Any], reply: Any = None, resume: Callable[[Any], Command] | None = None
) -> Any:
    """Run a flow, or the rest of one by *resume* with *reply*, and return what it returns."""
    resume = resume or flow.send
    try:
        while True:
            try:
                command = resume(reply)
            except StopIteration as stop:
                return stop.value
            finally:
                # An exception that passes through here refers to this frame: a frame that referred
                # back to the exception would keep both, and all their locals, alive until the GC runs.
                reply = None
            try:
                reply = perform(command)
                resume = flow.send
            except BaseException as error:  # noqa: BLE001  # thrown into the flow, which lets it pass
                reply = error
                resume = flow.throw
    except BaseException:
        flow.close()  # interrupted between two steps, it still gives back what it holds
        raise


def unwrap(outcome: Outcome[T]) -> T:
    """Return the value, or raise the error."""
    if outcome.error is None:
        return outcome.value
    context = outcome.error.__context__
    try:
        raise outcome.error
    finally:
        if context is not None:  # raised while its caller handles another error, it would lose its own
            outcome.error.__context__ = context
        del outcome, context  # no cycle: frame -> outcome -> error -> traceback -> frame


def perform(command: Command) -> Any:  # noqa: PLR0911  # one return a command
    match command:
        case Call():
            return _call(command)
        case Sleep():
            return sleep(command.seconds)
        case Park():
            return _park(command.waiter, command.seconds)
        case Bound():
            return _bound(command)
        case Nursery():
            return run(command.flow)
        case Spawn():
            return _spawn(command)
        case Dispose():
            return dispose(command.value)
        case Generated():
            return outcome_of(command.run(*command.call.args, **command.call.kwargs))


def _call(call: Call) -> Outcome[Any]:
    # A step before this one may have used the time up, or somebody may have told this thread to stop.
    # Not every limit of time around it is a deadline in force.
    if _has_passed(call.context.deadline) or (usage.used and _has_passed(current_deadline())):
        return Outcome(error=DeadlineExceededError("deadline exceeded: not started"))
    # The calls that it makes are as important as it is.
    scope = None if call.context.priority is None else priority_scope(priority_of(call.context))
    try:
        if scope is None:
            value = call.fn(*call.args, **call.kwargs)
        else:
            with scope:
                value = call.fn(*call.args, **call.kwargs)
    except Exception as error:  # noqa: BLE001  # an outcome; the policies judge it
        return Outcome(error=error)
    if type(value) is CoroutineType:
        value.close()
        raise TypeError(returned_a_coroutine(call.fn))
    return Outcome(value)


def _has_passed(until: Seconds | None) -> bool:
    return until is not None and until <= _clock.monotonic()


def returned_a_coroutine(fn: Callable[..., Any]) -> str:
    """Return what is wrong with a plain function that returned a coroutine."""
    name = getattr(fn, "__qualname__", repr(fn))
    return f"{name} returned a coroutine: decorate the async function itself, or use acall()"


def sleep(seconds: Seconds) -> None:
    """Let *seconds* pass."""
    if seconds <= 0:
        return
    if _clock.fake is not None:
        _clock.fake.sleep(seconds)
    else:
        time.sleep(min(seconds, threading.TIMEOUT_MAX))


def _park(waiter: Waiter, seconds: Seconds | None) -> None:
    if _clock.fake is not None:
        _clock.fake.park(waiter, seconds)
        return
    block(waiter, seconds)


def block(waiter: Waiter, seconds: Seconds | None) -> None:
    """Block this thread until *waiter* is woken, at most for *seconds*."""
    bell = threading.Lock()
    bell.acquire()

    def ring() -> None:
        with suppress(RuntimeError):  # rung already
            bell.release()

    waiter.signal = ring
    try:
        if not waiter.woken and (seconds is None or seconds > 0):
            bell.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))
    finally:
        waiter.signal = None


def _bound(command: Bound) -> Outcome[Any] | None:
    if command.thread:
        return _in_worker(command)
    block = bounded(command.told)
    try:
        with block:
            return run(command.flow)
    except BaseException:
        # Interrupted on the way out of the block: a deadline left in force would fail every later call.
        block.__exit__(None, None, None)
        raise


def _in_worker(command: Bound) -> Outcome[Any] | None:
    waiter = Waiter()
    ended: list[Outcome[Any]] = []
    escaped: list[BaseException] = []

    def work() -> None:
        try:
            with bounded(command.told):
                ended.append(run(command.flow))
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
            escaped.append(error)
        finally:
            waiter.wake()

    _start(work)
    while not waiter.woken and (left := command.until - _clock.monotonic()) > 0:
        _park(waiter, left)
    if escaped:
        raise escaped.pop()
    return ended.pop() if ended else None


class _Revocable(bounded):
    """A block with the deadline of the one around it, until somebody says that time is up."""

    __slots__ = ()

    def __init__(self) -> None:
        # In the thread that spawns: the other one runs in a copy of this context.
        self.outer = innermost.get()
        self.until = until_of(self.outer)

    def __enter__(self) -> None:
        innermost.set(self)

    def revoke(self, context: contextvars.Context) -> None:
        """Let time be up for what runs in this block, which is in *context*, and in the blocks inside it."""
        now = _clock.monotonic()
        usage.begin()
        self.until = now
        inside: list[bounded] = []
        block = context.get(innermost)
        while isinstance(block, bounded) and block is not self:
            inside.append(block)
            block = block.outer
        if block is self:  # else it has not begun, or is over, and those blocks are not its own
            for each in inside:
                each.until = now


def _spawn(command: Spawn) -> Child:
    block = _Revocable()

    def work() -> None:
        try:
            with block:
                run(command.flow)
        except BaseException as error:  # noqa: BLE001  # handed to the flow that spawned
            command.failed(error)

    try:
        context = _start(work)
    except BaseException:
        block.revoke(contextvars.Context())  # interrupted, it may have begun all the same
        raise
    return Child(lambda: block.revoke(context))


def _start(work: Callable[[], None]) -> contextvars.Context:
    context = contextvars.copy_context()
    worker = None if _clock.fake is None else _clock.fake.worker(work)
    # A daemon, so that work that was abandoned cannot keep the process from ending.
    thread = threading.Thread(target=context.run, args=(worker or work,), name="resilience", daemon=True)
    outer, struck = sys.exception(), None
    try:
        thread.start()
    except BaseException as error:
        if worker is not None:
            worker.end()
        struck = error.__context__
        if isinstance(error, RuntimeError) and struck is not None and struck is not outer:
            # An interrupt may strike where `start` has let go of its own lock for a moment. Releasing that
            # lock again then fails, and what comes out looks as if there were no thread left.
            raise struck from None
        raise
    finally:
        outer = struck = None  # no cycle: frame -> error -> traceback -> frame
    return context


def dispose(value: object) -> None:
    """Close a value that nobody will see. What closing raises is dropped."""
    close = getattr(value, "close", None)
    if callable(close):
        try:
            close()
        except Exception:  # noqa: BLE001, S110  # nobody waits for this result any more
            pass
