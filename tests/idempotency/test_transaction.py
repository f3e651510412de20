"""The work, its claim and its result in one transaction of PostgreSQL."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from resilience.errors import (
    ConfigError,
    IdempotencyInProgressError,
    IdempotencyMismatchError,
    IdempotencyStoreError,
)
from resilience.idempotency import (
    IdempotencyLayer,
    Replayed,
    Session,
    current_claim,
    function_key,
    idempotent,
    inspect_key,
    lookup_key,
)
from resilience.idempotency.stores import MemoryStore, PostgresStore


@pytest.fixture
def line(postgres) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS orders (id text)")
        connection.execute("TRUNCATE orders")
        yield connection


@pytest.fixture
def pg(make_store) -> PostgresStore:
    store: PostgresStore = make_store("postgres")
    return store


def placed(line: psycopg.Connection[Any]) -> int:
    row = line.execute("SELECT count(*) FROM orders").fetchone()
    assert row is not None
    return int(row[0])


def guard(pg: PostgresStore, **settings: Any) -> idempotent:
    return idempotent(
        "tx", store=pg, key=lambda _, order: order, fingerprint=lambda _, order: order,
        transaction=lambda connection, _: connection, **settings,
    )  # fmt: skip


def test_work_and_result_are_committed_together(pg, line) -> None:
    @guard(pg)
    def place(connection, order: str) -> str:
        connection.execute("INSERT INTO orders VALUES (%s)", (order,))
        assert inspect_key(pg, function_key("tx", order)) is None  # nobody else sees the claim
        assert current_claim().epoch == 1
        return f"receipt {order}"

    assert place(line, "o-1") == place(line, "o-1") == "receipt o-1"
    assert placed(line) == 1
    info = inspect_key(pg, function_key("tx", "o-1"))
    assert info is not None
    assert info.state == "completed"


def test_tasks_do_the_same(pg, line, postgres) -> None:
    @guard(pg)
    async def place(connection, order: str) -> str:
        await connection.execute("INSERT INTO orders VALUES (%s)", (order,))
        return f"receipt {order}"

    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(postgres.conninfo, autocommit=True) as connection:
            assert await place(connection, "o-1") == await place(connection, "o-1") == "receipt o-1"

    asyncio.run(main())
    assert placed(line) == 1


def test_an_error_rolls_work_and_claim_back(pg, line) -> None:
    runs: list[str] = []

    @guard(pg)
    def place(connection, order: str) -> str:
        connection.execute("INSERT INTO orders VALUES (%s)", (order,))
        runs.append(order)
        if len(runs) == 1:
            raise KeyError(order)
        return "second"

    with pytest.raises(KeyError):
        place(line, "o-1")
    assert placed(line) == 0
    assert inspect_key(pg, function_key("tx", "o-1")) is None
    assert place(line, "o-1") == "second"
    assert placed(line) == 1


def test_a_failed_statement_of_the_work_is_an_error_like_others(pg, line) -> None:
    @guard(pg)
    def place(connection, order: str) -> None:
        connection.execute("INSERT INTO orders VALUES (%s)", (order,))
        connection.execute("SELECT 1 / 0")

    with pytest.raises(psycopg.errors.DivisionByZero):
        place(line, "o-1")
    assert placed(line) == 0


def test_a_result_that_cannot_be_stored_takes_the_work_with_it(pg, line) -> None:
    @guard(pg)
    def place(connection, order: str) -> str:
        connection.execute("INSERT INTO orders VALUES (%s)", (order,))
        connection.execute(f"ALTER TABLE {pg._table} RENAME TO gone_for_a_while")
        return "never stored"

    with pytest.raises(IdempotencyStoreError):
        place(line, "o-1")
    assert placed(line) == 0


def test_the_caller_may_roll_back_what_is_done_already(pg, line) -> None:
    @guard(pg)
    def place(connection, order: str) -> str:
        connection.execute("INSERT INTO orders VALUES (%s)", (order,))
        return order

    with pytest.raises(RuntimeError, match="changed my mind"), line.transaction():
        place(line, "o-1")
        raise RuntimeError("changed my mind")
    assert placed(line) == 0
    assert inspect_key(pg, function_key("tx", "o-1")) is None


def test_one_who_comes_meanwhile_is_told_at_once_or_waits(pg, line, postgres) -> None:
    began, go = threading.Event(), threading.Event()
    runs: list[str] = []

    def work(connection, order: str) -> str:
        connection.execute("INSERT INTO orders VALUES (%s)", (order,))
        runs.append(order)
        began.set()
        assert go.wait(20)
        return "first"

    place, waiting = guard(pg)(work), guard(pg, wait_for=20.0)(work)
    answers: list[str] = []

    def first() -> None:
        with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
            answers.append(place(connection, "o-1"))

    thread = threading.Thread(target=first)
    thread.start()
    assert began.wait(20)
    with pytest.raises(IdempotencyInProgressError):
        place(line, "o-1")
    later = threading.Timer(0.1, go.set)
    later.start()
    assert waiting(line, "o-1") == "first"
    thread.join()
    later.join()
    assert (answers, runs, placed(line)) == (["first"], ["o-1"], 1)


def test_eight_connections_race_and_the_work_is_done_once(pg, line, postgres) -> None:
    @guard(pg, wait_for=20.0)
    def place(connection, order: str) -> str:
        connection.execute("INSERT INTO orders VALUES (%s)", (order,))
        return order

    answers: list[str] = []
    barrier = threading.Barrier(8)

    def race() -> None:
        with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
            barrier.wait(20)
            answers.extend(place(connection, f"o-{number}") for number in range(5))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 40
    assert placed(line) == 5


KILLED = """
import os, signal, sys, psycopg
from resilience.idempotency import idempotent
from resilience.idempotency.stores import PostgresStore
conninfo, table, moment = sys.argv[1:]
store = PostgresStore(conninfo, table=table)

@idempotent("tx", store=store, key=lambda _, order: order, fingerprint=lambda _, order: order,
            transaction=lambda connection, _: connection)
def place(connection, order):
    connection.execute("INSERT INTO orders VALUES (%s)", (order,))
    if moment == "working":
        os.kill(os.getpid(), signal.SIGKILL)
    return "first"

with psycopg.connect(conninfo, autocommit=True) as connection:
    with connection.transaction():
        place(connection, "o-1")
        if moment == "completed":
            os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["working", "completed", "committed"])
def test_a_process_that_is_killed_leaves_all_of_it_or_nothing(pg, line, postgres, moment: str) -> None:
    arguments = [sys.executable, "-c", KILLED, postgres.conninfo, pg._table, moment]
    done = subprocess.run(arguments, env=os.environ, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()

    @guard(pg, wait_for=20.0)
    def place(connection, order: str) -> str:
        connection.execute("INSERT INTO orders VALUES (%s)", (order,))
        return "second"

    expected = "first" if moment == "committed" else "second"
    assert place(line, "o-1") == expected
    assert placed(line) == 1  # whichever it was: the work is done once, without a lease to wait for


def test_keys_survive_a_change_of_mode(pg, line) -> None:
    layer = IdempotencyLayer("modes", store=pg)
    one, two = lookup_key("modes", "1"), lookup_key("modes", "2")
    with layer.begin(one, b"same") as session:
        session.complete(b"leased")
    with line.transaction():
        bound = pg.transaction(line)
        assert layer.begin(one, b"same", store=bound) == Replayed(b"leased")
        with pytest.raises(IdempotencyMismatchError):
            layer.begin(one, b"other", store=bound)
        begun = layer.begin(two, b"same", store=bound)
        assert isinstance(begun, Session)
        with begun:
            assert begun.complete(b"together")
    assert layer.begin(two, b"same") == Replayed(b"together")


def test_what_makes_no_sense_in_a_transaction_is_refused(pg) -> None:
    with pytest.raises(ConfigError, match="needs a PostgresStore"):
        idempotent(store=MemoryStore(), key=str, transaction=lambda connection: connection)
    with pytest.raises(ConfigError, match="on_error"):
        guard(pg, on_error="hold")
    with pytest.raises(ConfigError, match="fail_open"):
        guard(pg, fail_open=True)
