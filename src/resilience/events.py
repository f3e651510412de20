"""
What policies report on rare edges: a circuit opens, retries are exhausted, a limit changes.

Nothing is built while nobody listens. A listener that raises never breaks the call it watches.
"""

import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from resilience.errors import ConfigError, Problem


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


class Recorder(Protocol):
    """A listener that is always there, and that mostly has nobody to tell."""

    def is_listening(self) -> bool:
        """Whether anybody would be told of an event now. Asked before there is one."""
        ...

    def __call__(self, event: Event, /) -> None:
        """Take note of *event*."""
        ...


recorder: Recorder | None = None
"""What records events for OpenTelemetry. Telemetry sets it, and nobody else."""

# Appending, removing and copying are one step of the interpreter each, so no lock is needed.
_listeners: list[Listener] = []


def listen(listener: Listener) -> Callable[[], None]:
    """
    Call *listener* with every event of this process, in the thread where it happens.

    Keep it short: it runs inside the protected call. What it raises is dropped.

    Returns:
        A function that ends the subscription; calling it again does nothing.

    Raises:
        ConfigError: *listener* is no plain function: nobody would ever hear that it fails.

    Example:
        >>> seen = []
        >>> stop = listen(seen.append)
        >>> stop()

    """
    if not callable(listener) or inspect.iscoroutinefunction(listener):
        raise ConfigError("listen", [Problem("listener", listener, "must be a plain function of an event")])
    # A wrapper of its own makes two subscriptions of one function two subscriptions.
    entry: Listener = lambda event: listener(event)  # noqa: PLW0108  # see above
    _listeners.append(entry)

    def stop() -> None:
        if entry in _listeners:
            _listeners.remove(entry)

    return stop


_held_back: ContextVar[list[Event] | None] = ContextVar("resilience.held_back", default=None)


@contextmanager
def held_back() -> Generator[None, None, None]:
    """
    Tell listeners of the events of this block when it ends: around a block that holds a lock.

    A listener may use the policy that an event is about, and wait for others that use it.
    """
    if _held_back.get() is not None:  # the outer block will tell
        yield
        return
    events: list[Event] = []
    token = _held_back.set(events)
    try:
        yield
    finally:
        _held_back.reset(token)
        for event in events:
            _tell(event)


def emit(name: str, policy: str, attributes: Mapping[str, object]) -> None:
    """Tell every listener. Called outside locks, since a listener may use the policy."""
    if not _listeners and not _is_recording():
        return
    event = Event(name, policy, attributes)
    held = _held_back.get()
    if held is None:
        _tell(event)
    else:
        held.append(event)


def _is_recording() -> bool:
    try:
        return recorder is not None and recorder.is_listening()
    except Exception:  # noqa: BLE001  # as below
        return False


def _tell(event: Event) -> None:
    for listener in (*_listeners, *(() if recorder is None else (recorder,))):
        try:
            listener(event)
        except Exception:  # noqa: BLE001, S112  # a listener never breaks the call it watches
            continue
