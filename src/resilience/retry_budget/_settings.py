"""What may be set on a retry budget: one class for each family."""

from dataclasses import dataclass
from typing import Final, TypeAlias

from resilience._core.check import Check
from resilience.typing import Ratio, Seconds

MOST: Final = 1_000_000
"""Bound on rates and rewards: far beyond any use, and far below where floats lose whole tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioSettings:
    """
    A share of the calls pays for further attempts: the family for everybody, and the default.

    Every call deposits *ratio* tokens, which keep for *ttl*; a floor of *min_per_second* serves clients that
    call rarely. So the budget grows and shrinks with the traffic of its client, and many small clients
    together hold little more than a share of what they send. A call that ends well gives its tokens back.
    """

    ratio: float = 0.1
    """
    Tokens that a call deposits, 0 <= ratio <= 1000. Default 0.1, the Google SRE book's bound on a client's
    retries. It must stay below the headroom of the dependency, 1 / utilisation - 1: 0.1 is safe up to 85 %
    load, 0.2 (Finagle, Tower) up to 75 %; 0.5 only together with a concurrency limiter and deadlines.
    """

    min_per_second: float = 0.1
    """
    Tokens per second that come by themselves, 0 <= n <= 1 000 000; 0 for none. Default 0.1, what one call
    per second would earn: a client that calls rarely can retry, and a thousand of them add no more than 100
    attempts per second to an outage. Finagle and Tower give every client 10.
    """

    ttl: Seconds = 10.0
    """
    Seconds that a deposit keeps, 1 <= ttl <= 60. Default 10, as in Finagle and Tower. The floor holds
    ``min_per_second * ttl`` tokens, or what two attempts at plain *cost* or the dearest single one need, if
    that is more: enough for the further attempts of one call. A new budget starts with them, and with nothing
    else.
    """

    refund: bool = True
    """
    Whether a call that ends well after further attempts gets its tokens back. Default True: attempts that
    help are then free, and only those that fail use the budget up. False is Finagle's and Tower's rule.
    """

    cost: int = 1
    """Tokens that an attempt takes after a failure with a quick answer, >= 1. Default 1."""

    timeout_cost: int = 1
    """
    Tokens that an attempt takes after a timeout, >= 1. Default 1, as after any failure, and as in the AWS
    SDKs 2.1: with 2, small clients of which one call in ten hangs are soon left without retries (simulated:
    see "Defaults"). Take 2 without a concurrency limiter: the first attempt may still be at work, so this one
    adds to the load. What it costs beyond *cost* is never given back.
    """

    throttle_cost: int = 1
    """Tokens that an attempt takes after the dependency refused the work, >= 1. Default 1."""

    def __post_init__(self) -> None:
        check = Check("RetryBudget.ratio")
        check.number("ratio", self.ratio, at_least=0, at_most=1000)
        check.number("min_per_second", self.min_per_second, at_least=0, at_most=MOST)
        check.number("ttl", self.ttl, at_least=1, at_most=60)
        check.flag("refund", self.refund)
        _check_costs(check, self)
        check.done()


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundSettings:
    """
    Attempts that help are free, attempts that fail are expensive: one bucket of tokens, as in the AWS SDKs.

    The bucket belongs to one client and does not follow its traffic: for a fleet of many small clients prefer
    the ratio family. Costs are those of the AWS SDKs, retry mode "standard", version 2.1.
    """

    capacity: int = 500
    """Most tokens held, >= 1 and enough for any one attempt. Default 500, as AWS."""

    initial: int | None = None
    """
    Tokens of a new budget, 0 <= initial <= capacity. Default None: two attempts' worth. AWS starts full, with
    35 attempts for each client, which is a burst when a fleet starts into an outage.
    """

    reward: float = 1.0
    """
    Tokens that a call earns that ends well at the first attempt, 0 <= n <= 1 000 000. Default 1, as AWS: 14
    such calls pay for one attempt.
    """

    refill_per_second: float = 1.0
    """
    Tokens per second that come by themselves, 0 <= n <= 1 000 000. Default 1: without any, as at AWS, a
    client that calls rarely is left without retries long after an outage.
    """

    cost: int = 14
    """Tokens that an attempt takes after a failure with a quick answer, >= 1. Default 14, as AWS."""

    timeout_cost: int = 14
    """
    Tokens that an attempt takes after a timeout, >= 1. Default 14, as AWS (10 beside 5 in version 2.0). What
    it costs beyond *cost* is never given back.
    """

    throttle_cost: int = 5
    """Tokens that an attempt takes after the dependency refused the work, >= 1. Default 5, as AWS."""

    def __post_init__(self) -> None:
        check = Check("RetryBudget.refund")
        check.whole("capacity", self.capacity)
        check.whole("initial", self.initial, at_least=0, optional=True)
        check.number("reward", self.reward, at_least=0, at_most=MOST)
        check.number("refill_per_second", self.refill_per_second, at_least=0, at_most=MOST)
        _check_costs(check, self)
        if not check.problems:
            dearest = max(self.cost, self.timeout_cost, self.throttle_cost)
            check.that(
                self.capacity >= dearest, "capacity", self.capacity, f"must be >= {dearest}, the highest cost"
            )
            fits = self.initial is None or self.initial <= self.capacity
            check.that(fits, "initial", self.initial, "must be <= capacity")
        check.done()


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcSettings:
    """
    Further attempts only while most attempts succeed: the retry throttle of gRPC.

    A failure takes a token, a success earns *token_ratio*; further attempts need more than half of
    *max_tokens*. Above a share of failures of about token_ratio / (1 + token_ratio) all further attempts
    stop.
    """

    max_tokens: int = 10
    """Most tokens held, and what a new budget starts with, 1 <= max_tokens <= 1000. Default 10: gRPC's
    example."""

    token_ratio: float = 0.1
    """
    Tokens that a success earns, 0.001 <= n <= 1000: gRPC reads three decimals. Default 0.1: gRPC's example.
    Coming back from zero takes floor(max_tokens / 2 / token_ratio) + 1 successes, here 51.
    """

    refill_per_second: float = 0.0
    """
    Tokens per second that come by themselves, 0 <= n <= 1 000 000. Default 0, as gRPC, where a client that
    calls rarely may never come back; 0.1 brings it back within a minute.
    """

    def __post_init__(self) -> None:
        check = Check("RetryBudget.grpc")
        if check.whole("max_tokens", self.max_tokens):
            check.number("max_tokens", self.max_tokens, at_most=1000)
        check.number("token_ratio", self.token_ratio, at_least=0.001, at_most=1000)
        check.number("refill_per_second", self.refill_per_second, at_least=0, at_most=MOST)
        check.done()


@dataclass(frozen=True, slots=True, kw_only=True)
class InflightSettings:
    """
    Further attempts may be a share of what is in flight: Envoy's and failsafe-go's rule.

    Looks at no clock and no history. When a dependency slows down, more is in flight and more attempts are
    allowed: good for hedges, weak against an outage that feeds on retries.
    """

    ratio: Ratio = 0.2
    """Share of the executions in flight that may be further attempts, 0 < ratio <= 1. Default 0.2, as
    both."""

    min_concurrency: int = 3
    """Further attempts that may always be in flight, >= 0. Default 3, as both."""

    def __post_init__(self) -> None:
        check = Check("RetryBudget.inflight")
        check.ratio("ratio", self.ratio)
        check.whole("min_concurrency", self.min_concurrency, at_least=0)
        check.done()


BudgetSettings: TypeAlias = RatioSettings | RefundSettings | GrpcSettings | InflightSettings


def _check_costs(check: Check, settings: RatioSettings | RefundSettings) -> None:
    check.whole("cost", settings.cost)
    check.whole("timeout_cost", settings.timeout_cost)
    check.whole("throttle_cost", settings.throttle_cost)
