"""What the tests of the command line share."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "resilience.cli", *arguments]


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return not Path("/proc/self").exists()  # no such folder on macOS; elsewhere it has just ended
    return state != "Z"


def all_have_ended(pids: list[int], seconds: float = 15.0) -> bool:
    until = time.monotonic() + seconds
    while any(is_running(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo that has just been started; whatever the test does, nothing of it is left."""
    process = subprocess.Popen(
        command("demo", "--no-tty", "--output", str(tmp_path / "out")),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()  # its children notice
        process.communicate()
