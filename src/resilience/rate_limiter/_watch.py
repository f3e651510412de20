"""What calls show between two samples."""

import math

from resilience.rates._meter import Meter
from resilience.rates._rate import RateSample
from resilience.typing import Seconds


class Watch:
    """
    Collect what the next `RateSample` is made of, and know when it is time for it.

    Attributes:
        meter: What is really sent.
        window: Seconds that a sample covers.
        end: Instant at which the window is over.
        good: Calls that ended well since the last sample.
        is_urgent: Whether a sample must be taken before the window is over.

    """

    __slots__ = ("_cut_at", "_is_held", "_throttled", "end", "good", "is_urgent", "meter", "window")

    def __init__(self, window: Seconds, now: Seconds) -> None:
        self.window = window
        self.meter = Meter(window, now)
        self._cut_at = -math.inf  # when the last sample with throttled calls was taken
        self._is_held = False  # whether the last sample had any
        self.begin(now)

    def begin(self, now: Seconds) -> None:
        """Forget what was collected, and begin a window."""
        self.good = self._throttled = 0
        self.is_urgent = False
        self.end = now + self.window

    def set_window(self, window: Seconds, now: Seconds) -> None:
        """Let samples cover so much from now on."""
        self.window = window
        self.meter.set_bucket(window, now)
        self.begin(now)

    def throttled(self, started: Seconds) -> None:
        """Take note of a throttled call; one sent before the last cut was sent at the old rate."""
        if started > self._cut_at:
            self._throttled += 1
            self.is_urgent = not self._is_held

    def take(self, now: Seconds) -> RateSample | None:
        """Return a sample if it is time for one, and begin the next window."""
        if not self.is_urgent and now < self.end:
            return None
        sample = RateSample(now=now, sent=self.meter.read(now), good=self.good, throttled=self._throttled)
        self._is_held = sample.throttled > 0
        if self._is_held:
            self._cut_at = now
        self.begin(now)
        return sample
