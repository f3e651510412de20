"""A few connections that are used again, of either colour."""

import os
import select
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Final

from resilience._runtime import fork

IDLE: Final = 10
"""Connections that are kept while nobody uses them."""


def is_quiet(connection: Any) -> bool:
    """Whether nothing has come on an idle connection: a server that ends says so, and hangs up."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


def leave(idle: list[Any], process: int) -> None:
    """Close connections that nobody will use or close any more, unless they are those of a parent process."""
    while idle and os.getpid() == process:
        connection = idle.pop()  # held until it is closed: it would complain of being left open
        connection.pgconn.finish()


class Pool:
    """Connections for threads: as many as are in use at once, of which a few are kept."""

    __slots__ = ("__weakref__", "_abandoned", "_idle", "_lock", "connect")

    def __init__(self, connect: Callable[[], Any]) -> None:
        self.connect = connect
        self._abandoned: list[Any] = []
        self._begin()
        fork.register(self)

    def _begin(self) -> None:
        self._idle: list[Any] = []
        self._lock = threading.RLock()
        weakref.finalize(self, leave, self._idle, os.getpid())

    def _after_fork(self) -> None:
        self._abandoned += self._idle  # the parent's: to close them here would end its sessions
        self._begin()

    def take(self) -> Any:
        """Return a connection that works, as far as one can tell without asking."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self.connect()
            if is_quiet(connection):
                return connection
            connection.close()

    def give_back(self, connection: Any) -> None:
        """Keep a connection that works, or close it."""
        if not connection.closed:
            with self._lock:
                if len(self._idle) < IDLE:
                    self._idle.append(connection)
                    return
        connection.close()

    def close(self) -> None:
        """Close what is kept."""
        with self._lock:
            idle = self._idle[:]
            self._idle.clear()
        for connection in idle:
            connection.close()


class AsyncPool:
    """Connections for the tasks of asyncio: each belongs to the event loop that it was made in."""

    __slots__ = ("__weakref__", "_idle", "connect")

    def __init__(self, connect: Callable[[], Awaitable[Any]]) -> None:
        self.connect = connect
        self._idle: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()

    def _here(self) -> list[Any]:
        import asyncio  # noqa: PLC0415  # only for tasks

        loop = asyncio.get_running_loop()
        idle = self._idle.get(loop)
        if idle is None:
            idle = self._idle[loop] = []
            for owner in (self, loop):
                weakref.finalize(owner, leave, idle, os.getpid())
        return idle

    async def take(self) -> Any:
        """Return a connection that works, as far as one can tell without asking."""
        idle = self._here()
        while idle:
            connection = idle.pop()
            if is_quiet(connection):
                return connection
            await connection.close()
        return await self.connect()

    async def give_back(self, connection: Any) -> None:
        """Keep a connection that works, or close it."""
        idle = self._here()
        if not connection.closed and len(idle) < IDLE:
            idle.append(connection)
        else:
            await connection.close()

    async def close(self) -> None:
        """Close what is kept for this event loop."""
        idle = self._here()
        while idle:
            await idle.pop().close()
