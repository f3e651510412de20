"""A limit that grows while calls end well, and is cut when they are not answered."""

from typing import Final

from resilience._core.check import Check
from resilience._core.given import Given
from resilience.limits._range import Range, check_backoff, check_range
from resilience.typing import Ratio, Sample, Seconds

SMALL_STEP: Final[Ratio] = 0.04
"""Share of the limit that it grows by, at most, per good call: at a limit of one, a good call is a whole
round, and growing by one each time would outweigh any cut."""

STEADY: Final = 20
"""Good calls in a row, without a drop, after which it grows by one per round whatever the limit."""

LARGEST_STEP: Final[Ratio] = 0.05
"""Share of the limit that it grows by, at most, per window, though always by one: where a window holds many
rounds, growing by one for each of them would outrun the cuts, of which there is one per window."""

HEAVY: Final[Ratio] = 0.5
"""Share of drops from which on a cut counts three times, and starts from what was in flight, where the limit
was not reached: each of many small clients has room to spare when all of them together are too many."""

QUICK: Final[Ratio] = 0.25
"""Share of the time after which calls time out: a good one that took less has found no queue."""

REVIVED: Final = 2.0
"""The limit, at least, after a good call that was quick while it was below 1: too many calls are not the
trouble any more, if they ever were."""

HELPED: Final[Ratio] = 0.8
"""Cuts helped if the share of drops fell below this share of what it was."""

WORSE: Final[Ratio] = 0.25
"""By how much the share of drops may rise above what it was before cuts are tried again."""

HOPELESS: Final[Ratio] = 0.9
"""Share of drops from which on nearly everything fails: cutting goes on, whether it helps or not."""

HOLD: Final = 30
"""Windows for which no cuts are made after they were found not to help."""


class Aimd(Given):
    """
    Grow while calls end well, by one per round; cut by a share when they do not get through.

    A call that timed out or was throttled is a *drop*. One that failed otherwise says nothing about
    congestion, one that was ignored or cancelled is in no sample. Once per window the limit is cut if the
    share of drops reached *tolerance*; otherwise it grows if at least half of it was in use.

    Cuts must help. If *patience* of them in a row leave the share of drops where it was, a window later,
    calls are slow for another reason than their number: the limit goes back to where it was, and no further
    cut is made for thirty windows, unless it gets worse.

    Below 1 it looks at times as well: a good call that took less than a quarter of those that time out shows
    that the dependency has no queue. The limit is 2 at once then.

    Two are equal if they were given the same settings, whatever each has learnt: a limiter that is given an
    equal one keeps the one it has.

    Args:
        initial: Limit at the start. Default 10: half of Netflix's, since those of many clients add up.
        min_limit: Lowest limit, > 0. Default 0.35: one call at a time, and twice as much time without one,
            since even one call each of many small clients is too many.
        max_limit: Highest limit, >= 1. Default 200 (Netflix).
        backoff: What a cut leaves of the limit, 0.5 <= b < 1; its cube, where half of the calls are dropped.
            Default 0.8 (simulated: see "Defaults"): its cube is about TCP's half.
        tolerance: Share of drops that is no congestion yet, 0 <= t < 1. Default 0.15: one endpoint of ten
            that hangs must not shut out the others.
        window: Seconds between changes, >= 0; 0 to change with every call. Default 1.0: one cut per
            congestion epoch.
        increase: What the limit grows by per window, > 0; None for one per round of good calls, and less
            where the limit is small or rounds are short. Default None.
        patience: Cuts in a row that may be in vain, >= 1; None to cut for ever. Default 3.

    Attributes:
        limit: How many calls may run at once.
        cause: Why it changed last: ``drops``, ``growth`` or ``cuts_in_vain``.

    Raises:
        ConfigError: A setting is outside its range.

    Example:
        >>> from resilience import ConcurrencyLimiter
        >>> search = ConcurrencyLimiter("search", limit=Aimd())
        >>> search.limit
        10

    """

    __slots__ = (
        "_backoff", "_before", "_cuts", "_held", "_increase", "_patience", "_range", "_ratio", "_slow",
        "_steady", "_tolerance", "cause", "limit", "window",
    )  # fmt: skip

    needs_latency = False

    def __init__(
        self,
        *,
        initial: float = 10,
        min_limit: float = 0.35,
        max_limit: int = 200,
        backoff: Ratio = 0.8,
        tolerance: Ratio = 0.15,
        window: Seconds = 1.0,
        increase: float | None = None,
        patience: int | None = 3,
    ) -> None:
        check = Check("Aimd")
        check_range(check, initial, min_limit, max_limit)
        check_backoff(check, backoff)
        if check.ratio("tolerance", tolerance, zero=True):
            check.that(tolerance < 1, "tolerance", tolerance, "must be < 1")
        check.seconds("window", window, zero=True)
        if increase is not None:
            check.number("increase", increase, above=0)
        check.whole("patience", patience, optional=True)
        check.done()
        self._given = (initial, min_limit, max_limit, backoff, tolerance, window, increase, patience)
        self._range = Range(min_limit, max_limit)
        self._backoff, self._tolerance = backoff, tolerance
        self._increase, self._patience = increase, patience
        self._steady = 0  # good calls since the last drop
        self._cuts = self._held = 0  # cuts in a row; windows without cuts that are left
        self._slow = window  # seconds after which calls time out; a guess, until one has while it rested
        self._ratio = self._before = 0.0  # share of drops, and the limit, when the cuts began
        self.limit = float(initial)
        self.window: Seconds | None = window
        self.cause = "start"

    def __repr__(self) -> str:
        return f"<Aimd limit={self.limit:g}>"

    def on_sample(self, sample: Sample) -> None:
        """Learn from the calls of one window."""
        self._steady = 0 if sample.drops else self._steady + sample.good
        if sample.timed_out and not sample.good and sample.mean is not None:
            self._slow = sample.mean
        if self._held:
            is_worse = sample.drop_ratio > min(0.95, self._ratio + WORSE)
            self._held = 0 if is_worse else self._held - 1
            return
        if sample.drops and sample.drop_ratio >= self._tolerance:
            limit = self._cut(sample)
        else:
            self._cuts = 0
            self.cause = "growth"
            limit = self.limit + self._growth(sample)
            if self._is_revived(sample):
                limit = max(limit, REVIVED)
        self.limit = self._range.clamp(limit)

    def _is_revived(self, sample: Sample) -> bool:
        quickest = sample.shortest
        return self.limit < 1 and not sample.drops and quickest is not None and quickest < QUICK * self._slow

    def _growth(self, sample: Sample) -> float:
        limit = self.limit
        if 2 * sample.peak < int(limit) or not sample.good:
            return 0.0
        if self._increase is not None:
            return 0.0 if sample.drops else self._increase
        per_call = 1.0 / max(1.0, limit) if self._steady >= STEADY else min(1.0 / limit, SMALL_STEP * limit)
        return min(sample.good * per_call, max(1.0, LARGEST_STEP * limit))

    def _cut(self, sample: Sample) -> float:
        if self._cuts == 0:
            self._ratio, self._before = 0.0, self.limit
        self._cuts += 1
        if self._cuts <= 2:  # the first window may be one that the trouble began in
            self._ratio = max(self._ratio, sample.drop_ratio)
        self.cause = "drops"
        if self._patience is not None and self._cuts > self._patience and sample.drop_ratio < HOPELESS:
            if self._cuts == self._patience + 1:
                return self.limit  # what the latest cut did shows in the next window: wait for it
            if sample.drop_ratio >= HELPED * self._ratio:
                self._cuts, self._held = 0, HOLD
                self.cause = "cuts_in_vain"
                return self._before
        if sample.drop_ratio >= HEAVY:
            return min(self.limit, max(1, sample.peak)) * self._backoff**3
        return self.limit * self._backoff
