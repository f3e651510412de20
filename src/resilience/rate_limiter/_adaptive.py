"""
GCRA whose rate may change at any time: because it was learnt, because the server said so, or by hand.

Which rate is in force is decided in one place, `AdaptiveGcra.rate_at`::

    pinned      the rate set by hand, while there is one; nothing is learnt, nothing lowers it
    else        the lowest of three:
      learnt    what the `Rate` says; infinite while that is off
      ceiling   quota / window of the server, until it says otherwise
      pace      remaining / reset_after of the server, until the reset

How it goes on at that rate, and how it pauses, is the matter of `VariableGcra`.
"""

import math
from typing import Final, NamedTuple

from resilience._core.check import is_finite
from resilience._core.permit import Refusal
from resilience.outcome import Verdict
from resilience.rate_limiter._rule import RatePermit
from resilience.rate_limiter._settings import RateLimiterSettings
from resilience.rate_limiter._terms import LONGEST, ServerTerms, within
from resilience.rate_limiter._variable import VariableGcra
from resilience.rate_limiter._watch import Watch
from resilience.rates._rate import Rate, RateSample
from resilience.typing import Seconds

STALE: Final[Seconds] = 600.0
"""Seconds without a call after which what was learnt is not worth keeping. Source: own; the shortest quota
windows are a minute, and servers are redeployed and scaled several times an hour."""


class Change(NamedTuple):
    """The rate changed from *before* to *after* permits per second, and *cause* tells why."""

    before: float
    after: float
    cause: str


class AdaptiveGcra(VariableGcra):
    """
    Decide which requests may pass, at a rate that changes. Not thread-safe: the policy holds a lock.

    The `Rate` itself is asked only when the machine is made: it may be a user's, and the policy holds a
    lock. The policy hands on what `take_sample` returns, outside its lock, and then calls `learn`.

    Attributes:
        source: The `Rate` that learns.
        terms: What the server said.
        limit: Permits per second now; infinite for no limit.
        pinned: Permits per second set by hand, or None.
        is_due: Whether `take_sample` or `take_changes` has something to tell.
        watch: What the next sample is made of.

    """

    __slots__ = (
        "_changes",
        "_due_at",
        "_first",
        "_learnt",
        "is_due",
        "limit",
        "pinned",
        "source",
        "terms",
        "watch",
    )

    def __init__(self, settings: RateLimiterSettings, now: Seconds) -> None:
        super().__init__(settings, now)
        assert isinstance(settings.rate, Rate)  # noqa: S101  # for the type checker; settings decide the machine
        self.source: Rate = settings.rate
        self.watch = Watch(self.source.window, now)
        self._learnt = self._first = self.limit = within(self.source.rate)
        self.pinned: float | None = None
        self.terms = ServerTerms()
        self._changes: list[Change] = []
        self.is_due = False
        self._plan()
        self.go_on_at(self.limit)

    # Admission

    def admit(self, now: Seconds, n: int = 1) -> RatePermit | Refusal:
        """Give out *n* permits to be used at *now*; or none, and say when there may be enough."""
        if now >= self._due_at:
            self._tick(now)
        answer = super().admit(now, n)
        if isinstance(answer, RatePermit):
            self.watch.meter.add(now, n)
        elif answer.retry_after is not None:
            return Refusal(self._retimed(answer.retry_after, now))
        return answer

    def reserve(self, now: Seconds, n: int = 1) -> RatePermit | Refusal:
        """Give out *n* permits for as soon as there are enough at the present rate."""
        if now >= self._due_at:
            self._tick(now)
        answer = super().reserve(now, n)
        if isinstance(answer, RatePermit):
            self.watch.meter.add(now, n)
        return answer

    def wait_for(self, now: Seconds, n: int = 1, ahead: int = 0) -> Seconds | None:
        """Return the seconds until *n* permits can be had after *ahead* others, unless the rate changes."""
        if now >= self._due_at:
            self._tick(now)
        seconds = super().wait_for(now, n, ahead)
        return None if seconds is None else self._retimed(seconds, now)

    def settle(self, permit: RatePermit, verdict: Verdict, now: Seconds) -> None:
        """Take note that a call ended. Only good and throttled calls teach something."""
        if verdict is Verdict.GOOD:
            self.watch.good += 1
        elif verdict is Verdict.IGNORED:
            self.unsent(permit.n)
            self.release(permit, now)
        if now >= self._due_at:
            self._tick(now)

    def unsent(self, n: int) -> None:
        """Take note that *n* permits were not sent: an inner policy refused the call."""
        self.watch.meter.take_back(n)

    def throttled(self, now: Seconds, started: Seconds, retry_after: Seconds | None) -> None:
        """
        Take note that a call was throttled.

        Args:
            now: Instant at which the answer came.
            started: Instant at which the call started. If that was before the last cut, the call was sent
                at the old rate and does not count.
            retry_after: Seconds for which the server wants no calls, or None.

        """
        self.watch.throttled(started)
        self.is_due = self.is_due or self.watch.is_urgent
        if retry_after is not None:
            self.pause(now, retry_after)
        if now >= self._due_at:
            self._tick(now)

    def pause(self, now: Seconds, seconds: Seconds) -> None:
        """Send nothing for *seconds*, a day at most. A longer pause stays; a pinned rate, too."""
        if self.pinned is None:
            super().pause(now, min(seconds, LONGEST))

    def is_idle(self, now: Seconds) -> bool:
        """Whether it is as a new one would be, or has sent nothing for so long that a new one is as good."""
        if self.pinned is not None or not super().is_idle(now):
            return False
        as_new = self.terms.is_empty and self._learnt == self._first
        return as_new or now - self.watch.meter.began >= STALE

    # What decides the rate

    def rate_at(self, now: Seconds) -> float:
        """Return the permits per second in force at *now*; infinite for no limit."""
        if self.pinned is not None:
            return self.pinned
        return min(self._learnt, self.terms.lowest(now))

    def pin(self, rate: float | None, now: Seconds) -> None:
        """Hold the rate from now on, and end a pause; None lets it go again."""
        now = self._advance(now)
        if rate is not None:
            self.end_pause(now)
        self.pinned = rate
        self._begin_window()
        self._apply(now, "unpinned" if rate is None else "pinned")

    def follow(
        self,
        now: Seconds,
        remaining: float | None,
        reset_after: Seconds | None,
        quota: float | None,
        window: Seconds | None,
    ) -> None:
        """Take the server's word. A pair of which one is missing, or makes no sense, says nothing."""
        now = self._advance(now)
        self.terms.set_ceiling(quota, window)
        has_pace = self.terms.set_pace(remaining, reset_after, now)
        self._plan()
        self._apply(now, "server")
        if not has_pace or remaining is None or not reset_after or self.pinned is not None:
            return
        if remaining < 1:
            self.pause(now, reset_after)
        else:  # of what was saved up, no more than is left
            self.tat = max(self.tat, self._clock(now) + self.burst - min(remaining, self.burst))

    # Learning

    def take_sample(self, now: Seconds) -> RateSample | None:
        """Return what the calls since the last sample showed, if it is time for one."""
        now = self._advance(now)
        self.is_due = False
        sample = self.watch.take(now)
        self._plan()
        return sample if self.pinned is None else None

    def learn(self, rate: object, window: object, now: Seconds, cause: str) -> None:
        """Take what the `Rate` says after a sample."""
        now = self._advance(now)
        if is_finite(window) and window > 0 and window != self.watch.window:
            self.watch.set_window(window, now)
            self._plan()
        if isinstance(rate, (int, float)) and (rate == math.inf or is_finite(rate)) and rate > 0:
            self._learnt = within(rate)
            self._apply(now, cause)

    def take_changes(self) -> list[Change]:
        """Return how the rate changed since this was last asked for."""
        changes, self._changes = self._changes, []
        return changes

    def configure(
        self, settings: RateLimiterSettings, now: Seconds, terms: tuple[float, Seconds] | None = None
    ) -> None:
        """
        Take new settings. The same `Rate` keeps what it learnt; what the server said still holds.

        *terms* are rate and window of a new `Rate`, from one who holds no lock and so may ask it.
        """
        now = self._advance(now)
        source = settings.rate
        # Not asked whether it is a `Rate`: before Python 3.12 that reads all of it.
        if not isinstance(source, (int, float)) and source is not self.source:
            rate, window = terms or (source.rate, source.window)  # both first: either may raise
            self._learnt = self._first = within(rate)
            self.watch.set_window(window, now)
            self.source = source
            self._plan()
        self.settings = settings
        after = self.rate_at(now)
        self.go_on_at(after)
        if after != self.limit:
            self._note(after, "reconfigured")

    def after_fork(self, now: Seconds) -> None:
        """Become the machine of a child. What was learnt stays, and so does a pause."""
        super().after_fork(now)
        self._changes.clear()
        self._begin_window()

    def _tick(self, now: Seconds) -> None:
        self.is_due = True
        end = self.terms.pace_until
        if now >= end:
            self.terms.end_pace()
        self._apply(self._advance(min(now, end)), "server")  # from its end on permits came at the new rate
        now = self._advance(now)
        self._plan()
        if now >= self.watch.end:
            self._due_at = self.terms.pace_until  # the window is over, and waits for its sample

    def _begin_window(self) -> None:
        self.watch.begin(self._now)
        self._plan()

    def _plan(self) -> None:
        self._due_at = min(self.watch.end, self.terms.pace_until)

    def _apply(self, now: Seconds, cause: str) -> None:
        before, after = self.limit, self.rate_at(now)
        if after == before:
            return
        self.go_on_at(after)
        if before == math.inf and cause == "throttled":  # who has just been throttled has nothing saved up
            self.tat = max(self.tat, self._clock(now) + self.burst)
        self._note(after, cause)

    def _note(self, after: float, cause: str) -> None:
        self._changes.append(Change(self.limit, after, cause))
        self.is_due = True
        self.limit = after  # last: what an interrupt cuts short before this, the next tick applies

    def _retimed(self, seconds: Seconds, now: Seconds) -> Seconds:
        """Return what becomes of a wait of *seconds* from *now* if the server's pace ends before."""
        end = max(self.terms.pace_until, self._pause_until)  # a pause does not become shorter
        left = end - now
        if seconds <= left:
            return seconds
        after = self.rate_at(end)
        return left + (seconds - left) * (self.limit / after)
