"""That no process of the demo outlives it, however it ends, and that one that ends too early is reported."""

import os
import re
import signal
import subprocess

import pytest
from tests.cli.conftest import all_have_ended, is_running

ROLES = ("dependency", "service", "users")


def processes(demo: subprocess.Popen[str]) -> dict[str, int]:
    """Wait until all are ready, and return their ids by name."""
    assert demo.stderr is not None
    for line in demo.stderr:
        found = {f"{side} {role}": int(pid) for side, role, pid in re.findall(r"(\w+) (\w+) pid (\d+)", line)}
        if found:
            assert found.keys() == {f"{side} {role}" for side in ("naive", "resilient") for role in ROLES}
            return found
    raise AssertionError("it ended before its processes were ready")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything_and_is_the_exit_code(
    demo: subprocess.Popen[str], number: signal.Signals
) -> None:
    pids = [demo.pid, *processes(demo).values()]
    assert all(is_running(pid) for pid in pids)
    demo.send_signal(number)
    _, errors = demo.communicate(timeout=30)
    assert demo.returncode == 128 + number
    assert errors.splitlines()[-1] == "stopped"
    assert "Traceback" not in errors
    assert all_have_ended(pids, seconds=0.0)  # it does not end before they have


def test_children_notice_that_their_parent_was_killed(demo: subprocess.Popen[str]) -> None:
    pids = list(processes(demo).values())
    demo.kill()
    demo.wait(timeout=10)
    assert all_have_ended(pids)


@pytest.mark.parametrize("name", ["naive dependency", "resilient service", "naive users"])
def test_a_killed_child_is_reported_and_ends_everything(demo: subprocess.Popen[str], name: str) -> None:
    pids = processes(demo)
    os.kill(pids[name], signal.SIGKILL)
    _, errors = demo.communicate(timeout=30)
    assert demo.returncode == 2
    side, role = name.split()
    told = re.search(
        r"^resilience demo: the (.*) \(pid (\d+)\) was killed by signal 9$", errors, re.MULTILINE
    )
    assert told is not None, errors
    assert (side in told[1], role in told[1], int(told[2])) == (True, True, pids[name])
    assert "Traceback" not in errors
    assert all_have_ended([*pids.values()], seconds=0.0)


def test_ctrl_c_reaches_only_the_one_that_was_started(demo: subprocess.Popen[str]) -> None:
    pids = processes(demo)
    assert {os.getpgid(pid) for pid in pids.values()} == set(pids.values())
