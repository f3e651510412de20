"""Delays that a function decides, and what counts as a backoff."""
# ruff: noqa: N801  # PEP 8: a class that is used as a callable is named like a function

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, TypeAlias, cast

from resilience._core.check import Check, is_finite
from resilience.backoff._jittered import full_jitter
from resilience.backoff._schedule import LONGEST, Backoff, Delays, Steady
from resilience.outcome import CallContext
from resilience.outcome import _attempt_of as attempt_of
from resilience.typing import Seconds

DelayFunction: TypeAlias = Callable[[CallContext], Seconds | None]
"""Return the delay before the next retry; ``context.attempt`` is the number of that retry, from 1."""


@dataclass(frozen=True, slots=True)
class computed:
    """
    Whatever a function returns.

    The function gets the `CallContext`, whose ``attempt`` is the number of the retry, from 1. When it returns
    None, or something that is no finite length of time >= 0, *otherwise* decides, as in Polly.

    Attributes:
        function: Returns seconds, or None. Called once for each retry.
        otherwise: The backoff that decides when the function does not; default ``full_jitter()``.

    Raises:
        ConfigError: The function cannot be called, or *otherwise* is no backoff.

    Example:
        >>> delays = computed(lambda context: 0.1 * context.attempt).start()
        >>> delays.before(5, draw=0.0)
        0.5

    """

    function: DelayFunction
    _: KW_ONLY
    otherwise: Backoff = field(default_factory=full_jitter)

    def __post_init__(self) -> None:
        check = Check("computed")
        check.that(callable(self.function), "function", self.function, "must be callable")
        check.that(is_backoff(self.otherwise), "otherwise", self.otherwise, "must be a backoff")
        check.done()

    def start(self, context: CallContext | None = None) -> Delays:
        """Return the delays of one call."""
        return _Computed(self, CallContext() if context is None else context)


class _Computed:
    """The delays of one call, whose context the function gets."""

    __slots__ = ("_context", "_otherwise", "_remembers", "_settings")

    def __init__(self, settings: computed, context: CallContext) -> None:
        self._settings = settings
        self._context = context
        self._remembers = not isinstance(settings.otherwise, Steady)
        steady: Any = settings.otherwise  # what remembers nothing is its own delays
        self._otherwise: Delays = steady.start(context) if self._remembers else steady

    def before(self, retry: int, draw: float) -> Seconds:
        context, otherwise = self._context, self._otherwise
        # Asked in any case if it may have to remember the retry.
        instead = otherwise.before(retry, draw) if self._remembers else None
        delay = self._settings.function(context if retry == context.attempt else attempt_of(context, retry))
        if type(delay) is float and 0.0 <= delay <= LONGEST:  # mostly
            return delay
        if is_finite(delay) and delay >= 0:
            return min(LONGEST, delay)
        return otherwise.before(retry, draw) if instead is None else instead


def is_backoff(value: object) -> bool:
    """Whether *value* is a backoff, one of ours or of the user's own making."""
    return isinstance(value, Backoff) and not isinstance(value, type)


def as_backoff(value: object) -> Backoff | None:
    """Return *value* as a backoff: as it is, or `computed` if it is a function; None if it is neither."""
    if is_backoff(value):
        return cast("Backoff", value)
    return computed(cast("DelayFunction", value)) if callable(value) and not isinstance(value, type) else None
