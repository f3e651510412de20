"""A budget of one bucket: attempts that help give back what they took."""

import math
from typing import ClassVar

from resilience.outcome import Verdict
from resilience.retry_budget._settings import RefundSettings
from resilience.retry_budget._tokens import TOKEN, Counter, cost_of, filled
from resilience.typing import Seconds


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
        cost = cost_of(self._settings, verdict)
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
        self.give_back(charges)

    def give_back(self, charges: int) -> None:
        self.refunded += charges
        self._tokens = min(self._capacity, self._tokens + charges * TOKEN)

    def pass_on(self, charges: int, verdict: Verdict, now: Seconds) -> int:  # noqa: ARG002  # of every budget
        """Nothing: what is given back to a bucket that is full meanwhile is lost."""
        return 0

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
        self._tokens, self._at = filled(self._tokens, self._capacity, self._rate, self._at, self._now)
