"""Delays without chance."""
# ruff: noqa: N801  # PEP 8: a class that is used as a callable is named like a function

from dataclasses import KW_ONLY, dataclass

from resilience._core.check import Check
from resilience.backoff._schedule import (
    BASE,
    CAP,
    LONGEST,
    Steady,
    bound,
    check_exponential,
    check_growth,
    grown,
)
from resilience.typing import Seconds


@dataclass(frozen=True, slots=True)
class constant(Steady):
    """
    The same delay before every retry.

    Attributes:
        delay: Seconds, 0 <= delay <= `LONGEST`. 0 retries at once.

    Raises:
        ConfigError: The delay is outside its range.

    Example:
        >>> constant(0.5).start().before(3, draw=0.9)
        0.5

    """

    delay: Seconds

    def __post_init__(self) -> None:
        check = Check("constant")
        check.number("delay", self.delay, at_least=0, at_most=LONGEST)
        check.done()

    def before(self, retry: int, draw: float) -> Seconds:  # noqa: ARG002  # always the same
        """Return the delay before a retry."""
        return self.delay


@dataclass(frozen=True, slots=True)
class linear(Steady):
    """
    A delay that grows by the same step: base, base + step, base + 2 step, ... up to the cap.

    Attributes:
        base: Seconds before the first retry, 0 < base <= `LONGEST`; default `BASE`.
        step: Seconds added each time, 0 <= step <= `LONGEST`; default: base, as in Polly.
        cap: No delay is longer, in seconds, base <= cap <= `LONGEST`; default `CAP`; None: `LONGEST`.

    Raises:
        ConfigError: A value is outside its range, or the cap is below the base.

    Example:
        >>> delays = linear(2.0, cap=5.0).start()
        >>> [delays.before(retry, draw=0.0) for retry in (1, 2, 3)]
        [2.0, 4.0, 5.0]

    """

    base: Seconds = BASE
    _: KW_ONLY
    step: Seconds | None = None
    cap: Seconds | None = CAP

    def __post_init__(self) -> None:
        check = check_growth("linear", self.base, self.cap)
        if self.step is not None:
            check.number("step", self.step, at_least=0, at_most=LONGEST)
        check.done()

    def before(self, retry: int, draw: float) -> Seconds:  # noqa: ARG002  # no chance in it
        """Return the delay before a retry."""
        step = self.base if self.step is None else self.step
        return min(bound(self.cap), self.base + (retry - 1) * step)


@dataclass(frozen=True, slots=True)
class exponential(Steady):
    """
    A delay that grows by the same factor, up to the cap, without chance.

    Clients that failed together come back together: prefer `full_jitter`, or put it into a
    `proportional_jitter`.

    Attributes:
        base: Seconds before the first retry, 0 < base <= `LONGEST`; default `BASE`.
        factor: By how much the delay grows each time, 1 <= factor; default 2, as everywhere.
        cap: No delay is longer, in seconds, base <= cap <= `LONGEST`; default `CAP`; None: `LONGEST`.

    Raises:
        ConfigError: A value is outside its range, or the cap is below the base.

    Example:
        >>> delays = exponential(1.0, cap=5.0).start()
        >>> [delays.before(retry, draw=0.0) for retry in (1, 2, 3, 4)]
        [1.0, 2.0, 4.0, 5.0]

    """

    base: Seconds = BASE
    _: KW_ONLY
    factor: float = 2.0
    cap: Seconds | None = CAP

    def __post_init__(self) -> None:
        check_exponential("exponential", self.base, self.factor, self.cap).done()

    def before(self, retry: int, draw: float) -> Seconds:  # noqa: ARG002  # no chance in it
        """Return the delay before a retry."""
        return grown(self.base, self.factor, self.cap, retry)


@dataclass(frozen=True, slots=True, init=False, repr=False)
class sequence(Steady):
    """
    Delays given one by one. The last one serves all further retries.

    Attributes:
        delays: Seconds, each 0 <= delay <= `LONGEST`; at least one.

    Raises:
        ConfigError: There is no delay, or one is outside its range.

    Example:
        >>> delays = sequence(0.1, 0.5, 2.0).start()
        >>> [delays.before(retry, draw=0.0) for retry in (1, 2, 3, 4)]
        [0.1, 0.5, 2.0, 2.0]

    """

    delays: tuple[Seconds, ...]

    def __init__(self, *delays: Seconds) -> None:
        check = Check("sequence")
        check.that(delays, "delays", delays, "must be at least one number of seconds")
        for place, delay in enumerate(delays):
            check.number(f"delays[{place}]", delay, at_least=0, at_most=LONGEST)
        check.done()
        object.__setattr__(self, "delays", delays)  # the way past frozen=True

    def __repr__(self) -> str:
        return f"sequence({', '.join(map(repr, self.delays))})"

    def before(self, retry: int, draw: float) -> Seconds:  # noqa: ARG002  # no chance in it
        """Return the delay before a retry."""
        return self.delays[min(retry, len(self.delays)) - 1]
