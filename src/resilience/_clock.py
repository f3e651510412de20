"""
The one clock everybody looks up.

Policies read ``_clock.monotonic()`` by name at every use instead of binding it, so that
`resilience.testing.FakeClock` can stand in for it at any time, for policies made before as well. Who binds
it all the same, as generated code does, is a listener of `replace`.
"""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from resilience.testing import FakeClock
    from resilience.typing import Clock

monotonic: "Clock" = time.monotonic
"""Seconds that never go back. Follow it, never bind it; `replace` puts another in its place."""

fake: "FakeClock | None" = None
"""The fake clock in charge, if there is one: it sleeps in the package's stead."""

listeners: Final[list[Callable[[], object]]] = []
"""Called whenever another clock has taken over."""


_HAS_QUICKER_NAME: Final = (
    sys.version_info >= (3, 13)
    and time.get_clock_info("monotonic").implementation == "clock_gettime(CLOCK_MONOTONIC)"
)
"""Whether the same clock answers a quarter sooner by the name that the system has for it."""


def reading() -> tuple[str, dict[str, Any]]:
    """Return how generated code reads the clock in force: an expression, and the names in it."""
    if _HAS_QUICKER_NAME and monotonic is time.monotonic:
        return "clock_gettime(CLOCK_MONOTONIC)", {
            "clock_gettime": time.clock_gettime,
            "CLOCK_MONOTONIC": time.CLOCK_MONOTONIC,
        }
    return "monotonic()", {"monotonic": monotonic}


def replace(clock: "Clock") -> None:
    """Let *clock* be the one that everybody looks up."""
    global monotonic  # noqa: PLW0603  # there is one for the whole package
    monotonic = clock
    for listener in listeners:
        listener()
