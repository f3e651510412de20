"""
An httpx client whose requests go through policies, against a server that fails now and then.

    python examples/http_client.py

It starts a small HTTP server on a free port of this machine, in a thread of its own, and ends by itself.
Either httpx or httpx2 must be installed; everything below is the same for both.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

try:
    import httpx2 as httpx
except ImportError:
    import httpx

from resilience import CircuitBreaker, ConcurrencyLimiter, Pipeline, Retry, Timeout, deadline, full_jitter
from resilience.integrations.httpx import resilient

ANSWERS = [200, 503, 500, 200, 429, 503, 200]


class Inventory(BaseHTTPRequestHandler):
    """Gives its answers in turn, and writes down what it was asked."""

    protocol_version = "HTTP/1.1"
    asked: list[str] = []  # noqa: RUF012  # one server, one list

    def do_GET(self) -> None:
        """Answer one request."""
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        status = ANSWERS[len(self.asked) % len(ANSWERS)]
        self.asked.append(f"{self.command} {self.path} -> {status}, {self.headers['X-Request-Timeout']} left")
        body = b"7" if status == 200 else b"busy"
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_GET  # noqa: N815  # the names that http.server looks for

    def log_message(self, *args: object) -> None:
        """Keep the terminal for the result."""


@contextmanager
def server() -> Iterator[str]:
    """Run the server for as long as the block takes; give its address."""
    running = ThreadingHTTPServer(("127.0.0.1", 0), Inventory)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


def main() -> None:
    """Ask for the stock, and show what was sent for it."""
    inventory = Pipeline(
        "inventory",
        Retry(attempts=3, backoff=full_jitter(base=0.02, cap=0.2)),
        CircuitBreaker(),
        ConcurrencyLimiter(limit=20),
        Timeout(0.8),  # of each attempt, until the headers of its answer
    )
    with server() as address, resilient(httpx.Client(base_url=address), inventory) as client:
        requests = [
            ("GET", "/stock/a-1", {}),
            ("GET", "/stock/a-2", {}),  # fails twice: sent three times
            ("POST", "/orders", {}),  # refused, and not sent again: nobody knows whether that is safe
            ("POST", "/orders", {"Idempotency-Key": "order-42"}),  # now somebody does
        ]
        for method, path, headers in requests:
            before = len(Inventory.asked)
            with deadline(5.0):
                response = client.request(method, path, headers=headers)
            print(f"{method} {path}: {response.status_code}")
            for line in Inventory.asked[before:]:
                print(f"    {line}")


if __name__ == "__main__":
    main()
