"""Delays that chance spreads, each by itself."""
# ruff: noqa: N801  # PEP 8: a class that is used as a callable is named like a function

from dataclasses import KW_ONLY, dataclass, field

from resilience._core.check import Check
from resilience.backoff._plain import constant, exponential, linear, sequence
from resilience.backoff._schedule import BASE, CAP, Steady, check_exponential, grown
from resilience.typing import Ratio, Seconds


@dataclass(frozen=True, slots=True)
class full_jitter(Steady):
    """
    Anywhere between nothing and the exponential delay: U(0, min(cap, base x factor^(retry - 1))).

    The default of the package: it costs the fewest calls under contention. Its mean is half the exponential
    delay.

    Attributes:
        base: Seconds within which the first retry falls, 0 < base <= `LONGEST`; default `BASE`. AWS: 0.05.
        cap: No delay is longer, in seconds, base <= cap <= `LONGEST`; default `CAP`; None: `LONGEST`.
        factor: By how much the range grows each time, 1 <= factor; default 2, as AWS.

    Raises:
        ConfigError: A value is outside its range, or the cap is below the base.

    Source:
        "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.

    Example:
        >>> full_jitter(base=0.1).start().before(2, draw=0.5)
        0.1

    """

    base: Seconds = BASE
    _: KW_ONLY
    cap: Seconds | None = CAP
    factor: float = 2.0

    def __post_init__(self) -> None:
        check_exponential("full_jitter", self.base, self.factor, self.cap).done()

    def before(self, retry: int, draw: float) -> Seconds:
        """Return the delay before a retry."""
        return draw * grown(self.base, self.factor, self.cap, retry)


@dataclass(frozen=True, slots=True)
class equal_jitter(Steady):
    """
    Half of the exponential delay for certain, the other half by chance: U(v / 2, v).

    For a dependency that must have a pause before every retry.

    Attributes:
        base: Seconds within which the first retry falls, 0 < base <= `LONGEST`; default `BASE`.
        cap: No delay is longer, in seconds, base <= cap <= `LONGEST`; default `CAP`; None: `LONGEST`.
        factor: By how much the range grows each time, 1 <= factor; default 2.

    Raises:
        ConfigError: A value is outside its range, or the cap is below the base.

    Source:
        "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.

    Example:
        >>> equal_jitter(base=1.0).start().before(1, draw=0.0)
        0.5

    """

    base: Seconds = BASE
    _: KW_ONLY
    cap: Seconds | None = CAP
    factor: float = 2.0

    def __post_init__(self) -> None:
        check_exponential("equal_jitter", self.base, self.factor, self.cap).done()

    def before(self, retry: int, draw: float) -> Seconds:
        """Return the delay before a retry."""
        half = grown(self.base, self.factor, self.cap, retry) / 2
        return half + draw * half


@dataclass(frozen=True, slots=True)
class proportional_jitter(Steady):
    """
    A share more or less than a delay without chance: v x U(1 - share, 1 + share).

    Capped before it is jittered, so a delay may exceed the cap by the share, as in gRPC.

    Attributes:
        around: A `constant`, `linear`, `exponential` or `sequence`; default ``exponential()``.
        share: How far to either side, 0 < share <= 1; default 0.2, as gRPC. Polly: 0.25.

    Raises:
        ConfigError: *around* leaves something to chance itself, or the share is outside its range.

    Source:
        gRPC retry design (gRFC A6); Polly's jitter of constant and linear delays.

    Example:
        >>> proportional_jitter(constant(1.0), share=0.25).start().before(1, draw=0.0)
        0.75

    """

    around: constant | linear | exponential | sequence = field(default_factory=exponential)
    _: KW_ONLY
    share: Ratio = 0.2

    def __post_init__(self) -> None:
        check = Check("proportional_jitter")
        rule = "must be a constant, linear, exponential or sequence backoff"
        check.that(
            isinstance(self.around, (constant, linear, exponential, sequence)), "around", self.around, rule
        )
        check.ratio("share", self.share)
        check.done()

    def before(self, retry: int, draw: float) -> Seconds:
        """Return the delay before a retry."""
        return self.around.before(retry, draw) * (1 - self.share + 2 * self.share * draw)
