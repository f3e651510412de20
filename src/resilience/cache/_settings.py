"""What may be set on a cache."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from resilience._core.check import Check
from resilience.typing import Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """
    How long a result is kept, and how many of them.

    Raises:
        ConfigError: At least one setting cannot work; every problem is listed.

    """

    ttl: Seconds
    """Seconds for which a result is fresh, counted from when its call returned: > 0. No default: only
    who reads it knows how old it may be."""

    stale_for: Seconds = 0.0
    """Seconds after *ttl* for which a result stands in where a call fails: >= 0. Default 0.0: an old
    answer in place of an error must be asked for. Source: RFC 5861 (``stale-if-error``), opt-in too."""

    key: Callable[..., Hashable] | None = None
    """Makes the key of a call from its arguments; calls of one function with equal keys share a
    result. Default None: the arguments themselves. Source: ``functools.lru_cache``."""

    max_entries: int = 1024
    """Results kept, >= 1; beyond that the one goes that nobody asked for the longest. Default 1024.
    Source: own; the 128 of ``functools.lru_cache`` are few for keys such as a customer's."""

    def __post_init__(self) -> None:
        check = Check("Cache")
        check.seconds("ttl", self.ttl)
        check.seconds("stale_for", self.stale_for, zero=True)
        check.that(self.key is None or callable(self.key), "key", self.key, "must be callable or None")
        check.whole("max_entries", self.max_entries)
        check.done()
