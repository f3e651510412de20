"""When a further attempt starts, and whose outcome counts: told the time, never asking for it."""

import math
from bisect import bisect_left, insort
from collections import deque

from resilience.hedge._settings import Quantile
from resilience.outcome import Verdict
from resilience.typing import Seconds


class Latencies:
    """
    A quantile of the latest latencies. Not thread-safe.

    Exact over the latencies remembered: the least of them that at least a share *q* does not exceed.
    As an estimate of what comes next its share is uncertain by the usual
    ``sqrt(q * (1 - q) / samples)``: 0.95 +- 0.015 for 200 samples. Adding costs two bisections and two
    moves within a list of *samples* numbers, asking is O(1).
    """

    __slots__ = ("_in_order", "_latest", "_settings")

    def __init__(self, settings: Quantile) -> None:
        self._settings = settings
        self._latest: deque[Seconds] = deque()
        self._in_order: list[Seconds] = []

    def __len__(self) -> int:
        return len(self._latest)

    def add(self, seconds: Seconds) -> None:
        """Remember that an attempt took *seconds*, and forget the oldest of too many."""
        self._latest.append(seconds)
        insort(self._in_order, seconds)
        self._forget()

    def cut_off(self, seconds: Seconds) -> None:
        """
        Note that an attempt was given up after *seconds*, so that it would have taken longer.

        It counts if that is beyond the quantile already: whatever it would have been then, it is on the
        right side. Were it left out, only fast attempts would be remembered, the quantile would fall, and
        with it the time until the next attempt is given up.
        """
        known = self.quantile()
        if known is not None and seconds >= known:
            self.add(seconds)

    def quantile(self) -> Seconds | None:
        """Return the quantile; None while too few latencies are known."""
        count = len(self._in_order)
        if count < self._settings.min_samples:
            return None
        rank = math.ceil(self._settings.q * count - 1e-9)  # less than what rounding may have added
        return self._in_order[max(rank, 1) - 1]

    def configure(self, settings: Quantile) -> None:
        """Take new settings and keep what is remembered, as far as it fits."""
        self._settings = settings
        self._forget()

    def _forget(self) -> None:
        while len(self._latest) > self._settings.samples:
            del self._in_order[bisect_left(self._in_order, self._latest.popleft())]


class Race:
    """
    The attempts at one call: which starts when, and whose outcome is that of the call. Not thread-safe.

    A further attempt is due when the last one was given its time, and at once for every one that failed.
    The first good outcome wins. A refusal and a throttled outcome end the starting of attempts, though not
    the race: who is still under way may win. If nobody wins, the outcome is that of the first attempt that
    was not refused, else that of the first.

    Args:
        attempts: How many attempts there may be, the first included, >= 1.

    Attributes:
        started: How many attempts were started.
        result: Number of the attempt, from 1, whose outcome is that of the call; None while that is open.
        failures: How attempts ended that failed, and for which no other was started.

    """

    __slots__ = ("_attempts", "_due", "_ended", "_now", "_running", "failures", "result", "started")

    def __init__(self, attempts: int) -> None:
        self._attempts = attempts
        self._now: Seconds = -math.inf
        self._due: Seconds | None = None
        self._running: set[int] = set()
        self._ended: dict[int, Verdict] = {}
        self.started = 0
        self.result: int | None = None
        self.failures: list[Verdict] = []

    def pause(self, now: Seconds) -> Seconds | None:
        """
        Return the seconds until a further attempt is due: 0.0 to start one now.

        None if only the end of an attempt can make one due, or nothing can.
        """
        now = self._seen(now)
        if self.result is not None or self.started >= self._attempts:
            return None
        if self.started == 0 or self.failures:
            return 0.0
        return None if self._due is None else max(0.0, self._due - now)

    def take_failure(self) -> Verdict:
        """Return how the attempt ended that makes a further one due; IGNORED if it is only slow."""
        return self.failures.pop(0) if self.failures else Verdict.IGNORED

    def begin(self, now: Seconds, delay: Seconds | None) -> int:
        """
        Start an attempt and return its number.

        Args:
            now: The present instant.
            delay: Seconds until the next one is due; None if only a failure makes it due.

        """
        self.started += 1
        self._running.add(self.started)
        now = self._seen(now)
        self._due = None if delay is None else now + delay
        return self.started

    def end(self, number: int, verdict: Verdict) -> None:
        """Note how an attempt ended. What comes after the race was decided, or twice, changes nothing."""
        if self.result is not None or number not in self._running:
            return
        self._running.remove(number)
        self._ended[number] = verdict
        if verdict is Verdict.GOOD:
            self.result = number
            return
        if verdict is not Verdict.IGNORED:
            self.failures.append(verdict)
        if verdict is Verdict.IGNORED or verdict is Verdict.THROTTLED:
            self.stop()
        self._look()

    def stop(self) -> None:
        """Start no further attempts."""
        self._attempts = self.started
        self._look()

    def _look(self) -> None:
        """See whether there is anything left to wait for."""
        if self.result is not None or self._running or self.started < self._attempts:
            return
        answered = [number for number, verdict in self._ended.items() if verdict is not Verdict.IGNORED]
        self.result = min(answered, default=1)

    def _seen(self, now: Seconds) -> Seconds:
        self._now = max(self._now, now)
        return self._now
