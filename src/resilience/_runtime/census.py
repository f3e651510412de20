"""
Who counts what in this process, for telemetry to read when somebody asks for numbers.

Whoever counts is enrolled in its constructor, by weak reference, and says of itself what it is, what it is
called and every number that it keeps, zeros too. Nothing happens per call: the numbers are those that the
owner keeps anyway. What is counted by one that is collected later is not lost: its ``__del__`` calls
`leave`, which adds its last readings to those of its kind and name. So an owner looks like this::

    class Doorman:
        __slots__ = ("__weakref__", "admitted", "name")
        kind = "doorman"

        def __init__(self, name):
            self.name, self.admitted = name, 0
            census.enroll(self)  # last: from here on it may be read

        def readings(self):
            yield Reading("resilience.doorman.guests", self.admitted)

        def __del__(self, leave=census.leave):  # bound, because names are gone when the interpreter ends
            leave(self)

Every `Policy` has it and is enrolled already: a primitive
only supplies ``readings``. The names of the metric and of each attribute are those of the telemetry registry;
the owner's own name is added by the reader. One that has no name of its own yet, and has counted nothing, is
not reported.
"""

import logging
import os
import re
import threading
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

from resilience._runtime import fork

Attributes = tuple[tuple[str, str], ...]

OTHER: Final = "_OTHER"
"""Stands for all names beyond the bound, and for values that are not in the registry."""

MOST_NAMES: Final = 256
"""Distinct names that are told apart. Source: an SDK keeps 2 000 series a metric, and a name has up to 7."""

LONGEST_NAME: Final = 64

OFF: Final = frozenset({"off", "0", "false", "no"})
"""Values of the environment variable ``RESILIENCE_TELEMETRY`` that silence everything."""

_STRANGE: Final = re.compile(r"[^A-Za-z0-9_.:-]+")


class Reading(NamedTuple):
    """
    One number at one moment.

    Attributes:
        metric: Name of the metric in the telemetry registry.
        value: The number. For a total: what this process has counted since it began.
        attributes: Key and value of each attribute, in a fixed order, without the owner's name.
        is_level: Whether it is a level, such as a limit, which goes with its owner; else it is a total.

    """

    metric: str
    value: float
    attributes: Attributes = ()
    is_level: bool = False


class Counting(Protocol):
    """
    Somebody who counts: a policy, a budget, an objective, a layer of an application.

    It has an attribute ``kind`` as well, of the class or its own: what it is, such as ``circuit_breaker``.
    """

    @property
    def name(self) -> str | None:
        """What it is called; None counts as its kind."""
        ...

    def readings(self) -> Iterable[Reading]:
        """Return every number that it keeps, zeros too. May be called in any thread."""
        ...


class Sum(NamedTuple):
    """
    What one series is made of: the readings of all owners of one name.

    Attributes:
        kept: The sum of the readings of owners that are gone.
        live: The readings of those that live.

    """

    kept: float
    live: list[float]


Key = tuple[str, str, Attributes]
"""The metric, the label of the owner, and the other attributes."""


class _Entry:
    """
    One owner.

    Attributes:
        last: Its readings when they were last asked for.
        final: Its readings when it was collected; None while it lives.
        is_kept: Whether these are part of what is kept.

    """

    __slots__ = ("final", "is_kept", "last", "owner")

    def __init__(self, owner: Counting) -> None:
        self.owner = weakref.ref(owner)
        self.last: dict[Key, float] = {}
        self.final: dict[Key, float] | None = None
        self.is_kept = False

    def readings(self) -> dict[Key, float]:
        if self.final is not None:
            return self.final
        owner = self.owner()
        if owner is not None:
            self.last = _read(owner)
        # Between the end of its weak references and its own end, what it said last holds: a total that
        # falls and rises again would look like a new process, and be counted twice.
        return self.last


class _Labels:
    """
    The names that are told apart: the first to come, in their valid form.

    Attributes:
        most: How many there may be.

    """

    __slots__ = ("_known", "most")

    def __init__(self) -> None:
        self.most = MOST_NAMES
        self._known: dict[str, str] = {}

    def label(self, name: str) -> str:
        """Return what stands for *name* in telemetry: of a long one its end, which tells functions apart."""
        known = self._known.get(name)
        if known is not None:
            return known
        valid = _STRANGE.sub("_", name)[-LONGEST_NAME:] or OTHER
        if valid in self._known:  # it stands for itself already, and is told apart
            return valid
        if len(self._known) >= self.most:
            return OTHER
        self._known[valid] = valid
        return valid

    def clear(self) -> None:
        """Forget all names."""
        self._known.clear()


labels: Final = _Labels()


class _Census:
    """The owners, and what those counted that are gone."""

    __slots__ = ("__weakref__", "_departed", "_entries", "_is_begun", "_kept", "_lock")

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        self._is_begun = False
        self._departed: deque[_Entry] = deque()
        self._kept: dict[Key, float] = {}
        # Not for `leave`, which runs wherever the collector does: also in the thread that holds it.
        self._lock = threading.Lock()
        fork.register(self)

    def enroll(self, owner: Counting) -> bool:
        """Enroll *owner*; return whether it is the first of all."""
        entry = self._entries.get(id(owner))
        if entry is None or entry.owner() is not owner:
            self._entries[id(owner)] = _Entry(owner)
        is_first, self._is_begun = not self._is_begun, True
        return is_first

    def leave(self, owner: Counting) -> None:
        entry = self._entries.get(id(owner))
        if entry is None or entry.final is not None:
            return
        try:
            entry.final = _read(owner, levels=False)
        except Exception:  # noqa: BLE001  # half-made or half-gone: what it said last holds
            entry.final = entry.last
        # In this order, so that `survey` finds it at least in one of the two.
        self._departed.append(entry)
        self._entries.pop(id(owner), None)
        if self._lock.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._lock.release()

    def survey(self) -> dict[Key, Sum]:
        with self._lock:
            entries = list(self._entries.values())
            self._fold()
            found = {key: Sum(value, []) for key, value in self._kept.items()}
            live = [entry for entry in entries if not entry.is_kept]
        for entry in live:
            try:
                readings = entry.readings()
            except Exception:  # noqa: BLE001  # one that cannot be read does not hide the others
                readings = entry.last
            for key, value in readings.items():
                if key not in found:
                    found[key] = Sum(0, [])
                found[key].live.append(value)
        return found

    def _fold(self) -> None:
        """Add up what those counted that are gone. The lock is held."""
        while self._departed:
            with suppress(IndexError):
                entry = self._departed.popleft()
                for key, value in (entry.final or {}).items():
                    self._kept[key] = self._kept.get(key, 0) + value
                entry.is_kept = True

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._departed.clear()
        self._kept.clear()
        for entry in list(self._entries.values()):
            entry.last = {}


def _read(owner: Any, *, levels: bool = True) -> dict[Key, float]:
    """Return the readings of *owner*; without levels, and none at all, where it has counted nothing."""
    kind: str = owner.kind
    name = owner.name or kind
    label = labels.label(name)
    found: dict[Key, float] = {}
    is_used = False
    for metric, value, attributes, is_level in owner.readings():
        is_used = is_used or (not is_level and value > 0)
        if levels or not is_level:
            key = (metric, label, attributes)
            found[key] = found.get(key, 0) + value
    is_named = name != kind
    return found if is_used or (levels and is_named) else {}


_census: Final = _Census()


def enroll(counting: Counting) -> None:
    """Let telemetry read what *counting* counts, for as long as it lives. Enrolling it twice is once."""
    if _census.enroll(counting):
        _begin()


def leave(counting: Counting) -> None:
    """Keep what *counting* counted: it is being collected. One that was never enrolled changes nothing."""
    try:
        _census.leave(counting)
    except Exception:  # noqa: BLE001, S110  # it may run when the interpreter ends, and names are gone
        pass


def survey() -> dict[Key, Sum]:
    """Return what everybody counted, by metric, label of the owner's name, and attributes."""
    return _census.survey()


def _begin() -> None:
    """Bring in telemetry, which comes with the first that counts and not before."""
    if os.environ.get("RESILIENCE_TELEMETRY", "").lower() in OFF:
        return
    try:
        from resilience.telemetry import _start  # noqa: PLC0415  # see above

        _start.begin()
    except Exception:  # the API of OpenTelemetry is missing or broken: no policy depends on it
        logging.getLogger("resilience.telemetry").warning("no telemetry", exc_info=True)
