"""Which attempt of a call is under way, for whoever asks from inside it."""

from contextvars import Context, ContextVar
from types import TracebackType
from typing import Final, TypeAlias

from resilience._runtime.flow import PLAIN
from resilience.deadline import _innermost as deadlines
from resilience.outcome import CallContext


class attempt_scope:  # noqa: N801  # reads as a statement: with attempt_scope(context)
    """
    Let `current_attempt` return *context* inside the block. A block is entered once.

    Meant for flows: a generator may be closed later, in a context that never saw the block, or that
    has seen other blocks since. Such an end leaves the attempts of others alone.

    Attributes:
        context: The context of the attempt.
        outer: The block around this one, if there is one.

    """

    __slots__ = ("context", "outer")

    def __init__(self, context: CallContext) -> None:
        self.context = context
        self.outer: attempt_scope | CallContext | None = None

    def __enter__(self) -> None:
        self.outer = innermost.get()
        innermost.set(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # As in deadline.bounded: a token would refuse an end that is out of order or in another
        # context, so the block is taken out of the chain wherever it stands.
        inner, block = None, innermost.get()
        while isinstance(block, attempt_scope) and block is not self:
            inner, block = block, block.outer
        if block is not self:
            return
        if inner is None:
            innermost.set(self.outer)
        else:
            inner.outer = self.outer


Block: TypeAlias = attempt_scope | CallContext | None
"""A block; or, around a call that is made and ends in one place of one thread, just its context."""

innermost: Final[ContextVar[Block]] = ContextVar("resilience.attempt", default=None)
"""The nearest block; nobody sets it but this module, and who makes further attempts without a flow."""


def current_attempt() -> CallContext:
    """
    Return the context of the attempt that is under way here: its number, operation and deadline.

    That is the nearest further attempt of a `Retry`, or any attempt of a `Hedge`. Elsewhere, and in
    the first attempt of a retry, the answer is a plain context, with ``attempt`` 1.

    Example:
        >>> current_attempt().attempt
        1

    """
    block = innermost.get()
    if isinstance(block, attempt_scope):
        return block.context
    return PLAIN if block is None else block


def take_over(context: Context) -> None:
    """Let what was set in *context* hold in the present one, but for what belongs to the attempt itself."""
    for variable, value in context.items():
        if variable is not innermost and variable is not deadlines and variable.get(_UNSET) is not value:
            variable.set(value)


_UNSET: Final = object()
