"""What a caller may set on a circuit breaker."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from resilience._core.check import Check
from resilience.typing import Ratio, Seconds

SAMPLING_DURATION: Final[Seconds] = 30.0
"""Length of the sampling window when neither kind of window was chosen. Source: Polly v8."""

SHORTEST_SAMPLING: Final[Seconds] = 0.001
"""Shortest sampling window: a tenth of it is still longer than a step of the clock."""

MOST_SAMPLING_CALLS: Final = 1_000_000
"""Largest window of calls: every bad result in it is remembered, so that its size bounds memory."""

LONGEST_BREAK: Final[Seconds] = 86_400.0
"""Longest time a circuit may stay open by itself: a day. Source: Polly v8."""


@dataclass(frozen=True, slots=True)
class Break:
    """
    What a ``break_duration`` callable is told about the break that begins.

    Attributes:
        attempt: How often the circuit opened since it was last closed, this time included: 1 when
            it was closed until now, 2 after the first half-open round that failed, and so on.
        failure_ratio: Share of bad results among those that were looked at: the window's, or the
            probes' of the round.
        failures: How many bad results that were.
        retry_after: Seconds the dependency asked us to stay away in the result that opened the
            circuit, or None.

    """

    attempt: int
    failure_ratio: Ratio
    failures: int
    retry_after: Seconds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreakerSettings:
    """
    When a circuit opens, how long it stays open, and how it closes again.

    The circuit opens when any of its rules holds: the share of bad results among at least
    *minimum_throughput* reached *failure_ratio*, the share of slow ones reached *slow_call_ratio*,
    or *consecutive_failures* bad results came in a row. Timed out and throttled results are bad.

    Raises:
        ConfigError: At least one setting cannot work; every problem is listed.

    """

    failure_ratio: Ratio | None = 0.5
    """Share of bad results that opens the circuit: 0 < r <= 1, or None to do without this rule.
    Default 0.5. Source: Hystrix, Resilience4j."""

    minimum_throughput: int = 20
    """Results needed before a share means anything: >= 1, and at most *sampling_calls* if that is
    given. Default 20. Source: Hystrix (``requestVolumeThreshold``)."""

    sampling_duration: Seconds | None = None
    """Seconds of history the shares are taken over, counted in ten buckets: >= 0.001. Instead of
    *sampling_calls*. Default 30.0 if that is not given either. Source: Polly v8."""

    sampling_calls: int | None = None
    """Number of latest results the shares are taken over: 1 to 1 000 000. Instead of
    *sampling_duration*. Default None: a window of time, because rare calls would keep failures of
    long ago in a window of calls."""

    consecutive_failures: int | None = None
    """Bad results in a row that open the circuit: >= 1, or None to do without this rule; a good
    result begins anew. Default None. Source: Polly v8, which has no such rule by default either;
    Finagle uses 5."""

    slow_call_duration: Seconds | None = None
    """Seconds after which a call, good or bad, was slow: > 0, or None to do without this rule. In
    half-open a slow probe is a failed one. Default None. Source: Sentinel, opt-in there too."""

    slow_call_ratio: Ratio = 1.0
    """Share of slow calls that opens the circuit: 0 < r <= 1. Default 1.0. Source: Resilience4j,
    Sentinel."""

    break_duration: Seconds | Callable[[Break], Seconds] = 5.0
    """Seconds the circuit stays open for the first time: > 0. Or a callable that is told the
    `Break` and returns the seconds, in which case *break_factor* has no part. The callable is asked
    while the breaker decides: it must be quick and must not wait. Default 5.0. Source: Polly v8."""

    break_factor: float = 2.0
    """What the break is multiplied by after each half-open round that failed: >= 1. Closing starts
    anew. Default 2.0. Source: Finagle (doubling from 5 s)."""

    max_break_duration: Seconds = 60.0
    """Longest break in seconds, before jitter: from *break_duration* to 86 400. Bounds what a
    callable returns and what a throttled result asks for as well. Default 60.0. Source: Finagle."""

    break_jitter: Ratio = 0.2
    """Share of the break, after its cap, by which chance may lengthen it: 0 <= j <= 1. It never
    shortens it: a break is at least what was set or asked for. Default 0.2. Source: gRPC connection
    backoff (which goes both ways)."""

    probes: int = 1
    """Calls that a half-open circuit lets pass, at once and as results of one round: >= 1.
    Default 1. Source: Polly v8, linkerd."""

    required_successes: int | None = None
    """Good probes among the *probes* of a round that close the circuit: 1 <= m <= *probes*. It
    closes with the m-th good one, and opens again as soon as m can no longer be reached. Default
    None: all. Source: Failsafe."""

    probe_timeout: Seconds = 60.0
    """Seconds after which an unanswered probe gives up its place: > 0. Longer than any call that
    may still succeed, since a later answer changes nothing. Default 60.0. Source: own; Resilience4j
    calls a call slow after 60 s, and waits for its probes for ever."""

    ramp_duration: Seconds = 0.0
    """Seconds over which the share of admitted calls rises from none to all after the circuit
    closed: >= 0, where 0 admits all at once. Default 0.0. Source: Polly v8 has none."""

    open_on_throttle: bool = False
    """Whether a throttled result that says when to return opens the circuit until then, at once.
    Default False: such a reply is often about one tenant, key or endpoint, and the circuit would
    refuse everybody. Source: Resilience4j (``transitionOnResult``), opt-in there too."""

    @property
    def window_duration(self) -> Seconds | None:
        """Seconds the window covers, or None if it is one of calls."""
        if self.sampling_duration is None and self.sampling_calls is None:
            return SAMPLING_DURATION
        return self.sampling_duration

    @property
    def needed_successes(self) -> int:
        """Good probes that close the circuit."""
        return self.probes if self.required_successes is None else self.required_successes

    @property
    def longest_break(self) -> Seconds:
        """Longest break in seconds, jitter included."""
        return self.max_break_duration * (1.0 + self.break_jitter)

    def __post_init__(self) -> None:
        check = Check("CircuitBreaker")
        check.ratio("failure_ratio", self.failure_ratio, optional=True)
        throughput_holds = check.whole("minimum_throughput", self.minimum_throughput)
        self._check_window(check, throughput_holds=throughput_holds)
        check.whole("consecutive_failures", self.consecutive_failures, optional=True)
        check.seconds("slow_call_duration", self.slow_call_duration, optional=True)
        check.ratio("slow_call_ratio", self.slow_call_ratio)
        self._check_break(check)
        if check.whole("probes", self.probes) and self.required_successes is not None:
            most = self.probes
            if check.whole("required_successes", self.required_successes):
                check.that(
                    self.required_successes <= most,
                    "required_successes",
                    self.required_successes,
                    f"must be <= probes ({most})",
                )
        check.seconds("probe_timeout", self.probe_timeout)
        check.seconds("ramp_duration", self.ramp_duration, zero=True)
        check.flag("open_on_throttle", self.open_on_throttle)
        rules = (self.failure_ratio, self.consecutive_failures, self.slow_call_duration)
        check.that(
            self.open_on_throttle or any(rule is not None for rule in rules),
            "failure_ratio",
            self.failure_ratio,
            "must be set, or consecutive_failures, slow_call_duration or open_on_throttle:"
            " nothing opens this circuit",
        )
        check.done()

    def _check_window(self, check: Check, *, throughput_holds: bool) -> None:
        if self.sampling_duration is not None:
            check.number("sampling_duration", self.sampling_duration, at_least=SHORTEST_SAMPLING)
            check.that(
                self.sampling_calls is None,
                "sampling_duration",
                self.sampling_duration,
                "must be None when sampling_calls is given",
            )
        if (
            check.whole("sampling_calls", self.sampling_calls, at_most=MOST_SAMPLING_CALLS, optional=True)
            and self.sampling_calls is not None
            and throughput_holds
        ):
            check.that(
                self.minimum_throughput <= self.sampling_calls,
                "minimum_throughput",
                self.minimum_throughput,
                f"must be <= sampling_calls ({self.sampling_calls})",
            )

    def _check_break(self, check: Check) -> None:
        shortest: Seconds = 0.0
        if not callable(self.break_duration) and check.seconds("break_duration", self.break_duration):
            shortest = self.break_duration
        check.number("break_factor", self.break_factor, at_least=1)
        if check.number("max_break_duration", self.max_break_duration, above=0, at_most=LONGEST_BREAK):
            check.that(
                self.max_break_duration >= shortest,
                "max_break_duration",
                self.max_break_duration,
                f"must be >= break_duration ({shortest:g})",
            )
        check.ratio("break_jitter", self.break_jitter, zero=True)
