"""Keys from end to end: real clients, real sockets, uvicorn, and the middleware under the frameworks."""

import asyncio
import json
import threading
import time
from collections import Counter
from typing import Annotated

import httpx
import pytest
from tests.integrations.faulty_proxy import FAULTS, FaultyProxy
from tests.integrations.servers import asgi

from resilience import Hedge, Pipeline, Retry, RetryBudget
from resilience.backoff import constant
from resilience.idempotency import idempotency_key
from resilience.idempotency.stores import MemoryStore, SQLiteStore
from resilience.integrations.asgi import IdempotencyMiddleware
from resilience.integrations.httpx import resilient

from .asgi_server import PATIENCE, serving, until


def caller(scope):
    """Return who asks, as a service behind a gateway knows it."""
    return next((str(value, "latin-1") for name, value in scope["headers"] if name == b"x-user"), None)


def guarded(app, store=None, **settings):
    return IdempotencyMiddleware(
        app, store=MemoryStore() if store is None else store, principal=caller, **settings
    )


def port_of(url):
    return int(url.rpartition(":")[2])


class Shop:
    """Counts its effects; what handlers of all frameworks do, and what they wait for."""

    def __init__(self):
        self.placed, self.lock = Counter(), threading.Lock()
        self.gate, self.entered, self.background = threading.Event(), threading.Event(), threading.Event()

    def place(self, order):
        with self.lock:
            self.placed[order] += 1
            return {"order": order, "number": sum(self.placed.values())}

    async def slow(self, order):
        self.entered.set()
        await self.opened()
        return self.place(order)

    async def parts(self, order):
        receipt = json.dumps(self.place(order)).encode()
        for number in range(20):
            yield receipt if number == 10 else b" " * 1000
            if number == 1:
                self.entered.set()
                await self.opened()

    async def later(self):
        await self.opened()
        self.background.set()

    async def opened(self):
        while not self.gate.is_set():  # noqa: ASYNC110  # the test sets it from its own thread
            await asyncio.sleep(0.002)


def starlette(shop):
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Route

    async def place(request):
        response = JSONResponse(shop.place((await request.json())["order"]), 201)
        response.set_cookie("session", request.headers["x-user"])
        return response

    async def slow(request):
        return JSONResponse(await shop.slow((await request.json())["order"]), 201)

    async def parts(request):
        return StreamingResponse(shop.parts((await request.json())["order"]), 201)

    async def fails(request):
        shop.place((await request.json())["order"])
        raise ConnectionError

    async def background(request):
        return JSONResponse(shop.place("background"), 201, background=BackgroundTask(shop.later))

    paths = {"/orders": place, "/slow": slow, "/parts": parts, "/fails": fails, "/background": background}
    return Starlette(routes=[Route(path, handler, methods=["POST"]) for path, handler in paths.items()])


def fastapi(shop):
    from fastapi import BackgroundTasks, Body, FastAPI, Response
    from starlette.responses import StreamingResponse

    app = FastAPI()
    Order = Annotated[str, Body(embed=True)]

    @app.post("/orders", status_code=201)
    async def place(response: Response, order: Order):
        response.set_cookie("session", "secret")
        return shop.place(order)

    @app.post("/slow", status_code=201)
    async def slow(order: Order):
        return await shop.slow(order)

    @app.post("/parts")
    async def parts(order: Order):
        return StreamingResponse(shop.parts(order), 201)

    @app.post("/fails")
    async def fails(order: Order):
        shop.place(order)
        raise ConnectionError

    @app.post("/background", status_code=201)
    async def background(tasks: BackgroundTasks):
        tasks.add_task(shop.later)
        return shop.place("background")

    return app


def litestar(shop):
    from litestar import Litestar, Request, Response, post
    from litestar.background_tasks import BackgroundTask
    from litestar.response import Stream

    @post("/orders")
    async def place(request: Request) -> Response[dict[str, object]]:
        response = Response(shop.place((await request.json())["order"]))
        response.set_cookie("session", "secret")
        return response

    @post("/slow")
    async def slow(request: Request) -> dict[str, object]:
        return await shop.slow((await request.json())["order"])

    @post("/parts")
    async def parts(request: Request) -> Stream:
        return Stream(shop.parts((await request.json())["order"]))

    @post("/fails")
    async def fails(request: Request) -> None:
        shop.place((await request.json())["order"])
        raise ConnectionError

    @post("/background")
    async def background() -> Response[dict[str, object]]:
        return Response(shop.place("background"), background=BackgroundTask(shop.later))

    return Litestar([place, slow, parts, fails, background], openapi_config=None)


@pytest.fixture(params=[starlette, fastapi, litestar], ids=lambda make: make.__name__)
def make(request):
    return request.param


@pytest.fixture
def shop():
    made = Shop()
    yield made
    made.gate.set()


def post(client, path="/orders", key="k", user="ann", order="o-1"):
    return client.post(path, json={"order": order}, headers={"Idempotency-Key": f'"{key}"', "X-User": user})


# --- under the frameworks ---


def test_a_repetition_is_answered_with_the_first_answer_without_its_cookie(make, shop):
    with serving(guarded(make(shop))) as client:
        first = post(client)
        client.cookies.clear()
        again = post(client)
    assert (first.status_code, "set-cookie" in first.headers) == (201, True)
    assert (again.status_code, "set-cookie" in again.headers) == (201, False)
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    assert again.headers["content-type"] == first.headers["content-type"]
    assert shop.placed == {"o-1": 1}


def test_no_user_sees_what_another_was_answered(make, shop):
    with serving(guarded(make(shop))) as client:
        receipts = {user: post(client, user=user).json() for user in ("ann", "bob")}
        agains = {user: post(client, user=user).json() for user in ("ann", "bob")}
    assert receipts == agains
    assert receipts["ann"] != receipts["bob"]
    assert shop.placed == {"o-1": 2}


def test_two_at_once_are_one_and_a_conflict_that_says_when_to_come(make, shop):
    with serving(guarded(make(shop))) as client:
        answers = []
        slow = threading.Thread(target=lambda: answers.append(post(client, "/slow")))
        slow.start()
        assert shop.entered.wait(PATIENCE)
        early = post(client, "/slow")
        other = post(client, "/slow", order="o-2")
        shop.gate.set()
        slow.join(PATIENCE)
        again = post(client, "/slow")
    assert (early.status_code, early.headers["retry-after"]) == (409, "1")
    assert early.json()["type"].endswith("/request-in-progress")
    assert other.status_code == 422
    assert (answers[0].status_code, again.content, shop.placed) == (201, answers[0].content, {"o-1": 1})


def test_a_streamed_answer_is_repeated_whole(make, shop):
    shop.gate.set()
    with serving(guarded(make(shop))) as client:
        first, again = post(client, "/parts"), post(client, "/parts")
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    assert len(first.content) > 19_000
    assert shop.placed == {"o-1": 1}


@pytest.mark.parametrize("path", ["/slow", "/parts"])
def test_a_client_that_leaves_finds_the_answer_when_it_comes_again(make, shop, path):
    layer = guarded(make(shop))
    with serving(layer) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post(
                path,
                json={"order": "o-1"},
                headers={"Idempotency-Key": "k", "X-User": "ann"},
                timeout=0.5,
            )
        assert shop.entered.wait(PATIENCE)
        shop.gate.set()

        def answered():
            return post(client, path).headers.get("idempotent-replayed") == "true"

        until(answered)
    assert shop.placed == {"o-1": 1}
    assert layer.layer.executed == 1


def test_an_unhandled_error_gives_the_key_back(make, shop):
    with serving(guarded(make(shop))) as client:
        assert [post(client, "/fails").status_code for _ in range(2)] == [500, 500]
    assert shop.placed == {"o-1": 2}


def test_an_unhandled_error_holds_the_key_where_that_is_set(make, shop):
    with serving(guarded(make(shop), on_error="hold")) as client:
        assert [post(client, "/fails").status_code for _ in range(2)] == [500, 409]
    assert shop.placed == {"o-1": 1}


def test_a_request_that_the_framework_refuses_may_be_corrected_under_its_key(shop):
    with serving(guarded(fastapi(shop))) as client:
        headers = {"Idempotency-Key": "k", "X-User": "ann"}
        assert client.post("/orders", json={}, headers=headers).status_code == 422
        assert post(client).status_code == 201


def test_an_answer_can_be_repeated_before_the_background_work_ends(make, shop):
    with serving(guarded(make(shop))) as client:
        assert post(client, "/background").status_code == 201
        assert post(client, "/background").headers["idempotent-replayed"] == "true"
        assert not shop.background.is_set()
        shop.gate.set()
        assert shop.background.wait(PATIENCE)


def test_inside_the_framework_it_does_the_same(shop):
    from starlette.middleware import Middleware

    app = starlette(shop)
    app.user_middleware.append(Middleware(IdempotencyMiddleware, store=MemoryStore(), principal=caller))
    with serving(app) as client:
        assert [post(client, "/fails").status_code for _ in range(2)] == [500, 500]
        assert [post(client).status_code for _ in range(2)] == [201, 201]
    assert shop.placed == {"o-1": 3}


# --- with our own client ---


def opened_after_a_conflict(shop, layer):
    """Let the first attempt go on when a second one has met it."""

    def work():
        until(lambda: layer.layer.in_progress > 0)
        shop.gate.set()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_retry_that_meets_its_first_attempt_comes_again_and_gets_the_answer(web, shop) -> None:
    layer = guarded(starlette(shop))

    async def body():
        with asgi(layer) as url:
            retry = Retry(attempts=5, backoff=constant(0.0), budget=None)
            async with web.client(retry, headers={"X-User": "ann"}, timeout=0.4) as client:
                opener = opened_after_a_conflict(shop, layer)
                with idempotency_key("k"):
                    response = await client.request("POST", url + "/slow", json={"order": "o-1"})
                opener.join()
        assert (response.status_code, response.headers["idempotent-replayed"]) == (201, "true")
        assert (shop.placed, layer.layer.executed) == ({"o-1": 1}, 1)
        assert layer.layer.in_progress >= 1

    web.runtime.run(body)


def test_a_hedge_that_meets_the_first_attempt_is_not_the_answer(web, shop) -> None:
    layer = guarded(starlette(shop))

    async def body():
        with asgi(layer) as url:
            hedge = Hedge(after=0.05, idempotent="context", budget=None)
            async with web.client(hedge, headers={"X-User": "ann"}) as client:
                opener = opened_after_a_conflict(shop, layer)
                with idempotency_key("k"):
                    response = await client.request("POST", url + "/slow", json={"order": "o-1"})
                opener.join()
        assert (response.status_code, shop.placed) == (201, {"o-1": 1})
        assert (layer.layer.executed, layer.layer.in_progress) == (1, 1)

    web.runtime.run(body)


def test_an_answer_that_was_not_kept_is_not_asked_for_again(web, shop) -> None:
    shop.gate.set()
    layer = guarded(starlette(shop), max_response_bytes=1000)

    async def body():
        with asgi(layer) as url:
            retry = Retry(attempts=5, backoff=constant(0.0), budget=None)
            async with web.client(retry, headers={"X-User": "ann"}) as client:
                with idempotency_key("k"):
                    first = await client.request("POST", url + "/parts", json={"order": "o-1"})
                    second = await client.request("POST", url + "/parts", json={"order": "o-1"})
        assert len(first.content) > 19_000
        assert (second.status_code, layer.layer.not_replayable, shop.placed) == (409, 1, {"o-1": 1})

    web.runtime.run(body)


def test_a_store_that_is_back_lets_the_retry_through(web, shop) -> None:
    class Away(MemoryStore):
        left = 2

        async def aclaim(self, *values):
            if Away.left:
                Away.left -= 1
                raise ConnectionError
            return await super().aclaim(*values)

    layer = guarded(starlette(shop), Away(), retry_after=0.01)

    async def body():
        with asgi(layer) as url:
            retry = Retry(attempts=3, backoff=constant(0.0), budget=None, retry_after_window=0.0)
            async with web.client(retry, headers={"X-User": "ann"}) as client:
                with idempotency_key("k"):
                    response = await client.request("POST", url + "/orders", json={"order": "o-1"})
        assert (response.status_code, layer.layer.store_errors, shop.placed) == (201, 2, {"o-1": 1})

    web.runtime.run(body)


ORDERS = 40
CUSTOMERS = ("ann", "bob")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("lib", ["httpx", "httpx2"])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_through_a_network_that_loses_doubles_and_cuts_each_key_has_one_effect(
    lib, kind, shop, tmp_path
) -> None:
    library = pytest.importorskip(lib)
    shop.gate.set()
    store = MemoryStore() if kind == "memory" else SQLiteStore(tmp_path / "keys.db", synchronous="NORMAL")
    layer = guarded(named(shop), store)
    receipts = {}

    def buy(url, customer):
        client = library.Client(timeout=1.0, trust_env=False, headers={"X-User": customer})
        policy = Pipeline(
            f"{lib}-{kind}-{customer}",
            Retry(attempts=12, backoff=constant(0.02), budget=None, retry_after_window=0.0),
            Hedge(after=0.1, idempotent="context", budget=RetryBudget.ratio(1.0, min_per_second=100)),
        )
        with resilient(client, policy) as sender:
            for number in range(ORDERS):
                with idempotency_key(f"order-{number}"):  # the same keys for every customer
                    receipts[customer, number] = asked(sender, library, url, f"{customer}-{number}")

    with asgi(layer) as url, FaultyProxy(port_of(url), seed=7) as proxy:
        buyers = [threading.Thread(target=buy, args=(proxy.url, customer)) for customer in CUSTOMERS]
        for buyer in buyers:
            buyer.start()
        for buyer in buyers:
            buyer.join(100)
    assert len(receipts) == ORDERS * len(CUSTOMERS)
    for (customer, number), receipt in receipts.items():
        assert receipt["order"] == f"{customer}-{number}"
        assert receipt["user"] == customer
    assert set(shop.placed.values()) == {1}
    assert len(shop.placed) == len(receipts)
    assert layer.layer.replayed + layer.layer.in_progress > 0
    assert all(proxy.did[fault] for fault in FAULTS)
    if kind == "sqlite":
        store.close()


# httpx leaves the generator of a body behind where sending it fails, and trio says so.
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@pytest.mark.timeout(120)
def test_the_same_holds_for_each_client_of_either_library(web, shop) -> None:
    layer = guarded(named(shop))
    policy = Pipeline(
        f"faulty-{web.lib.__name__}-{web.runtime.name}",
        Retry(attempts=12, backoff=constant(0.02), budget=None, retry_after_window=0.0),
        Hedge(after=0.05, idempotent="context", budget=RetryBudget.ratio(1.0, min_per_second=100)),
    )

    async def paid(client, url, order):
        give_up = time.monotonic() + 30
        while True:
            try:
                response = await client.request("POST", url + "/orders", json={"order": order})
                if response.status_code == 201:
                    return response.json()
            except web.lib.TransportError:
                pass  # the body broke, which is behind the policies: ask again, in the same block
            assert time.monotonic() < give_up

    async def body():
        with asgi(layer) as url, FaultyProxy(port_of(url), seed=11) as proxy:
            async with web.client(policy, headers={"X-User": "ann"}, timeout=1.0) as client:
                for number in range(25):
                    with idempotency_key(f"order-{number}"):
                        assert (await paid(client, proxy.url, f"o-{number}"))["order"] == f"o-{number}"
        assert sum(proxy.did.values()) > proxy.did["pass"]
        assert shop.placed == {f"o-{number}": 1 for number in range(25)}

    web.runtime.run(body)


def asked(sender, library, url, order):
    """Send an order until its answer is whole, as a caller does whose body breaks: that is behind the policies."""
    give_up = time.monotonic() + 30
    while True:
        try:
            response = sender.post(url + "/orders", json={"order": order})
        except library.TransportError:
            assert time.monotonic() < give_up
            continue
        if response.status_code == 201:
            return response.json()
        assert response.status_code in {409, 503}
        assert time.monotonic() < give_up


def named(shop):
    """Return an application whose receipts name the user."""

    async def app(scope, receive, send):
        order = json.loads((await receive())["body"])["order"]
        await asyncio.sleep(0.01)
        body = json.dumps({**shop.place(order), "user": caller(scope), "rest": "x" * 2000}).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app
