"""The middlewares under Starlette, FastAPI and Litestar, by real requests to uvicorn."""

import asyncio
import subprocess
import sys
import threading
from types import SimpleNamespace

import httpx
import pytest

from resilience import ConcurrencyLimiter, remaining
from resilience.integrations.asgi import DeadlineMiddleware, LoadSheddingMiddleware, SLIMiddleware
from resilience.slo import SLO

from .asgi_server import PATIENCE, serving, until


class Site:
    """What the handlers of all frameworks do, and what they wait for."""

    def __init__(self):
        self.gate, self.entered = threading.Event(), threading.Event()
        self.cancelled, self.background = threading.Event(), threading.Event()

    async def slow(self):
        self.entered.set()
        try:
            await self.opened()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def parts(self):
        for number in range(3):
            yield f"part {number}\n".encode()

    async def endless(self):
        self.entered.set()
        while True:
            yield b"x" * 1024
            await asyncio.sleep(0.002)

    async def broken(self):
        yield b"half"
        raise ConnectionError

    async def later(self):
        await self.opened()
        self.background.set()

    async def opened(self):
        while not self.gate.is_set():  # noqa: ASYNC110  # the test sets it from its own thread
            await asyncio.sleep(0.002)


def starlette(site):
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.responses import JSONResponse, StreamingResponse
    from starlette.routing import Mount, Route

    async def order(request):
        return JSONResponse({"left": remaining()}, int(request.path_params["id"]))

    async def slow(request):
        await site.slow()
        return JSONResponse({})

    async def fails(request):
        raise ConnectionError

    async def parts(request):
        return StreamingResponse(site.parts())

    async def endless(request):
        return StreamingResponse(site.endless())

    async def broken(request):
        return StreamingResponse(site.broken())

    async def background(request):
        return JSONResponse({}, background=BackgroundTask(site.later))

    deeper = Starlette(routes=[Route("/orders/{id:int}", order)])
    return Starlette(
        routes=[
            Route("/orders/{id:int}", order, methods=["GET", "POST"]),
            Route("/slow", slow),
            Route("/fails", fails),
            Route("/parts", parts),
            Route("/endless", endless),
            Route("/broken", broken),
            Route("/background", background),
            Mount(
                "/tenants/{tenant}", routes=[Route("/orders/{id:int}", order), Mount("/deeper", app=deeper)]
            ),
        ]
    )


def fastapi(site):
    from fastapi import APIRouter, BackgroundTasks, FastAPI, Request
    from starlette.responses import JSONResponse, StreamingResponse

    router = APIRouter()

    @router.api_route("/orders/{id}", methods=["GET", "POST"])
    async def order(request: Request):
        return JSONResponse({"left": remaining()}, int(request.path_params["id"]))

    @router.get("/slow")
    async def slow():
        await site.slow()

    @router.get("/fails")
    async def fails():
        raise ConnectionError

    @router.get("/parts")
    async def parts():
        return StreamingResponse(site.parts())

    @router.get("/endless")
    async def endless():
        return StreamingResponse(site.endless())

    @router.get("/broken")
    async def broken():
        return StreamingResponse(site.broken())

    @router.get("/background")
    async def background(tasks: BackgroundTasks):
        tasks.add_task(site.later)

    app, tenant, deeper = FastAPI(), FastAPI(), FastAPI()
    app.include_router(router)
    deeper.include_router(router)
    tenant.include_router(router)
    tenant.mount("/deeper", deeper)
    app.include_router(router, prefix="/included/{version}")
    app.mount("/tenants/{tenant}", tenant)
    return app


def litestar(site):
    from litestar import Litestar, Request, Response, Router, get, route
    from litestar.background_tasks import BackgroundTask
    from litestar.response import Stream

    @route("/orders/{id:int}", http_method=["GET", "POST"])
    async def order(request: Request) -> Response[dict[str, float | None]]:
        return Response({"left": remaining()}, status_code=request.path_params["id"])

    @get("/slow")
    async def slow() -> None:
        await site.slow()

    @get("/fails")
    async def fails() -> None:
        raise ConnectionError

    @get("/parts")
    async def parts() -> Stream:
        return Stream(site.parts())

    @get("/endless")
    async def endless() -> Stream:
        return Stream(site.endless())

    @get("/broken")
    async def broken() -> Stream:
        return Stream(site.broken())

    @get("/background")
    async def background() -> Response[None]:
        return Response(None, background=BackgroundTask(site.later))

    tenants = Router("/tenants/{tenant:str}", route_handlers=[order])
    return Litestar([order, slow, fails, parts, endless, broken, background, tenants], openapi_config=None)


FRAMEWORKS = (starlette, fastapi, litestar)


@pytest.fixture(params=FRAMEWORKS, ids=lambda make: make.__name__)
def make(request):
    return request.param


@pytest.fixture
def site():
    made = Site()
    yield made
    made.gate.set()


def watching(make, site, route, **settings):
    slo = SLO("checkout", objective=0.99, window="1h", route=route, **settings)
    return SLIMiddleware(make(site), slos=[slo]), slo


def counted(slo):
    return slo.good_events, slo.bad_events


def test_requests_are_counted_by_the_template_of_their_route(make, site):
    app, slo = watching(make, site, "/orders/{id}")
    with serving(app) as client:
        for path in ("/orders/200", "/orders/201", "/orders/404", "/orders/503", "/nowhere", "/parts"):
            client.get(path)
        client.post("/orders/200")
        until(lambda: sum(counted(slo)) == 5)
    assert counted(slo) == (4, 1)


@pytest.mark.parametrize(
    ("make", "route", "path"),
    [
        (starlette, "/tenants/{tenant}/orders/{id}", "/tenants/acme/orders/200"),
        (starlette, "/tenants/{tenant}/deeper/orders/{id}", "/tenants/acme/deeper/orders/200"),
        (starlette, "/tenants/{tenant}", "/tenants/acme/nowhere"),
        (fastapi, "/tenants/{tenant}/orders/{id}", "/tenants/acme/orders/200"),
        (fastapi, "/tenants/{tenant}/deeper/orders/{id}", "/tenants/acme/deeper/orders/200"),
        (fastapi, "/included/{version}/orders/{id}", "/included/1/orders/200"),
        (litestar, "/tenants/{tenant}/orders/{id}", "/tenants/acme/orders/200"),
        (litestar, "/tenants/{tenant:str}/orders/{id:int}", "/tenants/acme/orders/200"),
    ],
)
def test_a_route_inside_another_has_the_templates_of_both(make, site, route, path):
    app, slo = watching(make, site, route)
    with serving(app) as client:
        client.get(path)
        until(lambda: sum(counted(slo)) == 1)


def test_what_is_put_on_inside_the_framework_counts_the_same(site):
    from starlette.middleware import Middleware

    app = starlette(site)
    slo = SLO("checkout", objective=0.99, window="1h", route="/fails")
    app.user_middleware.append(Middleware(SLIMiddleware, slos=[slo]))
    with serving(app) as client:
        assert client.get("/fails").status_code == 500
    assert counted(slo) == (0, 1)


def test_an_unhandled_error_is_bad(make, site):
    app, slo = watching(make, site, "/fails")
    with serving(app) as client:
        assert client.get("/fails").status_code == 500
        until(lambda: sum(counted(slo)) == 1)
    assert counted(slo) == (0, 1)


def test_a_stream_arrives_whole_and_is_good(make, site):
    app, slo = watching(make, site, "/parts")
    with serving(app) as client:
        assert client.get("/parts").text == "part 0\npart 1\npart 2\n"
    assert counted(slo) == (1, 0)


def test_a_stream_that_breaks_is_bad(make, site):
    app, slo = watching(make, site, "/broken")
    with serving(app) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/broken")
        until(lambda: sum(counted(slo)) == 1)
    assert counted(slo) == (0, 1)


def test_a_client_that_leaves_a_stream_is_not_counted_and_holds_no_place(make, site):
    app, slo = watching(make, site, "/endless")
    limiter = ConcurrencyLimiter("requests", limit=1)
    with serving(LoadSheddingMiddleware(app, limiter)) as client:
        with client.stream("GET", "/endless") as response:
            parts = response.iter_raw()  # kept: its end would close the response
            next(parts)
            assert limiter.inflight == 1
        until(lambda: limiter.is_idle)
        assert client.get("/parts").status_code == 200
    assert counted(slo) == (0, 0)


def test_an_answer_is_counted_and_its_place_free_before_the_background_work_ends(make, site):
    app, slo = watching(make, site, "/background")
    limiter = ConcurrencyLimiter("requests", limit=1)
    with serving(LoadSheddingMiddleware(app, limiter)) as client:
        assert client.get("/background").status_code == 200
        until(lambda: limiter.is_idle)
        assert counted(slo) == (1, 0)
        assert not site.background.is_set()
        site.gate.set()
        assert site.background.wait(PATIENCE)


def test_a_full_server_refuses_at_once(make, site):
    limiter = ConcurrencyLimiter("requests", limit=1)
    with serving(LoadSheddingMiddleware(make(site), limiter)) as client:
        slow = threading.Thread(target=client.get, args=("/slow",))
        slow.start()
        assert site.entered.wait(PATIENCE)
        refused = client.get("/orders/200")
        site.gate.set()
        slow.join(PATIENCE)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.headers["content-type"] == "application/problem+json"
        assert client.head("/orders/200").status_code != 503
    assert limiter.is_idle


def test_a_refused_request_is_bad_for_the_route_that_it_asked_for(make, site):
    limiter = ConcurrencyLimiter("requests", limit=1)
    slo = SLO("checkout", objective=0.99, window="1h", route="/orders/{id}")
    with serving(SLIMiddleware(LoadSheddingMiddleware(make(site), limiter), slos=[slo])) as client:
        with limiter.guard():
            assert client.get("/orders/200").status_code == 503
            assert client.get("/slow").status_code == 503
        assert counted(slo) == (0, 1)


def test_a_request_that_becomes_late_is_cancelled(make, site):
    with serving(DeadlineMiddleware(make(site))) as client:
        answer = client.get("/slow", headers={"X-Request-Timeout": "50m"})
        assert (answer.status_code, answer.json()["title"]) == (504, "Gateway Timeout")
        assert site.cancelled.wait(PATIENCE)


def test_a_handler_sees_how_long_there_is(make, site):
    with serving(DeadlineMiddleware(make(site))) as client:
        assert client.get("/orders/200").json() == {"left": None}
        left = client.get("/orders/200", headers={"grpc-timeout": "9S"}).json()["left"]
        assert 0 < left <= 9


def test_a_stream_that_becomes_late_is_broken_off_if_its_time_is_for_all_of_it(make, site):
    limiter = ConcurrencyLimiter("requests", limit=1)
    app = DeadlineMiddleware(LoadSheddingMiddleware(make(site), limiter), covers="answer")
    with serving(app) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/endless", headers={"X-Request-Timeout": "50m"})
        until(lambda: limiter.is_idle)


def test_the_middlewares_bring_in_no_framework_and_no_backend_that_is_not_used():
    program = (
        "import sys, resilience.integrations.asgi; "
        "sys.exit(any(name in sys.modules for name in ('starlette', 'fastapi', 'litestar', 'anyio', 'trio')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def orders():
    """The three, in every order."""
    layers = SimpleNamespace(
        sli=lambda app, slo, limiter: SLIMiddleware(app, slos=[slo]),
        deadline=lambda app, slo, limiter: DeadlineMiddleware(app, default=20.0),
        shedding=lambda app, slo, limiter: LoadSheddingMiddleware(app, limiter),
    )
    from itertools import permutations

    return [
        pytest.param([getattr(layers, name) for name in order], id="-".join(order))
        for order in permutations(vars(layers))
    ]


@pytest.mark.parametrize("order", orders())
def test_they_work_in_any_order(site, order):
    slo, limiter = SLO("all", objective=0.99, window="1h"), ConcurrencyLimiter("requests", limit=2)
    app = starlette(site)
    for layer in order:
        app = layer(app, slo, limiter)
    with serving(app) as client:
        assert client.get("/orders/200").status_code == 200
        assert client.get("/parts").text.count("part") == 3
        assert client.get("/fails").status_code == 500
        assert client.get("/slow", headers={"X-Request-Timeout": "30m"}).status_code == 504
        until(lambda: limiter.is_idle)
    assert slo.good_events == 2
    assert slo.bad_events in {1, 2}  # inside the deadline, a request that is cut is neither
