"""examples/payments: while its processes are killed at random, every order is charged once."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.idempotency.servers import Postgres

RUN = Path(__file__).parents[2] / "examples" / "payments" / "run.py"
ROW = re.compile(r"^(?P<what>.+?)  +(?P<number>\d+)$", re.MULTILINE)


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


def payments(*options: str, **environment: str) -> tuple[int, str, dict[str, int]]:
    result = subprocess.run(
        [sys.executable, str(RUN), *options],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(result.stdout, result.stderr)
    return (
        result.returncode,
        result.stderr,
        {row["what"]: int(row["number"]) for row in ROW.finditer(result.stdout)},
    )


def check(seconds: float, *options: str, **environment: str) -> dict[str, int]:
    code, errors, numbers = payments("--seconds", str(seconds), *options, **environment)
    assert (code, errors) == (0, "")
    assert numbers["orders paid"] == numbers["charges"] > 0
    wrong = [
        "orders charged more than once", "orders charged without a receipt", "receipts for another customer",
        "receipts without their charge",
    ]  # fmt: skip
    assert {what: numbers[what] for what in wrong} == dict.fromkeys(wrong, 0)
    return numbers


@pytest.mark.timeout(200)
def test_every_order_is_charged_once_while_processes_are_killed() -> None:
    check(10)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("said_by", ["option", "environment"])
def test_every_order_is_charged_once_with_keys_in_postgresql(postgres: Postgres, said_by: str) -> None:
    if said_by == "option":
        numbers = check(6, "--postgres", postgres.conninfo)
    else:
        numbers = check(1, PAYMENTS_POSTGRES=postgres.conninfo)
    with psycopg.connect(postgres.conninfo) as connection:
        used, left = connection.execute(
            "SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'), "
            "(SELECT count(*) FROM pg_tables WHERE tablename LIKE 'payments%')"
        ).fetchone()
    assert used >= 2 * numbers["orders paid"]  # a claim and a result each
    assert left == 0


@pytest.mark.fuzz
@pytest.mark.timeout(300)
def test_every_order_is_charged_once_in_a_minute_of_kills() -> None:
    numbers = check(60)
    assert numbers["receipts that were replayed"] > 0
    assert numbers["charges asked for again after a kill, and not made again"] > 0


@pytest.mark.timeout(200)
def test_without_keys_orders_are_charged_twice_and_the_books_say_so() -> None:
    code, _, numbers = payments("--seconds", "6", "--unguarded")
    assert code == 1
    assert numbers["orders charged more than once"] > 0


@pytest.mark.parametrize("seconds", ["0", "nan", "601"])
def test_a_length_out_of_range_is_refused(seconds: str) -> None:
    code, errors, _ = payments("--seconds", seconds)
    assert code == 2
    assert "--seconds must be from 1 to 600" in errors
