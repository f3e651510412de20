"""A record of what policies reported."""

from collections.abc import Generator
from contextlib import contextmanager

from resilience.events import Event, listen


class RecordedEvents(list[Event]):
    """The events so far, oldest first."""

    def named(self, name: str) -> list[Event]:
        """Return those called *name*, for example ``resilience.retry.exhausted``."""
        return [event for event in self if event.name == name]


@contextmanager
def recorded_events() -> Generator[RecordedEvents, None, None]:
    """
    Record every event of this process while the block runs, also those of other threads.

    Example:
        >>> from resilience.events import emit
        >>> with recorded_events() as events:
        ...     emit("resilience.retry.exhausted", "payments", {"attempts": 3})
        >>> [event.policy for event in events.named("resilience.retry.exhausted")]
        ['payments']

    """
    events = RecordedEvents()
    stop = listen(events.append)
    try:
        yield events
    finally:
        stop()
