"""``resilience demo``: an outage on real sockets, with plain retries and beside it with the golden path."""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from resilience.cli._demo._plan import LONGEST, SHORTEST, USUAL, Plan
from resilience.cli._exits import CannotRunError
from resilience.typing import Seconds

NEEDED: Final = {
    "httpx": "httpx",
    "opentelemetry.exporter.prometheus": "opentelemetry-exporter-prometheus",
    "rich": "rich",
    "uvicorn": "uvicorn",
}
"""Modules that the demo needs beside the package, and what brings them."""

HIGHEST_PORT: Final = 65_535

WORDS: Final = """\
Start a dependency, a service in front of it and an open-loop load, all as real processes on the loopback
interface, twice: once the service retries as people often write it, once through Pipeline.standard. Three
acts: all is well; the dependency loses most of its capacity for a while; a part of its answers are errors.
Both sides meet the same requests at the same times. At the end: a table, a report in HTML, the figures in
JSON and the metrics of both services as Prometheus reads them.
"""


def add_to(commands: Any) -> None:
    """Add the command to the program's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="watch an outage with plain retries and with the golden path, side by side",
        description=WORDS,
        epilog="Exit codes: 0 the resilient side did better, 1 it did not in the better of two tries, 2 the "
        "demo could not run, 128 + n ended by signal n.",
    )
    parser.add_argument(
        "--duration",
        type=_seconds,
        default=USUAL,
        metavar="SECONDS",
        help=f"how long requests are sent, {SHORTEST:g} to {LONGEST:g} (default %(default)g; all in all it "
        "takes about six seconds more)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("resilience-demo"),
        metavar="DIR",
        help="where report.html, result.json, naive.prom and resilient.prom go (default %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="of all chance in the load (default %(default)s)"
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=0,
        metavar="N",
        help="port of the naive service, with /metrics; the resilient one has the next (default: free ones)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures in JSON, and progress on stderr"
    )
    parser.add_argument("--no-tty", action="store_true", help="print lines instead of the live view")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """
    Run the command.

    Raises:
        CannotRunError: A package is missing, the output cannot be written, or a process failed.
        SignalledError: It was told to stop; no process is left.

    """
    missing = sorted(package for module, package in NEEDED.items() if not _is_there(module))
    if missing:
        raise CannotRunError(
            f"{', '.join(missing)} not installed: pip install 'resilience-policies[cli]' brings what it needs"
        )
    from resilience.cli._demo._command import show  # noqa: PLC0415  # brings in what may be missing

    plan = Plan(seconds=options.duration, seed=options.seed, port=options.port)
    return show(plan, options.output, as_json=options.json, is_plain=options.no_tty)


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False


def _seconds(text: str) -> Seconds:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not SHORTEST <= seconds <= LONGEST:
        raise argparse.ArgumentTypeError(f"must be from {SHORTEST:g} to {LONGEST:g} seconds, not {text!r}")
    return seconds


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() else -1
    if not (port == 0 or 1024 <= port < HIGHEST_PORT):
        raise argparse.ArgumentTypeError(f"must be 0, or from 1024 to {HIGHEST_PORT - 1}, not {text!r}")
    return port
