"""The middleware over each store, on real servers."""

from contextlib import asynccontextmanager

from tests.integrations.asgi_server import answer
from tests.integrations.test_asgi_idempotency import Post, layer


@asynccontextmanager
async def in_use(store):
    """Let the store go in the event loop that its connections are of."""
    try:
        yield
    finally:
        if hasattr(store, "aclose"):
            await store.aclose()


def test_of_many_at_once_one_is_carried_out_and_all_others_get_its_answer(async_runtime, store) -> None:
    ran = []

    async def app(scope, receive, send):
        ran.append(1)
        await async_runtime.sleep(0.1)
        await answer(send, 201, b"made")

    guarded = layer(app, store=store, wait_for=20.0)
    exchanges = [Post(async_runtime, key="k") for _ in range(10)]

    async def body():
        async with in_use(store):
            await async_runtime.gather(*(lambda each=each: each.run(guarded) for each in exchanges))

    async_runtime.run(body)
    assert len(ran) == 1
    assert {(each.status, each.body) for each in exchanges} == {(201, b"made")}
    assert sorted(each.outcome for each in exchanges) == [(201, False)] + [(201, True)] * 9


def test_a_failure_a_long_answer_and_another_caller_are_told_apart_in_every_store(
    async_runtime, store
) -> None:
    statuses = [500, 201, 201]

    async def app(scope, receive, send):
        await answer(send, statuses.pop(0), b"x" * (2000 if scope["user"] == "bob" else 2))

    guarded = layer(app, store=store, max_response_bytes=1000)
    users = ["ann", "ann", "ann", "bob", "bob"]
    exchanges = [Post(async_runtime, key="k", user=user) for user in users]

    async def body():
        async with in_use(store):
            for each in exchanges:
                await each.run(guarded)

    async_runtime.run(body)
    assert [each.outcome for each in exchanges] == [
        (500, False), (201, False), (201, True), (201, False), (409, False),
    ]  # fmt: skip
