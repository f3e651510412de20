"""
The dependency: workers that sleep, a queue before them, and faults to order.

It knows nothing of deadlines, and does not notice that a caller has left: what was asked is done, also for
nobody, as in most servers.
"""

import asyncio
import math
from collections import deque
from collections.abc import Mapping
from random import Random
from typing import Any

from resilience.cli._demo._child import Line
from resilience.cli._demo._plan import QUEUE, SPREAD, WORK, WORKERS
from resilience.cli._demo._serving import answer, serving


class Dependency:
    """An ASGI application that can do so much and no more."""

    __slots__ = ("_busy", "_chance", "_errors", "_waiting", "_workers", "arrived", "done")

    def __init__(self, seed: str) -> None:
        self._chance = Random(seed)  # noqa: S311  # chance in a demonstration, not in a lock
        self._workers = WORKERS
        self._busy = 0
        self._errors = 0.0
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self.arrived = 0
        self.done = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002  # every ASGI application takes it
        self.arrived += 1
        if self._chance.random() < self._errors:
            await answer(send, 500, b"broken")
            return
        if not await self._is_let_in():
            await answer(send, 503, b"full")
            return
        try:
            median = WORK * math.exp(-(SPREAD**2) / 2)
            await asyncio.sleep(self._chance.lognormvariate(math.log(median), SPREAD))
        finally:
            self._busy -= 1
            self._let_in()
        self.done += 1
        await answer(send, 200, b"7")

    async def _is_let_in(self) -> bool:
        if self._busy < self._workers:
            self._busy += 1
            return True
        if len(self._waiting) >= QUEUE:
            return False
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        return await turn

    def _let_in(self) -> None:
        while self._waiting and self._busy < self._workers:
            self._busy += 1
            self._waiting.popleft().set_result(True)

    def obey(self, command: Mapping[str, Any]) -> None:
        """Change what it can do, or forget what waits."""
        if command["do"] == "workers":
            self._workers = int(command["count"])
            self._let_in()
        elif command["do"] == "errors":
            self._errors = float(command["share"])
        elif command["do"] == "restart":
            while self._waiting:
                self._waiting.popleft().set_result(False)

    def report(self) -> dict[str, object]:
        """Return what it has done, and what it has before it."""
        return {
            "arrived": self.arrived,
            "done": self.done,
            "waiting": len(self._waiting),
            "workers": self._workers,
            "busy": self._busy,
        }


async def run(line: Line, settings: Mapping[str, Any]) -> None:
    """Serve until the line ends."""
    dependency = Dependency(settings["seed"])
    async with serving(dependency) as (port, task):
        line.say(port=port)
        reports = asyncio.create_task(line.say_often(dependency.report))
        task.add_done_callback(lambda _: reports.cancel())
        async for command in line.commands():
            dependency.obey(command)
        reports.cancel()
