"""The server is restarted, or killed, while keys are claimed and completed."""

import signal
import threading
from collections.abc import Iterator

import pytest

from resilience.errors import IdempotencyInProgressError, IdempotencyStoreError
from resilience.idempotency import IdempotencyLayer, IdempotencySettings, Replayed, Session, lookup_key
from resilience.idempotency.stores import PostgresStore, RedisStore, SQLiteStore

from .servers import Postgres, Server, Valkey

K = lookup_key("restarts", "k")


@pytest.fixture(scope="module", params=[Valkey, Postgres], ids=["valkey", "postgres"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of this module's own: others are not to be disturbed."""
    made = request.param()
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def store(server: Server, request: pytest.FixtureRequest) -> Iterator[RedisStore | PostgresStore]:
    name = f"t{abs(hash(request.node.name)) % 10**9}"
    if isinstance(server, Valkey):
        made: RedisStore | PostgresStore = RedisStore(server.url, prefix=f"{name}:")
    else:
        assert isinstance(server, Postgres)
        made = PostgresStore(server.conninfo, table=name)
        made.migrate()
    yield made
    made.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["restarted", "killed"])
def test_what_was_stored_outlives_the_server(server, store, how) -> None:
    layer = IdempotencyLayer("restarts", store=store)
    with layer.begin(K, b"same") as session:
        assert session.complete(b"done")
    server.restart(how)
    assert layer.begin(K, b"same") == Replayed(b"done")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["restarted", "killed"])
def test_a_claim_outlives_the_server_and_is_completed_after_it(server, store, how) -> None:
    layer = IdempotencyLayer("restarts", store=store)
    with layer.begin(K, b"same") as session:
        server.restart(how)
        with pytest.raises(IdempotencyInProgressError):
            layer.begin(K, b"same")
        assert session.complete(b"done")
    assert layer.begin(K, b"same") == Replayed(b"done")


def test_a_result_that_finds_no_server_is_stored_when_it_is_back(server, store) -> None:
    layer = IdempotencyLayer("restarts", store=store, settings=IdempotencySettings(wait_for=20.0))
    session = layer.begin(K, b"same")
    assert isinstance(session, Session)
    with session:
        server.stop()
        assert not session.complete(b"done")  # and yet the caller gets the result
        assert not session.is_lost
    assert layer.unsaved == 1
    with pytest.raises(IdempotencyStoreError):
        layer.begin(K, b"same")
    server.start()
    assert layer.begin(K, b"same") == Replayed(b"done")


def test_renewal_goes_on_after_a_restart(server, store) -> None:
    layer = IdempotencyLayer("restarts", store=store, settings=IdempotencySettings(lease=1.5))
    with layer.begin(K, b"same") as session:
        server.restart()
        with pytest.raises(IdempotencyInProgressError):
            layer.begin(K, b"same", wait_for=3.0)
        assert session.complete(b"done")


def test_work_goes_on_while_the_server_is_restarted_and_no_effect_is_lost_or_doubled(server, store) -> None:
    layer = IdempotencyLayer("restarts", store=store, settings=IdempotencySettings(wait_for=20.0))
    effects: list[int] = []
    answered: list[int] = []
    begun = threading.Event()

    def work(worker: int) -> None:
        number = 0
        while number < 60:
            try:
                got = layer.begin(lookup_key("restarts", str(number)), b"same")
            except IdempotencyStoreError:
                continue  # nothing was done: try again
            if isinstance(got, Session):
                with got:
                    effects.append(number)
                    got.complete(str(number).encode())
            else:
                assert got.content == str(number).encode()
            answered.append(number)
            number += 1
            if number == 5:
                begun.set()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    assert begun.wait(20)
    server.restart()
    for thread in threads:
        thread.join(40)
    assert sorted(effects) == list(range(60))
    assert len(answered) == 180


def test_a_file_that_is_closed_and_opened_again_knows_everything(tmp_path) -> None:
    store = SQLiteStore(tmp_path / "keys.db")
    layer = IdempotencyLayer("restarts", store=store)
    with layer.begin(K, b"same") as session:
        store.close()
        assert session.complete(b"done")
    store.close()
    with SQLiteStore(tmp_path / "keys.db") as again:
        assert IdempotencyLayer("again", store=again).begin(K, b"same") == Replayed(b"done")
    store.close()
