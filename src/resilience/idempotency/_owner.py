"""Where owners come from: 128 random bits, never the same in two processes."""

import os
import random
from typing import Any

from resilience._runtime import fork


class _Owners:
    """
    Draws owners. They need to be unique, not secret: who could guess one has the store itself.

    A generator of its own, so that a program that seeds the shared one for its tests gets no owner twice.
    """

    __slots__ = ("__weakref__", "_bits")

    def __init__(self) -> None:
        self._after_fork()
        fork.register(self)

    def _after_fork(self) -> None:
        self._bits: Any = random.Random(os.urandom(32)).getrandbits  # noqa: S311  # unique is enough, see above

    def draw(self) -> bytes:
        drawn: int = self._bits(128)
        return drawn.to_bytes(16)


_owners = _Owners()


def new_owner() -> bytes:
    """Return 16 random bytes."""
    return _owners.draw()
