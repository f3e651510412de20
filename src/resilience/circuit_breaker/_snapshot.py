"""What one process tells another of a circuit: lengths of time, not instants, in a plain dict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from resilience._core.check import Check
from resilience.circuit_breaker._state import CircuitState
from resilience.typing import Seconds

VERSION: Final = 1
"""Which form of snapshot this is."""

STATES: Final = ("closed", "open", "forced_open", "disabled")
"""What a snapshot may say of the state: a half-open circuit is one whose break is just over."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    What a circuit needs to carry on where another stood.

    Attributes:
        state: Where the circuit stands. Orders are named, and not carried on.
        retry_after: Seconds that are left of the break.
        attempt: How often the circuit opened since it was last closed; 0 if it is closed.
        ramp: Seconds that are left of the ramp.

    """

    state: CircuitState
    retry_after: Seconds
    attempt: int
    ramp: Seconds

    def as_dict(self) -> dict[str, str | int | float]:
        """Return it ready for JSON."""
        return {
            "version": VERSION,
            "state": (CircuitState.OPEN if self.attempt else self.state).value,
            "retry_after": self.retry_after,
            "attempt": self.attempt,
            "ramp": self.ramp,
        }


def parse(snapshot: Mapping[str, object]) -> Snapshot:
    """
    Return the snapshot of what `Snapshot.as_dict` returned.

    Raises:
        ConfigError: It is no such dict; every problem is listed.

    """
    check = Check("CircuitBreaker snapshot")
    if not check.that(isinstance(snapshot, Mapping), "snapshot", snapshot, "must be a mapping"):
        check.done()
    version, state = snapshot.get("version"), snapshot.get("state")
    retry_after, attempt, ramp = (snapshot.get(key) for key in ("retry_after", "attempt", "ramp"))
    check.that(version == VERSION and not isinstance(version, bool), "version", version, f"must be {VERSION}")
    known = isinstance(state, str) and state in STATES
    check.that(known, "state", state, f"must be one of {', '.join(map(repr, STATES))}")
    check.seconds("retry_after", retry_after, zero=True)
    if check.whole("attempt", attempt, at_least=0):
        agrees = (attempt != 0) == (state == "open")
        check.that(agrees, "attempt", attempt, "must be >= 1 if open, and else 0")
    check.seconds("ramp", ramp, zero=True)
    for key in snapshot.keys() - {"version", "state", "retry_after", "attempt", "ramp"}:
        check.that(False, str(key), snapshot[key], "must not be there")
    check.done()
    return Snapshot(
        CircuitState(state), cast("Seconds", retry_after), cast("int", attempt), cast("Seconds", ramp)
    )
