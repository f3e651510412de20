"""The calls that a half-open circuit lets pass, and what their results say together."""

from resilience.circuit_breaker._settings import CircuitBreakerSettings
from resilience.typing import Seconds


class Probe:
    """
    Leave to make one call through a half-open circuit; a lease.

    Attributes:
        expires: Instant from which its result changes nothing and its place is free.

    """

    __slots__ = ("expires",)

    def __init__(self, expires: Seconds) -> None:
        self.expires = expires


class Round:
    """
    One half-open round: so many places, and the answers that decide it.

    A probe holds a place until it is released or its lease runs out; one that was answered keeps its
    place until the round is decided.

    Attributes:
        good: Probes whose result was good.
        bad: Probes whose result was bad, or slow.

    """

    __slots__ = ("_leases", "bad", "good")

    def __init__(self) -> None:
        self._leases: list[Probe] = []
        self.good = self.bad = 0

    def begin(self) -> None:
        """Forget the answers. Probes under way keep their places."""
        self.good = self.bad = 0

    def drop(self) -> None:
        """Forget the probes under way: what they answer changes nothing."""
        self._leases.clear()

    def admit(self, now: Seconds, settings: CircuitBreakerSettings) -> Probe | None:
        """Return a probe, or None if every place is taken."""
        self._leases = [probe for probe in self._leases if now < probe.expires]
        if len(self._leases) + self.good + self.bad >= settings.probes:
            return None
        probe = Probe(now + settings.probe_timeout)
        # Not append(): an interrupt on its way back would leave a lease that nobody can release.
        self._leases = [*self._leases, probe]
        return probe

    def release(self, probe: Probe) -> bool:
        """Free the place of *probe*; say whether it still had one."""
        if probe not in self._leases:
            return False
        self._leases.remove(probe)
        return True

    def settle(self, probe: Probe, now: Seconds, *, bad: bool) -> bool:
        """Take the answer of *probe*; say whether it counts."""
        if not self.release(probe) or now >= probe.expires:
            return False
        if bad:
            self.bad += 1
        else:
            self.good += 1
        return True

    def is_won(self, settings: CircuitBreakerSettings) -> bool:
        """Whether enough probes were good."""
        return self.good >= settings.needed_successes

    def is_lost(self, settings: CircuitBreakerSettings) -> bool:
        """Whether so many were bad that enough good ones can no longer come."""
        return self.bad > settings.probes - settings.needed_successes
