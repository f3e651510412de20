"""How long a circuit stays open."""

from collections.abc import Callable
from dataclasses import dataclass

from resilience._core.check import is_finite
from resilience.circuit_breaker._settings import Break, CircuitBreakerSettings
from resilience.typing import Seconds


@dataclass(slots=True, eq=False, kw_only=True)
class Pending:
    """
    A break that has begun, and whose length a user's callable has yet to say.

    Attributes:
        plan: The callable.
        cause: What it is told.
        began: Instant at which the break began.
        hint: Seconds the dependency asked us to stay away, or None.
        draw: Chance, in [0, 1): how much of the jitter lengthens the break.
        is_asked: Whether somebody is asking it.

    """

    plan: Callable[[Break], Seconds]
    cause: Break
    began: Seconds
    hint: Seconds | None
    draw: float
    is_asked: bool = False

    def ask(self) -> tuple[Seconds | None, str | None]:
        """Return the length of the break, None for the longest, and what was wrong with the answer."""
        try:
            seconds = self.plan(self.cause)
        except Exception as error:  # noqa: BLE001  # the call's own error must reach the caller, not this one
            return None, f"break_duration raised {error!r}"
        if is_finite(seconds) and seconds > 0:
            return seconds, None
        return None, f"break_duration returned {seconds!r}"


def planned(settings: CircuitBreakerSettings, cause: Break) -> Seconds:
    """
    Return the length of the break by the settings: the longest one where a callable has yet to say it.

    May be longer than the longest break, which `bounded` sees to.
    """
    plan = settings.break_duration
    if callable(plan):
        return settings.max_break_duration
    try:
        return plan * float(settings.break_factor) ** (cause.attempt - 1)
    except OverflowError:
        return settings.max_break_duration


def bounded(settings: CircuitBreakerSettings, seconds: Seconds, draw: float) -> Seconds:
    """Return a break of *seconds*, capped first and lengthened by chance then."""
    return min(seconds, settings.max_break_duration) * (1.0 + settings.break_jitter * draw)


def wanted(settings: CircuitBreakerSettings, hint: Seconds | None) -> Seconds:
    """Return how long the dependency asked us to stay away; 0.0 if it did not, or is not obeyed."""
    return hint if settings.open_on_throttle and hint is not None and hint > 0 else 0.0
