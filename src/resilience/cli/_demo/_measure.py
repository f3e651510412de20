"""What the records of a run come to. Pure: no clock, no process."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from resilience.cli._demo._plan import OBJECTIVE, Act
from resilience.typing import Ratio, Seconds

BIN: Final[Seconds] = 0.5
"""Width of the bins of the charts, and of what recovery is found in."""

WELL: Final[Ratio] = 0.95
"""Share of good answers from which on a side counts as recovered: of a few dozen requests, one may fail."""

HOLD: Final[Seconds] = 2.0
"""For how long it must be that well."""

LATE: Final[Seconds] = 0.1
"""Lag of the load generator, in the 99th percentile, from which on the table says so."""


Record = tuple[Seconds, bool, Seconds]
"""When a request was due, since the act began; whether it was answered well; seconds from then to its end."""


@dataclass(slots=True)
class Sample:
    """What the processes of one side reported at one time of an act."""

    at: Seconds
    attempts: int = 0
    done: int = 0
    waiting: int = 0
    workers: int = 0
    breaker: str | None = None
    limit: int | None = None
    inflight: int | None = None
    burn: float | None = None


@dataclass(slots=True)
class Take:
    """
    One act of one side.

    Attributes:
        records: When each request was due, whether it was answered well, and how long it took.
        lags: How late the load generator was with each.
        samples: What the processes said of themselves.
        attempts: Requests that arrived at the dependency.
        done: Those that it worked for.

    """

    records: list[Record] = field(default_factory=list[Record])
    lags: list[Seconds] = field(default_factory=list[Seconds])
    samples: list[Sample] = field(default_factory=list[Sample])
    attempts: int = 0
    done: int = 0


def percentile(values: Sequence[float], share: Ratio) -> float | None:
    """
    Return the value that a *share* of the others does not exceed; None of none.

    Example:
        >>> percentile([3.0, 1.0, 2.0], 0.5)
        2.0

    """
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def bins(take: Take, seconds: Seconds) -> list[tuple[int, int]]:
    """Return requests and good answers per whole bin, by the time they were due."""
    counts = [[0, 0] for _ in range(int(seconds / BIN + 1e-9))]
    for due, good, _ in take.records:
        number = int(due / BIN)
        if number < len(counts):
            counts[number][0] += 1
            counts[number][1] += good
    return [(offered, good) for offered, good in counts]


def recovery(take: Take, act: Act) -> Seconds | None:
    """Return the seconds from the fault's end until nearly all is well for `HOLD`; None: not in this act."""
    begin = act.fault_to
    while begin + HOLD <= act.seconds + 1e-9:
        window = [good for due, good, _ in take.records if begin <= due < begin + HOLD]
        if window and sum(window) >= WELL * len(window):
            return round(begin - act.fault_to, 1)
        begin += 0.1
    return None


def summary(take: Take, act: Act) -> dict[str, Any]:
    """Return the figures of one act of one side, as they stand in the JSON and in the table."""
    offered = len(take.records)
    good = sum(is_good for _, is_good, _ in take.records)
    took = percentile([seconds for _, is_good, seconds in take.records if is_good], 0.99)
    lag = percentile(take.lags, 0.99)
    during = [good for due, good, _ in take.records if act.fault_from <= due < act.fault_to]
    after = [good for due, good, _ in take.records if due >= act.fault_to]
    is_faulty = act.kind != "none"
    return {
        "requests": offered,
        "good": good,
        "success": _share(good, offered),
        "success_during": _share(sum(during), len(during)) if is_faulty else None,
        "success_after": _share(sum(after), len(after)) if is_faulty else None,
        "p99_seconds": None if took is None else round(took, 3),
        "attempts_per_call": _share(take.attempts, offered),
        "wasted_work": None if not take.done else max(0.0, round(1 - good / take.done, 4)),
        "recovery_seconds": recovery(take, act) if act.kind == "capacity" else None,
        "budget_spent": None if not offered else round((offered - good) / offered / (1 - OBJECTIVE), 2),
        "lag_p99_seconds": None if lag is None else round(lag, 4),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def verdict(acts: Sequence[tuple[Act, dict[str, Any], dict[str, Any]]]) -> list[str]:
    """
    Return why the resilient side did not beat the naive one; nothing if it did.

    It must recover from the dip, by itself and sooner than the naive one, answer more requests in all, and
    lose no more than five points of success in any act.
    """
    problems: list[str] = []
    for act, naive, resilient in acts:
        if act.kind == "capacity":
            mine, theirs = resilient["recovery_seconds"], naive["recovery_seconds"]
            if mine is None:
                problems.append(f"{act.title}: the resilient client did not recover")
            elif theirs is not None and theirs <= mine:
                problems.append(f"{act.title}: the naive client recovered as soon ({theirs} s, {mine} s)")
        if (resilient["success"] or 0.0) < (naive["success"] or 0.0) - 0.05:
            problems.append(f"{act.title}: the resilient client answered fewer requests")
    if sum(each["good"] for _, _, each in acts) <= sum(each["good"] for _, each, _ in acts):
        problems.append("the resilient client answered no more requests in all")
    return problems
