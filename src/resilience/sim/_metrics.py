"""What is seen in a simulated run, and the figures that are made of it."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resilience.typing import Seconds

if TYPE_CHECKING:
    from resilience.sim._scenario import Scenario

TARGET = 0.99
"""Success over `HOLD` seconds that counts as recovered."""

HOLD = 5
"""Seconds over which it must hold."""

EACH = 0.95
"""Success that each of those seconds must have."""

TAIL = 20
"""Seconds at the end of a run that count as its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    The figures of one run.

    Attributes:
        mttr: Seconds from the end of the last fault until success is back, or infinite.
        lost: Users' requests from the first fault on that were not answered in time.
        lost_pct: The same in % of the requests offered in that time.
        lost_x: The same in units of the loss that nothing could avoid, or NaN.
        succ_fault: Success in % of requests that arrived during the faults.
        succ_end: The same for the last 20 seconds.
        amp_peak: Attempts in the worst second at the last tier, over the mean rate before the fault.
        amp_end: Attempts at the last tier per user request in the last 20 seconds.
        att: Attempts at all tiers per user request.
        false_deny: Refusals before the fault, per million requests.
        denied: Refusals in all.
        opens: Circuits opened.
        waste: Executed time in % whose caller had left.
        dup: Calls at the last tier in % that were executed more than once.
        p50: Median latency in ms of answers to requests from before the fault.
        p99: Its 99th percentile.
        p999: Its 99.9th percentile.

    """

    mttr: Seconds
    lost: int
    lost_pct: float
    lost_x: float
    succ_fault: float
    succ_end: float
    amp_peak: float
    amp_end: float
    att: float
    false_deny: float
    denied: int
    opens: int
    waste: float
    dup: float
    p50: float
    p99: float
    p999: float


class Recorder:
    """Counts by second of the user's arrival, and totals."""

    __slots__ = (
        "_arrivals",
        "_attempts",
        "_attempts_before",
        "_bins",
        "_dup",
        "_executed",
        "_good",
        "_last",
        "_latencies",
        "_offered",
        "_once",
        "_refused",
        "_refused_before",
        "_scenario",
        "_starts",
        "_wasted",
        "opens",
    )

    def __init__(self, scenario: "Scenario") -> None:
        self._scenario = scenario
        self._last = len(scenario.tiers) - 1
        self._bins = math.ceil(scenario.horizon)
        self._offered = [0] * self._bins
        self._good = [0] * self._bins
        self._starts: list[Seconds] = []
        self._latencies: list[float] = []
        self._attempts = 0
        self._arrivals = [0] * (self._bins + 31)
        self._executed = self._wasted = 0.0
        self._once = self._dup = 0
        self._refused = self._refused_before = 0
        self.opens = 0

    def arrived(self, now: Seconds, client: int) -> int:  # noqa: ARG002  # told which client, for those who want it
        """Note a user's request; return its number."""
        self._offered[int(now)] += 1
        self._starts.append(now)
        return len(self._starts) - 1

    def ended(self, number: int, now: Seconds, *, good: bool) -> None:
        """Note the end of a user's request."""
        start = self._starts[number]
        if good and now - start <= self._scenario.patience:
            self._good[int(start)] += 1
            if start < self._fault_start:
                self._latencies.append(now - start)

    def attempted(self, now: Seconds, tier: int) -> None:
        """Note an attempt at a tier."""
        self._attempts += 1
        if tier == self._last:
            self._arrivals[min(int(now), len(self._arrivals) - 1)] += 1

    def executed(self, tier: int, seconds: Seconds, before: int) -> None:
        """Note that a server works on a call that was executed *before* times already."""
        self._executed += seconds
        if tier == self._last:
            self._once += before == 0
            self._dup += before == 1

    def wasted(self, seconds: Seconds) -> None:
        """Note work whose caller had left."""
        self._wasted += seconds

    def refused(self, now: Seconds) -> None:
        """Note that a policy refused an attempt."""
        self._refused += 1
        self._refused_before += now < self._fault_start

    @property
    def mean_latency(self) -> Seconds:
        """Mean time to a good answer, for requests from before the fault."""
        return sum(self._latencies) / len(self._latencies)

    @property
    def _fault_start(self) -> Seconds:
        return min((fault.start for fault in self._scenario.faults), default=self._scenario.horizon)

    def row(self) -> Row:
        """Return the figures of the run."""
        scenario, bins = self._scenario, self._bins
        has_fault = bool(scenario.faults)
        begin = int(self._fault_start) if has_fault else 0
        end = int(max((fault.end for fault in scenario.faults), default=0.0))
        users = max(1, len(self._starts))
        offered, good = sum(self._offered[begin:]), sum(self._good[begin:])
        before = sum(self._arrivals[5:begin]) if has_fault else 0
        rate = sum(self._offered[5:begin]) / (begin - 5) if has_fault else 1.0
        latencies = sorted(self._latencies)
        return Row(
            mttr=self._recovered(end) if has_fault else 0.0,
            lost=offered - good,
            lost_pct=100.0 * (offered - good) / max(1, offered),
            lost_x=(offered - good) / scenario.unavoidable if scenario.unavoidable else math.nan,
            succ_fault=_share(self._good, self._offered, begin, end) if has_fault else math.nan,
            succ_end=_share(self._good, self._offered, bins - TAIL, bins),
            amp_peak=max(self._arrivals[begin:bins]) / rate if before else sum(self._arrivals) / users,
            amp_end=sum(self._arrivals[bins - TAIL : bins]) / max(1, sum(self._offered[bins - TAIL :])),
            att=self._attempts / users,
            false_deny=1e6
            * self._refused_before
            / max(1, sum(self._offered[:begin]) if has_fault else users),
            denied=self._refused,
            opens=self.opens,
            waste=100.0 * self._wasted / self._executed if self._executed else 0.0,
            dup=100.0 * self._dup / max(1, self._once),
            p50=_percentile(latencies, 0.5),
            p99=_percentile(latencies, 0.99),
            p999=_percentile(latencies, 0.999),
        )

    def _recovered(self, start: int) -> Seconds:
        for second in range(start, self._bins - HOLD + 1):
            offered = self._offered[second : second + HOLD]
            good = self._good[second : second + HOLD]
            enough = sum(offered) and sum(good) >= TARGET * sum(offered)
            if enough and all(y >= EACH * x for x, y in zip(offered, good, strict=True)):
                return float(second - start)
        return math.inf


def _share(good: list[int], offered: list[int], begin: int, end: int) -> float:
    return 100.0 * sum(good[begin:end]) / max(1, sum(offered[begin:end]))


def _percentile(ordered: list[float], share: float) -> float:
    return 1000.0 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan
