"""Sessions by hand, as middleware uses them; what goes on in the background; errors that travel."""

import copy
import gc
import multiprocessing
import os
import pickle
import threading
import time
import weakref

import pytest

from resilience._runtime import census
from resilience.errors import (
    ConfigError,
    IdempotencyError,
    IdempotencyInProgressError,
    IdempotencyKeyError,
    IdempotencyMismatchError,
    IdempotencyNotReplayableError,
    IdempotencyStoreError,
    RejectedError,
)
from resilience.idempotency import (
    IdempotencyLayer,
    IdempotencySettings,
    Replayed,
    Session,
    inspect_key,
    lookup_key,
)
from resilience.idempotency import _heart as heart
from resilience.idempotency.stores import MemoryStore

K = lookup_key("session", "k")


class Down(MemoryStore):
    """A store that nobody reaches while `is_down`."""

    __slots__ = ("asked", "is_down")

    def __init__(self) -> None:
        super().__init__()
        self.is_down, self.asked = True, 0

    def claim(self, key, ask):
        self.check()
        return super().claim(key, ask)

    def release(self, key, owner):
        self.check()
        return super().release(key, owner)

    def complete(self, key, owner, value, retention):
        self.check()
        return super().complete(key, owner, value, retention)

    def check(self) -> None:
        self.asked += 1
        if self.is_down:
            raise ConnectionError("down")


def layer_of(store: object | None = None, **settings: object) -> IdempotencyLayer:
    return IdempotencyLayer("s", store=store or MemoryStore(), settings=IdempotencySettings(**settings))


def state_in(layer: IdempotencyLayer) -> str:
    info = inspect_key(layer.store, K)
    assert info is not None
    return info.state


@pytest.mark.parametrize(("on_error", "state"), [("release", "released"), ("hold", "pending")])
def test_a_block_that_ends_without_an_end_does_as_the_layer_says(runtime, on_error: str, state: str) -> None:
    async def body() -> None:
        layer = layer_of(on_error=on_error)
        if runtime.name == "sync":
            with layer.begin(K, b"") as session:
                pass
        else:
            async with await layer.abegin(K, b"") as session:
                pass
        assert state_in(layer) == state
        assert not session.complete(b"too late")
        assert not session.release()
        assert not session.renew()

    runtime.run(body)


def test_a_session_may_be_completed_released_held_and_renewed_in_a_task(async_runtime) -> None:
    async def body() -> None:
        layer = layer_of(lease=30.0)
        async with await layer.abegin(K, b"") as session:
            assert await session.arenew()
            assert await session.arelease()
        assert state_in(layer) == "released"
        async with await layer.abegin(K, b"") as session:
            await session.ahold()
        assert state_in(layer) == "pending"
        layer.store.expire(K)
        async with await layer.abegin(K, b"") as session:
            assert session.epoch == 3
            assert await session.acomplete(b"done")
        assert await layer.abegin(K, b"") == Replayed(b"done")

    async_runtime.run(body)


def test_a_session_whose_key_was_taken_over_knows_it() -> None:
    layer = layer_of()
    with layer.begin(K, b"") as session:
        layer.store.expire(K)
        assert not session.renew()
        assert session.is_lost
        assert not session.complete(b"late")
    assert layer.lost == 1
    assert state_in(layer) == "released"


def test_an_outage_does_not_pile_up_work() -> None:
    store = Down()
    layer = layer_of(store)
    for number in range(heart.MOST_RETRIES + 500):
        with pytest.raises(IdempotencyStoreError):
            layer.begin(lookup_key(str(number)), b"")
    assert len(layer.heart._again) <= heart.MOST_RETRIES
    assert layer.store_errors == heart.MOST_RETRIES + 500
    store.is_down = False
    end = time.monotonic() + 20
    while layer.heart._again:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_is_tried_again_ends_with_the_lease() -> None:
    store = Down()
    store.is_down = False
    layer = layer_of(store, lease=0.2)
    with layer.begin(K, b"") as session:
        store.is_down = True
        assert not session.complete(b"done")
    assert layer.unsaved == 1
    end = time.monotonic() + 20
    while layer.heart._again or layer.heart._thread is not None:
        assert time.monotonic() < end
        time.sleep(0.01)
    asked = store.asked
    time.sleep(0.1)
    assert store.asked == asked


def test_layers_of_one_store_share_a_thread_that_ends_when_it_is_idle() -> None:
    store = MemoryStore()
    layers = [layer_of(store, lease=0.15) for _ in range(20)]
    sessions = [layer.begin(lookup_key(str(number)), b"") for number, layer in enumerate(layers)]
    for session in sessions:
        assert isinstance(session, Session)
        session.__enter__()
    assert len({id(layer.heart) for layer in layers}) == 1
    thread = layers[0].heart._thread
    assert thread is not None
    assert thread.daemon
    for session in sessions:
        session.__exit__(None, None, None)
    thread.join(20)
    assert not thread.is_alive()
    assert thread not in threading.enumerate()


def test_what_a_layer_counted_outlives_it() -> None:
    layer = layer_of()
    layer.name = "outlived"
    with layer.begin(K, b"") as session:
        session.complete(b"")
    gone = weakref.ref(layer)
    del layer, session
    end = time.monotonic() + 20
    while gone() is not None:
        gc.collect()
        assert time.monotonic() < end
    counted = {
        dict(attributes)["resilience.idempotency.result"]: sums.kept + sum(sums.live)
        for (metric, label, attributes), sums in census.survey().items()
        if label == "outlived" and metric == "resilience.idempotency.requests"
    }
    assert counted["executed"] == 1


@pytest.mark.parametrize(
    "error",
    [
        IdempotencyInProgressError("p", 1.5, unknown_outcome=True),
        IdempotencyMismatchError("p"),
        IdempotencyNotReplayableError("p"),
        IdempotencyKeyError("p", problem="it is empty"),
        IdempotencyStoreError("p"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_the_way_to_another_process(error: IdempotencyError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert (str(again), vars(again)) == (str(error), vars(error))
    assert isinstance(error, RejectedError)  # this time the function did not run


def test_a_layer_refuses_what_cannot_work() -> None:
    with pytest.raises(ConfigError) as caught:
        IdempotencyLayer("", store=None, cipher=7, codec="é")
    assert [problem.setting for problem in caught.value.problems] == ["name", "store", "cipher", "codec"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_process_counts_and_reports_from_zero() -> None:
    layer = IdempotencyLayer("forked", store=MemoryStore())
    counters = (
        "executed", "replayed", "in_progress", "mismatched", "not_replayable", "missing_key", "store_errors",
        "takeovers", "lost", "unsaved",
    )  # fmt: skip
    for counter in counters:
        layer._count(counter, 3)

    def child() -> None:
        begins_at_zero = not any(getattr(layer, counter) for counter in counters)
        reports_none = not any(reading.value for reading in layer.readings())
        layer.begin(K, b"request")
        os._exit(0 if begins_at_zero and reports_none and layer.executed == 1 else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert [getattr(layer, counter) for counter in counters] == [3] * len(counters)
