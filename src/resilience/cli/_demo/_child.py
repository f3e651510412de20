"""
What every process of the demo shares: its line to the process that started it.

Commands come in on standard input, reports go out on standard output, one JSON object a line. When standard
input ends, whoever started it is gone, however that came about, and the process ends as well.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from resilience.typing import Seconds

EVERY: Final[Seconds] = 0.25
"""Time between two reports."""


class Line:
    """Where commands come from, and reports go to."""

    __slots__ = ("_out",)

    def __init__(self) -> None:
        self._out = sys.stdout.fileno()

    async def commands(self) -> AsyncIterator[Mapping[str, Any]]:
        """Yield what is commanded, until nobody is left to do so."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            yield json.loads(line)

    def say(self, **report: object) -> None:
        """Send a report. Whether somebody reads it is found out by `commands`."""
        with suppress(BrokenPipeError):
            os.write(self._out, json.dumps(report, separators=(",", ":")).encode() + b"\n")

    async def say_often(self, report: Callable[[], Mapping[str, object]]) -> None:
        """Send what *report* returns, again and again."""
        while True:
            await asyncio.sleep(EVERY)
            self.say(**report())
