"""What every store must do: one body for memory, SQLite, Valkey and PostgreSQL."""

import asyncio
import time

import pytest

from resilience.idempotency._machine import (
    Claim,
    Claimed,
    InFlight,
    Mismatch,
    NotReplayable,
    Replay,
    State,
)
from resilience.idempotency._owner import new_owner
from resilience.idempotency._store import Store

K = bytes(range(32))
FP = b"fingerprint-a"


def ask(
    owner: bytes | None = None,
    *,
    fp: bytes = FP,
    lease: float = 30.0,
    ttl: float = 60.0,
    takeover: bool = True,
) -> Claim:
    return Claim(owner or new_owner(), fp, lease, ttl, takeover)


def test_it_is_a_store(store) -> None:
    assert isinstance(store, Store)
    assert (store.async_only, store.leases) == (False, True)


def test_a_key_that_nobody_has_is_claimed(store) -> None:
    assert store.claim(K, ask()) == Claimed(1, takeover=False)


def test_a_claimed_key_is_in_flight_for_others(store) -> None:
    store.claim(K, ask())
    answer = store.claim(K, ask())
    assert isinstance(answer, InFlight)
    assert answer.retry_after is not None
    assert 29 < answer.retry_after <= 30
    assert not answer.unknown_outcome


def test_a_claim_repeated_by_its_owner_is_the_same_claim(store) -> None:
    wish = ask()
    assert store.claim(K, wish) == store.claim(K, wish) == Claimed(1)


def test_what_was_completed_is_replayed_byte_for_byte(store) -> None:
    wish = ask()
    store.claim(K, wish)
    value = bytes(range(256)) * 100
    assert store.complete(K, wish.owner, value, 60.0)
    assert store.claim(K, ask()) == Replay(value) == store.claim(K, wish)


def test_an_empty_value_is_a_value(store) -> None:
    wish = ask()
    store.claim(K, wish)
    assert store.complete(K, wish.owner, b"", 60.0)
    assert store.claim(K, ask()) == Replay(b"")


def test_a_tombstone_says_that_it_is_done(store) -> None:
    wish = ask()
    store.claim(K, wish)
    assert store.complete(K, wish.owner, None, 60.0)
    assert store.claim(K, ask()) == NotReplayable()


def test_a_completion_that_is_repeated_changes_nothing(store) -> None:
    wish = ask()
    store.claim(K, wish)
    assert store.complete(K, wish.owner, b"one", 60.0)
    assert store.complete(K, wish.owner, b"two", 60.0)
    assert store.complete(K, wish.owner, None, 60.0)
    assert store.claim(K, ask()) == Replay(b"one")


def test_a_released_key_is_free_for_any_request_and_its_epoch_goes_on(store) -> None:
    wish = ask()
    store.claim(K, wish)
    assert store.release(K, wish.owner)
    assert store.release(K, wish.owner)
    assert not store.complete(K, wish.owner, b"late", 60.0)
    assert store.claim(K, ask(fp=b"another")) == Claimed(2, takeover=False)


@pytest.mark.parametrize("how", ["pending", "completed", "tombstone"])
def test_another_request_never_gets_the_key(store, how: str) -> None:
    wish = ask(lease=0.001)
    store.claim(K, wish)
    if how != "pending":
        store.complete(K, wish.owner, b"x" if how == "completed" else None, 60.0)
    time.sleep(0.005)
    assert store.claim(K, ask(fp=b"another")) == Mismatch()
    assert store.inspect(K).fingerprint == FP


def test_who_is_not_the_owner_changes_nothing(store) -> None:
    wish, stranger = ask(), new_owner()
    store.claim(K, wish)
    assert not store.complete(K, stranger, b"forged", 60.0)
    assert not store.release(K, stranger)
    assert not store.renew(K, stranger, 60.0)
    assert isinstance(store.claim(K, ask()), InFlight)
    assert store.complete(K, wish.owner, b"mine", 60.0)
    assert not store.complete(K, stranger, b"forged", 60.0)
    assert not store.release(K, wish.owner)
    assert store.claim(K, ask()) == Replay(b"mine")


def test_after_the_lease_somebody_else_takes_over_and_the_loser_comes_too_late(store) -> None:
    slow, quick = ask(lease=0.002), ask()
    assert store.claim(K, slow) == Claimed(1)
    time.sleep(0.01)
    assert store.claim(K, quick) == Claimed(2, takeover=True)
    assert not store.complete(K, slow.owner, b"late", 60.0)
    assert not store.release(K, slow.owner)
    assert not store.renew(K, slow.owner, 60.0)
    assert store.complete(K, quick.owner, b"in time", 60.0)
    assert not store.complete(K, slow.owner, b"late", 60.0)
    assert store.claim(K, ask()) == Replay(b"in time")


def test_after_the_lease_its_owner_may_still_end_if_nobody_took_over(store) -> None:
    wish = ask(lease=0.002)
    store.claim(K, wish)
    time.sleep(0.01)
    assert store.renew(K, wish.owner, 30.0)
    assert isinstance(store.claim(K, ask()), InFlight)
    assert store.complete(K, wish.owner, b"slow", 60.0)


def test_who_holds_is_not_taken_over(store) -> None:
    store.claim(K, ask(lease=0.002))
    time.sleep(0.01)
    assert store.claim(K, ask(takeover=False)) == InFlight(None, unknown_outcome=True)


def test_a_lease_of_no_time_ends_at_once(store) -> None:
    wish = ask(lease=60.0, takeover=False)
    store.claim(K, wish)
    assert store.renew(K, wish.owner, 0.0)
    assert store.claim(K, ask(takeover=False)) == InFlight(None, unknown_outcome=True)


def test_a_result_goes_when_its_time_is_over(store) -> None:
    wish = ask()
    store.claim(K, wish)
    store.complete(K, wish.owner, b"short", 0.02)
    time.sleep(0.04)
    assert store.inspect(K) is None
    assert not store.complete(K, wish.owner, b"again", 60.0)
    answer = store.claim(K, ask(fp=b"another"))
    assert isinstance(answer, Claimed)
    assert not answer.takeover


def test_retention_counts_from_the_completion_not_from_the_claim(store) -> None:
    wish = ask(lease=30.0, ttl=0.001)
    store.claim(K, wish)
    time.sleep(0.01)
    assert store.complete(K, wish.owner, b"kept", 60.0)
    assert store.claim(K, ask()) == Replay(b"kept")


def test_purge_takes_only_what_is_over(store) -> None:
    over, live, pending = (bytes([n]) * 32 for n in range(3))
    for key, ttl in ((over, 0.01), (live, 60.0)):
        wish = ask()
        store.claim(key, wish)
        store.complete(key, wish.owner, b"x", ttl)
    store.claim(pending, ask())
    time.sleep(0.03)
    removed = store.purge()
    assert removed == (0 if type(store).__name__ == "RedisStore" else 1)  # that server does it by itself
    assert store.inspect(over) is None
    assert store.inspect(live).state is State.COMPLETED
    assert store.inspect(pending).state is State.PENDING


def test_an_operator_sees_and_forgets_a_key(store) -> None:
    assert store.inspect(K) is None
    assert not store.expire(K)
    wish = ask()
    store.claim(K, wish)
    record = store.inspect(K)
    assert (record.state, record.epoch, record.value, record.owner) == (State.PENDING, 1, None, wish.owner)
    assert 29 < record.lease_until <= 30 < 59 < record.expires_at <= 60
    store.complete(K, wish.owner, b"value", 60.0)
    assert store.inspect(K).value == b"value"
    assert store.expire(K)
    assert not store.expire(K)
    assert (store.inspect(K).state, store.inspect(K).value) == (State.RELEASED, None)
    assert not store.complete(K, wish.owner, b"late", 60.0)
    assert store.claim(K, ask()) == Claimed(2)


def test_keys_do_not_touch_each_other(store) -> None:
    wishes = {bytes([n]) * 32: ask() for n in range(5)}
    for key, wish in wishes.items():
        assert store.claim(key, wish) == Claimed(1)
    for key, wish in wishes.items():
        assert store.complete(key, wish.owner, key, 60.0)
    assert [store.claim(key, ask()) for key in wishes] == [Replay(key) for key in wishes]


def test_tasks_get_the_same_answers(store, async_runtime) -> None:
    async def body() -> None:
        wish = ask()
        assert await store.aclaim(K, wish) == Claimed(1)
        assert isinstance(await store.aclaim(K, ask()), InFlight)
        assert await store.arenew(K, wish.owner, 30.0)
        assert await store.acomplete(K, wish.owner, b"value", 60.0)
        assert await store.aclaim(K, ask()) == Replay(b"value")
        assert (await store.ainspect(K)).value == b"value"
        assert not await store.arelease(K, wish.owner)
        assert await store.aexpire(K)
        assert await store.apurge() == 0
        if hasattr(store, "aclose"):
            await store.aclose()

    async_runtime.run(body)


def test_fifty_tasks_race_and_one_wins(store) -> None:
    async def main() -> None:
        answers = await asyncio.gather(*(store.aclaim(K, ask()) for _ in range(50)))
        assert sorted(type(answer).__name__ for answer in answers) == ["Claimed"] + ["InFlight"] * 49
        if hasattr(store, "aclose"):
            await store.aclose()

    asyncio.run(main())
