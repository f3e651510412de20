"""
A dependency that fails now and then, and for a while altogether; called with and without protection.

    python examples/flaky.py

It starts a small HTTP server on a free port of this machine, in a thread of its own, and ends by itself.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.error import HTTPError
from urllib.request import urlopen

from resilience import CircuitBreaker, Pipeline, RejectedError, Retry, Timeout, full_jitter

CALLS = 120
OUTAGE = range(40, 80)  # calls during which the dependency fails every request
PAUSE = 0.02  # seconds between calls
BREAK = 0.1  # seconds for which the circuit stays open before it probes

LEGEND = """\
answered       the caller got the stock; no more than {possible} could, as {outage} calls fall into the outage
failed         the dependency was asked, and the caller got its error
refused here   the circuit was open: the caller knew at once, and nothing was sent
requests       what the dependency had to handle, retries included; and how many of these in the outage
"""
MEANING = """\
In the outage the loop by hand turns each call into three requests. A dependency that is down because it is
overloaded gets three times its load just then, from every client, and stays down. With resilience it got
{fewer} requests fewer in the outage: the circuit opened after a few failures, and then sent a probe about
every {pause} s.

The price: {lost} answers fewer. The circuit closes only when a probe succeeds, so the first calls after the
outage are still refused. A shorter break_duration gets answers back sooner, and sends more probes.
"""


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
    """What a caller saw, and what the dependency had to do for it."""

    answered: int = 0
    failed: int = 0
    refused: int = 0
    sent: int = 0
    sent_in_outage: int = 0


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
        try:
            stock()
            tally.answered += 1
        except RejectedError:
            tally.refused += 1
        except OSError as error:
            tally.failed += 1
            if isinstance(error, HTTPError):
                error.close()
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
        CircuitBreaker(consecutive_failures=5, break_duration=BREAK, break_factor=1.0),
        Timeout(0.5),
    )
    with dependency() as address:
        by_hand, guarded = use(address, naive), use(address, protected)
    outage = len(OUTAGE)
    print(f"{CALLS} calls; every fourth request fails, and in an outage of {outage} calls each one\n")
    print(f"{'':12}{'answered':>10}{'failed':>8}{'refused here':>14}{'requests':>10}{'in the outage':>15}")
    for name, tally in (("by hand", by_hand), ("resilience", guarded)):
        callers = f"{tally.answered:>10}{tally.failed:>8}{tally.refused:>14}"
        print(f"{name:12}{callers}{tally.sent:>10}{tally.sent_in_outage:>15}")
    print(f"\n{LEGEND.format(possible=CALLS - outage, outage=outage)}")
    fewer = by_hand.sent_in_outage - guarded.sent_in_outage
    print(MEANING.format(fewer=fewer, pause=BREAK, lost=by_hand.answered - guarded.answered))
    print("print(protected.describe()) shows every setting; docs/reference/pipeline.md explains them.")


if __name__ == "__main__":
    main()
