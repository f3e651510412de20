"""How often a store talks to its server: counted, not believed; and whose clients it takes."""

import asyncio
import os
import sys

import psycopg
import pytest
import redis
import valkey as valkey_py

from resilience.errors import ConfigError
from resilience.idempotency._machine import Claim, Claimed, InFlight, Replay
from resilience.idempotency._owner import new_owner
from resilience.idempotency.stores import RedisStore

K = b"k" * 32


def ask() -> Claim:
    return Claim(new_owner(), b"fp", 30.0, 60.0)


def commands(client: redis.Redis) -> int:
    # Without the command that asks, and what the clients say when they connect.
    said = client.info("commandstats")
    scripts = [said.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval", "script|load")]
    return int(sum(scripts))


def test_valkey_takes_one_round_trip_to_claim_and_one_to_complete(valkey, make_store) -> None:
    store = make_store("redis")
    warm = ask()
    store.claim(b"w" * 32, warm)
    store.complete(b"w" * 32, warm.owner, b"", 60.0)  # the scripts are loaded now
    sent: list[tuple[object, ...]] = []
    client = store._client
    original = client.execute_command

    def counting(*args, **options):
        sent.append(args)
        return original(*args, **options)

    client.execute_command = counting
    with redis.Redis.from_url(valkey.url) as observer:
        before = commands(observer)
        wish = ask()
        assert store.claim(K, wish) == Claimed(1)
        assert commands(observer) - before == len(sent) == 1
        assert store.complete(K, wish.owner, b"value", 60.0)
        assert commands(observer) - before == len(sent) == 2
        assert store.claim(K, ask()) == Replay(b"value")
        assert commands(observer) - before == len(sent) == 3
    assert all(args[0] == "EVALSHA" and args[2] == 1 for args in sent)  # one key: so a cluster can run it


def test_a_server_that_has_lost_its_scripts_is_told_them_again(valkey, make_store) -> None:
    store = make_store("redis")
    with redis.Redis.from_url(valkey.url) as observer:
        observer.script_flush()
    wish = ask()
    assert store.claim(K, wish) == Claimed(1)
    assert store.complete(K, wish.owner, b"value", 60.0)


def test_every_record_has_a_time_to_live(valkey, make_store) -> None:
    store = make_store("redis")
    with redis.Redis.from_url(valkey.url) as observer:
        (wish, name) = (ask(), store._prefix + K.hex().encode())
        store.claim(K, wish)
        assert 59_000 < observer.pttl(name) <= 60_000
        store.complete(K, wish.owner, b"value", 90.0)
        assert 89_000 < observer.pttl(name) <= 90_000
        assert observer.hkeys(name)


@pytest.mark.parametrize("library", [redis, valkey_py], ids=lambda library: library.__name__)
def test_clients_of_both_libraries_and_both_colours_serve(valkey, library) -> None:
    url = valkey.url.replace("redis:", "valkey:") if library is valkey_py else valkey.url
    kind = "Valkey" if library is valkey_py else "Redis"
    asynchronous = __import__(f"{library.__name__}.asyncio", fromlist=["asyncio"])
    with getattr(library, kind).from_url(url) as client:
        store = RedisStore(client, prefix=f"{library.__name__}-sync:")
        wish = ask()
        assert store.claim(K, wish) == Claimed(1)
        assert store.complete(K, wish.owner, b"value", 60.0)

    async def main() -> None:
        client = getattr(asynchronous, kind).from_url(url)
        store = RedisStore(client, prefix=f"{library.__name__}-async:")
        assert store.async_only
        with pytest.raises(TypeError, match="async functions only"):
            store.claim(K, ask())
        wish = ask()
        assert await store.aclaim(K, wish) == Claimed(1)
        assert isinstance(await store.aclaim(K, ask()), InFlight)
        assert await store.acomplete(K, wish.owner, b"value", 60.0)
        assert await store.aclaim(K, ask()) == Replay(b"value")
        assert (await store.ainspect(K)).value == b"value"
        await client.aclose()

    asyncio.run(main())


def test_a_client_that_decodes_is_refused(valkey) -> None:
    with (
        redis.Redis.from_url(valkey.url, decode_responses=True) as client,
        pytest.raises(ConfigError, match="decode_responses"),
    ):
        RedisStore(client)


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whatever psycopg executes, of either colour."""
    executed: list[str] = []
    for kind in (psycopg.Cursor, psycopg.AsyncCursor):
        original = kind.execute

        def execute(self, query, *args, original=original, **kwargs):
            executed.append(query)
            return original(self, query, *args, **kwargs)

        monkeypatch.setattr(kind, "execute", execute)
    return executed


def test_postgres_takes_one_statement_for_a_won_claim_two_for_a_lost_one_and_one_to_complete(
    make_store, statements
) -> None:
    store = make_store("postgres")
    wish = ask()
    statements.clear()
    assert store.claim(K, wish) == Claimed(1)
    assert len(statements) == 1
    assert isinstance(store.claim(K, ask()), InFlight)
    assert len(statements) == 3
    assert store.complete(K, wish.owner, b"value", 60.0)
    assert len(statements) == 4
    assert store.claim(K, ask()) == Replay(b"value")
    assert len(statements) == 6


def test_postgres_counts_the_same_in_a_task(make_store, statements) -> None:
    store = make_store("postgres")

    async def main() -> None:
        wish = ask()
        statements.clear()
        assert await store.aclaim(K, wish) == Claimed(1)
        assert isinstance(await store.aclaim(K, ask()), InFlight)
        assert await store.acomplete(K, wish.owner, b"value", 60.0)
        assert len(statements) == 4
        await store.aclose()

    asyncio.run(main())


def test_postgres_sends_no_begin_and_no_commit_of_its_own(postgres, make_store) -> None:
    store = make_store("postgres")
    with psycopg.connect(postgres.conninfo, autocommit=True) as observer:

        def transactions() -> int:
            observer.execute("SELECT pg_stat_force_next_flush()")
            query = "SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'"
            row = observer.execute(query).fetchone()
            assert row is not None
            return int(row[0])

        store.claim(K, ask())
        assert transactions() > 0
    assert store._pool._idle[0].autocommit


def test_expired_rows_go_with_later_claims(make_store) -> None:
    for kind in ("sqlite", "postgres"):
        store = make_store(kind)
        for number in range(150):
            store.claim(number.to_bytes(32), Claim(new_owner(), b"fp", 0.001, 0.001))
        for number in range(150, 260):
            store.claim(number.to_bytes(32), Claim(new_owner(), b"fp", 60.0, 60.0))
        assert store.purge() < 100, kind
        assert [store.inspect(number.to_bytes(32)) is None for number in (0, 149, 150)] == [True, True, False]


def test_migrating_twice_and_at_once_makes_one_table(postgres, make_store) -> None:
    import threading

    from resilience.idempotency.stores import PostgresStore

    stores = [PostgresStore(postgres.conninfo, table="migrated") for _ in range(4)]
    versions: list[int] = []
    threads = [threading.Thread(target=lambda each=each: versions.append(each.migrate())) for each in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert versions == [1, 1, 1, 1]
    assert stores[0].claim(K, ask()) == Claimed(1)
    for each in stores:
        each.close()


def test_the_schema_for_a_migration_tool_is_what_migrate_makes(postgres) -> None:
    from resilience.idempotency.stores import PostgresStore

    store = PostgresStore(postgres.conninfo, table="by_tool")
    with psycopg.connect(postgres.conninfo, autocommit=True) as line:
        line.execute(store.schema())
    assert store.migrate() == 1
    assert store.claim(K, ask()) == Claimed(1)
    store.close()


def test_each_library_is_imported_only_when_asked_for() -> None:
    import subprocess

    program = (
        "import sys, resilience.idempotency, resilience.idempotency.stores as s; s.MemoryStore();"
        "print(sorted({'sqlite3', 'redis', 'valkey', 'psycopg', 'asyncio', 'anyio'} & set(sys.modules)))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_row_that_goes_between_the_two_statements_of_a_claim_is_claimed_after_all(
    make_store, tmp_path
) -> None:
    from resilience.idempotency.stores import PostgresStore

    steps = PostgresStore("host=nowhere.invalid")._claiming(K, ask())
    next(steps)
    steps.send([])  # lost
    third = steps.send([])  # and gone, when it is looked up
    assert third.text.lstrip().startswith("INSERT")
    with pytest.raises(StopIteration) as ended:
        steps.send([(7, False)])
    assert ended.value.value == Claimed(7)

    store = make_store("sqlite")
    first = ask()
    store.claim(K, first)
    execute, said = store._execute, []

    def racing(statement: str, **values: object) -> list[object]:
        said.append(statement.split(maxsplit=1)[0])
        rows = execute(statement, **values)
        if said == ["INSERT"]:
            execute("DELETE FROM idempotency")
        return rows

    class Racing(type(store)):
        __slots__ = ()
        _execute = staticmethod(racing)

    store.__class__ = Racing
    assert store.claim(K, ask()) == Claimed(1)
    assert said == ["INSERT", "SELECT", "INSERT"]


def test_a_key_that_changes_hands_for_ever_is_an_error_and_not_an_endless_loop() -> None:
    from resilience.idempotency.stores import PostgresStore

    steps = PostgresStore("host=nowhere.invalid")._claiming(K, ask())
    next(steps)
    with pytest.raises(RuntimeError, match="again and again"):
        for _ in range(100):
            steps.send([])
