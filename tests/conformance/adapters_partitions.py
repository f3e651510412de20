"""The adapter of the concurrency limit with guaranteed shares. See `adapters`."""

from resilience.concurrency_limiter._ask import Ask
from resilience.concurrency_limiter._cell import Slot
from resilience.concurrency_limiter._partitions import Partitions
from resilience.concurrency_limiter._settings import ConcurrencyLimiterSettings
from resilience.outcome import Verdict

from .adapters import Report, adapts


@adapts("partitioned_limiter")
class PartitionedLimiter:
    def __init__(self, limit: int, partitions: dict[str, float]) -> None:
        settings = ConcurrencyLimiterSettings(limit=limit, shares=partitions, share_of=str)
        self.machine = Partitions(settings, 0.0)
        self.slots: dict[str, list[Slot]] = {name: [] for name in partitions}

    def acquire_n(self, p: str, n: int) -> Report:
        answers = [self.machine.admit(0.0, Ask(p, 0)) for _ in range(n)]
        slots = [answer for answer in answers if isinstance(answer, Slot)]
        self.slots[p] += slots
        return {"granted": len(slots), "inflight": self.machine.inflight}

    def release(self, p: str) -> Report:
        self.machine.settle(self.slots[p].pop(), Verdict.GOOD, 0.0)
        return {"inflight": self.machine.inflight}

    def set_limit(self, limit: int) -> Report:
        self.machine.resize(limit)
        return self.limits()

    def limits(self) -> Report:
        return {"limits": {name: part.limit for name, part in self.machine.parts.items()}}
