"""
What policies report on rare edges: a circuit opens, retries are exhausted, a limit changes.

Nothing is built while nobody listens. A listener that raises never breaks the call it watches.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Event:
    """
    One thing that happened.

    Attributes:
        name: What happened, for example ``resilience.circuit_breaker.state_change``.
        policy: Name of the policy that it happened to.
        attributes: Details, by the attribute names of the telemetry registry.

    """

    name: str
    policy: str
    attributes: Mapping[str, object]


Listener: TypeAlias = Callable[[Event], None]

# Appending, removing and copying are one step of the interpreter each, so no lock is needed.
_listeners: list[Listener] = []


def listen(listener: Listener) -> Callable[[], None]:
    """
    Call *listener* with every event of this process, in the thread where it happens.

    Keep it short: it runs inside the protected call. What it raises is dropped.

    Returns:
        A function that ends the subscription; calling it again does nothing.

    Example:
        >>> seen = []
        >>> stop = listen(seen.append)
        >>> stop()

    """
    # A wrapper of its own makes two subscriptions of one function two subscriptions.
    entry: Listener = lambda event: listener(event)  # noqa: PLW0108  # see above
    _listeners.append(entry)

    def stop() -> None:
        if entry in _listeners:
            _listeners.remove(entry)

    return stop


def emit(name: str, policy: str, attributes: Mapping[str, object]) -> None:
    """Tell every listener. Called outside locks, since a listener may use the policy."""
    if not _listeners:
        return
    event = Event(name, policy, attributes)
    for listener in tuple(_listeners):
        try:
            listener(event)
        except Exception:  # noqa: BLE001, S112  # a listener never breaks the call it watches
            continue
