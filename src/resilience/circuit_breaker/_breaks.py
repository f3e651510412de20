"""How long a circuit stays open."""

from resilience._core.check import is_finite
from resilience.circuit_breaker._settings import Break, CircuitBreakerSettings
from resilience.typing import Seconds


def planned(settings: CircuitBreakerSettings, cause: Break) -> tuple[Seconds, str | None]:
    """
    Return the length of the break by the settings, and what was wrong with a callable's.

    May be longer than the longest break, which `bounded` sees to.
    """
    plan = settings.break_duration
    longest = settings.max_break_duration
    if not callable(plan):
        try:
            return plan * float(settings.break_factor) ** (cause.attempt - 1), None
        except OverflowError:
            return longest, None
    try:
        seconds = plan(cause)
    except Exception as error:  # noqa: BLE001  # the call's own error must reach the caller, not this one
        return longest, f"break_duration raised {error!r}"
    if is_finite(seconds) and seconds > 0:
        return seconds, None
    return longest, f"break_duration returned {seconds!r}"


def bounded(settings: CircuitBreakerSettings, seconds: Seconds, draw: float) -> Seconds:
    """Return a break of *seconds*, capped first and lengthened by chance then."""
    return min(seconds, settings.max_break_duration) * (1.0 + settings.break_jitter * draw)


def wanted(settings: CircuitBreakerSettings, hint: Seconds | None) -> Seconds:
    """Return how long the dependency asked us to stay away; 0.0 if it did not, or is not obeyed."""
    return hint if settings.open_on_throttle and hint is not None and hint > 0 else 0.0
