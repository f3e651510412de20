"""How many permits per second are really given out."""

import math

from resilience.typing import Seconds


class Meter:
    """
    Count permits in buckets of time, and smooth what the buckets say. Not thread-safe.

    When a bucket is over, its rate counts for *smoothing* and all before it for the rest. As in botocore,
    the permit that shows that a bucket is over still counts in it, and a pause belongs to the bucket
    before it. Instants are those of the monotonic clock; one that is earlier than the bucket counts in it.

    Args:
        bucket: Seconds in a bucket, > 0.
        now: Instant from which on it counts.
        smoothing: Weight of the latest bucket, in (0, 1]. Default 0.8. Source: botocore.

    Attributes:
        smoothed: Permits per second, up to the last bucket that is over.
        began: Instant at which the present bucket began.

    """

    __slots__ = ("_bucket", "_count", "_end", "_smoothing", "began", "smoothed")

    def __init__(self, bucket: Seconds, now: Seconds, smoothing: float = 0.8) -> None:
        self._smoothing = smoothing
        self.smoothed = 0.0
        self._count = 0
        self.set_bucket(bucket, now)

    def add(self, now: Seconds, n: int = 1) -> None:
        """Count *n* permits given out at *now*."""
        self._count += n
        if now >= self._end:
            self._roll(now)

    def take_back(self, n: int) -> None:
        """Take *n* permits off the present bucket: what they were for was not sent."""
        self._count = max(0, self._count - n)

    def read(self, now: Seconds) -> float:
        """
        Return the permits per second given out of late.

        A bucket that is not over counts for at least what it already holds: so the first calls of a
        program are seen, and not only half a second later.
        """
        if now >= self._end:
            self._roll(now)
        return max(self.smoothed, self._count / self._bucket)

    def set_bucket(self, bucket: Seconds, now: Seconds) -> None:
        """Let buckets last so long from now on; what the present one holds goes into the first."""
        self._bucket = bucket
        self._begin(now)

    def _roll(self, now: Seconds) -> None:
        before, count = self.began, self._count
        self._begin(now)
        rate = count / max(self.began - before, self._bucket)
        self.smoothed = self._smoothing * rate + (1 - self._smoothing) * self.smoothed
        self._count = 0

    def _begin(self, now: Seconds) -> None:
        self.began = math.floor(now / self._bucket) * self._bucket
        # After the instant itself, also where rounding says otherwise: a bucket that is over rolls once.
        self._end = max(self.began + self._bucket, math.nextafter(now, math.inf))
