"""
How long to wait before each retry.

A *backoff* is a frozen value that any number of calls may share, such as ``full_jitter(base=0.05)``. A call
that must retry asks it to `start`, which returns the *delays* of that one call: those may remember what they
said before. Nothing here waits or rolls dice: chance comes in as a draw from [0, 1), fresh for each delay.

    constant              the same delay every time
    linear                base, base + step, base + 2 step, ...
    exponential           base, base x factor, base x factor^2, ...
    sequence              delays given one by one
    full_jitter           anywhere between nothing and the exponential delay; the default of the package
    equal_jitter          half of the exponential delay for certain, the other half by chance
    proportional_jitter   a share more or less than a delay without chance (gRPC, Polly)
    decorrelated_jitter   anywhere between the base and three times the last delay (AWS)
    smooth_jitter         exponential without steps (Polly's "decorrelated jitter v2")
    computed              whatever a function of yours returns

A delay is finite and never longer than `LONGEST`, whatever the number of the retry. It is capped first and
jittered then, so that clients at the cap do not all come back at once; where a published formula does it the
other way round, its docstring says so.
"""
# ruff: noqa: N801  # PEP 8: a class that is used as a callable is named like a function

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Final, Protocol, Self, TypeAlias, cast, runtime_checkable

from resilience._core.check import Check, is_finite
from resilience.outcome import CallContext
from resilience.typing import Ratio, Seconds

LONGEST: Final[Seconds] = 86_400.0
"""The longest delay there is: a day, the bound that Polly sets to its delays. Longer ones become this."""

BASE: Final[Seconds] = 0.1
"""Default of ``base``: with `CAP`, what the package's overload scenarios were measured with."""

CAP: Final[Seconds] = 2.0
"""Default of ``cap``: below the few seconds a caller waits. AWS caps at 20 s, which suits background work."""

RETRY_AFTER_WINDOW: Final[Seconds] = 5.0
"""Default of ``retry_after_window``, see `honour`. Source: the AWS SDKs (smithy)."""


class Delays(Protocol):
    """The delays of one call. Not shared: it may remember what it said before."""

    def before(self, retry: int, draw: float) -> Seconds:
        """
        Return the delay before a retry. Ask in order, once for each retry.

        Args:
            retry: Number of the retry, from 1.
            draw: A number in [0, 1) that leaves the rest to chance, fresh for each delay.

        Returns:
            Seconds, finite and >= 0.

        """
        ...


@runtime_checkable
class Backoff(Protocol):
    """How long to wait before each retry. Immutable: concurrent calls share it."""

    def start(self, context: CallContext | None = None) -> Delays:
        """
        Return the delays of one call.

        Args:
            context: What is known about the call; only `computed` looks at it.

        """
        ...


DelayFunction: TypeAlias = Callable[[CallContext], Seconds | None]
"""Return the delay before the next retry; ``context.attempt`` is the number of that retry, from 1."""


class _Steady:
    """A backoff that remembers nothing, and so is its own delays."""

    __slots__ = ()

    def start(self, context: CallContext | None = None) -> Self:  # noqa: ARG002  # the same for every call
        """Return the delays of one call: these."""
        return self


@dataclass(frozen=True, slots=True)
class constant(_Steady):
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
class linear(_Steady):
    """
    A delay that grows by the same step: base, base + step, base + 2 step, ... up to the cap.

    Attributes:
        base: Seconds before the first retry, 0 < base <= `LONGEST`; default `BASE`.
        step: Seconds added each time, 0 <= step <= `LONGEST`; default: base, as in Polly.
        cap: No delay is longer, in seconds, 0 < cap <= `LONGEST`; default `CAP`; None: `LONGEST`. A cap below
            the base wins.

    Raises:
        ConfigError: A value is outside its range.

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
        check = _check_growth("linear", self.base, self.cap)
        if self.step is not None:
            check.number("step", self.step, at_least=0, at_most=LONGEST)
        check.done()

    def before(self, retry: int, draw: float) -> Seconds:  # noqa: ARG002  # no chance in it
        """Return the delay before a retry."""
        step = self.base if self.step is None else self.step
        return min(_bound(self.cap), self.base + (retry - 1) * step)


@dataclass(frozen=True, slots=True)
class exponential(_Steady):
    """
    A delay that grows by the same factor, up to the cap, without chance.

    Clients that failed together come back together: prefer `full_jitter`, or put it into a
    `proportional_jitter`.

    Attributes:
        base: Seconds before the first retry, 0 < base <= `LONGEST`; default `BASE`.
        factor: By how much the delay grows each time, 1 <= factor; default 2, as everywhere.
        cap: No delay is longer, in seconds, 0 < cap <= `LONGEST`; default `CAP`; None: `LONGEST`. A cap below
            the base wins.

    Raises:
        ConfigError: A value is outside its range.

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
        _check_exponential("exponential", self.base, self.factor, self.cap).done()

    def before(self, retry: int, draw: float) -> Seconds:  # noqa: ARG002  # no chance in it
        """Return the delay before a retry."""
        return _grown(self.base, self.factor, self.cap, retry)


@dataclass(frozen=True, slots=True, init=False, repr=False)
class sequence(_Steady):
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


@dataclass(frozen=True, slots=True)
class full_jitter(_Steady):
    """
    Anywhere between nothing and the exponential delay: U(0, min(cap, base x factor^(retry - 1))).

    The default of the package: it costs the fewest calls under contention. Its mean is half the exponential
    delay.

    Attributes:
        base: Seconds within which the first retry falls, 0 < base <= `LONGEST`; default `BASE`. AWS: 0.05.
        cap: No delay is longer, in seconds, 0 < cap <= `LONGEST`; default `CAP`; None: `LONGEST`.
        factor: By how much the range grows each time, 1 <= factor; default 2, as AWS.

    Raises:
        ConfigError: A value is outside its range.

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
        _check_exponential("full_jitter", self.base, self.factor, self.cap).done()

    def before(self, retry: int, draw: float) -> Seconds:
        """Return the delay before a retry."""
        return draw * _grown(self.base, self.factor, self.cap, retry)


@dataclass(frozen=True, slots=True)
class equal_jitter(_Steady):
    """
    Half of the exponential delay for certain, the other half by chance: U(v / 2, v).

    For a dependency that must have a pause before every retry.

    Attributes:
        base: Seconds within which the first retry falls, 0 < base <= `LONGEST`; default `BASE`.
        cap: No delay is longer, in seconds, 0 < cap <= `LONGEST`; default `CAP`; None: `LONGEST`.
        factor: By how much the range grows each time, 1 <= factor; default 2.

    Raises:
        ConfigError: A value is outside its range.

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
        _check_exponential("equal_jitter", self.base, self.factor, self.cap).done()

    def before(self, retry: int, draw: float) -> Seconds:
        """Return the delay before a retry."""
        half = _grown(self.base, self.factor, self.cap, retry) / 2
        return half + draw * half


@dataclass(frozen=True, slots=True)
class proportional_jitter(_Steady):
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


@dataclass(frozen=True, slots=True)
class decorrelated_jitter:
    """
    Anywhere between the base and three times the last delay: s' = min(cap, U(base, 3 s)), s0 = base.

    Starts about four times slower than `full_jitter` and never waits less than the base. Capped after the
    jitter, as published: a client whose delays have grown long waits exactly the cap two times out of three.

    Attributes:
        base: The shortest delay, in seconds, 0 < base <= `LONGEST`; default `BASE`.
        cap: The longest delay, in seconds, base <= cap <= `LONGEST`; default `CAP`; None: `LONGEST`.

    Raises:
        ConfigError: A value is outside its range, or the cap is below the base.

    Source:
        "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.

    Example:
        >>> delays = decorrelated_jitter(base=0.1).start()
        >>> round(delays.before(1, draw=0.5), 3), round(delays.before(2, draw=0.5), 3)
        (0.2, 0.35)

    """

    base: Seconds = BASE
    _: KW_ONLY
    cap: Seconds | None = CAP

    def __post_init__(self) -> None:
        check = _check_growth("decorrelated_jitter", self.base, self.cap)
        if not check.problems:
            check.that(self.base <= _bound(self.cap), "cap", self.cap, "must be >= base")
        check.done()

    def start(self, context: CallContext | None = None) -> Delays:  # noqa: ARG002  # the same for every call
        """Return the delays of one call."""
        return _Decorrelated(self)


class _Decorrelated:
    """The delays of one call: each depends on the one before."""

    __slots__ = ("_previous", "_settings")

    def __init__(self, settings: decorrelated_jitter) -> None:
        self._settings = settings
        self._previous = settings.base

    def before(self, retry: int, draw: float) -> Seconds:  # noqa: ARG002  # the last delay stands for it
        base = self._settings.base
        self._previous = min(_bound(self._settings.cap), base + draw * (3 * self._previous - base))
        return self._previous


@dataclass(frozen=True, slots=True)
class smooth_jitter:
    """
    Exponential without steps: Polly's "decorrelated jitter backoff v2".

    With t = retry - 1 + U(0, 1) and x = 2^t tanh(sqrt(4 t)), the delay is base x (x - last x) / 1.4: on
    average about the base, the base once more, and then doubling; at least 0, and less than four times
    base x 2^(retry - 1). The retries of many clients spread evenly over time instead of bunching at the
    doublings. Capped after the jitter, as in Polly: choose a cap that the last retry does not reach.

    Attributes:
        base: About the mean of the first delay, in seconds, 0 < base <= `LONGEST`; default `BASE`.
        cap: No delay is longer, in seconds, 0 < cap <= `LONGEST`; default `CAP`; None: `LONGEST`.

    Raises:
        ConfigError: A value is outside its range.

    Source:
        Polly ``RetryHelper.DecorrelatedJitterBackoffV2``; Polly.Contrib.WaitAndRetry.

    Example:
        >>> round(smooth_jitter(base=1.0).start().before(1, draw=0.5), 3)
        0.897

    """

    base: Seconds = BASE
    _: KW_ONLY
    cap: Seconds | None = CAP

    def __post_init__(self) -> None:
        _check_growth("smooth_jitter", self.base, self.cap).done()

    def start(self, context: CallContext | None = None) -> Delays:  # noqa: ARG002  # the same for every call
        """Return the delays of one call."""
        return _Smooth(self)


class _Smooth:
    """The delays of one call: each is the way from the last point of a curve to the next."""

    __slots__ = ("_previous", "_settings")

    def __init__(self, settings: smooth_jitter) -> None:
        self._settings = settings
        self._previous = 0.0

    def before(self, retry: int, draw: float) -> Seconds:
        cap = _bound(self._settings.cap)
        # 2^t overflows from t = 1024 on, and then the way between two points has no meaning. Long before,
        # every delay is longer than any cap.
        if retry > 1000:
            return cap
        t = retry - 1 + draw
        x: float = 2.0**t * math.tanh(math.sqrt(4.0 * t))
        way = max(0.0, x - self._previous)
        self._previous = x
        return min(cap, way / 1.4 * self._settings.base)


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

    __slots__ = ("_context", "_otherwise", "_settings")

    def __init__(self, settings: computed, context: CallContext) -> None:
        self._settings = settings
        self._context = context
        self._otherwise = settings.otherwise.start(context)

    def before(self, retry: int, draw: float) -> Seconds:
        # Asked in any case: it may have to remember the retry.
        otherwise = self._otherwise.before(retry, draw)
        delay = self._settings.function(replace(self._context, attempt=retry))
        return min(LONGEST, delay) if is_finite(delay) and delay >= 0 else otherwise


def is_backoff(value: object) -> bool:
    """Whether *value* is a backoff, one of ours or of the user's own making."""
    return isinstance(value, Backoff) and not isinstance(value, type)


def as_backoff(value: object) -> Backoff | None:
    """Return *value* as a backoff: as it is, or `computed` if it is a function; None if it is neither."""
    if is_backoff(value):
        return cast("Backoff", value)
    return computed(cast("DelayFunction", value)) if callable(value) and not isinstance(value, type) else None


def honour(hint: Seconds | None, own: Seconds, window: Seconds | None = RETRY_AFTER_WINDOW) -> Seconds:
    """
    Combine the time that the server asked for with our own delay: clamp(hint, own, own + window).

    Never shorter than our own delay, whose jitter also keeps clients apart that were given one and the same
    hint; longer by *window* at most, so that no server can stall its callers.

    Args:
        hint: Seconds that the server asked us to stay away, or None.
        own: Delay of the backoff, in seconds.
        window: Most seconds that the hint may add, >= 0; None: any number, and only the deadline bounds it.

    Returns:
        Seconds to wait. A hint that is negative or not a number counts as none.

    Source:
        AWS SDKs (smithy): window 5 s. gRPC waits exactly the hint.

    Example:
        >>> honour(3.0, own=0.2), honour(60.0, own=0.2), honour(None, own=0.2)
        (3.0, 5.2, 0.2)

    """
    if hint is None:
        return own
    wanted = max(own, hint)  # in this order NaN loses
    return wanted if window is None else min(wanted, own + window)


def _bound(cap: Seconds | None) -> Seconds:
    return LONGEST if cap is None else cap


def _grown(base: Seconds, factor: float, cap: Seconds | None, retry: int) -> Seconds:
    try:
        return min(_bound(cap), base * float(factor) ** (retry - 1))
    except OverflowError:  # of the power: Python raises where other languages return infinity
        return _bound(cap)


def _check_growth(subject: str, base: object, cap: object) -> Check:
    check = Check(subject)
    check.number("base", base, above=0, at_most=LONGEST)
    if cap is not None:
        check.number("cap", cap, above=0, at_most=LONGEST)
    return check


def _check_exponential(subject: str, base: object, factor: object, cap: object) -> Check:
    check = _check_growth(subject, base, cap)
    check.number("factor", factor, at_least=1)
    return check
