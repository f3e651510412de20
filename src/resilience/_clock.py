"""
The one clock everybody looks up.

Policies read ``_clock.monotonic()`` by name at every use instead of binding it, so that
`resilience.testing.FakeClock` can stand in for it at any time, for policies made before as well.
"""

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resilience.testing import FakeClock
    from resilience.typing import Clock

monotonic: "Clock" = time.monotonic
"""Seconds that never go back. Follow it, never bind it."""

fake: "FakeClock | None" = None
"""The fake clock in charge, if there is one: it sleeps in the package's stead."""
