"""
Places for calls in flight, some of them kept for those who have a share.

A share guarantees so many places, and sets no bound: a call is admitted while fewer calls than the limit
are in flight in all, **or** fewer of its own share than that guarantees. Whoever has a share can hence
always get its guaranteed places, even while the others hold all the rest::

    guaranteed = max(1, ceil(limit * share))
    in flight <= limit + sum of guaranteed

The bound is reached if calls without a share take all of the limit first; if every call has a share it is
one less. After the limit was lowered it holds again once the calls under way have ended. Below a limit
of 1 each share keeps one place, and all rest together.

Source: Netflix concurrency-limits, AbstractPartitionedLimiter, which has no calls without a share.

Generated code cannot count this by itself: a limiter with shares takes part through its methods.
"""

import math
from collections.abc import Hashable

from resilience._core.permit import NEVER, Refusal
from resilience.concurrency_limiter._ask import Ask
from resilience.concurrency_limiter._cell import Cell, Slot
from resilience.concurrency_limiter._limit import Terms
from resilience.concurrency_limiter._machine import Bulkhead
from resilience.concurrency_limiter._settings import ConcurrencyLimiterSettings
from resilience.typing import Ratio, Seconds

DIGITS = 9
"""Places after the point that count: 100 times 0.07 is a little more than 7 as floats go."""


COMMON = Ask(None, 0)
"""What a call without a share asks for."""


class Part:
    """
    What one generation counts of one share.

    Attributes:
        share: Its share of the limit; 0 for calls that have none.
        limit: The places it guarantees.
        inflight: Calls in flight.

    """

    __slots__ = ("inflight", "limit", "share")

    def __init__(self, share: Ratio) -> None:
        self.share = share
        self.limit = 0
        self.inflight = 0

    def apportion(self, total: int) -> None:
        """Guarantee what its share of *total* is."""
        self.limit = max(1, math.ceil(round(total * self.share, DIGITS)))


class PartSlot(Slot):
    """
    A place for one call.

    Attributes:
        part: Where it is counted besides.

    """

    __slots__ = ("part",)

    def __init__(self, cell: Cell, part: Part, started: Seconds, *, rested: bool) -> None:
        super().__init__(cell, started, rested=rested)
        self.part = part


class Partitions(Bulkhead):
    """
    Decide which calls may run at once, where some have shares. See `Bulkhead`.

    Attributes:
        parts: The shares.
        common: What counts the calls without one.

    """

    __slots__ = ("common", "parts")

    def __init__(self, settings: ConcurrencyLimiterSettings, now: Seconds) -> None:
        self.common = Part(0.0)
        self.parts: dict[Hashable, Part] = {}
        self._share_out(settings)
        super().__init__(settings, now)

    def has_room(self, key: Hashable = None) -> bool:
        """Whether there is a place for a call with *key*; one that rests may still refuse it."""
        return self.cell.inflight < self.cell.limit or self.has_own_room(key)

    def has_own_room(self, key: Hashable) -> bool:
        """Whether the share of *key* guarantees a place that is free."""
        part = self.parts.get(key, self.common)
        return part.inflight < part.limit

    def admit(self, now: Seconds, ask: Ask = COMMON) -> Slot | Refusal:
        """Give out a place, or refuse. When one will be free nobody knows, unless it rests."""
        now = self._advance(now)
        cell, part = self.cell, self.parts.get(ask.key, self.common)
        if (busy := cell.inflight) >= cell.limit and part.inflight >= part.limit:
            return NEVER
        if now < self.rest_until:
            return Refusal(self.rest_until - now)
        # First: interrupts strike at calls, and must not find a place taken that nobody knows of.
        slot = PartSlot(cell, part, now, rested=self.rests)
        if busy >= cell.peak:
            self._note_peak(busy + 1)
        cell.started, part.inflight = cell.started + 1.0, part.inflight + 1
        return slot

    def _free(self, slot: Slot) -> Cell | None:
        part = slot.part if isinstance(slot, PartSlot) else self.common
        # No call from here on, at which an interrupt could strike.
        cell, slot.cell = slot.cell, None
        if cell is not None:
            cell.ceiling, part.inflight = cell.ceiling + 1.0, part.inflight - 1
        return cell

    def resize(self, limit: float) -> None:
        """Let so many calls run at once from now on, and share them out anew. See `Bulkhead.resize`."""
        super().resize(limit)
        self._apportion()

    def configure(self, settings: ConcurrencyLimiterSettings, terms: Terms, now: Seconds) -> None:
        """Take settings and their *terms*. Calls in flight go on; those of a new share count from now on."""
        self._share_out(settings)
        super().configure(settings, terms, now)
        self._apportion()

    def after_fork(self, now: Seconds) -> None:
        """Become the machine of a child: calls in flight are the parent's. The limit and the shares stay."""
        super().after_fork(now)
        self.common, self.parts = Part(0.0), {}
        self._share_out(self.settings)
        self._apportion()

    def _share_out(self, settings: ConcurrencyLimiterSettings) -> None:
        before = self.parts
        self.parts = {}
        for key, share in (settings.shares or {}).items():
            part = self.parts[key] = before.get(key) or Part(share)
            part.share = share

    def _apportion(self) -> None:
        for part in self.parts.values():
            part.apportion(self.cell.limit)
