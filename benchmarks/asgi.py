"""
What a layer around an ASGI application costs, beside one that wraps ``send`` and does nothing.

    python -m benchmarks.asgi
    python -m benchmarks.asgi --short --margin 0.25    # for continuous integration
    python -m benchmarks.asgi --only SLI

A row is what one layer adds to a request, divided by what a layer adds that only wraps ``send``. All are
measured in turn, in short rounds that lie next to each other, so that a busy machine slows all alike; a row
is the median over the rounds. It exits with 1 if a layer of this package costs more than its bound.

The short form measures the layers of this package in fewer rounds, and holds one that misses its bound by far
to what was reached, so that it does not get worse.
"""

import argparse
import asyncio
import gc
import sys
from itertools import repeat
from statistics import median
from time import perf_counter

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from starlette.middleware.base import BaseHTTPMiddleware

from resilience import ConcurrencyLimiter
from resilience.idempotency.stores import MemoryStore
from resilience.integrations.asgi import (
    DeadlineMiddleware,
    IdempotencyMiddleware,
    LoadSheddingMiddleware,
    SLIMiddleware,
)
from resilience.limits import Aimd
from resilience.slo import SLO

MOST = 2.5
"""What a layer of this package may cost, in layers that do nothing."""

PASSED = 1.5
"""What one may cost for a request that it only passes on, in the same."""

HELD = {
    "DeadlineMiddleware, a request with one": 3.7,
    "DeadlineMiddleware, a request with one, for all of the answer": 3.5,
}
"""What was reached where a bound is missed by far."""

DEEP = 5  # layers of a kind around the application, so that their cost stands out from its own
REQUESTS = 40
ROUNDS, FEWER = 150, 40

HEADERS = [
    (b"host", b"shop.example"), (b"accept", b"*/*"), (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"), (b"user-agent", b"bench"), (b"content-type", b"application/json"),
    (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"), (b"x-request-id", b"7"),
]  # fmt: skip
TIMED = [*HEADERS, (b"x-request-timeout", b"2000m")]
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
BODY = {"type": "http.response.body", "body": b"{}"}


class Route:
    path = path_format = "/orders/{id}"


async def app(scope, receive, send):
    scope["route"] = Route
    await send(START)
    await send(BODY)


class WrapsSend:
    """In the shape in which frameworks tell their users to write layers."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def wrapped(message):
            await send(message)

        await self.app(scope, receive, wrapped)


def objective(name="bench", **settings):
    return SLO(name, objective=0.999, window="30d", **settings)


def base_http(inner):
    async def dispatch(request, call_next):
        return await call_next(request)

    return BaseHTTPMiddleware(inner, dispatch)


def idempotency(inner, **settings):
    return IdempotencyMiddleware(
        inner, store=MemoryStore(), principal=lambda scope: "ann", methods={"GET", "POST"}, **settings
    )


def idempotency_by_path(inner):
    return idempotency(inner, paths=["/orders/{id}", "/payments"], required=["/payments"])


# Name, layer, headers of the request, and the bound; None for others' layers.
ROWS = (
    ("SLIMiddleware, one objective", lambda inner: SLIMiddleware(inner, [objective()]), HEADERS, MOST),
    (
        "SLIMiddleware, two objectives of a route, one with a threshold",
        lambda inner: SLIMiddleware(
            inner, [objective(route="/orders/{id}"), objective(route="/orders/{id}", latency_threshold=0.3)]
        ),
        HEADERS,
        MOST,
    ),
    ("DeadlineMiddleware, a request without a deadline", DeadlineMiddleware, HEADERS, MOST),
    ("DeadlineMiddleware, a request with one", DeadlineMiddleware, TIMED, MOST),
    (
        "DeadlineMiddleware, a request with one, for all of the answer",
        lambda inner: DeadlineMiddleware(inner, covers="answer"),
        TIMED,
        MOST,
    ),
    (
        "LoadSheddingMiddleware",
        lambda inner: LoadSheddingMiddleware(inner, ConcurrencyLimiter("bench", limit=100)),
        HEADERS,
        MOST,
    ),
    (
        "LoadSheddingMiddleware, a limit that learns",
        lambda inner: LoadSheddingMiddleware(inner, ConcurrencyLimiter("bench", limit=Aimd())),
        HEADERS,
        MOST,
    ),
    ("IdempotencyMiddleware, a request without a key", idempotency, HEADERS, PASSED),
    ("IdempotencyMiddleware, the same where paths and required are set", idempotency_by_path, HEADERS, None),
    ("Starlette's BaseHTTPMiddleware", base_http, HEADERS, None),
    ("opentelemetry-instrumentation-asgi, without an SDK", OpenTelemetryMiddleware, HEADERS, None),
)


def deep(layer):
    wrapped = app
    for _ in range(DEEP):
        wrapped = layer(wrapped)
    return wrapped


async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message):
    pass


async def seconds_of(wrapped, headers):
    scopes = [
        {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": "GET", "scheme": "http", "path": "/orders/7", "raw_path": b"/orders/7",
            "query_string": b"", "root_path": "", "headers": headers,
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
        }
        for _ in repeat(None, REQUESTS)
    ]  # fmt: skip
    began = perf_counter()
    for scope in scopes:
        await wrapped(scope, receive, send)
    return perf_counter() - began


async def ratios(rows, rounds):
    idle = deep(WrapsSend)
    subjects = [(deep(layer), headers) for _, layer, headers, _ in rows]
    found = [[] for _ in subjects]
    for number in range(rounds + 2):
        bare, nothing = await seconds_of(app, HEADERS), await seconds_of(idle, HEADERS)
        for ratio, (wrapped, headers) in zip(found, subjects, strict=True):
            took = await seconds_of(wrapped, headers)
            if number >= 2 and nothing > bare:
                ratio.append((took - bare) / (nothing - bare))
        gc.collect(0)
    return [median(ratio) for ratio in found]


def main():
    parser = argparse.ArgumentParser(description="What a layer around an ASGI application costs.")
    parser.add_argument("--short", action="store_true", help="fewer rounds, and layers of this package only")
    parser.add_argument("--margin", type=float, default=0.0, help="share by which a bound may be missed")
    parser.add_argument("--only", action="append", default=[], help="rows whose name has this in it")
    asked = parser.parse_args()
    rows = [
        row
        for row in ROWS
        if (row[3] is not None or not asked.short)
        and (not asked.only or any(word in row[0] for word in asked.only))
    ]
    gc.disable()
    measured = asyncio.run(ratios(rows, FEWER if asked.short else ROUNDS))
    missed = False
    print("Cost of a layer, in layers that wrap send and do nothing:\n")
    for (name, _, _, most), ratio in zip(rows, measured, strict=True):
        bound = HELD.get(name, most) if asked.short else most
        misses = bound is not None and ratio > bound * (1 + asked.margin)
        missed = missed or misses
        text = "" if bound is None else f"  at most {bound:g}" + (": missed" if misses else "")
        print(f"{name:64}{ratio:7.1f}{text}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
