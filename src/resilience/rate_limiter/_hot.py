"""One permit of GCRA, for generated code: the line that `resilience._core.gcra` explains."""

from resilience._runtime.admission import Counts
from resilience._runtime.hot import ELSE, Fail, Hot
from resilience._runtime.line import Line
from resilience._runtime.policy import Policy
from resilience.rate_limiter._gcra import Gcra


def hot(policy: Policy, gcra: Gcra, line: Line, counts: Counts, fail: Fail) -> Hot:
    """Return the statements for *gcra*, with the *line* of those who wait for permits."""
    return Hot(
        names={"limiter": policy, "gcra": gcra, "line": line, "counts": counts},
        unless=("$line.waiters",),
        # Each line is right by itself: between two of them a tracer may let another thread come in.
        take=(
            "$t = began * $gcra.rate + $gcra.shift",
            "if $gcra.tat <= $t: $gcra.tat = $x = $t + 1",
            "elif ($s := $gcra.tat) - $t <= $gcra.room: $gcra.tat = $x = ($s if $s > $t else $t) + 1",
        ),
        refused=ELSE,
        taken=("$counts.acquired += 1",),
        undo=("$limiter._give_back_token($gcra.permit($x))", "$counts.acquired -= 1"),
        let_go=("$limiter._give_back_token($gcra.permit($x))",),
        token="$gcra.permit($x)",  # noqa: S106  # no secret
        fail=fail,
        reads_began=True,
    )
