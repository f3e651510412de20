"""What cuts a request short where not asyncio runs. Imported when that is so."""

import anyio

from resilience.typing import Seconds


def scope_for(left: Seconds) -> anyio.CancelScope:
    """Return what is cancelled when *left* seconds have passed."""
    return anyio.CancelScope(deadline=anyio.current_time() + left)
