"""
A service and its client that tell a collector everything there is to tell, to build dashboards and alerts on.

    OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 python examples/observed_service.py

The service runs as a process of its own, on a free port of this machine, and both end by themselves. The
SDK reads where to send, how often and as whom from the standard OTEL_* variables of the environment;
without an endpoint nothing is sent. It needs `pip install "resilience-policies[httpx,otel]"`, Starlette and
uvicorn.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from opentelemetry import _logs, metrics, trace
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from resilience import (
    AdaptiveThrottle,
    Cache,
    CircuitBreaker,
    ConcurrencyLimiter,
    Fallback,
    Hedge,
    Keyed,
    Pipeline,
    RateLimiter,
    Retry,
    RetryBudget,
    Timeout,
    Verdict,
    rates,
    telemetry,
)
from resilience.backoff import constant
from resilience.errors import ConfigError, IdempotencyMismatchError, RejectedError
from resilience.idempotency import idempotent
from resilience.idempotency.stores import MemoryStore
from resilience.integrations.asgi import DeadlineMiddleware, LoadSheddingMiddleware, SLIMiddleware
from resilience.integrations.httpx import resilient
from resilience.slo import SLO


@contextmanager
def observed() -> Iterator[None]:
    """Send what OpenTelemetry is told to the collector, while the block runs and once more at its end."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        yield
        return
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())])
    loggers = LoggerProvider()
    loggers.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    metrics.set_meter_provider(meters)
    _logs.set_logger_provider(loggers)
    trace.set_tracer_provider(tracers)
    try:
        yield
    finally:
        for provider in (meters, loggers, tracers):
            provider.shutdown()


# --- the service --------------------------------------------------------------------------------------------

orders = SLO("orders", objective=0.99, window="5m", route="/orders", minimum_events=10)
answers = Counter[str]()


@idempotent("orders.place", store=MemoryStore(), key=lambda key, _: key)
def place(key: str, amount: int) -> dict[str, int]:
    """Place an order once."""
    return {"number": len(key), "amount": amount}


async def order(request: Request) -> JSONResponse:
    """Place an order; fail for one request in four, which the client repeats."""
    answers["orders"] += 1
    if answers["orders"] % 4 == 0:
        return JSONResponse({}, status_code=500)
    body = await request.json()
    try:
        return JSONResponse(place(request.headers["idempotency-key"], body["amount"]))
    except IdempotencyMismatchError as error:
        return JSONResponse({"title": str(error)}, status_code=422)


async def price(request: Request) -> JSONResponse:
    """Tell a price, slowly for one request in three."""
    answers["prices"] += 1
    await asyncio.sleep(0.2 if answers["prices"] % 3 == 0 else 0.0)
    return JSONResponse({"price": len(request.path_params["sku"])})


async def serve() -> None:
    """Serve until standard input ends."""
    app = Starlette(routes=[Route("/orders", order, methods=["POST"]), Route("/prices/{sku}", price)])
    guarded = LoadSheddingMiddleware(app, ConcurrencyLimiter("requests", limit=20))
    guarded = DeadlineMiddleware(guarded, cap=10.0)
    guarded = SLIMiddleware(guarded, slos=[orders])
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(guarded, log_level="warning", ws="none"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await serving


# --- its client ---------------------------------------------------------------------------------------------


async def traffic(address: str) -> list[object]:
    """Do what goes on all day; return the policies that it went through."""
    shop = Pipeline(
        "shop",
        Retry(attempts=3, backoff=constant(0.01)),
        AdaptiveThrottle(),
        CircuitBreaker(),
        ConcurrencyLimiter(limit=20),
        Timeout(2.0),
    )
    tenants = Keyed("tenants", factory=lambda: RateLimiter(rate=100), key="tenant", max_keys=10)
    prices = Pipeline("prices", Fallback(value=0), Cache(ttl=60.0), Hedge(after=0.05, idempotent=True))
    async with (
        httpx.AsyncClient(base_url=address) as plain,
        resilient(httpx.AsyncClient(base_url=address), shop) as client,
    ):

        @prices
        async def price_of(sku: str) -> int:
            return int((await plain.get(f"/prices/{sku}")).json()["price"])

        @tenants
        async def order_for(tenant: str, amount: int) -> int:
            headers = {"Idempotency-Key": f"order-of-{tenant}"}
            return (await client.post("/orders", json={"amount": amount}, headers=headers)).status_code

        placed = Counter([await order_for(f"t-{number % 12}", 7) for number in range(60)])
        placed += Counter([await order_for("t-0", 8)])  # the key of another order
        print("orders:", ", ".join(f"{count} x {status}" for status, count in sorted(placed.items())))
        print("prices:", [await price_of(sku) for sku in ("a", "bb", "ccc", "dddd", "a")])
    return [shop, tenants, prices]


class Buggy:
    """A limit of our own that cannot learn."""

    limit = rate = 10.0
    window = 1e-6

    def on_sample(self, sample: object) -> None:
        """Fail."""
        raise ZeroDivisionError(sample)


def down() -> None:
    """Be a dependency that is down."""
    raise ConnectionError


async def slow() -> None:
    """Be a dependency that takes its time."""
    await asyncio.sleep(0.05)


def drill() -> list[object]:
    """Do what one hopes not to see, so that every alert can be tried; return the policies."""
    breaker = CircuitBreaker(consecutive_failures=8)
    outage = Pipeline("drill", Retry(attempts=2, backoff=constant(0.0)), breaker)
    guarded = outage(down)
    for _ in range(6):
        try:
            guarded()
        except (ConnectionError, RejectedError):
            pass
    for order in (breaker.isolate, breaker.disable):
        with order():
            breaker.reset()
    outage.reload(Retry(attempts=2, backoff=constant(0.0)), breaker)
    try:
        outage.reload(Retry(), Retry())
    except ConfigError as error:
        print("refused settings:", error.problems[0].rule)

    learns, places = RateLimiter("drill", rate=rates.Aimd(start=10)), ConcurrencyLimiter("drill", limit=20)
    for limiter in (learns, places):
        limiter.pin(1)
        limiter.unpin()
    faulty = [RateLimiter("drill-faulty", rate=Buggy()), ConcurrencyLimiter("drill-faulty", limit=Buggy())]
    throttle = AdaptiveThrottle("drill", floor=None, minimum_throughput=2, k=1.0)
    for policy in (*faulty * 2, *[throttle] * 40):
        permit = policy.try_acquire()
        if permit:
            permit.settle(Verdict.THROTTLED)

    spent = RetryBudget(name="drill")
    while spent.try_withdraw():
        pass
    hedge = Hedge("drill", after=0.0, idempotent=True, budget=spent)
    asyncio.run(hedge.acall(slow))
    return [outage, learns, places, *faulty, throttle, hedge]


def call(address: str) -> None:
    """Be the client of the service at *address*."""
    with observed():
        telemetry.configure(call_metrics=True, call_duration=True, spans=True)
        policies = [*asyncio.run(traffic(address)), *drill()]
        print("policies:", len(policies))  # kept until the last export: who is gone has no levels


def main(role: str = "both", address: str = "") -> None:
    """Be the service, the client, or the client and the parent of the service."""
    if role == "serve":
        with observed():
            asyncio.run(serve())
    elif role == "call":
        call(address)
    else:
        command = [sys.executable, __file__, "serve"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as service:  # noqa: S603  # this very file
            main("call", service.stdout.readline().strip())
            service.stdin.close()
        if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
            print("Nothing was sent: OTEL_EXPORTER_OTLP_ENDPOINT is not set.")


if __name__ == "__main__":
    main(*sys.argv[1:])
