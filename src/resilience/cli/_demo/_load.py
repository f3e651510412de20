"""
The users: requests that come when they come, whether or not those before were answered.

A small HTTP/1.1 client of its own, so that what is measured is the service and not a client library.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

from resilience.cli._demo._child import Line
from resilience.cli._demo._measure import Record
from resilience.cli._demo._plan import HOST, PATIENCE, arrivals
from resilience.typing import Seconds

REQUEST: Final = b"GET /checkout HTTP/1.1\r\nHost: " + HOST.encode() + b"\r\n\r\n"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Users:
    """Send requests on a schedule, and write down how they went."""

    __slots__ = ("_idle", "_lags", "_port", "_records", "_tasks")

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []
        self._records: list[Record] = []
        self._lags: list[Seconds] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def act(self, begin: Seconds, seconds: Seconds, rate: float, seed: str) -> None:
        """Send *rate* requests per second for so many *seconds* from *begin*, on the monotonic clock."""
        for after in arrivals(seed, seconds, rate):
            due = begin + after
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            self._lags.append(time.monotonic() - due)
            task = asyncio.create_task(self._one(begin, due))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def take(self) -> dict[str, object]:
        """Return, once, what was written down since the last time."""
        records, self._records = self._records, []
        lags, self._lags = self._lags, []
        return {
            "records": [(round(due, 4), int(good), round(took, 4)) for due, good, took in records],
            "lags": [round(lag, 4) for lag in lags],
        }

    def close(self) -> None:
        """Close the connections that are open for the next request."""
        while self._idle:
            self._idle.pop()[1].close()

    async def _one(self, begin: Seconds, due: Seconds) -> None:
        good = False
        try:
            async with asyncio.timeout(due + PATIENCE - time.monotonic()):
                good = await self._ask()
        except (TimeoutError, OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            pass  # no answer, or none that can be read: not a good one
        self._records.append((due - begin, good, time.monotonic() - due))

    async def _ask(self) -> bool:
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(HOST, self._port)
        try:
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            await reader.readexactly(int(fields.get(b"content-length", b"")))
        except BaseException:
            writer.transport.abort()
            raise
        self._idle.append((reader, writer))
        return head.startswith(b"HTTP/1.1 2")


async def run(line: Line, settings: Mapping[str, Any]) -> None:
    """Send what is commanded, until the line ends."""
    users = Users(settings["service"])
    line.say(port=0)

    async def act(command: Mapping[str, Any]) -> None:
        reports = asyncio.create_task(line.say_often(users.take))
        await users.act(command["begin"], command["seconds"], command["rate"], command["seed"])
        reports.cancel()
        line.say(**users.take(), ended=True)

    running: set[asyncio.Task[None]] = set()
    async for command in line.commands():
        task = asyncio.create_task(act(command))
        running.add(task)
        task.add_done_callback(running.discard)
    for task in running:
        task.cancel()
    users.close()
