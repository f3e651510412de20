"""Stores of all kinds, on real servers. A server that cannot be started fails the tests, never skips them."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resilience.idempotency.stores import MemoryStore, PostgresStore, RedisStore, SQLiteStore

from .servers import Postgres, Valkey

_tables = itertools.count()


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


KINDS = ("memory", "sqlite", "redis", "postgres")


@pytest.fixture
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], object]]:
    """Make a store of a kind, empty, with a place of its own."""
    made: list[object] = []

    def make(kind: str) -> object:
        number = next(_tables)
        if kind == "memory":
            store: object = MemoryStore()
        elif kind == "sqlite":
            store = SQLiteStore(tmp_path / f"keys-{number}.db", synchronous="NORMAL")
        elif kind == "redis":
            store = RedisStore(request.getfixturevalue("valkey").url, prefix=f"test-{number}:")
        else:
            server = request.getfixturevalue("postgres")
            store = PostgresStore(server.conninfo, table=f"keys_{number}")
            store.migrate()
        made.append(store)
        return store

    yield make
    for store in made:
        close = getattr(store, "close", None)
        if close is not None:
            close()


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, make_store: Callable[[str], object]) -> object:
    """A store of each kind, one after the other."""
    return make_store(request.param)


@pytest.fixture(params=KINDS[1:])
def shared_store(request: pytest.FixtureRequest, make_store: Callable[[str], object]) -> object:
    """A store of each kind that processes can share."""
    return make_store(request.param)
