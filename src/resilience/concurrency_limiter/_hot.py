"""A place taken and given back, for generated code: `Bulkhead.admit` and `settle`, as statements."""

from collections.abc import Callable

from resilience._runtime.hot import ELSE, Fail, Hot, Unlocked
from resilience._runtime.policy import Policy
from resilience.concurrency_limiter._limit import FixedLimit
from resilience.concurrency_limiter._machine import Bulkhead
from resilience.errors import RejectedError


def hot(
    policy: Policy,
    bulkhead: Bulkhead,
    *,
    refuse: Callable[[], RejectedError | None] | None,
    fail: Fail,
) -> Hot:
    """Return the statements for *bulkhead*, whose places *policy* gives out."""
    learns = not isinstance(bulkhead.source, FixedLimit)
    is_timed = learns and bulkhead.needs_latency
    names = {"limiter": policy, "bulkhead": bulkhead, "cell": bulkhead.cell}
    wake = Unlocked("if $bulkhead.is_barred: $limiter._wake_next()")
    # In one go: who joined the line meanwhile would wait for the next call to end.
    back = ("$cell.ceiling += 1.0", wake)
    timed = (
        "$cell.timed += 1",
        "$took = now - began",
        "$cell.seconds += $took",
        "if $took < $cell.shortest: $cell.shortest = $took",
        *(("$cell.times.append($took)",) if bulkhead.wants_times else ()),
    )
    sampled = Unlocked(
        "if now >= $bulkhead.window_end: $limiter._take_sample()"
        if is_timed
        else "if $n >= $bulkhead.look_at: $limiter._look_for_sample()"
    )
    return Hot(
        names=names,
        lock="$limiter._lock",
        take=("if ($n := $cell.started) < $cell.ceiling: $cell.started = $n + 1.0",),
        refused=ELSE,
        undo=("$cell.started -= 1.0", wake),
        release=back,
        good=(*(timed if is_timed else ()), *((sampled,) if learns else ())),
        let_go=("$cell.others += 1",),
        token="$cell",  # noqa: S106  # no secret
        refuse=refuse,
        fail=fail,
        reads_began=is_timed,
        reads_now=is_timed,
    )
