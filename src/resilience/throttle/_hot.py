"""A good call that nobody would refuse, for generated code: `Throttle.admit` and `settle` as statements."""

from resilience._runtime.admission import Counts
from resilience._runtime.hot import Fail, Hot, Unlocked
from resilience._runtime.policy import Policy
from resilience.priority import usage
from resilience.throttle._machine import Throttle


def hot(policy: Policy, throttle: Throttle, counts: Counts, fail: Fail) -> Hot:
    """Return the statements for *throttle*, which *policy* guards and *counts* counts."""
    return Hot(
        names={"policy": policy, "throttle": throttle, "counts": counts, "priorities": usage},
        lock="$policy._lock",
        # Where calls have priorities, each has to ask with its own.
        unless=("$priorities.used", "($cell := $throttle.cell) is None"),
        refused="began >= $throttle.bucket_end",
        taken=("$counts.at_once += 1.0",),
        undo=("$counts.at_once -= 1.0",),
        good=(Unlocked("if now >= $throttle.bucket_end: $policy._rotate(now)"), "$cell.good += 1.0"),
        let_go=("$throttle.cancelled += 1",),
        token="$cell",  # noqa: S106  # no secret
        fail=fail,
        reads_began=True,
        reads_now=True,
    )
