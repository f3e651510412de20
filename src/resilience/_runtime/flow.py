"""
The slow path's language: what a policy may ask of the world.

A *flow* is a generator that yields commands and receives their results; it returns the `Outcome`
of the call. A policy wraps the flow of the next policy inward (*inner*). Flows know neither threads
nor event loops: the drivers in ``drive.py`` and ``adrive.py`` carry the commands out.

When a command is interrupted by a cancellation, a ``KeyboardInterrupt`` or the like, the exception
is thrown into the flow, which gives back what it holds and lets the exception pass.
"""

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from resilience.outcome import _PLAIN, CallContext, Outcome
from resilience.typing import Seconds

if TYPE_CHECKING:
    from resilience._runtime.replay import Replay

Flow: TypeAlias = Generator["Command", Any, Outcome[Any]]
Inner: TypeAlias = Callable[["Call"], Flow]
Held: TypeAlias = Callable[[Outcome[Any] | None], None]

PLAIN = _PLAIN


class Call:
    """
    Call the user's function. The reply is its `Outcome`.

    Attributes:
        fn: What is called.
        function: The user's function: what *fn* is, unless the runtime has put something around it.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        context: What is known about the call.
        paid: Id of the budget that knows of this call already, so that of a retry and a hedge that
            spend from one budget only the outer one reports the call to it; 0 if there is none.
        bill: Charges of policies further in, which the one that reports the call adds to its own.
        held: None for a call that is over when it returns. For a stream, the list of what must
            still be settled when the stream ends: each entry is called with its final outcome,
            or with None if it was abandoned. One that is cut short is called again, with None.
        replay: What generated code has done of it already, or None.

    """

    __slots__ = ("args", "bill", "context", "fn", "function", "held", "kwargs", "paid", "replay")

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        context: CallContext = PLAIN,
        held: list[Held] | None = None,
    ) -> None:
        self.fn = fn
        self.function = fn
        self.args = args
        self.kwargs = kwargs
        self.context = context
        self.held = held
        self.paid = 0
        self.bill: list[int] = []
        self.replay: Replay | None = None

    def again(self, context: CallContext) -> "Call":
        """Return a further attempt of this call, with nothing settled or held yet."""
        held: list[Held] | None = None if self.held is None else []
        attempt = Call(self.fn, self.args, self.kwargs, context, held)
        attempt.function, attempt.paid, attempt.bill = self.function, self.paid, self.bill
        if self.held is not None:
            # An attempt that nobody adopts, for whatever reason, is let go with this call at the latest.
            self.held.append(lambda _ending: attempt.let_go(None))
        return attempt

    def report_to(self, budget: object) -> bool:
        """Whether *budget* is told of this call here, and not by a policy further out."""
        if self.paid == id(budget):
            return False
        self.paid = id(budget)
        self.bill = []
        return True

    def adopt(self, attempt: "Call") -> None:
        """Take over what the attempt that won still holds."""
        if self.held is not None and attempt.held and attempt is not self:
            self.held.extend(attempt.held)
            attempt.held.clear()

    def let_go(self, outcome: Outcome[Any] | None) -> None:
        """Settle everything still held, innermost first. What an entry raises does not stop the others."""
        held = self.held
        while held:
            try:
                held[0](outcome)
            except BaseException:
                held.pop(0)(None)
                self.let_go(outcome)
                raise
            del held[0]


class Generated:
    """Make *call* by *run*, which is generated from what is inside the policy. The reply is its outcome."""

    __slots__ = ("call", "run")

    def __init__(self, call: Call, run: Callable[..., Any]) -> None:
        self.call = call
        self.run = run


class Sleep:
    """Let *seconds* pass."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: Seconds) -> None:
        self.seconds = seconds


class Waiter:
    """
    One who waits to be woken, in whatever thread or event loop.

    Attributes:
        woken: Whether somebody called since the last look; the one who waits clears it.
        permits: How many permits it waits for.
        is_gone: Tells whether its event loop is closed, so that it will never look again; None where that
            cannot happen.

    """

    __slots__ = ("is_gone", "permits", "signal", "woken")

    def __init__(self, permits: int = 1) -> None:
        self.woken = False
        self.permits = permits
        self.signal: Callable[[], None] | None = None
        self.is_gone: Callable[[], bool] | None = None

    def wake(self) -> bool:
        """Wake it; False if its event loop is closed, so that nobody will ever listen."""
        self.woken = True
        signal = self.signal
        if signal is None:
            return True
        try:
            signal()
        except RuntimeError:
            return False
        return True


class Park:
    """Wait until *waiter* is woken, or *seconds* have passed (None: for as long as it takes)."""

    __slots__ = ("seconds", "waiter")

    def __init__(self, waiter: Waiter, seconds: Seconds | None) -> None:
        self.waiter = waiter
        self.seconds = seconds


class Bound:
    """
    Run *flow* until the instant *until*. The reply is its outcome, or None if time ran out.

    Async drivers cancel the flow. A thread cannot be stopped: there the deadline is passed inwards
    and the flow's own end is awaited, unless *thread* asks for a worker thread, which is abandoned
    when time runs out and finishes on its own.

    Attributes:
        told: The instant that becomes the deadline in force for what runs inside; None to set none. The
            policies of the same flow know the instant in any case, by the context of their call.

    """

    __slots__ = ("flow", "thread", "told", "until")

    def __init__(self, flow: Flow, until: Seconds, *, thread: bool = False, tells: bool = True) -> None:
        self.flow = flow
        self.until = until
        self.thread = thread
        self.told = until if tells else None


class Nursery:
    """Run *flow*, which may yield `Spawn`. The reply is its outcome."""

    __slots__ = ("flow",)

    def __init__(self, flow: Flow) -> None:
        self.flow = flow


class Spawn:
    """
    Run *flow* beside the present one, in a copy of its context. The reply is a `Child`.

    *failed* is called with what escaped from the flow that is not an outcome: a cancellation, a
    ``SystemExit``. Only inside a `Nursery`.
    """

    __slots__ = ("failed", "flow")

    def __init__(self, flow: Flow, failed: Callable[[BaseException], None]) -> None:
        self.flow = flow
        self.failed = failed


class Child:
    """A spawned flow. `cancel` stops it if it can be stopped; a thread cannot."""

    __slots__ = ("cancel",)

    def __init__(self, cancel: Callable[[], object]) -> None:
        self.cancel = cancel


class Dispose:
    """Close a result that nobody will see. What closing raises is dropped."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


Command: TypeAlias = Call | Generated | Sleep | Park | Bound | Nursery | Spawn | Dispose


def leaf(call: Call) -> Flow:
    """Return the innermost flow: call the function, once, unless generated code has done so."""
    replay = call.replay
    # Even if it should be found further out: at a policy that a reload has taken away meanwhile.
    if replay is not None and replay.outcome is not None:
        return (yield from replay.found())
    outcome: Outcome[Any] = yield call
    return outcome
