"""A budget that is a share of what is in flight: nothing is kept, and time is no part of it."""

from typing import ClassVar

from resilience.outcome import Verdict
from resilience.retry_budget._settings import InflightSettings
from resilience.retry_budget._tokens import TOKEN, Counter
from resilience.typing import Seconds


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

    def give_back(self, charges: int) -> None:
        """Nothing: an attempt that ended is paid for."""

    def pass_on(self, charges: int, verdict: Verdict, now: Seconds) -> int:  # noqa: ARG002  # of every budget
        """Nothing: nothing is given back."""
        return 0

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
