"""Cache: keep good results for a while, and call once where many ask for the same."""

from resilience.cache._policy import Cache
from resilience.cache._settings import CacheSettings

__all__ = ["Cache", "CacheSettings"]
