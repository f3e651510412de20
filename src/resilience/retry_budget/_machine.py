"""
Four rules for who pays for a further attempt.

    RatioBudget     a share of the calls, kept for a short time
    RefundBudget    one bucket; attempts that help give back what they took
    GrpcBudget      none once too many attempts fail
    InflightBudget  a share of what is in flight

All answer to the same `BudgetMachine`, so that whoever retries or hedges need not know which it drives.
Tokens are whole numbers of billionths inside: ten calls at a ratio of 0.1 make one token, not
0.9999999999999999.
"""

import math
from typing import Any, ClassVar, Final, Literal, Protocol, TypeAlias

from resilience.outcome import Verdict
from resilience.retry_budget._settings import (
    BudgetSettings,
    GrpcSettings,
    InflightSettings,
    RatioSettings,
    RefundSettings,
)
from resilience.typing import Seconds

TOKEN: Final = 10**9
"""One token in the unit that the machines count in."""

SLICES: Final = 10
"""Into how many slices the life of a deposit is cut, as in Finagle and Tower: it is exact to one of them."""

Counter: TypeAlias = Literal["calls", "good"]
"""What is counted on the hot path: calls that began, and calls that ended good at the first attempt."""

FAILED: Final = frozenset({Verdict.BAD, Verdict.TIMED_OUT, Verdict.THROTTLED})
"""The ends of an attempt that count as failures."""


class BudgetMachine(Protocol):
    """
    A rule for who pays for further attempts. Not thread-safe.

    Attributes:
        reads: The hot-path counters that the rule looks at. The others need not be kept.
        granted: Further attempts granted.
        denied: Further attempts refused.
        refunded: Tokens given back by calls that ended well.

    """

    reads: ClassVar[frozenset[Counter]]
    granted: int
    denied: int
    refunded: int

    def collect(self, calls: int, good: int) -> None:
        """Take over by how much the hot-path counters have grown. Needs no time."""
        ...

    def try_withdraw(self, verdict: Verdict, now: Seconds) -> int:
        """
        Ask for one further attempt.

        Args:
            verdict: How the attempt before it ended. IGNORED, if none has ended: that is a hedge.
            now: The present instant. One earlier than the latest seen counts as that one.

        Returns:
            The charge: tokens that `finish` may give back, at least 1. 0 means no.

        """
        ...

    def fail(self, verdict: Verdict, now: Seconds) -> None:
        """Note that an attempt ended so, and that no further one was asked for."""
        ...

    def release(self) -> None:
        """Note that a further attempt ended."""
        ...

    def finish(self, good: bool, charges: int, now: Seconds) -> None:
        """Note that a call ended which is not counted as *good*, with the sum of its charges."""
        ...

    def refund(self, charges: int, now: Seconds) -> None:
        """Give tokens back."""
        ...

    def level(self, now: Seconds) -> int:
        """Return how many further attempts could be had now."""
        ...

    def limit(self, now: Seconds) -> int:
        """Return how many further attempts could be had now, had none been taken."""
        ...

    def configure(self, settings: Any, now: Seconds) -> None:
        """Take new settings, of the same family, and keep the tokens as far as they fit."""
        ...

    def after_fork(self, now: Seconds) -> None:
        """Become the budget of a child: what the parent earned is the parent's."""
        ...


class RatioBudget:
    """
    A share of the calls, kept for a short time, and a floor that fills by itself.

    A deposit can be spent once within the *ttl*. The oldest is spent first, so that nothing expires that was
    already spent: an attempt does not weigh on calls that come after it. The floor is spent last.

    A deposit is counted without asking for the time. The deposits since the last question are spread evenly
    over the time since then: exact while questions come often, and an average rate after a long silence.

    Over any time w at most ``ratio * deposits(w + ttl + silence) + floor + min_per_second * w`` tokens are
    taken, and what was given back in that time.

    Source:
        Finagle ``RetryBudget``; Tower ``TpsBudget``. Neither their rounding of the ratio nor the drift of
        their windows is copied: slices lie on multiples of their length.
    """

    __slots__ = (
        "_deposit",
        "_epoch",
        "_floor",
        "_floor_at",
        "_left",
        "_made",
        "_now",
        "_pending",
        "_rate",
        "_reserve",
        "_settings",
        "_width",
        "denied",
        "granted",
        "refunded",
    )

    reads: ClassVar[frozenset[Counter]] = frozenset({"calls"})

    def __init__(self, settings: RatioSettings, now: Seconds) -> None:
        self._now = now
        self._pending = 0
        self._made = [0] * SLICES  # what was deposited in each slice, at its number modulo SLICES
        self._left = [0] * SLICES  # what of it is not spent
        self.granted = self.denied = self.refunded = 0
        self._take(settings)
        self._floor = self._reserve
        self._floor_at = now

    def _take(self, settings: RatioSettings) -> None:
        self._settings = settings
        self._width = settings.ttl / SLICES
        self._epoch = self._epoch_of(self._now)
        # Rounded up, so that three calls at a third make a token.
        self._deposit = math.ceil(settings.ratio * TOKEN)
        self._rate = settings.min_per_second * TOKEN
        dearest = max(settings.cost, settings.timeout_cost, settings.throttle_cost)
        reserve = max(round(self._rate * settings.ttl), dearest * TOKEN)
        self._reserve = reserve if self._rate else 0

    def collect(self, calls: int, good: int) -> None:  # noqa: ARG002  # every call pays, whatever comes of it
        self._pending += calls

    def try_withdraw(self, verdict: Verdict, now: Seconds) -> int:
        self._advance(now)
        cost = _cost(self._settings, verdict)
        owed = cost * TOKEN
        if sum(self._left) + self._floor < owed:
            self.denied += 1
            return 0
        self.granted += 1
        for epoch in range(self._epoch - SLICES + 1, self._epoch + 1):
            part = min(owed, self._left[epoch % SLICES])
            self._left[epoch % SLICES] -= part
            owed -= part
        self._floor -= owed
        return min(cost, self._settings.cost)

    def fail(self, verdict: Verdict, now: Seconds) -> None:
        """Nothing: only further attempts cost."""

    def release(self) -> None:
        """Nothing: what is in flight does not matter."""

    def finish(self, good: bool, charges: int, now: Seconds) -> None:
        if good and self._settings.refund:
            self.refund(charges, now)

    def refund(self, charges: int, now: Seconds) -> None:
        """Give tokens back to where some were spent, so that there are never more than were made."""
        self._advance(now)
        self.refunded += charges
        due = charges * TOKEN
        for epoch in range(self._epoch, self._epoch - SLICES, -1):
            part = min(due, self._made[epoch % SLICES] - self._left[epoch % SLICES])
            self._left[epoch % SLICES] += part
            due -= part
        self._floor = min(self._reserve, self._floor + due)

    def level(self, now: Seconds) -> int:
        self._advance(now)
        return (sum(self._left) + self._floor) // (self._settings.cost * TOKEN)

    def limit(self, now: Seconds) -> int:
        self._advance(now)
        return (sum(self._made) + self._reserve) // (self._settings.cost * TOKEN)

    def configure(self, settings: RatioSettings, now: Seconds) -> None:
        self._advance(now)
        made, left = sum(self._made), sum(self._left)
        self._take(settings)
        # The slices may have another length now: what they hold counts as deposited in the present one.
        self._clear()
        self._made[self._epoch % SLICES] = made
        self._left[self._epoch % SLICES] = left
        self._floor = min(self._reserve, self._floor)

    def after_fork(self, now: Seconds) -> None:
        self._advance(now)
        self._clear()
        self.granted = self.denied = self.refunded = 0

    def _clear(self) -> None:
        self._made = [0] * SLICES
        self._left = [0] * SLICES

    def _advance(self, now: Seconds) -> None:
        now = max(now, self._now)
        epoch = self._epoch_of(now)
        for fresh in range(max(self._epoch, epoch - SLICES) + 1, epoch + 1):
            self._made[fresh % SLICES] = self._left[fresh % SLICES] = 0
        if self._pending:
            self._spread(self._pending * self._deposit, now, epoch)
            self._pending = 0
        self._floor, self._floor_at = _filled(self._floor, self._reserve, self._rate, self._floor_at, now)
        self._now, self._epoch = now, epoch

    def _epoch_of(self, now: Seconds) -> int:
        """Return the number of the slice of *now*: slice k begins at the product k * width."""
        epoch = int(now // self._width)
        return epoch + 1 if (epoch + 1) * self._width <= now else epoch  # if the product was rounded down

    def _spread(self, tokens: int, now: Seconds, epoch: int) -> None:
        oldest = epoch - SLICES + 1
        placed = self._share(tokens, oldest, now) if oldest > self._epoch else 0  # has expired
        for earlier in range(max(self._epoch, oldest), epoch):
            share = self._share(tokens, earlier + 1, now)
            self._add(earlier, share - placed)
            placed = share
        self._add(epoch, tokens - placed)

    def _share(self, tokens: int, epoch: int, now: Seconds) -> int:
        """Return what was deposited before a slice began, of *tokens* between the last question and *now*."""
        return int(tokens * ((epoch * self._width - self._now) / (now - self._now)))

    def _add(self, epoch: int, tokens: int) -> None:
        self._made[epoch % SLICES] += tokens
        self._left[epoch % SLICES] += tokens


class RefundBudget:
    """
    One bucket of tokens. An attempt takes its cost, a call that ends well gives back all it took.

    Source:
        AWS SDKs, retry mode "standard". They give back the last charge only, so that a call that needed two
        retries costs one of them for good; here it gets both back.
    """

    __slots__ = (
        "_at",
        "_capacity",
        "_now",
        "_rate",
        "_reward",
        "_settings",
        "_tokens",
        "denied",
        "granted",
        "refunded",
    )

    reads: ClassVar[frozenset[Counter]] = frozenset({"good"})

    def __init__(self, settings: RefundSettings, now: Seconds) -> None:
        self._now = self._at = now
        self.granted = self.denied = self.refunded = 0
        self._take(settings)
        self._tokens = self._initial()

    def _take(self, settings: RefundSettings) -> None:
        self._settings = settings
        self._capacity = settings.capacity * TOKEN
        self._reward = math.ceil(settings.reward * TOKEN)
        self._rate = settings.refill_per_second * TOKEN

    def _initial(self) -> int:
        settings = self._settings
        initial = 2 * settings.cost if settings.initial is None else settings.initial
        return min(self._capacity, initial * TOKEN)

    def collect(self, calls: int, good: int) -> None:  # noqa: ARG002  # only calls that end well pay
        self._tokens = min(self._capacity, self._tokens + good * self._reward)

    def try_withdraw(self, verdict: Verdict, now: Seconds) -> int:
        self._advance(now)
        cost = _cost(self._settings, verdict)
        if self._tokens < cost * TOKEN:
            self.denied += 1
            return 0
        self.granted += 1
        self._tokens -= cost * TOKEN
        return min(cost, self._settings.cost)

    def fail(self, verdict: Verdict, now: Seconds) -> None:
        """Nothing: only further attempts cost."""

    def release(self) -> None:
        """Nothing: what is in flight does not matter."""

    def finish(self, good: bool, charges: int, now: Seconds) -> None:
        if good:
            self.refund(charges, now)

    def refund(self, charges: int, now: Seconds) -> None:  # noqa: ARG002  # it fills as well before as after
        self.refunded += charges
        self._tokens = min(self._capacity, self._tokens + charges * TOKEN)

    def level(self, now: Seconds) -> int:
        self._advance(now)
        return self._tokens // (self._settings.cost * TOKEN)

    def limit(self, now: Seconds) -> int:  # noqa: ARG002  # the same at any time
        return self._capacity // (self._settings.cost * TOKEN)

    def configure(self, settings: RefundSettings, now: Seconds) -> None:
        self._advance(now)
        self._take(settings)
        self._tokens = min(self._capacity, self._tokens)

    def after_fork(self, now: Seconds) -> None:
        self._advance(now)
        self._tokens = min(self._tokens, self._initial())
        self.granted = self.denied = self.refunded = 0

    def _advance(self, now: Seconds) -> None:
        self._now = max(now, self._now)
        self._tokens, self._at = _filled(self._tokens, self._capacity, self._rate, self._at, self._now)


class GrpcBudget:
    """
    Further attempts only while most attempts succeed.

    Every failure takes a token, whether or not a further attempt follows; the comparison with half of the
    maximum comes after, and is strict. Charges are not given back: a success earns its share instead.

    Source:
        gRPC retry design (gRFC A6).
    """

    __slots__ = (
        "_at",
        "_max",
        "_now",
        "_rate",
        "_reward",
        "_settings",
        "_tokens",
        "denied",
        "granted",
        "refunded",
    )

    reads: ClassVar[frozenset[Counter]] = frozenset({"good"})

    def __init__(self, settings: GrpcSettings, now: Seconds) -> None:
        self._now = self._at = now
        self.granted = self.denied = self.refunded = 0
        self._take(settings)
        self._tokens = self._max

    def _take(self, settings: GrpcSettings) -> None:
        self._settings = settings
        self._max = settings.max_tokens * TOKEN
        self._reward = round(settings.token_ratio * TOKEN)
        self._rate = settings.refill_per_second * TOKEN

    def collect(self, calls: int, good: int) -> None:  # noqa: ARG002  # only successes pay
        self._tokens = min(self._max, self._tokens + good * self._reward)

    def try_withdraw(self, verdict: Verdict, now: Seconds) -> int:
        self.fail(verdict, now)
        if 2 * self._tokens <= self._max:
            self.denied += 1
            return 0
        self.granted += 1
        return 1

    def fail(self, verdict: Verdict, now: Seconds) -> None:
        self._advance(now)
        if verdict in FAILED:
            self._tokens = max(0, self._tokens - TOKEN)

    def release(self) -> None:
        """Nothing: what is in flight does not matter."""

    def finish(self, good: bool, charges: int, now: Seconds) -> None:  # noqa: ARG002  # needs neither
        if good:
            self.collect(0, 1)

    def refund(self, charges: int, now: Seconds) -> None:
        """Nothing: a success earns its share instead."""

    def level(self, now: Seconds) -> int:
        self._advance(now)
        return _failures_until_half(self._tokens, self._max)

    def limit(self, now: Seconds) -> int:  # noqa: ARG002  # the same at any time
        return _failures_until_half(self._max, self._max)

    def configure(self, settings: GrpcSettings, now: Seconds) -> None:
        self._advance(now)
        self._take(settings)
        self._tokens = min(self._max, self._tokens)

    def after_fork(self, now: Seconds) -> None:  # noqa: ARG002  # time passes for the child as for the parent
        """Keep the tokens: they are what is known of the dependency, not something to spend."""
        self.granted = self.denied = self.refunded = 0

    def _advance(self, now: Seconds) -> None:
        self._now = max(now, self._now)
        self._tokens, self._at = _filled(self._tokens, self._max, self._rate, self._at, self._now)


class InflightBudget:
    """
    Further attempts may be a share of what is in flight, or a few.

    What is in flight are calls and their further attempts. The share is compared before the new attempt is
    added, so it may be exceeded by one.

    Source:
        failsafe-go ``budget``; Envoy ``retry_budget``, which allows one attempt less.
    """

    __slots__ = ("_calls", "_extras", "_ratio", "_settings", "denied", "granted", "refunded")

    reads: ClassVar[frozenset[Counter]] = frozenset({"calls", "good"})

    def __init__(self, settings: InflightSettings, now: Seconds) -> None:  # noqa: ARG002  # time is no part of it
        self._calls = self._extras = 0
        self.granted = self.denied = self.refunded = 0
        self._take(settings)

    def _take(self, settings: InflightSettings) -> None:
        self._settings = settings
        self._ratio = round(settings.ratio * TOKEN)

    def collect(self, calls: int, good: int) -> None:
        # Calls that began before a fork and ended after it were never counted here.
        self._calls = max(0, self._calls + calls - good)

    def try_withdraw(self, verdict: Verdict, now: Seconds) -> int:  # noqa: ARG002  # needs neither
        if self._extras >= self._limit():
            self.denied += 1
            return 0
        self.granted += 1
        self._extras += 1
        return 1

    def fail(self, verdict: Verdict, now: Seconds) -> None:
        """Nothing: only what is in flight matters."""

    def release(self) -> None:
        self._extras = max(0, self._extras - 1)

    def finish(self, good: bool, charges: int, now: Seconds) -> None:  # noqa: ARG002  # ended is ended
        self.collect(0, 1)

    def refund(self, charges: int, now: Seconds) -> None:
        """Nothing: an attempt that ended is paid for."""

    def level(self, now: Seconds) -> int:  # noqa: ARG002  # time is no part of it
        return max(0, self._limit() - self._extras)

    def limit(self, now: Seconds) -> int:  # noqa: ARG002  # time is no part of it
        return self._limit()

    def _limit(self) -> int:
        share = self._ratio * (self._calls + self._extras) // TOKEN
        return max(self._settings.min_concurrency, share + 1)

    def configure(self, settings: InflightSettings, now: Seconds) -> None:  # noqa: ARG002  # time is no part of it
        self._take(settings)

    def after_fork(self, now: Seconds) -> None:  # noqa: ARG002  # time is no part of it
        self._calls = self._extras = 0
        self.granted = self.denied = self.refunded = 0


def machine_for(settings: BudgetSettings, now: Seconds) -> BudgetMachine:
    """Return a new budget of the family that the settings are of."""
    match settings:
        case RatioSettings():
            return RatioBudget(settings, now)
        case RefundSettings():
            return RefundBudget(settings, now)
        case GrpcSettings():
            return GrpcBudget(settings, now)
        case _:
            return InflightBudget(settings, now)


def _cost(settings: RatioSettings | RefundSettings, verdict: Verdict) -> int:
    if verdict is Verdict.TIMED_OUT:
        return settings.timeout_cost
    if verdict is Verdict.THROTTLED:
        return settings.throttle_cost
    return settings.cost


def _filled(tokens: int, bound: int, rate: float, since: Seconds, now: Seconds) -> tuple[int, Seconds]:
    """
    Fill a bucket by time: *rate* for each second from *since* to *now*, up to *bound*.

    Returns:
        What it holds, and up to when that is: never the fraction of a unit is lost, however often it is
        asked.

    """
    grown = max(0, round((now - since) * rate))
    if tokens + grown >= bound:
        return bound, now
    return tokens + grown, (since + grown / rate if grown else since)


def _failures_until_half(tokens: int, maximum: int) -> int:
    """Return how many failures in a row would still be followed by a further attempt."""
    # The largest k with 2 (tokens - k) > maximum.
    return max(0, -((maximum - 2 * tokens) // (2 * TOKEN)) - 1)
