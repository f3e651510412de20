"""
The caller's remaining time: how it is set, inherited and sent over the wire.

A deadline is an instant on the monotonic clock that everything inside a block shares. It is
enforced by async policies at their awaits and by sync policies between steps; user code is never
interrupted on a thread. A block therefore raises nothing by itself: it says how long there is.

Tasks inherit the deadline they were started under; threads do when they are given the context, as
`asyncio.to_thread` and ``contextvars.copy_context().run`` do.
"""

import re
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Final, TypeAlias

from resilience import _clock
from resilience._core.check import Check, is_finite
from resilience.errors import DeadlineExceededError
from resilience.typing import Seconds


class Usage:
    """
    Whether deadlines are used at all, so that code on the hot path need not look for one.

    Attributes:
        used: False until the first deadline is set in this process, then True for good. A task or
            a thread keeps its copy of a block's context after the block has ended, so the number
            of open blocks would not tell whether somebody still has a deadline.
        listeners: Called once, when deadlines come into use: code that does not look is made anew.

    """

    __slots__ = ("listeners", "used")

    def __init__(self) -> None:
        self.used = False
        self.listeners: list[Callable[[], object]] = []

    def begin(self) -> None:
        """Let everybody look for a deadline from here on."""
        if not self.used:
            self.used = True
            for listener in self.listeners:
                listener()


usage: Final = Usage()


class bounded:  # noqa: N801  # reads as a statement: with bounded(until)
    """
    Let nothing inside the block outlast an instant on the monotonic clock, or the outer deadline.

    What policies use once they know an instant; users say `deadline`. A block is entered once.

    Attributes:
        until: The instant in force inside the block; None if there is none.
        outer: The block around this one, if there is one.

    """

    __slots__ = ("_entered", "outer", "until")

    def __init__(self, until: Seconds | None) -> None:
        self.until = until
        self.outer: Block | None = None
        self._entered = False

    def __enter__(self) -> None:
        if self._entered:
            raise RuntimeError("a deadline block is entered once: make a new one")
        self._entered = True
        if self.until is None:
            return
        outer = self.outer = _innermost.get()
        until = until_of(outer)
        if until is not None:
            self.until = min(self.until, until)
        usage.begin()
        _innermost.set(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Generators end their blocks out of order, and sometimes in a context that never saw the
        # block. A token would refuse that, or bring an ended deadline back for good; taking the
        # block out of the chain wherever it stands does neither.
        inner, block = None, _innermost.get()
        while isinstance(block, bounded) and block is not self:
            inner, block = block, block.outer
        if block is not self:
            # It ends where nobody entered it; where it was entered nobody can take it out any more.
            self.until = until_of(self.outer)
            return
        if inner is None:
            _innermost.set(self.outer)
        else:
            inner.outer = self.outer


class deadline(bounded):  # noqa: N801  # reads as a statement: with deadline(2.0)
    """
    Give everything inside the block *seconds* from its start, or less if an outer one ends sooner.

    A plain ``with``, also inside ``async def``. An inner deadline never extends an outer one.

    Args:
        seconds: Time for the whole block, a finite number of seconds > 0; None sets no deadline.

    Raises:
        ConfigError: *seconds* is not such a number. A zero timeout is an error, not "no limit".

    Example:
        >>> with deadline(2.0):
        ...     with deadline(60.0):
        ...         remaining() <= 2.0
        True

    """

    __slots__ = ("seconds",)

    def __init__(self, seconds: Seconds | None) -> None:
        check = Check("deadline")
        check.seconds("seconds", seconds, optional=True)
        check.done()
        super().__init__(None)
        self.seconds = seconds

    def __enter__(self) -> None:
        if self.seconds is not None and not self._entered:
            self.until = _clock.monotonic() + self.seconds
        super().__enter__()


Block: TypeAlias = bounded | float
"""A block; or, from generated code, just the instant at which a call's time is up."""

_innermost: ContextVar[Block | None] = ContextVar("resilience.deadline", default=None)


def until_of(block: Block | None) -> Seconds | None:
    """Return the instant in force in *block*."""
    return block.until if isinstance(block, bounded) else block


def current_deadline() -> Seconds | None:
    """Return the instant on the monotonic clock at which the caller stops waiting, or None."""
    return until_of(_innermost.get())


def remaining() -> Seconds | None:
    """Return the seconds left, 0.0 once the deadline has passed; None if there is no deadline."""
    until = current_deadline()
    return None if until is None else max(0.0, until - _clock.monotonic())


def check_deadline() -> None:
    """
    Make sure that there is time left to begin something.

    Raises:
        DeadlineExceededError: The deadline has passed; ``started`` is False.

    """
    until = current_deadline()
    if until is None:
        return
    late = _clock.monotonic() - until
    if late >= 0:
        raise DeadlineExceededError(f"deadline exceeded {late:.3g} s ago: not started")


# The wire format of grpc-timeout: one to eight digits and a unit.

NANOSECONDS: Final = {
    "n": 1,
    "u": 1_000,
    "m": 1_000_000,
    "S": 1_000_000_000,
    "M": 60 * 1_000_000_000,
    "H": 3_600 * 1_000_000_000,
}
"""Nanoseconds in each unit, finest first."""

LONGEST: Final = 2**63 - 1
"""The longest time that can be sent, in nanoseconds (292 years). What is longer counts as this."""

_SECOND: Final = NANOSECONDS["S"]
_MOST_DIGITS: Final = 8
_HEADER: Final = re.compile(rf"([0-9]{{1,{_MOST_DIGITS}}})([{''.join(NANOSECONDS)}])")


def encode_timeout(seconds: Seconds) -> str:
    """
    Write the time left as ``grpc-timeout`` and ``X-Request-Timeout`` carry it.

    The finest unit that fits eight digits, rounded up: what is read back is never shorter, and
    longer by less than a nanosecond or a hundred-thousandth, whichever is more.

    Args:
        seconds: Time left. Zero and less mean that it is used up (``0n``).

    Raises:
        ValueError: *seconds* is not a finite number. No deadline means no header.

    Example:
        >>> encode_timeout(0.25)
        '250000u'

    """
    if not is_finite(seconds):
        raise ValueError(f"a timeout must be a finite number of seconds, got {seconds!r}")
    numerator, denominator = seconds.as_integer_ratio()
    nanoseconds = numerator * _SECOND // denominator
    if nanoseconds / _SECOND < seconds:  # as floats, so that 0.3 is not 300000001 nanoseconds
        nanoseconds += 1
    return encode_nanoseconds(nanoseconds)


def encode_nanoseconds(nanoseconds: int) -> str:
    """Write a whole number of nanoseconds, as `encode_timeout` does."""
    left = min(max(nanoseconds, 0), LONGEST)
    units = iter(NANOSECONDS.items())
    unit, size = next(units)
    while (count := -(-left // size)) >= 10**_MOST_DIGITS:
        unit, size = next(units)
    return f"{count}{unit}"


def decode_timeout(text: str) -> Seconds:
    """
    Read a ``grpc-timeout`` value: seconds, at most 292 years; 0.0 means that time is used up.

    Raises:
        ValueError: *text* is not one to eight digits and one of ``H M S m u n``.

    Example:
        >>> decode_timeout("250000u")
        0.25

    """
    return decode_nanoseconds(text) / _SECOND


def decode_nanoseconds(text: str) -> int:
    """Read a ``grpc-timeout`` value as nanoseconds, as `decode_timeout` does."""
    match = _HEADER.fullmatch(text)
    if match is None:
        shown = text if len(text) <= 32 else text[:32] + "…"
        raise ValueError(f"not a timeout: {shown!r}; want 1 to 8 digits and a unit, one of H M S m u n")
    digits, unit = match.groups()
    return min(int(digits) * NANOSECONDS[unit], LONGEST)
