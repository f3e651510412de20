"""One attempt of a hedged call."""

from contextvars import Context
from dataclasses import dataclass
from typing import Any

from resilience._runtime.flow import Call, Child
from resilience.outcome import Outcome, Verdict
from resilience.typing import Seconds


@dataclass(slots=True, eq=False)
class Attempt:
    """
    One attempt, for its caller and for itself.

    Attributes:
        number: Its number in this race, from 1.
        call: What it calls.
        started: When, in seconds.
        child: Where it runs; None until it was started.
        outcome: How it ended; None if it has not, or was late.
        verdict: What that means.
        context: The context variables at its end.
        ended: When, in seconds.
        is_cancelled: Whether it was told to stop.

    """

    number: int
    call: Call
    started: Seconds
    child: Child | None = None
    outcome: Outcome[Any] | None = None
    verdict: Verdict = Verdict.IGNORED
    context: Context | None = None
    ended: Seconds = 0.0
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Stop it, once: a second cancellation would strike while it cleans up after the first."""
        if self.child is not None and not self.is_cancelled:
            self.is_cancelled = True
            self.child.cancel()
