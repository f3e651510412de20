"""Random schedules against the naive model, on every store; and a store without fences, which must be caught."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from resilience.idempotency import _machine as machine
from resilience.idempotency._machine import State
from resilience.idempotency.stores import MemoryStore, PostgresStore, RedisStore, SQLiteStore

from .model import Schedule, settings_for


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def with_clock(make):
    def fresh():
        clock = Clock()
        store = make(clock)
        clocks[id(store)] = clock
        return store

    clocks: dict[int, Clock] = {}
    return fresh, lambda store, seconds: setattr(clocks[id(store)], "now", clocks[id(store)].now + seconds)


EDGES = st.sampled_from([0.0, 50.0, 100.0, 1_000.0, 1_050.0, 9_000.0, 10_000.0, 10_050.0, 10_100.0])


def schedule(fresh, shift, **attributes):
    return type(
        "Drawn", (Schedule,), {"fresh": staticmethod(fresh), "shift": staticmethod(shift), **attributes}
    )


def run(kind, examples: settings) -> None:
    quiet = settings(examples, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(kind, settings=quiet)


def test_memory_does_what_the_model_does() -> None:
    fresh, shift = with_clock(lambda clock: MemoryStore(clock=clock))
    run(schedule(fresh, shift, dts=EDGES), settings_for(60, 10_000))


def test_sqlite_does_what_the_model_does(tmp_path) -> None:
    number = iter(range(10**9))
    fresh, shift = with_clock(
        lambda clock: SQLiteStore(tmp_path / f"{next(number)}.db", clock=clock, synchronous="NORMAL")
    )
    run(schedule(fresh, shift, dts=EDGES), settings_for(10, 1_000))


def test_valkey_does_what_the_model_does(valkey) -> None:
    import redis

    number = iter(range(10**9))
    client = redis.Redis.from_url(valkey.url)
    shifted = client.register_script("""
        for _, field in ipairs({'l', 'x'}) do
            local at = redis.call('HGET', KEYS[1], field)
            if at then redis.call('HSET', KEYS[1], field, string.format('%.0f', at - ARGV[1])) end
        end
        local left = redis.call('PTTL', KEYS[1])
        if left > 0 then redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(left - ARGV[1], 1))) end
    """)

    def shift(store, seconds: float) -> None:
        for name in client.scan_iter(store._prefix + b"*"):
            shifted(keys=[name], args=[int(seconds * 1000)])

    run(
        schedule(lambda: RedisStore(valkey.url, prefix=f"s{next(number)}:"), shift),
        settings_for(8, 500),
    )
    client.close()


def test_postgres_does_what_the_model_does(postgres) -> None:
    import psycopg

    store = PostgresStore(postgres.conninfo, table="schedules")
    store.migrate()
    with psycopg.connect(postgres.conninfo, autocommit=True) as line:

        def fresh() -> PostgresStore:
            line.execute("TRUNCATE schedules")
            return store

        def shift(_: PostgresStore, seconds: float) -> None:
            line.execute(
                "UPDATE schedules SET lease_until = lease_until - make_interval(secs => %s),"
                " expires_at = expires_at - make_interval(secs => %s)",
                (seconds, seconds),
            )

        run(schedule(fresh, shift), settings_for(8, 500))
    store.close()


def without_fences(name: str):
    def careless(record, *_rest):
        if record is not None and name == "complete":
            record.value, record.state = _rest[1], State.COMPLETED
        elif record is not None:
            record.state = State.RELEASED
        return record is not None

    return careless


@pytest.mark.parametrize("name", ["complete", "release"])
def test_a_store_without_fences_is_caught(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(machine, name, without_fences(name))
    fresh, shift = with_clock(lambda clock: MemoryStore(clock=clock))
    once = settings(settings_for(300, 300), database=None, print_blob=False, report_multiple_bugs=False)
    with pytest.raises(AssertionError):
        run(schedule(fresh, shift), once)
