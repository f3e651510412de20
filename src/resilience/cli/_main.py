"""
The command line's front door.

A command is a module with ``add_to(commands)``, which adds a parser whose default ``run`` takes the parsed
arguments and returns an exit code. A new command is a new module, and one line in `COMMANDS`.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from resilience.cli import _demo
from resilience.cli._exits import SIGNALLED, UNUSABLE, CannotRunError, SignalledError

PACKAGE: Final = "resilience-policies"

COMMANDS: Final = (_demo,)
"""The commands, in the order of the help text."""


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run a command of the ``resilience`` program and return its exit code.

    Args:
        arguments: What stands behind the program's name. Default: those of this process.

    Raises:
        SystemExit: As argparse does, after ``--help``, ``--version`` and options that are wrong.

    """
    parsed = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = parsed.run
    try:
        return run(parsed)
    except CannotRunError as error:
        print(f"resilience {parsed.command}: {error}", file=sys.stderr)
        return UNUSABLE
    except SignalledError as signalled:
        print("stopped", file=sys.stderr)
        return SIGNALLED + signalled.number
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return SIGNALLED + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resilience",
        description="See and check what resilience policies do.",
        epilog="Exit codes: 0 it holds, 1 it does not, 2 it could not be tried, 128 + n ended by signal n.",
    )
    parser.add_argument("--version", action="version", version=f"resilience {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    return parser


def _version() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:  # run from a source tree
        return "(not installed)"
