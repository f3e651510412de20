"""
A customer: a process that pays one order after another, and which may be killed at any moment.

It keeps its receipts in a file. Started again, it goes on with the first order that has none, under the same
key as before: the key is the order's name, not a number drawn for the attempt. `run.py` starts it.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from resilience import Hedge, Pipeline, Retry, RetryBudget
from resilience.backoff import full_jitter
from resilience.idempotency import idempotency_key
from resilience.integrations.httpx import resilient


def client_for(url: str, name: str) -> httpx.Client:
    """Return a client that retries and hedges."""
    payments = Pipeline(
        "payments",
        Retry(attempts=5, backoff=full_jitter(base=0.02, cap=0.3), retry_after_window=0.0),
        Hedge(after=0.15, idempotent="context", budget=RetryBudget.ratio(0.5, min_per_second=10)),
    )
    headers = {"Authorization": f"Bearer token-of-{name}"}
    return resilient(httpx.Client(base_url=url, headers=headers, timeout=2.0, trust_env=False), payments)


def paid(client: httpx.Client, order: dict[str, Any]) -> httpx.Response:
    """Ask until there is a receipt, always with the same key."""
    with idempotency_key(order["order"]):
        while True:
            try:
                response = client.post("/payments", json=order)
            except httpx.TransportError:
                response = None
            if response is not None and response.status_code == 201:
                return response
            time.sleep(0.05)


def main() -> None:
    """Pay orders until there is a file called ``stop``, but none by half."""
    url, name, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    book, begun, stop = folder / f"receipts-{name}", folder / f"begun-{name}", folder / "stop"
    known = book.read_bytes().count(b"\n") if book.exists() else 0
    is_half = begun.exists() and begun.stat().st_size > known
    receipts, begins = (
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for path in (book, begun)
    )
    with client_for(url, name) as client:
        while is_half or not stop.exists():
            if not is_half:
                os.write(begins, b".")
            order = {
                "order": f"order-{known}",
                "amount": 100 + known,
            }  # customers' names for orders are the same
            response = paid(client, order)
            was_replayed = "idempotent-replayed" in response.headers
            line = json.dumps({**response.json(), "replayed": was_replayed}) + "\n"
            os.write(receipts, line.encode())  # one write: a kill leaves all of it or nothing
            known += 1
            is_half = False
            (folder / f"ready-{os.getpid()}").touch()  # from now on it may be killed


if __name__ == "__main__":
    main()
