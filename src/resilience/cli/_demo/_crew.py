"""
The processes of the demo: started, listened to, and ended by their ids.

Each is in a group of its own, so that Ctrl-C reaches only the one that started them, and each ends by itself
when that one is gone, because its standard input ends then.
"""

import asyncio
import json
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Final, Self

from resilience.cli._exits import CannotRunError
from resilience.typing import Seconds

START: Final[Seconds] = 30.0
"""How long a process may take to be ready: on a busy machine, imports take seconds."""

LEAVE: Final[Seconds] = 3.0
"""How long a process may take to end by itself; then it is told to."""

LONGEST_LINE: Final = 2**22
"""Bytes of the longest report: an exposition."""

Heard = Callable[[Mapping[str, Any]], None]


class Member:
    """
    One process.

    Attributes:
        name: What it is called when something goes wrong.
        pid: Its id.

    """

    __slots__ = ("_errors", "_heard", "_is_leaving", "_port", "_process", "name", "pid")

    def __init__(self, name: str, process: Process, errors: IO[bytes], heard: Heard) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._errors = errors
        self._heard = heard
        self._port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._is_leaving = False

    async def port(self) -> int:
        """
        Wait until it is ready, and return the port that it listens on.

        Raises:
            CannotRunError: It takes too long.

        """
        try:
            async with asyncio.timeout(START):
                return await asyncio.shield(self._port)
        except TimeoutError:
            raise CannotRunError(f"the {self.name} (pid {self.pid}) was not ready in {START:.0f} s") from None

    def tell(self, **command: object) -> None:
        """Send a command."""
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def listen(self) -> None:
        """
        Hand on what it reports, until it ends.

        Raises:
            CannotRunError: It ended although nobody wanted that.

        """
        problem = ""
        stdout = self._process.stdout
        while stdout is not None and (line := await stdout.readline()):
            report = json.loads(line)
            if "port" in report:
                self._port.set_result(report["port"])
            elif "error" in report:
                problem = report["error"]
            else:
                self._heard(report)
        code = await self._process.wait()
        if not self._is_leaving:
            ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            raise CannotRunError(f"the {self.name} (pid {self.pid}) {problem or ended + self._last_words()}")

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return "".join(f"\n    {line}" for line in lines[-8:])

    async def leave(self) -> None:
        """Let it end: by itself, else by request, else at once."""
        self._is_leaving = True
        for end in (self._hang_up, self._process.terminate, self._process.kill):
            with suppress(ProcessLookupError):
                end()
            with suppress(TimeoutError):
                async with asyncio.timeout(LEAVE):
                    await self._process.wait()
                    break
        self._errors.close()

    def _hang_up(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()


class Crew:
    """
    All processes, as a context: after the block none is left.

    Attributes:
        members: Those started so far.

    """

    __slots__ = ("_group", "members")

    def __init__(self) -> None:
        self.members: list[Member] = []
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            leaving = [asyncio.create_task(member.leave()) for member in self.members]
            while leaving and any(not task.done() for task in leaving):
                with suppress(asyncio.CancelledError):  # a second Ctrl-C does not leave anything behind
                    await asyncio.wait(leaving)
        finally:
            try:
                await self._group.__aexit__(kind, error, trace)
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None

    async def start(self, name: str, role: str, heard: Heard, **settings: object) -> Member:
        """Start a process, and listen to it from now on."""
        errors = tempfile.TemporaryFile()  # noqa: SIM115  # open for as long as the process lives
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "resilience.cli._demo", role, json.dumps(settings)),
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },  # it imports what we do
            stdin=PIPE,
            stdout=PIPE,
            stderr=errors,
            limit=LONGEST_LINE,
            start_new_session=True,
        )
        member = Member(name, process, errors, heard)
        self.members.append(member)
        self._group.create_task(member.listen())
        return member
