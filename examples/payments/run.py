"""
Payments while processes are killed at random: every order is charged once.

    python examples/payments/run.py --seconds 20

Two processes of a payment service share a socket, a store of keys and a payment provider. Three customers pay
orders, with retries and hedges; they all call their orders by the same names. Every now and then one of these
processes is killed (SIGKILL) and started again. At the end the books are compared: what was charged, and
what customers have receipts for. With ``--unguarded`` the service does without keys, and charges twice.

Keys are kept in a file. With ``--postgres "dbname=test"``, or the same in the environment variable
PAYMENTS_POSTGRES, they are kept in a PostgreSQL database, in tables that are made for this run and removed
after it.

It takes a free port of this machine and a temporary folder, and ends by itself.
"""

import argparse
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from resilience.idempotency.stores import PostgresStore

HERE = Path(__file__).parent
CUSTOMERS = ("ann", "bob", "eve")
PATIENCE = 60.0  # seconds that customers have to finish when the killing is over


class Processes:
    """The processes of the service and the customers, which are started again when they are killed."""

    def __init__(self, folder: Path, commands: dict[str, list[str]], listening: int) -> None:
        self.folder = folder
        self.commands = commands
        self.listening = listening
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.kills: Counter[str] = Counter()

    def start(self, name: str) -> None:
        """Start the process of that name."""
        command = [sys.executable, *self.commands[name]]
        self.running[name] = subprocess.Popen(  # noqa: S603  # programs of this folder
            command, pass_fds=(self.listening,), stdin=subprocess.DEVNULL
        )

    def is_ready(self, name: str) -> bool:
        """Whether it has done something, so that all get on even where each start takes long."""
        return (self.folder / f"ready-{self.running[name].pid}").exists()

    def wait_until_under_way(self) -> None:
        """Wait until all customers, and one process of the service, have done something."""
        give_up = time.monotonic() + PATIENCE
        # The first to listen may get all connections; the other has nothing to do until that one is killed.
        idle = {"service 1"}, {"service 2"}
        while {name for name in self.running if not self.is_ready(name)} not in (set(), *idle):
            if time.monotonic() > give_up:
                raise SystemExit("the processes did not start")
            time.sleep(0.05)

    def kill(self, name: str) -> None:
        """Kill it, without a chance to clear up."""
        self.running[name].kill()
        self.running[name].wait()
        self.kills["service" if name.startswith("service") else "customer"] += 1

    def kill_at_random(self, seconds: float) -> None:
        """Kill one every now and then, and start it again."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(random.uniform(0.1, 0.6))
            died = [name for name, process in self.running.items() if process.poll() is not None]
            if died:
                raise SystemExit(f"ended by themselves: {', '.join(died)}")
            if ready := [name for name in self.running if self.is_ready(name)]:
                name = random.choice(ready)
                self.kill(name)
                self.start(name)

    def end(self) -> None:
        """End whatever is left."""
        for process in self.running.values():
            process.kill()
            process.wait()


def chaos(folder: Path, seconds: float, *, guarded: bool) -> Counter[str]:
    """Let customers pay, and kill; return how often what was killed."""
    # Said to be TCP, so that asyncio sends small answers at once.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        url, fd = f"http://127.0.0.1:{listening.getsockname()[1]}", listening.fileno()
        how = "guarded" if guarded else "unguarded"
        commands = {
            f"service {number}": [str(HERE / "service.py"), str(fd), str(folder), how] for number in (1, 2)
        }
        commands |= {name: [str(HERE / "customer.py"), url, name, str(folder)] for name in CUSTOMERS}
        processes = Processes(folder, commands, fd)
        try:
            for name in commands:
                processes.start(name)
            processes.wait_until_under_way()
            processes.kill_at_random(seconds)
            (folder / "stop").touch()
            for name in CUSTOMERS:
                processes.running[name].wait(PATIENCE)
        finally:
            processes.end()
    return processes.kills


@contextmanager
def table_in(conninfo: str | None) -> Iterator[None]:
    """Make a table of keys in the database *conninfo*, for this run alone; None for no database."""
    if conninfo is None:
        yield
        return
    import psycopg  # noqa: PLC0415  # only those need it who have such a database

    table = f"payments_{uuid.uuid4().hex}"
    os.environ |= {"PAYMENTS_POSTGRES": conninfo, "PAYMENTS_TABLE": table}
    with PostgresStore(conninfo, table=table) as store:
        store.migrate()
    try:
        yield
    finally:
        with psycopg.connect(conninfo) as connection:
            connection.execute(f"DROP TABLE {table}, {table}_schema")


def receipts_in(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the receipts of each customer."""
    books = {name: folder / f"receipts-{name}" for name in CUSTOMERS}
    return {
        name: [json.loads(line) for line in book.read_text().splitlines()] if book.exists() else []
        for name, book in books.items()
    }


def charges_in(folder: Path) -> list[tuple[int, str, str, int, int]]:
    """Return what the provider has charged."""
    with closing(sqlite3.connect(folder / "provider.db")) as db:
        return db.execute("SELECT id, customer, name, amount, asked FROM charges").fetchall()


def compare(folder: Path, kills: Counter[str]) -> bool:
    """Print the numbers; whether the books agree."""
    receipts, charges = receipts_in(folder), charges_in(folder)
    per_order = Counter((customer, order) for _, customer, order, _, _ in charges)
    amounts = {number: (customer, order, amount) for number, customer, order, amount, _ in charges}
    owned = [(owner, receipt) for owner, receipts_of in receipts.items() for receipt in receipts_of]
    orders = Counter((owner, receipt["order"]) for owner, receipt in owned)
    foreign = sum(receipt["customer"] != owner for owner, receipt in owned)
    unbacked = sum(
        amounts.get(receipt["charge"]) != (owner, receipt["order"], receipt["amount"])
        for owner, receipt in owned
    )
    twice = sum(count - 1 for count in per_order.values())
    numbers = {
        "processes killed": f"{kills['service']} of the service, {kills['customer']} of customers",
        "orders paid": len(orders),
        "charges": len(charges),
        "receipts that were replayed": sum(receipt["replayed"] for _, receipt in owned),
        "charges asked for again after a kill, and not made again": sum(asked - 1 for *_, asked in charges),
        "orders charged more than once": twice,
        "orders charged without a receipt": len(per_order.keys() - orders.keys()),
        "receipts for another customer": foreign,
        "receipts without their charge": unbacked,
    }
    for what, number in numbers.items():
        print(f"{what:58} {number}")
    ok = (
        bool(orders)
        and set(orders.values()) == {1}
        and per_order == orders
        and not (twice or foreign or unbacked)
    )
    print("Every order was charged once." if ok else "The books do not agree.")
    return ok


def main() -> None:
    """Run, compare, and exit with 1 if the books do not agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="how long to kill, from 1 to 600; default 20"
    )
    parser.add_argument("--unguarded", action="store_true", help="without keys, to see what they are for")
    parser.add_argument(
        "--postgres",
        metavar="CONNINFO",
        default=os.environ.get("PAYMENTS_POSTGRES"),
        help="keep keys in this PostgreSQL database; default: PAYMENTS_POSTGRES, else a file",
    )
    options = parser.parse_args()
    if not 1 <= options.seconds <= 600:
        parser.error("--seconds must be from 1 to 600")
    with tempfile.TemporaryDirectory() as name, table_in(options.postgres):
        kills = chaos(Path(name), options.seconds, guarded=not options.unguarded)
        if not compare(Path(name), kills):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
