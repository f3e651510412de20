"""A good call through a closed circuit, for generated code: `Automaton.admit` and `settle` as statements."""

from collections.abc import Callable

from resilience._runtime.hot import Fail, Hot, Unlocked
from resilience._runtime.policy import Policy
from resilience.circuit_breaker._machine import Circuit
from resilience.errors import RejectedError


def hot(policy: Policy, circuit: Circuit, refuse: Callable[[], RejectedError | None], fail: Fail) -> Hot:
    """Return the statements for *circuit*, which *policy* guards."""
    counts_calls = circuit.settings.sampling_calls is not None
    matters = "$circuit.is_watched" if counts_calls else "now >= $circuit.bucket_end"
    instant = "monotonic()" if counts_calls else "now"
    return Hot(
        names={"breaker": policy, "circuit": circuit},
        lock="$breaker._lock",
        unless=("($cell := $circuit.cell) is None",),
        good=(Unlocked(f"if {matters}: $breaker._rotate({instant}, $cell)"), "$cell.good += 1.0"),
        let_go=("$circuit.cancelled += 1",),
        token="$cell",  # noqa: S106  # no secret
        refuse=refuse,
        fail=fail,
        reads_now=not counts_calls,
    )
