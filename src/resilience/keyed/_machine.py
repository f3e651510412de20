"""Who has a place of its own. Not thread-safe: the caller holds the lock."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Final, Generic, TypeVar

E = TypeVar("E")

LOOKS: Final = 8
"""Entries that are looked at to make room for a new one, so that a flood of keys costs no more."""


class Places(Generic[E]):
    """
    Give each key a place, at most *max_keys* in all; only an idle entry loses its place to another.

    Those used longest ago are looked at first, at most `LOOKS` for a new key. One that is not idle
    goes to the end of the line.

    Attributes:
        max_keys: Places in all. There may be more entries for a while after it was lowered.
        evicted: Entries that lost their place.

    """

    __slots__ = ("_entries", "evicted", "max_keys")

    def __init__(self, max_keys: int) -> None:
        self._entries: OrderedDict[Hashable, E] = OrderedDict()
        self.max_keys = max_keys
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._entries)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def entries(self) -> dict[Hashable, E]:
        """Return the entries of all keys, those used longest ago first."""
        return dict(self._entries)

    def get(self, key: Hashable) -> E | None:
        """Return the entry of *key*, which is used now; None if it has none."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def make_room(self, is_idle: Callable[[E], bool]) -> bool:
        """Say whether there is a place for a new key, after idle entries lost theirs if need be."""
        for _ in range(min(LOOKS, len(self._entries))):
            if len(self._entries) < self.max_keys:
                break
            key, entry = next(iter(self._entries.items()))
            if is_idle(entry):
                del self._entries[key]
                self.evicted += 1
            else:
                self._entries.move_to_end(key)
        return len(self._entries) < self.max_keys

    def put(self, key: Hashable, entry: E) -> None:
        """Give *key* this entry."""
        self._entries[key] = entry
