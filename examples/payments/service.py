"""
The payment service: one process of it, which may be killed at any moment.

It guards its handler with keys and asks a payment provider for the money. `run.py` starts it.
"""

import asyncio
import os
import random
import socket
import sqlite3
import sys
import uuid
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from resilience.idempotency import child_key
from resilience.idempotency.stores import PostgresStore, SQLiteStore
from resilience.integrations.asgi import IdempotencyMiddleware

TOKENS = {"token-of-ann": "ann", "token-of-bob": "bob", "token-of-eve": "eve"}
LEASE = 1.0  # seconds after which another process takes over from one that was killed
SLOWEST = 0.08  # seconds for which the handler is at work before, and again after, the money has moved


class Order(BaseModel):
    """What a customer wants to pay for."""

    order: str
    amount: int


class Provider:
    """
    What moves the money: another company's service, which takes keys as well.

    Here it is a table. Asked again with a key, it moves nothing and says what it said before.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS charges "
            "(id INTEGER PRIMARY KEY, key TEXT UNIQUE, customer TEXT, name TEXT, amount INTEGER, "
            "asked INTEGER)"
        )

    def charge(self, key: str, customer: str, name: str, amount: int) -> int:
        """Charge *customer* and return the number of the charge."""
        (number,) = self._db.execute(
            "INSERT INTO charges (key, customer, name, amount, asked) VALUES (?, ?, ?, ?, 1) "
            "ON CONFLICT (key) DO UPDATE SET asked = asked + 1 RETURNING id",
            (key, customer, name, amount),
        ).fetchone()
        return int(number)


class Authentication:
    """Knows customers by their tokens. It is outside the keys: a replay is for those who may ask."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let in who is known."""
        if scope["type"] == "http":
            said = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
            if said not in TOKENS:
                await JSONResponse({"title": "Who are you?"}, 401)(scope, receive, send)
                return
            scope["customer"] = TOKENS[said]
        await self.app(scope, receive, send)


def store_of_keys(folder: Path) -> SQLiteStore | PostgresStore:
    """Return where keys are kept: the table that `run.py` has made, else a file."""
    if conninfo := os.environ.get("PAYMENTS_POSTGRES"):
        return PostgresStore(conninfo, table=os.environ["PAYMENTS_TABLE"])
    return SQLiteStore(folder / "keys.db")


def application(folder: Path, *, guarded: bool) -> Any:
    """Return the service; not *guarded*, it is what it would be without keys."""
    provider = Provider(folder / "provider.db")
    app: Any = FastAPI()

    @app.post("/payments", status_code=201)
    async def pay(order: Order, request: Request) -> dict[str, str | int]:
        customer: str = request.scope["customer"]
        # The same when another process does the work again after a crash, so the provider charges once.
        key = child_key("charge") if guarded else str(uuid.uuid4())
        await asyncio.sleep(random.uniform(0, SLOWEST))
        number = provider.charge(key, customer, order.order, order.amount)
        (folder / f"ready-{os.getpid()}").touch()  # from now on this process may be killed
        await asyncio.sleep(random.uniform(0, SLOWEST))
        return {"charge": number, "customer": customer, "order": order.order, "amount": order.amount}

    if guarded:
        app = IdempotencyMiddleware(
            app,
            store=store_of_keys(folder),
            principal=lambda scope: scope["customer"],
            required=["/payments"],
            lease=LEASE,
        )
    return Authentication(app)


def main() -> None:
    """Serve on a socket that was opened already."""
    listening, folder, guard = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "guarded"
    config = uvicorn.Config(application(folder, guarded=guard), log_config=None, ws="none", lifespan="off")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=listening)])


if __name__ == "__main__":
    main()
