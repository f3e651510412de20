"""What the first policy that is made brings in."""

from resilience.telemetry._configure import state


def begin() -> None:
    """Make the instruments, and listen to events, once."""
    state.begin()
