"""What may be set on a timeout."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from resilience._core.check import Check
from resilience.outcome import CallContext
from resilience.typing import Seconds

DurationOf: TypeAlias = Callable[[CallContext], Seconds | None]
"""Says how long a call may take, from what is known about it. None: as long as it likes."""

MAX_ABANDONED: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutSettings:
    """How long a call is waited for, and what is done about a plain function that takes longer."""

    duration: Seconds | DurationOf | None
    """
    Seconds until waiting ends, > 0; None for no limit; or a callable that takes the `CallContext` and
    returns either. No default: only the caller knows how long an answer is worth waiting for. Zero, negative
    and infinite durations are errors; None says "no limit".
    """

    thread: bool = False
    """
    Whether a plain function runs in a thread of its own, which is left behind when time runs out. Default
    False: what is left behind goes on, and a thread for each call costs 50 µs or more. Async functions are
    cancelled in any case.
    """

    max_abandoned: int | None = MAX_ABANDONED
    """
    How many threads that were left behind may be at work before further calls are refused, >= 1, or None for
    any number. Default 40, AnyIO's bound on worker threads. It matters only with *thread*.
    """

    propagate: bool = True
    """
    Whether what is called inside is told how long there is: the end of this timeout becomes the `deadline` in
    force, into which the retries, waits and HTTP clients of the function fit. Default True, our own choice of
    what is safe: nothing begins for which nobody waits any more. False bounds the call in the same way and is
    cheaper: only the policies of the same pipeline know the end, and a deadline around it is seen as before.
    """

    def __post_init__(self) -> None:
        check = Check("Timeout")
        if callable(self.duration):
            rule = (
                "must be seconds > 0, None, or a plain function of the CallContext (write @Timeout(seconds))"
            )
            check.that(_takes_a_context(self.duration), "duration", self.duration, rule)
        else:
            check.seconds("duration", self.duration, optional=True)
        check.flag("thread", self.thread)
        check.whole("max_abandoned", self.max_abandoned, optional=True)
        check.flag("propagate", self.propagate)
        check.done()


def _takes_a_context(function: Callable[..., object]) -> bool:
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        return False
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not say what it takes
        return True
    return True


def checked(duration: Seconds | None) -> Seconds | None:
    """Return what a callable *duration* answered, if it is a duration."""
    check = Check("Timeout")
    check.seconds("duration()", duration, optional=True)
    check.done()
    return duration
