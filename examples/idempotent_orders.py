"""
An order that is placed twice is placed once.

A shop sends each order until it hears back. The second attempt comes while the first is still at work,
two more come when it is done, and one comes with the same key and another amount.

    python examples/idempotent_orders.py
"""

import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from resilience.idempotency import (
    IdempotencyInProgressError,
    IdempotencyMismatchError,
    function_key,
    idempotent,
    inspect_key,
)
from resilience.idempotency.stores import SQLiteStore


@dataclass(frozen=True)
class Order:
    """What a customer wants."""

    id: str
    amount: int


@dataclass(frozen=True)
class Receipt:
    """What a customer gets."""

    order: str
    number: int


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, SQLiteStore(Path(folder) / "orders.db") as store:
        placed: list[Order] = []
        at_work, go_on = threading.Event(), threading.Event()

        @idempotent("orders.place", store=store, key=lambda order: order.id, ttl=86_400)
        def place(order: Order) -> Receipt:
            placed.append(order)
            at_work.set()
            go_on.wait(10)
            return Receipt(order.id, len(placed))

        order = Order("o-1", 700)
        first = threading.Thread(target=place, args=(order,))
        first.start()
        at_work.wait(10)
        try:
            place(order)
        except IdempotencyInProgressError as error:
            print("While the first is at work:", error)
        go_on.set()
        first.join()

        print("When it is done:           ", place(order))
        print("And again:                 ", place(order))
        try:
            place(Order("o-1", 70_000))
        except IdempotencyMismatchError as error:
            print("With another amount:       ", error)

        info = inspect_key(store, function_key("orders.place", "o-1"))
        print("What the store knows:      ", info)
        print(f"Orders placed: {len(placed)}")
        if len(placed) != 1:
            raise SystemExit("an order was placed twice")


if __name__ == "__main__":
    main()
