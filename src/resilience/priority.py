"""
How important a call is: set once where a request comes in, and carried on to all that it calls.

A block gives what runs inside it a priority; the innermost block wins, so that a piece of work may
be declared less or more important than what it is a part of. Policies that must refuse something
refuse what is least important first. Without a block, and without a priority of the call's own
(`CallContext.priority`), a call is `Priority.NORMAL`.

Tasks inherit the priority they were started under; threads do when they are given the context, as
`asyncio.to_thread` and ``contextvars.copy_context().run`` do.

Source: the criticality classes of the SRE book (chapter "Handling Overload"), which travel with a
request through all of its calls; their number is failsafe-go's.
"""

import enum
from contextvars import ContextVar
from functools import total_ordering
from types import TracebackType
from typing import Final

from resilience.errors import ConfigError, Problem
from resilience.outcome import CallContext


@total_ordering
class Priority(enum.Enum):
    """
    How important a call is. The values are the words that travel in a header.

    Priorities sort by who comes first: ``Priority.CRITICAL < Priority.LOW``.

    Attributes:
        rank: Number of the class, from 0 for the one that comes first.

    Example:
        >>> Priority("low")
        <Priority.LOW: 'low'>
        >>> min(Priority.LOW, Priority.HIGH)
        <Priority.HIGH: 'high'>

    """

    CRITICAL = "critical"
    """A refusal does lasting harm: a payment, a login. Refused last."""
    HIGH = "high"
    """Somebody waits for it and would notice."""
    NORMAL = "normal"
    """Whatever nobody said anything about."""
    LOW = "low"
    """Nobody waits for it, and it will be tried again: batch work."""
    SHEDDABLE = "sheddable"
    """Done if there is room, or never: a prefetch, a suggestion. Refused first."""

    rank: int

    def __init__(self, word: str) -> None:  # noqa: ARG002  # an enum hands over the value, which it keeps itself
        self.rank = len(type(self).__members__)

    def __lt__(self, other: object) -> bool:
        return self.rank < other.rank if isinstance(other, Priority) else NotImplemented


class Usage:
    """
    Whether priorities are used at all, so that code on the hot path need not look for one.

    Attributes:
        used: False until the first block sets a priority in this process, then True for good, as
            tasks and threads may keep their copy of a block's context after the block has ended.

    """

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = False


usage: Final = Usage()


class priority_scope:  # noqa: N801  # reads as a statement: with priority_scope(Priority.LOW)
    """
    Give everything inside the block a priority.

    A plain ``with``, also inside ``async def``. A block is entered once.

    Args:
        priority: The priority; None leaves it as it is.

    Attributes:
        priority: The priority given, or None.
        outer: The block around this one, if there is one.

    Raises:
        ConfigError: *priority* is not a `Priority`.

    Example:
        >>> with priority_scope(Priority.LOW):
        ...     current_priority()
        <Priority.LOW: 'low'>

    """

    __slots__ = ("_entered", "outer", "priority")

    def __init__(self, priority: Priority | None) -> None:
        if priority is not None and not isinstance(priority, Priority):
            raise ConfigError("priority_scope", [Problem("priority", priority, "must be a Priority or None")])
        self.priority = priority
        self.outer: priority_scope | None = None
        self._entered = False

    def __enter__(self) -> None:
        if self._entered:
            raise RuntimeError("a priority block is entered once: make a new one")
        self._entered = True
        if self.priority is None:
            return
        self.outer = _innermost.get()
        usage.used = True
        _innermost.set(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # As in deadline.bounded: a token would refuse an end that is out of order or in another
        # context, as generators bring about, so the block is taken out of the chain wherever it stands.
        inner, block = None, _innermost.get()
        while block is not None and block is not self:
            inner, block = block, block.outer
        if block is None:
            # It ends where nobody entered it; where it was entered nobody can take it out any more.
            self.priority = None if self.outer is None else self.outer.priority
            return
        if inner is None:
            _innermost.set(self.outer)
        else:
            inner.outer = self.outer


_innermost: ContextVar[priority_scope | None] = ContextVar("resilience.priority", default=None)


def current_priority() -> Priority:
    """Return the priority of the innermost block; `Priority.NORMAL` if there is none."""
    if not usage.used:
        return Priority.NORMAL
    block = _innermost.get()
    # A block without a priority of its own is never the innermost: it does not enter the chain.
    return Priority.NORMAL if block is None or block.priority is None else block.priority


def priority_of(context: CallContext) -> Priority:
    """
    Return the priority of a call: its own if it was given one, else that of the innermost block.

    Raises:
        TypeError: The call was given something else than a `Priority`.

    """
    given = context.priority
    if given is None:
        return current_priority()
    if isinstance(given, Priority):
        return given
    raise TypeError(f"CallContext.priority must be a Priority, got {given!r}")
