"""
Places for calls in flight: a count and a limit.

A *generation* is the `Cell` that counts them. A fork begins a new one: places that were taken in the
parent are given back to a cell that nobody reads any more.

**What generated code may do itself.** With a limit that never changes this is all::

    if (n := cell.started) < cell.ceiling: cell.started = n + 1.0
    else: ...                                   # ask admit()
    try: ...                                    # the call
    finally: cell.ceiling += 1.0
    if bulkhead.is_barred: ...                  # wake who waits

Each of the two lines that count is one line of float work without a call, and so needs no lock where an
interpreter switches threads only at calls and loops. The ceiling lets in no more calls than are known to
fit: none while somebody waits in line; and where the limit learns, no more than the peak, beyond which
`admit` notes a new one, and none while a limit below 1 is in force, for which `admit` knows when to rest.
There one more line follows once the call has ended well::

    if n >= bulkhead.look_at: ...               # at the clock: is the window over?

If it is: ``take_sample()``, hand it to the limit, ``resize()``, ``set_window()``. A look at the clock costs
as much as all the rest, so that `looked` allows some calls without one. How many ended well is what was
given out less what is in flight and what ended otherwise. For a limit that needs times there are more::

    cell.timed += 1
    cell.seconds += took
    if took < cell.shortest: cell.shortest = took
    cell.times.append(took)                     # for a quantile
    if now >= bulkhead.window_end: ...

Waiting in line is not done here: whoever waits asks again when a place is free and its turn has come.
"""

import math
from collections.abc import Hashable
from typing import Any, Final

from resilience._core.check import is_finite
from resilience._core.permit import NEVER, Refusal
from resilience.concurrency_limiter._cell import MOST_TIMES as MOST_TIMES
from resilience.concurrency_limiter._cell import Cell as Cell
from resilience.concurrency_limiter._cell import Slot as Slot
from resilience.concurrency_limiter._limit import FixedLimit, Limit, Sample, Terms, terms_of
from resilience.concurrency_limiter._settings import ConcurrencyLimiterSettings
from resilience.outcome import Verdict
from resilience.typing import Ratio, Seconds

FAILED: Final = (Verdict.BAD, Verdict.TIMED_OUT, Verdict.THROTTLED)
"""How a call can end that did not end well."""

LONGEST_REST: Final[Seconds] = 2.0
"""Seconds to rest at most between two calls: how late it may be noticed that a dependency is well again."""

MOST_UNSEEN: Final = 16
"""Good calls in a row after which generated code does not look at the clock, at most."""

SHARE_UNSEEN: Final = 8
"""So many calls of a window allow one call more without a look, so that it ends no more than an eighth of its
calls late."""

LEAST: Final = 0.01
"""The lowest limit that is kept: a share of the time."""


class Bulkhead:
    """
    Decide which calls may run at once. Not thread-safe: the policy holds a lock.

    Every instant that is passed in is one of the monotonic clock, in seconds; one that is earlier
    than the latest seen counts as that one.

    The limit itself is asked only when the machine is made: it may be a user's, and the policy holds a
    lock. The policy hands on what `take_sample` returns, outside its lock, and then calls `resize` and
    `set_window`.

    Args:
        settings: The settings.
        now: The present instant.

    Attributes:
        settings: The settings in force.
        source: What says how many calls may run at once.
        cell: What the present generation counts.
        is_barred: Whether somebody waits, so that nobody is let in without another look.
        window_end: Instant from which `take_sample` returns a sample; infinite if none is needed.
        look_at: Places given out after which generated code looks whether the window is over.
        rests: Whether it rests after calls, because the limit is below 1.
        rest_until: Instant before which nothing is admitted then.

    """

    __slots__ = (
        "_began",
        "_ended",
        "_marks",
        "_needs_latency",
        "_now",
        "_quantile",
        "_share",
        "_window",
        "cell",
        "is_barred",
        "look_at",
        "rest_until",
        "rests",
        "settings",
        "source",
        "window_end",
    )

    def __init__(self, settings: ConcurrencyLimiterSettings, now: Seconds) -> None:
        self.settings = settings
        terms = terms_of(settings.make_limit())
        self.source: Limit = terms.source
        self.is_barred = False
        self._now = now
        self.rest_until = -math.inf
        self.cell = Cell(1)
        self._share: Ratio = 1.0
        self.rests = False
        self.resize(terms.limit)
        self._look_at(terms)

    @property
    def inflight(self) -> int:
        """Calls in flight. May be above `limit` for a while after the limit was lowered."""
        return self.cell.inflight

    @property
    def limit(self) -> int:
        """Calls that may be in flight."""
        return self.cell.limit

    @property
    def free(self) -> int:
        """Calls that would be admitted now, without a share."""
        return max(0, self.cell.limit - self.cell.inflight)

    @property
    def wants_times(self) -> bool:
        """Whether the limit asks for a quantile of the times that calls take."""
        return self._quantile is not None

    @property
    def needs_latency(self) -> bool:
        """Whether the limit asks how long calls take."""
        return self._needs_latency

    def is_idle(self, now: Seconds) -> bool:  # noqa: ARG002  # every gate machine is told the time
        """Whether no call is in flight."""
        return self.cell.inflight == 0

    def has_room(self, key: Hashable = None) -> bool:  # noqa: ARG002  # for machines with shares
        """Whether there is a place for a call with *key*; one that rests may still refuse it."""
        return self.cell.inflight < self.cell.limit

    def has_own_room(self, key: Hashable) -> bool:  # noqa: ARG002  # for machines with shares
        """Whether there is a place that only calls with *key* may take."""
        return False

    def admit(self, now: Seconds, ask: Any = None) -> Slot | Refusal:  # noqa: ARG002  # for machines with shares
        """Give out a place, or refuse. When one will be free nobody knows, unless it rests."""
        now = self._advance(now)
        cell = self.cell
        if (busy := cell.inflight) >= cell.limit:
            return NEVER
        if now < self.rest_until:
            return Refusal(self.rest_until - now)
        # First: interrupts strike at calls, and must not find a place taken that nobody knows of.
        slot = Slot(cell, now, rested=self.rests)
        if busy >= cell.peak:
            self._note_peak(busy + 1)
        # One line, because generated code does the same without the lock.
        cell.started = (n := cell.started) + (fits := n - cell.ceiling + cell.known < cell.limit)
        return slot if fits else NEVER

    def settle(self, slot: Slot, verdict: Verdict, now: Seconds) -> None:
        """
        Take a place back, with what its call taught us.

        The second time nothing happens, and a place of an earlier generation changes nothing.
        """
        if verdict is Verdict.IGNORED:
            self.release(slot, now)
            return
        now = self._advance(now)
        cell = self._free(slot)
        if cell is None or cell is not self.cell:
            return
        took = now - slot.started
        if self.rests and slot.rested:  # generated code, which never rests, need not know how long it took
            until = now + min(LONGEST_REST, took * (1.0 / self._share - 1.0))
            self.rest_until = max(self.rest_until, until)  # one beside it may have asked for a longer rest
        if verdict is not Verdict.GOOD:
            self._ended[verdict] += 1
            cell.others += 1
        if not (self._needs_latency or slot.rested):
            return
        if verdict is Verdict.GOOD:
            cell.shortest = min(cell.shortest, took)
        if verdict in (Verdict.GOOD, Verdict.TIMED_OUT):
            cell.timed += 1
            cell.seconds += took
            if self._quantile is not None:
                cell.times.append(took)

    def release(self, slot: Slot, now: Seconds) -> None:
        """Take a place back; nothing is learnt. The second time nothing happens."""
        self._advance(now)
        cell = self._free(slot)
        if cell is not None:
            cell.others += 1

    def _free(self, slot: Slot) -> Cell | None:
        # No call from here on, at which an interrupt could strike.
        cell, slot.cell = slot.cell, None
        if cell is not None:
            cell.ceiling += 1.0
        return cell

    def take_sample(self, now: Seconds) -> Sample | None:
        """
        Return what the calls since the last sample showed, if a window is over; and begin the next.

        A window in which no call ended goes on until one does.
        """
        if self._advance(now) < self.window_end:
            return None
        cell, marks = self.cell, self._marks
        # Threads that are in the midst of a line of counts may have shown one too many last time.
        good, timed = max(0, self._good() - marks[0]), cell.timed - marks[1]
        if not (good or any(self._ended.values())):
            return None
        sample = Sample(
            now=self._now,
            good=good,
            bad=self._ended[Verdict.BAD],
            timed_out=self._ended[Verdict.TIMED_OUT],
            throttled=self._ended[Verdict.THROTTLED],
            peak=cell.peak,
            mean=(cell.seconds - marks[2]) / timed if timed else None,
            shortest=None if cell.shortest == math.inf else cell.shortest,
            quantile=self._latency(),
        )
        self._begin_window()
        return sample

    def looked(self) -> None:
        """
        Take note that the window is not over yet.

        Needs no lock in any build: at worst some more calls look, or up to `MOST_UNSEEN` more do not.
        """
        cell = self.cell
        calls = cell.ended - self._marks[3]
        self.look_at = cell.started + min(MOST_UNSEEN, calls // SHARE_UNSEEN)

    def _latency(self) -> Seconds | None:
        """Return the quantile that the limit asked for, as Netflix takes it: the nearest rank."""
        times = sorted(self.cell.times)
        if self._quantile is None or not times:
            return None
        return times[max(0, round(len(times) * self._quantile) - 1)]

    def resize(self, limit: float) -> None:
        """
        Let so many calls run at once from now on. Those in flight go on.

        A fraction is cut off. Below 1, one call runs at a time, and calls are under way only that share of
        the time. What is no finite number changes nothing.
        """
        if not is_finite(limit):
            return
        self.cell.limit = max(1, int(limit))
        self._share = min(1.0, max(LEAST, limit))
        self.rests = self._share < 1.0
        self._set_known()
        if not self.rests:
            self.rest_until = -math.inf

    def set_window(self, window: Seconds | None) -> None:
        """
        Let samples cover so much from now on, the one that has begun included; None for no more samples.

        What is no finite number of at least 0 changes nothing.
        """
        if window is None or (is_finite(window) and window >= 0):
            self._window = window
            self._end_window()

    def configure(self, settings: ConcurrencyLimiterSettings, terms: Terms, now: Seconds) -> None:
        """Take settings and their *terms*. Calls in flight go on; the same `Limit` keeps what it learnt."""
        self._advance(now)
        self.settings = settings
        if terms.source is not self.source:
            self.source = terms.source
            self.resize(terms.limit)
            self._look_at(terms)

    def after_fork(self, now: Seconds) -> None:
        """Become the machine of a child: calls in flight are the parent's. The limit stays."""
        self._advance(now)
        self.cell = Cell(self.cell.limit)
        self.is_barred = False
        self.rest_until = -math.inf
        self._begin_window()

    def _look_at(self, terms: Terms) -> None:
        self._window, self._quantile = terms.window, terms.quantile
        self._needs_latency = terms.needs_latency
        self._begin_window()

    def _good(self) -> int:
        return self.cell.ended - self.cell.others

    def bar(self, is_barred: bool) -> None:
        """Let nobody in without another look, because somebody waits; or again, because nobody does."""
        self.is_barred = is_barred
        self._set_known()

    def _note_peak(self, peak: int) -> None:
        self.cell.peak = peak
        self._set_known()

    def _set_known(self) -> None:
        cell = self.cell
        if self.rests or self.is_barred:
            cell.let_in(0)
        else:
            cell.let_in(cell.limit if isinstance(self.source, FixedLimit) else min(cell.peak, cell.limit))

    def _begin_window(self) -> None:
        cell = self.cell
        self._marks = (self._good(), cell.timed, cell.seconds, cell.ended)
        self._ended = dict.fromkeys(FAILED, 0)
        cell.peak = max(1, cell.inflight)  # no sample is about fewer
        self._set_known()
        cell.shortest = math.inf
        cell.times.clear()
        self._began = self._now
        self._end_window()

    def _end_window(self) -> None:
        self.window_end = math.inf if self._window is None else self._began + self._window
        self.look_at = math.inf if self._window is None else 0.0

    def _advance(self, now: Seconds) -> Seconds:
        self._now = max(self._now, now)
        return self._now
