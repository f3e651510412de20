"""
A dependency that fails now and then, and for a while altogether; called with and without protection.

    python examples/flaky.py

It starts a small HTTP server on a free port of this machine, in a thread of its own, and ends by itself.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.error import HTTPError
from urllib.request import urlopen

from resilience import CircuitBreaker, Pipeline, Retry, Timeout, full_jitter

CALLS = 120
OUTAGE = range(40, 80)  # calls during which the dependency refuses everything
PAUSE = 0.02  # seconds between calls


class Stock(BaseHTTPRequestHandler):
    """Fails every fourth request; in an outage, each."""

    requests = count()
    is_down = False

    def do_GET(self) -> None:
        """Answer one request."""
        fails = self.is_down or next(self.requests) % 4 == 0
        self.send_response(503 if fails else 200)
        self.end_headers()
        self.wfile.write(b"" if fails else b"7")

    def log_message(self, *args: object) -> None:
        """Keep the terminal for the result."""


@dataclass
class Tally:
    """What a caller saw."""

    answered: int = 0
    sent: int = 0
    sent_in_outage: int = 0
    slowest: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)


@contextmanager
def dependency() -> Iterator[str]:
    """Run the server for as long as the block takes; give its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stock)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/stock"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(address: str, protect: Callable[[Callable[[], str]], Callable[[], str]]) -> Tally:
    """Ask for the stock again and again, through an outage, and keep a tally."""
    tally = Tally()

    @protect
    def stock() -> str:
        tally.sent += 1
        tally.sent_in_outage += Stock.is_down
        with urlopen(address, timeout=2) as response:  # noqa: S310  # an address of our own
            return str(response.read(), "ascii")

    for number in range(CALLS):
        Stock.is_down = number in OUTAGE
        start = time.perf_counter()
        try:
            stock()
            tally.answered += 1
        except Exception as error:  # noqa: BLE001  # each is part of the tally
            kind = type(error).__name__
            tally.errors[kind] = tally.errors.get(kind, 0) + 1
            with suppress(AttributeError):
                error.close()
        tally.slowest = max(tally.slowest, time.perf_counter() - start)
        time.sleep(PAUSE)
    return tally


def naive(stock: Callable[[], str]) -> Callable[[], str]:
    """Try three times, whatever happens: what is often written by hand."""

    def again() -> str:
        for _ in range(2):
            with suppress(HTTPError):
                return stock()
        return stock()

    return again


def main() -> None:
    """Call the dependency both ways and print what came of it."""
    protected = Pipeline(
        "stock",
        Timeout(2.0),
        Retry(attempts=3, backoff=full_jitter(base=0.005, cap=0.05)),
        CircuitBreaker(consecutive_failures=5, break_duration=0.1, break_factor=1.0),
        Timeout(0.5),
    )
    with dependency() as address:
        rows = [("by hand", use(address, naive)), ("resilience", use(address, protected))]
    print(f"{CALLS} calls, {len(OUTAGE)} of them while the dependency refuses everything\n")
    print(f"{'':12}{'answered':>10}{'requests':>10}{'in outage':>11}{'slowest':>10}  errors")
    for name, tally in rows:
        errors = ", ".join(f"{kind} {number}" for kind, number in sorted(tally.errors.items()))
        row = f"{name:12}{tally.answered:>10}{tally.sent:>10}{tally.sent_in_outage:>11}{tally.slowest:>9.2f}s"
        print(f"{row}  {errors}")
    print("\nIn the outage the circuit opens, and the dependency is left alone until it can answer again.")
    print(f"\n{protected.describe()}")


if __name__ == "__main__":
    main()
