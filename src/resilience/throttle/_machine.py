"""
The throttle: which share of the calls is refused before they reach the dependency.

The rule is the SRE book's: of all calls asked for lately, those included that were refused here, the
dependency may get *k* times as many as it accepts. Here that is what it accepts from all classes of
priority together, and the more important ones are served from it first: a class gets what those
before it leave. With one class in use this is the formula of the book.

**When a call counts.** A call that is refused here counts when it is refused; one that passed counts
when it ends, together with its answer, in the same bucket of the window. A call under way is neither:
held against the dependency, as the book's counters do, a burst of calls into an idle window would
throttle itself; and counted when it began, its answer would fall into a later bucket, or out of the
window. So calls that hang are noticed when they time out, and calls longer than the window count too.

**What generated code may do itself.** While the calls of normal priority surely pass, the throttle
shows the cell of their accepted calls in `Throttle.cell`, until `Throttle.bucket_end`. Then this is
the whole success path, if no priorities are in use, and it decides exactly as `Throttle.admit` and
`Throttle.settle` do::

    if (cell := throttle.cell) is None or clock() >= throttle.bucket_end: ...  # ask admit()
    ...                                                                        # the call
    if (now := clock()) >= throttle.bucket_end: throttle.rotate(now)
    cell.good += 1.0
"""

import math
from collections import deque
from typing import Final

from resilience._core.permit import NEVER, Refusal
from resilience._core.window import Cell, TimeWindow
from resilience.outcome import Verdict
from resilience.throttle._settings import AdaptiveThrottleSettings
from resilience.typing import Ratio, Seconds

RANKS: Final = 5
"""Classes of priority, numbered from 0 for the one that is refused last."""

NORMAL: Final = 2
"""The class of calls that have no other."""

NEWS_KEPT: Final = 16
"""How many changes wait to be reported; beyond that the oldest are dropped."""


def rejection_probability(
    requests: int,
    accepts: int,
    k: float = 2.0,
    *,
    above: int = 0,
    minimum: int = 1,
    padding: float = 1.0,
    cap: Ratio = 1.0,
) -> Ratio:
    """
    Return the share of calls to refuse: what is asked for beyond *k* times what is accepted.

    For one class of calls this is the SRE book's ``max(0, (requests - k * accepts) / (requests + 1))``.

    Args:
        requests: Calls of this class that were asked for, >= 0.
        accepts: Calls of all classes that the dependency accepted, >= 0.
        k: Calls it may get for each accepted one, >= 1.
        above: Calls of more important classes that were asked for, >= 0.
        minimum: Calls needed before anything is refused, those above included.
        padding: What is added to the denominator: the larger, the more passes when next to nothing
            is known.
        cap: Largest share that is ever refused.

    """
    if requests + above < minimum or requests + above <= k * accepts:
        return 0.0
    return min(cap, (requests + above - k * accepts) / (requests + padding))


class Throttle:
    """
    Decide which calls may pass. Not thread-safe: the policy holds a lock.

    Every instant that is passed in is one of the monotonic clock, in seconds; one that is earlier
    than the latest seen counts as that one. The token of a call is the `Cell` of its class.

    Attributes:
        settings: The settings in force.
        cell: Where generated code counts accepted calls of normal priority, or None if each call
            has to ask.
        bucket_end: Instant from which `admit` is asked, and `rotate` comes before counting.
        is_shedding: What `is_shedding_at` was at the last decision.
        rejected: Calls refused, by rank.
        spared: Calls that passed by the floor alone.
        ignored: Calls that ended and taught nothing.
        cancelled: Calls that were cancelled.
        ended: Calls that ended, by verdict. For the good ones call `good`.

    """

    __slots__ = (
        "_good",
        "_news",
        "_now",
        "_passed",
        "_refused",
        "_windows",
        "bucket_end",
        "cancelled",
        "cell",
        "ended",
        "ignored",
        "is_shedding",
        "rejected",
        "settings",
        "spared",
    )

    def __init__(self, settings: AdaptiveThrottleSettings, now: Seconds) -> None:
        self.settings = settings
        self._now = now
        self._windows: dict[int, TimeWindow] = {}  # of the classes that were asked about
        self._passed: Seconds = -math.inf  # when a call last passed that might have been refused
        self._refused: Seconds = -math.inf
        self.is_shedding = False
        self._forget_counts()
        self.bucket_end: Seconds = -math.inf
        self.cell: Cell | None = None
        self._tune(now)

    # Calls

    def admit(self, now: Seconds, draw: float = 0.0, rank: int = NORMAL) -> Cell | Refusal:
        """
        Admit a call that would start at *now*, or refuse it.

        Args:
            now: Instant.
            draw: Chance, in [0, 1): a call passes unless it is below the share to refuse.
            rank: Its class, from 0 for those refused last to ``RANKS - 1``.

        Returns:
            A token for `settle` or `release`; or a `Refusal`. It names no time, since chance may let
            the very next call pass.

        """
        now = self._advance(now)
        if rank == NORMAL and self.cell is not None and now < self.bucket_end:
            return self.cell
        probability = self.probability(now, rank)
        if draw < probability:
            floor = self.settings.floor
            if floor is None or now - self._passed < 1.0 / floor:
                self._refuse(now, rank)
                return NEVER
            self.spared += 1
        if probability > 0:
            self._passed = now
        else:
            self._tune(now)
        return self._window(rank).cell

    def settle(self, token: Cell, verdict: Verdict, now: Seconds) -> None:
        """
        Take *token* back, with what its call taught us. Only a good result was accepted.

        A token from before a fork or a new window changes nothing.

        Args:
            token: What `admit` returned.
            verdict: What the result says. IGNORED is a `release`.
            now: Instant at which the call ended.

        """
        if verdict is Verdict.IGNORED:
            self.release(token, now)
            return
        now = self._advance(now)
        good = verdict is Verdict.GOOD
        if not good:
            self.ended[verdict] += 1
        for window in self._windows.values():
            if window.cell is token:
                window.add(now, bad=not good)
                break
        else:
            self._good += good
            return
        if not good or now >= self.bucket_end:
            self._tune(now)

    def release(self, token: Cell, now: Seconds, *, cancelled: bool = False) -> None:  # noqa: ARG002  # as in every gate machine
        """Take *token* back; nothing is learnt, as if the call had never been asked for."""
        if cancelled:
            self.cancelled += 1
        else:
            self.ignored += 1

    def rotate(self, now: Seconds) -> None:
        """Get ready for an accepted call that ended at *now* and that generated code is about to count."""
        self._tune(self._advance(now))

    # Settings, processes

    def configure(self, settings: AdaptiveThrottleSettings, now: Seconds) -> None:
        """
        Replace the settings. The window is kept unless its length changed.

        Then it starts cold, and calls under way do not count in it.
        """
        now = self._advance(now)
        old, self.settings = self.settings, settings
        if old.sampling_duration != settings.sampling_duration:
            self._good = self.good
            self._windows.clear()
        self._tune(now)

    def after_fork(self, now: Seconds) -> None:
        """Forget calls under way and what was counted for telemetry; keep what was learnt."""
        for window in self._windows.values():
            window.renew()
        self._forget_counts()
        self._tune(self._advance(now))

    # What it knows

    def probability(self, now: Seconds, rank: int = NORMAL) -> Ratio:
        """Return the share of the calls of one class that are refused, but for the floor."""
        above, requests, accepts = self._counts(self._advance(now), rank)
        return rejection_probability(
            requests, accepts, self.settings.k, above=above, minimum=self.settings.minimum_throughput
        )

    def is_idle(self, now: Seconds) -> bool:
        """Whether it is as a new one: the window is empty, and nothing was refused lately."""
        return not any(self._counts(self._advance(now), RANKS)) and not self.is_shedding_at(now)

    def is_shedding_at(self, now: Seconds) -> bool:
        """Whether a call was refused within the *sampling_duration* before *now*."""
        return max(now, self._now) < self._refused + self.settings.sampling_duration

    @property
    def good(self) -> int:
        """Calls that ended well, late ones included."""
        return self._good + sum(int(window.cell.good) for window in self._windows.values())

    @property
    def has_news(self) -> bool:
        """Whether `drain` would return anything. May be asked without the lock."""
        return bool(self._news)

    def drain(self) -> list[bool]:
        """Return what `is_shedding` became since the last time, oldest first, and forget it."""
        drained = list(self._news)
        self._news.clear()
        return drained

    def _window(self, rank: int) -> TimeWindow:
        window = self._windows.get(rank)
        if window is None:
            window = self._windows[rank] = TimeWindow(self.settings.sampling_duration)
        return window

    def _counts(self, now: Seconds, rank: int) -> tuple[int, int, int]:
        """Return the calls asked for above *rank* and of it, and those accepted of all."""
        above = requests = accepts = 0
        for each, window in self._windows.items():
            total, bad, _ = window.count(now)
            accepts += total - bad
            if each < rank:
                above += total
            elif each == rank:
                requests = total
        return above, requests, accepts

    def _refuse(self, now: Seconds, rank: int) -> None:
        self._window(rank).add(now, bad=True)
        self.rejected[rank] += 1
        self._refused = now
        if self.cell is not None or not self.is_shedding:
            self._tune(now)

    def _tune(self, now: Seconds) -> None:
        """Show the cell of normal calls for as long as good results alone do not get any of them refused."""
        shedding = self.is_shedding_at(now)
        if shedding is not self.is_shedding:
            self.is_shedding = shedding
            self._news.append(shedding)
        window = self._window(NORMAL)
        above, requests, accepts = self._counts(now, NORMAL)
        if above + requests <= self.settings.k * accepts:
            self.bucket_end, self.cell = window.end, window.cell
        else:
            self.bucket_end, self.cell = -math.inf, None

    def _advance(self, now: Seconds) -> Seconds:
        self._now = max(self._now, now)
        return self._now

    def _forget_counts(self) -> None:
        self._good = 0  # good results that no present cell counts
        self._news: deque[bool] = deque(maxlen=NEWS_KEPT)
        self.rejected = [0] * RANKS
        self.spared = self.ignored = self.cancelled = 0
        self.ended = {Verdict.BAD: 0, Verdict.TIMED_OUT: 0, Verdict.THROTTLED: 0}
