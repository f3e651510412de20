"""What is special about memory: its bounds, its threads, and forks."""

import gc
import os
import sqlite3
import sys
import threading
from pathlib import Path

import pytest

from resilience.errors import ConfigError
from resilience.idempotency._machine import Claim, Claimed, Replay
from resilience.idempotency._owner import new_owner
from resilience.idempotency.stores import MemoryStore, SQLiteStore
from resilience.idempotency.stores.memory import StoreFullError


def ask(ttl: float = 60.0) -> Claim:
    return Claim(new_owner(), b"fp", 30.0, ttl)


def key(number: int) -> bytes:
    return number.to_bytes(32)


def done(store: MemoryStore, number: int, ttl: float = 60.0) -> None:
    wish = ask()
    assert isinstance(store.claim(key(number), wish), Claimed)
    assert store.complete(key(number), wish.owner, b"x", ttl)


def test_full_it_forgets_what_is_done_and_expires_first() -> None:
    store = MemoryStore(max_entries=3)
    done(store, 1, ttl=50.0)
    done(store, 2, ttl=10.0)
    done(store, 3, ttl=90.0)
    done(store, 4)
    assert len(store) == 3
    assert [store.inspect(key(number)) is None for number in (1, 2, 3, 4)] == [False, True, False, False]


def test_full_of_calls_in_progress_it_refuses_and_forgets_nothing() -> None:
    store = MemoryStore(max_entries=2)
    wishes = [ask(), ask()]
    for number, wish in enumerate(wishes):
        store.claim(key(number), wish)
    with pytest.raises(StoreFullError):
        store.claim(key(2), ask())
    assert store.complete(key(0), wishes[0].owner, b"x", 60.0)
    assert store.claim(key(2), ask()) == Claimed(1)
    with pytest.raises(StoreFullError):
        store.claim(key(3), ask())


def test_nothing_grows_without_bound() -> None:
    now = 0.0
    store = MemoryStore(max_entries=100, clock=lambda: now)
    for number in range(5_000):
        now += 0.01
        wish = ask()
        store.claim(key(number % 7), wish)
        store.release(key(number % 7), wish.owner)
        done(store, 1000 + number, ttl=0.5)
    assert len(store) <= 100
    assert len(store._due) <= 2 * 100 + 65


def test_what_expired_goes_with_later_claims() -> None:
    now = 0.0
    store = MemoryStore(clock=lambda: now)
    for number in range(1000):
        now += 1.0
        done(store, number, ttl=10.0)
    assert len(store) < 20


def test_threads_race_and_one_wins_each_key() -> None:
    store, won = MemoryStore(), []
    barrier = threading.Barrier(8)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def race() -> None:
        barrier.wait(20)
        won.extend(number for number in range(300) if isinstance(store.claim(key(number), ask()), Claimed))

    try:
        threads = [threading.Thread(target=race) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(won) == list(range(300))


@pytest.mark.parametrize("bad", [{"max_entries": 0}, {"clock": 7}])
def test_settings_are_checked(bad: dict) -> None:
    with pytest.raises(ConfigError):
        MemoryStore(**bad)


@pytest.mark.parametrize(
    "bad", [{"path": ":memory:"}, {"path": ""}, {"path": 7}, {"busy_timeout": 0}, {"synchronous": "OFF"}]
)
def test_settings_of_a_file_are_checked(bad: dict) -> None:
    with pytest.raises(ConfigError):
        SQLiteStore(**{"path": "keys.db", **bad})


def test_a_file_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere" / "k.db", tmp_path / "file" / "k.db", tmp_path / ("n" * 300) / "k.db"):
        with pytest.raises(ConfigError, match="path must lie in a directory that exists"):
            SQLiteStore(path)
    with pytest.raises(ConfigError, match="path must name a file, not a directory"):
        SQLiteStore(tmp_path)


def in_child(work) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_begins_without_the_claims_of_its_parent_and_with_other_owners() -> None:
    store = MemoryStore()
    done(store, 1)
    with store._lock:  # somebody is in the middle of something
        code = in_child(lambda: store.claim(key(1), ask()) == Claimed(1))
    assert code == 0
    assert store.claim(key(1), ask()) == Replay(b"x")
    read, write = os.pipe()
    in_child(lambda: os.write(write, new_owner()))
    assert os.read(read, 16) != new_owner()
    os.close(read)
    os.close(write)


def test_a_child_opens_the_file_anew_and_the_parent_goes_on(tmp_path) -> None:
    store = SQLiteStore(tmp_path / "keys.db")
    wish = ask()
    store.claim(key(1), wish)
    assert in_child(lambda: store.complete(key(1), wish.owner, b"child", 60.0)) == 0
    assert store.claim(key(1), ask()) == Replay(b"child")
    assert store.claim(key(2), ask()) == Claimed(1)
    store.close()


def test_a_database_of_something_else_is_left_alone(tmp_path) -> None:

    with sqlite3.connect(tmp_path / "mine.db") as line:
        line.execute("CREATE TABLE idempotency (mine)")
    line.close()
    store = SQLiteStore(tmp_path / "mine.db")
    with pytest.raises(sqlite3.DatabaseError, match="something else"):
        store.claim(key(1), ask())
    newer = SQLiteStore(tmp_path / "newer.db")
    newer.purge()
    newer._connection.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(sqlite3.DatabaseError, match="later version"):
        newer.purge()


def test_a_file_that_nobody_closes_is_closed_with_its_store(tmp_path) -> None:
    store = SQLiteStore(tmp_path / "keys.db")
    store.purge()
    connection = store._connection
    del store
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        connection.execute("SELECT 1")
