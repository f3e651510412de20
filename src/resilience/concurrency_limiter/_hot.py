"""A place taken and given back, for generated code: `Bulkhead.admit` and `settle`, as statements."""

from resilience._runtime.admission import Counts
from resilience._runtime.hot import Hot
from resilience._runtime.line import Line
from resilience._runtime.policy import Policy
from resilience.concurrency_limiter._cell import Slot
from resilience.concurrency_limiter._limit import FixedLimit
from resilience.concurrency_limiter._machine import Bulkhead


def hot(policy: Policy, bulkhead: Bulkhead, line: Line, counts: Counts) -> Hot:
    """Return the statements for *bulkhead*, with the *line* of those who wait for a place."""
    learns = not isinstance(bulkhead.source, FixedLimit)
    names = {
        "limiter": policy, "bulkhead": bulkhead, "waiters": line.waiters, "counts": counts, "Slot": Slot,
    }  # fmt: skip
    # In one go: who joined the line meanwhile would wait for the next call to end.
    back = ("$cell.inflight -= 1", "if $waiters: $limiter._wake_next()")
    sampled = (
        "$cell.good += 1",
        "$took = now - began",
        "$cell.seconds += $took",
        "if $took < $cell.shortest: $cell.shortest = $took",
        "if now >= $bulkhead.window_end: $limiter._take_sample()",
    )
    return Hot(
        names=names,
        unless=("$waiters or $bulkhead.rests",) if learns else ("$waiters",),
        take=(
            "$cell = $bulkhead.cell",
            "$cell.inflight = ($n := $cell.inflight) + ($fits := $n < $cell.limit)",
        ),
        refused="not $fits",
        undo=(*back, "$counts.acquired -= 1"),
        release=back,
        good=sampled if learns else (),
        # Without a clock it is as if the call had taken no time, which only a limit that came meanwhile asks.
        token="$Slot($cell, began)" if learns else "$Slot($cell, clock.monotonic())",
        reads_began=learns,
        reads_now=learns,
        taken=(
            *(("if $n >= $cell.peak: $cell.peak = $n + 1",) if learns else ()),
            "$counts.acquired += 1",
        ),
    )
