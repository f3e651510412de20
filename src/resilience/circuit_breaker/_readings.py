"""What telemetry knows of a circuit: calls, probes, states, and how it went from one to the next."""

from collections.abc import Iterator
from typing import Final

from resilience._runtime.census import Reading
from resilience.circuit_breaker._machine import Circuit
from resilience.circuit_breaker._state import CircuitState
from resilience.typing import Seconds

OUTCOME: Final = "resilience.outcome"
STATE: Final = "resilience.circuit_breaker.state"
PREVIOUS: Final = "resilience.circuit_breaker.previous_state"

EXPECTED: Final = (
    (CircuitState.CLOSED, CircuitState.OPEN),
    (CircuitState.OPEN, CircuitState.HALF_OPEN),
    (CircuitState.HALF_OPEN, CircuitState.OPEN),
    (CircuitState.HALF_OPEN, CircuitState.CLOSED),
)
"""The changes of state that need no order: told from the start, at zero."""


def readings(circuit: Circuit, now: Seconds) -> Iterator[Reading]:
    """Return the readings of *circuit* at *now*. The lock is held."""
    calls = "resilience.circuit_breaker.calls"
    yield Reading(calls, circuit.good, ((OUTCOME, "success"),))
    yield Reading(calls, sum(circuit.ended.values()), ((OUTCOME, "failure"),))
    yield Reading(calls, circuit.ignored, ((OUTCOME, "ignored"),))
    yield Reading(calls, circuit.rejected, ((OUTCOME, "rejected"),))
    yield Reading(calls, circuit.cancelled, ((OUTCOME, "cancelled"),))
    yield Reading("resilience.circuit_breaker.spared", circuit.spared)
    yield Reading("resilience.attempts", circuit.probed, (("resilience.attempt.type", "probe"),))
    present = circuit.state_at(now)
    seconds = circuit.seconds(now)
    for state in CircuitState:
        told = ((STATE, state.value),)
        yield Reading("resilience.circuit_breaker.status", int(state is present), told, is_level=True)
        yield Reading("resilience.circuit_breaker.time", seconds[state], told)
    for previous, state in {**dict.fromkeys(EXPECTED), **dict.fromkeys(circuit.history.transitions)}:
        count = circuit.history.transitions.get((previous, state), 0)
        told_both = ((STATE, state.value), (PREVIOUS, previous.value))
        yield Reading("resilience.circuit_breaker.transitions", count, told_both)
