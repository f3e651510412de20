"""Clients and pools that the application brings, and stores that serve tasks alone."""

import asyncio
import contextlib
import gc
import sys
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
import redis.asyncio

from resilience.errors import ConfigError, IdempotencyInProgressError, IdempotencyStoreError
from resilience.idempotency import IdempotencyLayer, IdempotencySettings, Replayed, lookup_key
from resilience.idempotency._machine import Claim, Claimed, Replay
from resilience.idempotency._owner import new_owner
from resilience.idempotency.stores import PostgresStore, RedisStore

K = lookup_key("clients", "k")


def ask() -> Claim:
    return Claim(new_owner(), b"fp", 30.0, 60.0)


class ConnectionPool:
    """As much of psycopg_pool's as the store uses: a transaction, unless connections are in autocommit."""

    def __init__(self, conninfo: str, **settings: Any) -> None:
        self.conninfo, self.settings = conninfo, settings

    @contextlib.contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self.conninfo, **self.settings) as connection:
            yield connection


class AsyncConnectionPool:
    def __init__(self, conninfo: str, **settings: Any) -> None:
        self.conninfo, self.settings = conninfo, settings

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        async with await psycopg.AsyncConnection.connect(self.conninfo, **self.settings) as connection:
            yield connection


@pytest.mark.parametrize(
    "settings", [{"autocommit": True}, {"row_factory": psycopg.rows.dict_row}], ids=["autocommit", "not"]
)
def test_a_pool_of_the_application_serves_threads_and_tasks(postgres, settings: dict) -> None:
    table = "pooled_" + "_".join(settings)
    with PostgresStore(ConnectionPool(postgres.conninfo, **settings), table=table) as store:
        assert store.migrate() == store.migrate() == 1
        wish = ask()
        assert store.claim(K, wish) == Claimed(1)
        assert store.complete(K, wish.owner, b"value", 60.0)
        assert asyncio.run(store.aclaim(K, ask())) == Replay(b"value")
    assert repr(store) == f"<PostgresStore '{table}'>"


def test_an_async_pool_serves_tasks_alone(postgres) -> None:
    async def main() -> None:
        pool = AsyncConnectionPool(postgres.conninfo)
        async with PostgresStore(pool, table="apooled") as store:
            assert await store.amigrate() == 1
            assert store.async_only
            wish = ask()
            assert await store.aclaim(K, wish) == Claimed(1)
            assert await store.acomplete(K, wish.owner, b"value", 60.0)
            assert await store.aclaim(K, ask()) == Replay(b"value")
            with pytest.raises(TypeError, match="async functions only"):
                store.claim(K, ask())

    asyncio.run(main())


def test_a_transaction_serves_the_colour_of_its_connection(postgres, make_store) -> None:
    store = make_store("postgres")

    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(postgres.conninfo) as connection:
            bound = store.transaction(connection)
            with pytest.raises(TypeError, match="async functions only"):
                bound.claim(K, ask())
            assert await bound.aclaim(K, ask()) == Claimed(1)
        with psycopg.connect(postgres.conninfo) as line:
            other = store.transaction(line)
            assert await other.arelease(K, b"")  # its rollback does it

    asyncio.run(main())


def test_connections_are_used_again_and_dead_ones_are_not(postgres, make_store) -> None:
    store = make_store("postgres")
    store.claim(K, ask())
    (idle,) = store._pool._idle
    store.inspect(K)
    assert store._pool._idle == [idle]
    with psycopg.connect(postgres.conninfo, autocommit=True) as killer:
        killer.execute("SELECT pg_terminate_backend(%s)", (idle.info.backend_pid,))
        while killer.execute(
            "SELECT 1 FROM pg_stat_activity WHERE pid = %s", (idle.info.backend_pid,)
        ).fetchone():
            pass
    assert store.inspect(K) is not None
    assert store._pool._idle != [idle]
    assert idle.closed


def test_a_statement_that_fails_leaves_no_connection_half_used(postgres) -> None:
    store = PostgresStore(postgres.conninfo, table="never_made")
    with pytest.raises(psycopg.errors.UndefinedTable):
        store.claim(K, ask())
    assert store.migrate() == 1
    assert store.claim(K, ask()) == Claimed(1)
    store.close()


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_store_that_nobody_closes_closes_its_connections_and_warns_of_nothing(
    postgres, make_store, colour: str
) -> None:
    store = PostgresStore(postgres.conninfo, table=make_store("postgres")._table)
    lines: list[Any] = []

    async def main(used: PostgresStore) -> None:
        await used.aclaim(K, ask())
        lines.extend(connection.pgconn for connection in used._apool._here())

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if colour == "sync":
            store.claim(K, ask())
            lines.extend(connection.pgconn for connection in store._pool._idle)
        else:
            asyncio.run(main(store))
        del store
        gc.collect()
    assert [line.status for line in lines] == [psycopg.pq.ConnStatus.BAD]
    assert [str(each.message) for each in said] == []


class Flaky(RedisStore):
    """A store that fails in the operations named."""

    __slots__ = ("failing",)

    async def acomplete(self, *values: Any) -> bool:
        if "complete" in self.failing:
            raise ConnectionError("no complete")
        return await super().acomplete(*values)

    async def aclaim(self, key: bytes, wish: Claim) -> Any:
        answer = await super().aclaim(key, wish)
        if "claim" in self.failing:
            raise ConnectionError("the answer was lost")
        return answer


@pytest.fixture
def flaky(valkey):
    @contextlib.asynccontextmanager
    async def made(*failing: str) -> AsyncIterator[tuple[Flaky, IdempotencyLayer]]:
        client = redis.asyncio.Redis.from_url(valkey.url)
        await client.flushdb()
        store = Flaky(client, prefix="flaky:")
        store.failing = set(failing)
        yield store, IdempotencyLayer("flaky", store=store, settings=IdempotencySettings(wait_for=20.0))
        await client.aclose()

    return made


def test_in_tasks_too_a_result_that_cannot_be_stored_at_once_is_stored_later(flaky) -> None:
    async def main() -> None:
        async with flaky("complete") as (store, layer):
            async with await layer.abegin(K, b"") as session:
                assert not await session.acomplete(b"done")
            with pytest.raises(IdempotencyInProgressError):
                await layer.abegin(K, b"", wait_for=0.0)
            store.failing.clear()
            assert await layer.abegin(K, b"") == Replayed(b"done")

    asyncio.run(main())


def test_a_claim_whose_answer_was_lost_is_given_back(flaky) -> None:
    async def main() -> None:
        async with flaky("claim") as (store, layer):
            with pytest.raises(IdempotencyStoreError):
                await layer.abegin(K, b"")
            store.failing.clear()
            async with await layer.abegin(K, b"") as session:  # long before its lease ends
                assert (session.epoch, session.takeover) == (2, False)
                assert await session.acomplete(b"done")

    asyncio.run(main())


def test_a_store_made_from_a_url_closes_its_client(valkey) -> None:
    for url in (valkey.url, valkey.url.replace("redis:", "valkey:")):
        store = RedisStore(url, prefix="url:")
        assert store.claim(lookup_key(url), ask()) == Claimed(1)
        assert repr(store) == "<RedisStore 'url:'>"
        store.close()


@pytest.mark.parametrize("bad", [7, "http://localhost", "localhost:6379"])
def test_what_is_no_client_is_refused(bad: object) -> None:
    with pytest.raises(ConfigError, match="client"):
        RedisStore(bad)


@pytest.mark.parametrize("bad", [{"conninfo": 7}, {"table": "Bad Name"}, {"table": "a;drop"}, {"table": ""}])
def test_what_is_no_database_is_refused(bad: dict) -> None:
    with pytest.raises(ConfigError):
        PostgresStore(**{"conninfo": "host=x", **bad})


@pytest.mark.parametrize(
    ("library", "make", "needs"),
    [
        ("psycopg", lambda: PostgresStore("dbname=keys"), r"PostgresStore needs psycopg.*\[postgres\]"),
        ("redis", lambda: RedisStore("redis://127.0.0.1"), r"RedisStore needs redis.*\[redis\]"),
        ("valkey", lambda: RedisStore("valkey://127.0.0.1"), "RedisStore needs valkey"),
    ],
)
def test_a_store_whose_library_is_missing_names_it(monkeypatch, library, make, needs) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=needs):
        make()
