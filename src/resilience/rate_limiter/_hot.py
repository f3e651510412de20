"""One permit of GCRA, for generated code: the line that `resilience._core.gcra` explains."""

from resilience._runtime.admission import Counts
from resilience._runtime.hot import ELSE, Fail, Hot, Unlocked
from resilience._runtime.policy import Policy
from resilience.rate_limiter._gcra import Gcra


def hot(policy: Policy, gcra: Gcra, counts: Counts, fail: Fail) -> Hot:
    """Return the statements for *gcra*, whose permits *policy* gives out and *counts* counts."""
    give_back = Unlocked("$limiter._give_back_token($x)")
    return Hot(
        names={"limiter": policy, "gcra": gcra, "counts": counts},
        lock="$limiter._lock",
        # Each line is right by itself: between two of them a tracer may let another thread come in.
        take=(
            "if $gcra.tat <= ($t := began * $gcra.rate + $gcra.open_shift): $gcra.tat = $x = $t + 1.0",
            "elif ($s := $gcra.tat) - $t <= $gcra.room: $gcra.tat = $x = ($s if $s > $t else $t) + 1.0",
        ),
        refused=ELSE,
        taken=("$counts.at_once += 1.0",),
        undo=(give_back, "$counts.at_once -= 1.0"),
        let_go=(give_back,),
        token="$x",  # noqa: S106  # no secret
        fail=fail,
        reads_began=True,
    )
