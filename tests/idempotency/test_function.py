"""`idempotent`: one body on threads, asyncio and trio."""

import asyncio
import dataclasses
import functools
import inspect
import math
import threading
import uuid
from typing import Any

import pytest

from resilience import deadline
from resilience.errors import (
    ConfigError,
    DeadlineExceededError,
    IdempotencyInProgressError,
    IdempotencyKeyError,
    IdempotencyMismatchError,
    IdempotencyNotReplayableError,
    IdempotencyStoreError,
)
from resilience.idempotency import (
    IdempotencyLayer,
    current_claim,
    expire_key,
    function_key,
    idempotency_key,
    idempotent,
    inspect_key,
    purge_keys,
)
from resilience.idempotency.stores import MemoryStore, RedisStore, SQLiteStore


@dataclasses.dataclass(frozen=True)
class Line:
    sku: str
    count: int


@dataclasses.dataclass(frozen=True)
class Receipt:
    id: str
    lines: list[Line]
    note: str | None = None
    pair: tuple[int, ...] = ()


class Faulty(MemoryStore):
    """A store that fails in the operations named."""

    __slots__ = ("failing", "seen")

    def __init__(self, *failing: str) -> None:
        super().__init__()
        self.failing, self.seen = set(failing), []

    def _check(self, name: str) -> None:
        self.seen.append(name)
        if name in self.failing:
            raise ConnectionError(f"no {name}")

    def claim(self, key, ask):
        self._check("claim")
        return super().claim(key, ask)

    def complete(self, key, owner, value, retention):
        self._check("complete")
        return super().complete(key, owner, value, retention)

    def release(self, key, owner):
        self._check("release")
        return super().release(key, owner)

    def renew(self, key, owner, lease):
        self._check("renew")
        return super().renew(key, owner, lease)


def test_a_second_call_with_the_key_gets_the_stored_result(runtime, store) -> None:
    runs: list[str] = []

    async def body() -> None:
        def place(order: str) -> dict[str, Any]:
            runs.append(order)
            return {"id": order, "n": len(runs)}

        guarded = runtime.wrap(idempotent("orders.place", store=store, key=lambda order: order), place)
        assert await guarded("o-1") == await guarded("o-1") == {"id": "o-1", "n": 1}
        assert await guarded("o-2") == {"id": "o-2", "n": 2}
        assert runs == ["o-1", "o-2"]
        if hasattr(store, "aclose"):
            await store.aclose() if runtime.name != "sync" else store.close()

    runtime.run(body)


def test_while_the_first_runs_the_second_is_refused(runtime) -> None:
    async def body() -> None:
        began, go = runtime.event(), runtime.event()

        async def work(key: str) -> str:
            began.set()
            await go.wait()
            return "done"

        guarded = runtime.wrap(idempotent("w", store=MemoryStore(), key=lambda key: key), work)
        job = runtime.spawn(guarded, "k")
        await runtime.until(began.is_set)
        with pytest.raises(IdempotencyInProgressError) as caught:
            await guarded("k")
        assert (caught.value.policy, caught.value.unknown_outcome) == ("w", False)
        assert 0 < caught.value.retry_after <= 60
        go.set()
        assert await job == "done"
        assert await guarded("k") == "done"

    runtime.run(body)


def test_one_who_waits_gets_the_result_of_the_first(runtime) -> None:
    async def body() -> None:
        began, go, runs = runtime.event(), runtime.event(), []

        async def work(key: str) -> str:
            runs.append(key)
            began.set()
            await go.wait()
            return "done"

        guard = idempotent("w", store=MemoryStore(), key=lambda key: key, wait_for=20.0)
        guarded = runtime.wrap(guard, work)
        first = runtime.spawn(guarded, "k")
        await runtime.until(began.is_set)
        others = [runtime.spawn(guarded, "k") for _ in range(5)]
        await runtime.sleep(0.03)
        assert not any(job.done() for job in others)
        go.set()
        assert [await job for job in (first, *others)] == ["done"] * 6
        assert runs == ["k"]

    runtime.run(body)


def test_waiting_follows_the_fake_clock_and_ends(runtime, fake_clock) -> None:
    async def body() -> None:
        store = MemoryStore()
        guard = idempotent("w", store=store, key=lambda key: key, wait_for=5.0, fingerprint=None)
        guarded = runtime.wrap(guard, lambda key: "x")
        IdempotencyLayer("w", store=store).begin(function_key("w", "k"), b"")
        before = fake_clock()
        with pytest.raises(IdempotencyInProgressError):
            await guarded("k")
        assert fake_clock() - before == pytest.approx(5.0)

    runtime.run(body)


def test_other_arguments_with_the_key_are_a_mismatch_and_never_a_replay(runtime, recorded_events) -> None:
    async def body() -> None:
        guarded = runtime.wrap(
            idempotent("m", store=MemoryStore(), key=lambda key, amount: key), lambda key, amount: amount
        )
        assert await guarded("k", 1) == 1
        with pytest.raises(IdempotencyMismatchError, match="'m' has seen this key with a different request"):
            await guarded("k", 2)
        with pytest.raises(IdempotencyMismatchError):
            await guarded("k", "1")

    runtime.run(body)
    conflicts = [event for event in recorded_events if event.name == "resilience.idempotency.conflict"]
    assert [(e.policy, dict(e.attributes)) for e in conflicts] == [
        ("m", {"resilience.idempotency.result": "mismatch"})
    ] * 2


def test_functions_that_share_a_store_do_not_share_keys() -> None:
    store = MemoryStore()
    one = idempotent("one", store=store, key=lambda key: key)(lambda key: "one")
    two = idempotent("two", store=store, key=lambda key: key)(lambda key: "two")
    assert (one("k"), two("k")) == ("one", "two")


def test_an_error_releases_the_key_and_the_next_call_does_the_work(runtime) -> None:
    async def body() -> None:
        runs: list[int] = []

        def work(key: str) -> str:
            runs.append(current_claim().epoch)
            if len(runs) == 1:
                raise KeyError("first")
            return "second"

        guarded = runtime.wrap(idempotent("e", store=MemoryStore(), key=lambda key: key), work)
        with pytest.raises(KeyError, match="first"):
            await guarded("k")
        assert await guarded("k") == "second"
        assert runs == [1, 2]  # the fencing token grows

    runtime.run(body)


def test_held_an_error_blocks_the_key_until_an_operator_decides(runtime) -> None:
    async def body() -> None:
        store, runs = MemoryStore(), []

        def work(key: str) -> str:
            runs.append(key)
            if len(runs) == 1:
                raise KeyError("first")
            return "second"

        guard = idempotent("pay", store=store, key=lambda key: key, on_error="hold", wait_for=30.0)
        guarded = runtime.wrap(guard, work)
        with pytest.raises(KeyError):
            await guarded("k")
        with pytest.raises(IdempotencyInProgressError, match="holds") as caught:
            await guarded("k")  # at once: there is nothing to wait for
        assert str(caught.value) == (
            "'pay' holds this key since the first call with it failed, or was not heard of again; "
            "an operator may expire it"
        )
        assert caught.value.unknown_outcome
        assert caught.value.retry_after is None
        info = inspect_key(store, function_key("pay", "k"))
        assert info is not None
        assert (info.state, info.epoch, info.size) == ("pending", 1, None)
        assert info.lease_left is not None
        assert info.lease_left <= 0
        assert expire_key(store, function_key("pay", "k"))
        assert await guarded("k") == "second"

    runtime.run(body)


def test_a_key_that_is_held_and_may_be_taken_over_is_left_alone_for_its_lease() -> None:
    store, runs = MemoryStore(), []

    @idempotent("pay", store=store, key=str, on_error="hold", on_lease_expiry="takeover", lease=30.0)
    def work(key: str) -> str:
        runs.append(key)
        if len(runs) == 1:
            raise KeyError(key)
        return "second"

    with pytest.raises(KeyError):
        work("k")
    with pytest.raises(IdempotencyInProgressError) as caught:
        work("k")
    assert not caught.value.unknown_outcome
    assert caught.value.retry_after == pytest.approx(30.0, abs=5.0)
    assert str(caught.value).startswith("'pay' has a call with this key in progress; retry after ")
    assert expire_key(store, function_key("pay", "k"))
    assert work("k") == "second"


def test_a_store_that_fails_when_a_key_is_held_does_not_replace_the_error() -> None:
    class Failing(MemoryStore):
        def renew(self, key, owner, lease):
            raise ConnectionError

    @idempotent("pay", store=Failing(), key=str, on_error="hold", renew=False)
    def work(key: str) -> str:
        raise KeyError(key)

    with pytest.raises(KeyError):
        work("k")
    with pytest.raises(IdempotencyInProgressError):
        work("k")


@pytest.mark.parametrize("value", [object(), math.nan, {1: 2}], ids=["object", "nan", "key"])
def test_a_result_that_json_cannot_hold_says_what_would(value: object) -> None:
    runs: list[str] = []

    @idempotent("pay", store=MemoryStore(), key=str)
    def work(key: str) -> object:
        runs.append(key)
        return value

    with pytest.raises((TypeError, ValueError), match="give codec= for this result") as caught:
        work("k")
    assert caught.value.__notes__ == ["pay ran, and will not run again for this key; its result is not kept"]
    assert runs == ["k"]


@pytest.mark.parametrize("on_error", ["release", "hold"])
def test_a_cancelled_call_ends_as_an_error_does(async_runtime, on_error: str) -> None:
    async def body() -> None:
        store = MemoryStore()
        began = async_runtime.event()

        async def work(key: str) -> str:
            began.set()
            await async_runtime.sleep(60)
            return "never"

        guarded = idempotent("c", store=store, key=lambda key: key, on_error=on_error)(work)
        job = async_runtime.spawn(guarded, "k")
        await async_runtime.until(began.is_set)
        job.cancel()
        await job.join()
        info = inspect_key(store, function_key("c", "k"))
        assert info is not None
        assert info.state == ("released" if on_error == "release" else "pending")

    async_runtime.run(body)


@pytest.mark.parametrize("operation", ["claim", "complete"])
def test_a_call_that_is_cancelled_while_the_store_works_leaves_nothing_half_done(
    async_runtime, operation: str
) -> None:
    async def body() -> None:
        began, go = threading.Event(), threading.Event()

        class Slow(SQLiteStore):
            __slots__ = ()

        def slowly(name: str) -> Any:
            original = getattr(SQLiteStore, name)

            def wait(self, *values):
                if not began.is_set():
                    began.set()
                    go.wait(20)
                return original(self, *values)

            return wait

        setattr(Slow, operation, slowly(operation))
        import tempfile

        with tempfile.TemporaryDirectory() as folder, Slow(folder + "/keys.db") as store:
            runs = []

            async def work(key: str) -> str:
                await async_runtime.checkpoint()
                runs.append(key)
                return "done"

            guarded = idempotent("c", store=store, key=lambda key: key)(work)
            job = async_runtime.spawn(guarded, "k")
            await async_runtime.until(began.is_set)
            job.cancel()
            await async_runtime.sleep(0.01)
            job.cancel()  # more than once, too
            go.set()
            await job.join()
            if operation == "claim" or async_runtime.name == "asyncio":
                assert isinstance(job.error, async_runtime.cancelled)
            info = inspect_key(store, function_key("c", "k"))
            assert info is not None
            if operation == "claim":  # the claim was won by nobody: it was given back
                assert (info.state, runs) == ("released", [])
            else:  # the work was done, and so its result is there
                assert (info.state, runs) == ("completed", ["k"])
                assert await guarded("k") == "done"

    async_runtime.run(body)


@pytest.mark.parametrize("value", [None, 0, "", [], {"a": [1, {"b": None}]}, "é", 1.5, True])
def test_plain_results_come_back_as_they_were(value: object) -> None:
    guarded = idempotent(store=MemoryStore(), key=lambda: "k")(lambda: value)
    assert guarded() == guarded() == value


def test_dataclasses_come_back_as_the_annotation_says() -> None:
    runs: list[int] = []

    @idempotent(store=MemoryStore(), key=lambda order: order)
    def place(order: str) -> Receipt:
        runs.append(1)
        return Receipt(order, [Line("a", 1), Line("b", 2)], pair=(1, 2))

    assert place("o") == place("o") == Receipt("o", [Line("a", 1), Line("b", 2)], None, (1, 2))
    assert runs == [1]


@pytest.mark.parametrize("value", [object(), {1: "x"}, float("nan"), b"bytes", {1, 2}], ids=repr)
def test_a_result_that_cannot_be_kept_is_an_error_and_the_work_is_not_repeated(
    runtime, value: object
) -> None:
    async def body() -> None:
        guarded = runtime.wrap(idempotent("u", store=MemoryStore(), key=lambda: "k"), lambda: value)
        with pytest.raises((TypeError, ValueError)) as caught:
            await guarded()
        assert caught.value.__notes__ == [
            "u ran, and will not run again for this key; its result is not kept"
        ]
        with pytest.raises(IdempotencyNotReplayableError):
            await guarded()

    runtime.run(body)


def test_a_result_that_is_too_long_reaches_its_caller_and_is_not_kept(recorded_events) -> None:
    store = MemoryStore()
    guarded = idempotent("long", store=store, key=lambda: "k", max_value_bytes=100)(lambda: "x" * 100)
    assert guarded() == "x" * 100
    with pytest.raises(IdempotencyNotReplayableError):
        guarded()
    info = inspect_key(store, function_key("long", "k"))
    assert info is not None
    assert (info.state, info.size) == ("tombstone", None)
    assert guarded.layer.not_replayable == 1
    assert [dict(event.attributes) for event in recorded_events] == [
        {"resilience.idempotency.result": "not_replayable"}
    ]


def test_a_store_that_fails_keeps_the_work_from_being_done(runtime) -> None:
    async def body() -> None:
        guarded = runtime.wrap(
            idempotent("closed", store=Faulty("claim"), key=lambda: "k"), lambda: pytest.fail("ran")
        )
        with pytest.raises(IdempotencyStoreError, match="'closed' cannot reach its store") as caught:
            await guarded()
        assert isinstance(caught.value.__cause__, ConnectionError)

    runtime.run(body)


def test_failing_open_the_work_is_done_without_protection(runtime) -> None:
    async def body() -> None:
        store, runs = Faulty("claim"), []
        guard = idempotent("open", store=store, key=lambda: "k", fail_open=True)
        fn = runtime.guarded(guard, lambda: runs.append(current_claim().epoch))
        for _ in range(2):
            result = fn()
            if inspect.isawaitable(result):
                await result
        assert runs == [0, 0]
        assert store.seen == ["claim", "claim"]
        assert (fn.layer.store_errors, fn.layer.executed) == (2, 0)

    runtime.run(body)


def test_a_result_that_cannot_be_stored_at_once_is_stored_later(runtime) -> None:
    async def body() -> None:
        store = Faulty("complete")
        guarded = runtime.wrap(idempotent("later", store=store, key=lambda: "k"), lambda: "done")
        assert await guarded() == "done"
        with pytest.raises(IdempotencyInProgressError):
            await guarded()
        store.failing.clear()
        key = function_key("later", "k")
        await runtime.until(lambda: inspect_key(store, key).state == "completed")
        assert await guarded() == "done"

    runtime.run(body)


def test_a_key_that_cannot_be_released_at_once_is_released_later() -> None:
    import time

    store = Faulty("release")
    guarded = idempotent("later", store=store, key=lambda: "k")(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        guarded()
    store.failing.clear()
    end = time.monotonic() + 20
    while inspect_key(store, function_key("later", "k")).state != "released":
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_slow_function_renews_its_lease_and_stops_when_it_ends(runtime) -> None:
    async def body() -> None:
        store = Faulty()
        guard = idempotent("slow", store=store, key=lambda: "k", lease=0.06)

        async def work() -> str:
            await runtime.until(lambda: store.seen.count("renew") >= 3)
            return "done"

        guarded = runtime.wrap(guard, work)
        assert await guarded() == "done"
        beats = store.seen.count("renew")
        await runtime.sleep(0.1)
        assert store.seen.count("renew") <= beats + 1

    runtime.run(body)


def test_a_function_is_told_when_its_key_is_lost(runtime) -> None:
    async def body() -> None:
        store, lost = MemoryStore(), []
        guard = idempotent("lost", store=store, key=lambda: "k", lease=0.06)

        async def work() -> str:
            claim = current_claim()
            expire_key(store, function_key("lost", "k"))
            await runtime.until(lambda: claim.is_lost)
            lost.append(claim.is_lost)
            return "late"

        fn = runtime.guarded(guard, work)
        result = fn()
        assert (await result if inspect.isawaitable(result) else result) == "late"
        assert (lost, fn.layer.lost) == ([True], 1)
        assert inspect_key(store, function_key("lost", "k")).state == "released"

    runtime.run(body)


def test_without_a_key_the_call_is_refused_or_unprotected(runtime) -> None:
    async def body() -> None:
        store, runs = MemoryStore(), []
        strict = runtime.wrap(idempotent("s", store=store, key=lambda key: key), runs.append)
        for bad in (None, "", "x" * 256, "é", 1.5, True):
            with pytest.raises(IdempotencyKeyError, match="'s' needs an idempotency key"):
                await strict(bad)
        assert runs == []
        loose = runtime.wrap(idempotent("l", store=store, key=lambda key: key, required=False), runs.append)
        await loose(None)
        await loose(None)
        assert runs == [None, None]

    runtime.run(body)


def test_whole_numbers_and_uuids_are_keys() -> None:
    store, runs = MemoryStore(), []
    guarded = idempotent("n", store=store, key=lambda key: key)(lambda key: runs.append(str(key)))
    name = uuid.UUID(int=7)
    for key in (7, 7, name, name):
        guarded(key)
    assert runs == ["7", str(name)]


def test_the_key_of_the_block_around_serves_a_function_without_one(runtime) -> None:
    async def body() -> None:
        runs: list[int] = []
        guarded = runtime.wrap(idempotent("b", store=MemoryStore()), runs.append)
        with idempotency_key("k"):
            await guarded(1)
            await guarded(1)
            with pytest.raises(IdempotencyMismatchError):
                await guarded(2)
        assert runs == [1]
        with pytest.raises(IdempotencyKeyError):
            await guarded(1)

    runtime.run(body)


def test_a_deadline_that_has_passed_keeps_the_call_from_beginning(runtime) -> None:
    async def body() -> None:
        store = Faulty()
        guarded = runtime.wrap(idempotent("d", store=store, key=lambda: "k"), lambda: 1)
        with deadline(1e-9):
            await runtime.sleep(0.001)
            with pytest.raises(DeadlineExceededError):
                await guarded()
        assert store.seen == []

    runtime.run(body)


def test_fingerprints_may_be_chosen_or_left_out() -> None:
    store = MemoryStore()
    chosen = idempotent("f", store=store, key=lambda key, trace: key, fingerprint=lambda key, trace: key)
    assert [chosen(lambda key, trace: trace)("k", trace) for trace in (1, 2)] == [1, 1]
    none = idempotent("g", store=store, key=lambda key, thing: key, fingerprint=None)(lambda key, thing: key)
    assert [none("k", object()), none("k", object())] == ["k", "k"]
    strange = idempotent("h", store=store, key=lambda key, thing: key)(lambda key, thing: key)
    with pytest.raises(TypeError, match=r"builtins.object has no fingerprint.*fingerprint=\.\.\."):
        strange("k", object())


def test_methods_partials_and_callable_objects_keep_their_names() -> None:
    store = MemoryStore()

    @dataclasses.dataclass
    class Shop:
        name: str

        @idempotent(store=store, key=lambda self, order: order)
        def place(self, order: str) -> str:
            return self.name + order

        @staticmethod
        @idempotent(store=store, key=lambda order: order)
        def static(order: str) -> str:
            return order

        @idempotent(store=store, key=lambda cls, order: order, fingerprint=lambda cls, order: order)
        @classmethod
        def made(cls, order: str) -> str:
            return cls.__name__ + order

    assert Shop("a").place("1") == Shop("a").place("1") == "a1"
    with pytest.raises(IdempotencyMismatchError):
        Shop("b").place("1")
    assert (Shop.static("1"), Shop.made("1"), Shop.place.__name__) == ("1", "Shop1", "place")
    assert Shop.place.__qualname__.endswith("Shop.place")
    partial = functools.partial(lambda a, b: a + b, "x")
    assert idempotent("p", store=store, key=lambda b: b)(partial)("y") == "xy"


def test_streams_and_classes_are_refused() -> None:
    guard = idempotent(store=MemoryStore(), key=lambda: "k")

    def stream():
        yield 1

    async def astream():
        yield 1

    for bad in (stream, astream, dict, 7):
        with pytest.raises(TypeError):
            guard(bad)


def test_the_class_of_a_store_is_no_store() -> None:
    with pytest.raises(ConfigError, match="store must be a store"):
        idempotent(store=MemoryStore, key=str)


def test_every_wrong_setting_is_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        idempotent(
            "", store=None, key=7, ttl=0, lease=float("nan"), renew=1, wait_for=-1, on_error="x", on_lease_expiry="y",
            fail_open=1, max_value_bytes=0, required=None, fingerprint=7, codec=7, transaction=len,
        )  # fmt: skip
    named = [problem.setting for problem in caught.value.problems]
    assert named == [
        "name", "ttl", "lease", "renew", "wait_for", "on_error", "on_lease_expiry", "fail_open",
        "max_value_bytes", "required", "store", "key", "fingerprint", "codec", "transaction", "fail_open",
    ]  # fmt: skip


def test_an_async_only_store_cannot_serve_a_plain_function(valkey) -> None:
    import redis.asyncio

    async def main() -> None:
        client = redis.asyncio.Redis.from_url(valkey.url)
        store = RedisStore(client, prefix="async-only:")
        guard = idempotent("a", store=store, key=lambda key: key, lease=0.1)
        with pytest.raises(ConfigError, match="give it a sync client"):
            guard(lambda key: key)
        claims = []

        async def work(key: str) -> str:
            claims.append(current_claim())
            await asyncio.sleep(0.35)  # more than three leases
            return "done"

        guarded = guard(work)
        first = asyncio.create_task(guarded("k"))
        await asyncio.sleep(0.25)
        with pytest.raises(IdempotencyInProgressError):
            await guarded("k")
        assert await first == await guarded("k") == "done"
        assert len(claims) == 1
        await client.aclose()

    asyncio.run(main())


def test_results_are_counted_once_and_reported_by_the_names_of_the_registry() -> None:
    fn = idempotent("counted", store=MemoryStore(), key=lambda key, n=0: key)(lambda key, n=0: n)
    fn("k"), fn("k"), fn("k")
    with pytest.raises(IdempotencyMismatchError):
        fn("k", 1)
    with pytest.raises(IdempotencyKeyError):
        fn(None)
    readings = {
        dict(each.attributes)["resilience.idempotency.result"]: each.value for each in fn.layer.readings()
    }
    assert readings == {
        "executed": 1, "replayed": 2, "in_progress": 0, "mismatch": 1, "not_replayable": 0, "missing_key": 1, "store_error": 0,
    }  # fmt: skip
    assert {each.metric for each in fn.layer.readings()} == {"resilience.idempotency.requests"}


def test_purging_goes_on_until_nothing_is_left() -> None:
    store = MemoryStore(clock=lambda: now)
    now = 0.0
    for number in range(25):
        idempotent("p", store=store, key=lambda key: key, ttl=1.0)(lambda key: key)(number)
    now = 5.0
    assert purge_keys(store, batch=10) == 25
    assert len(store) == 0


def test_a_guarded_function_says_what_it_says(store) -> None:
    @idempotent(store=store, key=lambda order: order)
    def place(order: str, *, note: str = "") -> str:
        """Place it."""
        return order

    assert (place.__doc__, str(inspect.signature(place))) == (
        "Place it.",
        "(order: str, *, note: str = '') -> str",
    )
    assert place.layer.name.endswith("place")
