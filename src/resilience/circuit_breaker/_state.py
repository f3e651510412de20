"""The states of a circuit, and what is told of a change from one to the next."""

import enum
from dataclasses import dataclass

from resilience.circuit_breaker._settings import Break
from resilience.typing import Seconds


class CircuitState(enum.Enum):
    """Where a circuit stands. The values are those of telemetry."""

    CLOSED = "closed"
    """Calls pass, and their results are watched."""
    OPEN = "open"
    """Calls are refused until the break is over."""
    HALF_OPEN = "half_open"
    """A few calls pass as probes; their results decide."""
    ISOLATED = "forced_open"
    """Somebody ordered that calls are refused."""
    DISABLED = "disabled"
    """Somebody ordered that calls pass; results change nothing."""


class Reason(enum.Enum):
    """Why a circuit changed its state."""

    FAILURE_RATIO = "failure_ratio"
    """The share of bad results was reached."""
    SLOW_CALL_RATIO = "slow_call_ratio"
    """The share of slow results was reached."""
    CONSECUTIVE_FAILURES = "consecutive_failures"
    """Enough results in a row were bad."""
    THROTTLED = "throttled"
    """The dependency said when to return."""
    BREAK_OVER = "break_over"
    """The time of the break was over when a call came."""
    PROBES = "probes"
    """The results of the probes."""
    MANUAL = "manual"
    """Somebody ordered it."""
    RESTORED = "restored"
    """A snapshot was restored."""


@dataclass(frozen=True, slots=True)
class Transition:
    """
    One change of state.

    Attributes:
        previous: State before.
        state: State after.
        reason: Why.
        at: Instant of the change, in seconds on the monotonic clock.
        retry_after: Seconds until the circuit lets a probe pass, if it opened.
        cause: What was known when it opened by a result, or None.
        problem: What went wrong when the ``break_duration`` callable was asked, or None. The
            circuit then opened for its longest break.

    """

    previous: CircuitState
    state: CircuitState
    reason: Reason
    at: Seconds
    retry_after: Seconds | None = None
    cause: Break | None = None
    problem: str | None = None
