"""A budget that a share of the calls pays for: their deposits are kept for a short time, above a floor."""

import math
from typing import ClassVar, Final

from resilience.outcome import Verdict
from resilience.retry_budget._settings import RatioSettings
from resilience.retry_budget._tokens import TOKEN, Counter, cost_of, filled
from resilience.typing import Seconds

SLICES: Final = 10
"""Into how many slices the life of a deposit is cut, as in Finagle and Tower: it is exact to one of them."""


ATTEMPTS: Final = 2
"""Further attempts at plain cost that the floor has room for: those of one call, as `Retry` makes them."""

_BAD: Final = Verdict.BAD


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
        "_end",
        "_epoch",
        "_floor",
        "_floor_at",
        "_left",
        "_made",
        "_now",
        "_oldest",
        "_pending",
        "_rate",
        "_reserve",
        "_settings",
        "_spent",
        "_unspent",
        "_width",
        "denied",
        "granted",
        "refunded",
    )

    reads: ClassVar[frozenset[Counter]] = frozenset({"calls"})

    def __init__(self, settings: RatioSettings, now: Seconds) -> None:
        self._now: Seconds = now
        self._pending = self._unspent = self._oldest = self._spent = 0
        self.granted = self.denied = self.refunded = 0
        self._take(settings)
        self._clear()
        self._floor = self._reserve
        self._floor_at = now

    def _take(self, settings: RatioSettings) -> None:
        self._settings = settings
        self._width = settings.ttl / SLICES
        self._epoch = self._epoch_of(self._now)
        self._end = (self._epoch + 1) * self._width  # of the present slice
        # Rounded up, so that three calls at a third make a token.
        self._deposit = math.ceil(settings.ratio * TOKEN)
        self._rate = settings.min_per_second * TOKEN
        enough = max(ATTEMPTS * settings.cost, settings.timeout_cost, settings.throttle_cost)
        reserve = max(round(self._rate * settings.ttl), enough * TOKEN)
        self._reserve = reserve if self._rate else 0

    def collect(self, calls: int, good: int) -> None:  # noqa: ARG002  # every call pays, whatever comes of it
        self._pending += calls

    def try_withdraw(self, verdict: Verdict, now: Seconds) -> int:
        self._advance(now)
        usual = self._settings.cost
        cost = usual if verdict is _BAD else cost_of(self._settings, verdict)
        owed = cost * TOKEN
        left, unspent = self._left, self._unspent
        if unspent + self._floor < owed:
            self.denied += 1
            return 0
        self.granted += 1
        epoch = self._oldest
        if self._epoch - SLICES < epoch <= self._spent and owed < (there := left[epoch % SLICES]):
            self._unspent = unspent - owed
            left[epoch % SLICES] = there - owed
            return min(cost, usual)
        spending = min(owed, unspent)
        self._floor -= owed - spending
        self._unspent = unspent - spending
        for epoch in range(max(self._oldest, self._epoch - SLICES + 1), self._epoch + 1):
            self._oldest = epoch
            self._spent = max(self._spent, epoch)
            there = left[epoch % SLICES]
            if spending < there:
                left[epoch % SLICES] = there - spending
                break
            left[epoch % SLICES] = 0
            spending -= there
        return min(cost, usual)

    def fail(self, verdict: Verdict, now: Seconds) -> None:
        """Nothing: only further attempts cost."""

    def release(self) -> None:
        """Nothing: what is in flight does not matter."""

    def finish(self, good: bool, charges: int, now: Seconds) -> None:
        if good and self._settings.refund:
            self.refund(charges, now)

    def refund(self, charges: int, now: Seconds) -> None:
        self._advance(now)
        self.give_back(charges)

    def give_back(self, charges: int) -> None:
        """Give tokens back to where some were spent, so that there are never more than were made."""
        self.refunded += charges
        due = charges * TOKEN
        made, left, last = self._made, self._left, self._spent
        if last > self._epoch - SLICES and due <= made[last % SLICES] - left[last % SLICES]:  # mostly
            left[last % SLICES] += due
            self._unspent += due
            return
        for epoch in range(min(self._spent, self._epoch), self._epoch - SLICES, -1):
            if spent := made[epoch % SLICES] - left[epoch % SLICES]:
                part = min(due, spent)
                left[epoch % SLICES] += part
                self._unspent += part
                self._oldest = min(self._oldest, epoch)
                due -= part
                if not due:
                    return
        self._floor = min(self._reserve, self._floor + due)

    def pass_on(self, charges: int, verdict: Verdict, now: Seconds) -> int:
        cost, last = self._settings.cost, self._spent % SLICES
        # At least once in a slice it is a question, so that deposits find their slices. And only what was
        # spent there is passed on: what was never taken cannot be given back.
        if (
            verdict is not _BAD
            or charges < cost
            or now >= self._end
            or charges * TOKEN > self._made[last] - self._left[last]
        ):
            return 0
        self.granted += 1
        self.refunded += cost
        return cost

    def level(self, now: Seconds) -> int:
        self._advance(now)
        return (self._unspent + self._floor) // (self._settings.cost * TOKEN)

    def limit(self, now: Seconds) -> int:
        self._advance(now)
        return (sum(self._made) + self._reserve) // (self._settings.cost * TOKEN)

    def configure(self, settings: RatioSettings, now: Seconds) -> None:
        self._advance(now)
        made, left = sum(self._made), self._unspent
        self._take(settings)
        # The slices may have another length now: what they hold counts as deposited in the present one.
        self._clear()
        self._made[self._epoch % SLICES] = made
        self._left[self._epoch % SLICES] = self._unspent = left
        self._floor = min(self._reserve, self._floor)

    def after_fork(self, now: Seconds) -> None:
        self._advance(now)
        self._clear()
        self.granted = self.denied = self.refunded = 0

    def _clear(self) -> None:
        self._made = [0] * SLICES  # what was deposited in each slice, at its number modulo SLICES
        self._left = [0] * SLICES  # what of it is not spent
        self._unspent = 0  # the sum of that
        self._oldest = self._epoch - SLICES  # none before it has anything left
        self._spent = self._epoch  # nothing was spent of any after it

    def _advance(self, now: Seconds) -> None:
        if now < self._now:  # noqa: PLR1730  # a call less, in every further attempt
            now = self._now
        if now < self._end:
            if tokens := self._pending * self._deposit:
                self._pending, epoch = 0, self._epoch
                self._made[epoch % SLICES] += tokens
                self._left[epoch % SLICES] += tokens
                self._unspent += tokens
                if epoch < self._oldest:  # noqa: PLR1730  # as above
                    self._oldest = epoch
            if self._floor == self._reserve:
                self._floor_at = now
            else:
                self._fill(now)
            self._now = now
            return
        epoch = self._epoch_of(now)
        for fresh in range(max(self._epoch, epoch - SLICES) + 1, epoch + 1):
            self._unspent -= self._left[fresh % SLICES]
            self._made[fresh % SLICES] = self._left[fresh % SLICES] = 0
        if self._pending:
            self._spread(self._pending * self._deposit, now, epoch)
            self._pending = 0
        self._fill(now)
        self._now, self._epoch = now, epoch
        self._end = (epoch + 1) * self._width

    def _fill(self, now: Seconds) -> None:
        self._floor, self._floor_at = filled(self._floor, self._reserve, self._rate, self._floor_at, now)

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
        self._unspent += tokens
        self._oldest = min(self._oldest, epoch)
