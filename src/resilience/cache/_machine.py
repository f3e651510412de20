"""What is kept and for how long. Told the time; not thread-safe: the caller holds the lock."""

import math
from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Any, TypeAlias

from resilience.cache._settings import CacheSettings
from resilience.typing import Seconds

Spot: TypeAlias = tuple[Hashable, Hashable]
"""A function and a key: where the result of a call is kept."""


class Entry:
    """
    A result that is kept.

    Attributes:
        value: The result.
        since: Instant at which its call returned.

    """

    __slots__ = ("since", "value")

    def __init__(self, value: Any, since: Seconds) -> None:
        self.value = value
        self.since = since


class Entries:
    """
    Keep at most *max_entries* results: those that were asked for, or stored, last.

    A result is fresh for *ttl* seconds and may stand in for *stale_for* seconds more; the instant
    at which either ends is no longer part of it. An earlier *now* counts as the latest one seen.
    """

    __slots__ = ("_entries", "_functions", "_latest", "_newest", "_settings")

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._entries: OrderedDict[Spot, Entry] = OrderedDict()
        self._functions: Counter[Hashable] = Counter()
        self._latest: Seconds = -math.inf
        self._newest: Seconds = -math.inf

    def __len__(self) -> int:
        """How many are kept, with those whose time is over and that nobody asked for since."""
        return len(self._entries)

    @property
    def settings(self) -> CacheSettings:
        """The settings in force."""
        return self._settings

    def usable(self, spot: Spot, now: Seconds) -> Entry | None:
        """Return the result that is fresh or may stand in; forget one whose time is over."""
        self._latest = max(self._latest, now)
        entry = self._entries.get(spot)
        if entry is None:
            return None
        if not self._latest < self._end(entry.since):
            self.drop(spot)
            return None
        self._entries.move_to_end(spot)
        return entry

    def is_fresh(self, entry: Entry) -> bool:
        """Whether the result is fresh at the latest instant seen."""
        return self._latest < entry.since + self._settings.ttl

    def store(self, spot: Spot, value: Any, now: Seconds) -> None:
        """Keep a result that came back at *now*."""
        self._latest = self._newest = max(self._latest, now)
        self.drop(spot)
        self._entries[spot] = Entry(value, self._latest)
        self._functions[spot[0]] += 1
        self._shrink()

    def drop(self, spot: Spot) -> None:
        """Forget one result."""
        if self._entries.pop(spot, None) is not None:
            self._uncount(spot[0])

    def drop_key(self, key: Hashable) -> None:
        """Forget the results of every function for *key*."""
        for function in list(self._functions):
            self.drop((function, key))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._functions.clear()

    def configure(self, settings: CacheSettings) -> None:
        """Take new settings, for what is kept already too, unless its keys now mean something else."""
        if settings.key is not self._settings.key:
            self.clear()
        self._settings = settings
        self._shrink()

    def is_idle(self, now: Seconds) -> bool:
        """Whether nothing is kept, or it is so long ago that anything was stored that all of it is over."""
        self._latest = max(self._latest, now)
        return not self._entries or self._latest >= self._end(self._newest)

    def _end(self, since: Seconds) -> Seconds:
        return since + self._settings.ttl + self._settings.stale_for

    def _shrink(self) -> None:
        while len(self._entries) > self._settings.max_entries:
            (function, _), _ = self._entries.popitem(last=False)
            self._uncount(function)

    def _uncount(self, function: Hashable) -> None:
        self._functions[function] -= 1
        if not self._functions[function]:
            del self._functions[function]
