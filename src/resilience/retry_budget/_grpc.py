"""gRPC's budget: no further attempts once too many attempts fail."""

from typing import ClassVar, Final

from resilience.outcome import Verdict
from resilience.retry_budget._settings import GrpcSettings
from resilience.retry_budget._tokens import TOKEN, Counter, filled
from resilience.typing import Seconds

FAILED: Final = frozenset({Verdict.BAD, Verdict.TIMED_OUT, Verdict.THROTTLED})
"""The ends of an attempt that count as failures."""


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

    def give_back(self, charges: int) -> None:
        """Nothing: a success earns its share instead."""

    def pass_on(self, charges: int, verdict: Verdict, now: Seconds) -> int:  # noqa: ARG002  # of every budget
        """Nothing: nothing is given back."""
        return 0

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
        self._tokens, self._at = filled(self._tokens, self._max, self._rate, self._at, self._now)


def _failures_until_half(tokens: int, maximum: int) -> int:
    """Return how many failures in a row would still be followed by a further attempt."""
    # The largest k with 2 (tokens - k) > maximum.
    return max(0, -((maximum - 2 * tokens) // (2 * TOKEN)) - 1)
