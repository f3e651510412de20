"""
A web application that says how good it is, keeps its callers' deadlines, and refuses what it cannot serve.

    python examples/asgi_app.py

It starts uvicorn on a free port of this machine, sends itself a few requests, prints what came of them, and
ends by itself.
"""

import asyncio
import socket
from collections import Counter

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from resilience import ConcurrencyLimiter, remaining
from resilience.integrations.asgi import DeadlineMiddleware, LoadSheddingMiddleware, SLIMiddleware
from resilience.slo import SLO

WORK = 0.1  # seconds that a report takes

orders = SLO("orders", objective=0.99, window="30d", route="/orders/{id}", minimum_events=20)
reports = SLO(
    "reports", objective=0.9, window="30d", route="/reports", latency_threshold=0.5, minimum_events=20
)
limiter = ConcurrencyLimiter("requests", limit=10)


async def order(request: Request) -> JSONResponse:
    """Fail for one order in fifty."""
    number = int(request.path_params["id"])
    return JSONResponse({"id": number}, status_code=500 if number % 50 == 0 else 200)


async def report(request: Request) -> JSONResponse:  # noqa: ARG001  # every handler of Starlette takes it
    """Take some time, and say how much the caller leaves."""
    await asyncio.sleep(WORK)
    return JSONResponse({"left": remaining()})


app = Starlette(routes=[Route("/orders/{id:int}", order), Route("/reports", report)])
guarded = LoadSheddingMiddleware(app, limiter, exempt={"/healthz"})
guarded = DeadlineMiddleware(guarded, cap=10.0)
guarded = SLIMiddleware(guarded, slos=[orders, reports])  # outermost: it counts what the others refuse


async def calls(client: httpx.AsyncClient) -> None:
    """Send requests and print how they were answered."""
    answers = Counter([(await client.get(f"/orders/{number}")).status_code for number in range(1, 101)])
    print(f"100 orders, one after the other     {dict(answers)}")

    together = await asyncio.gather(*(client.get("/reports") for _ in range(30)))
    answers = Counter(answer.status_code for answer in together)
    refused = next(answer for answer in together if answer.status_code == 503)
    print(f"30 reports at once                  {dict(answers)}")
    print(f"  a refused one is told             retry-after: {refused.headers['retry-after']}")

    answer = await client.get("/reports", headers={"X-Request-Timeout": "2S"})
    print(
        f"a report for one who waits 2 s      {answer.status_code}, with {answer.json()['left']:.1f} s left"
    )
    answer = await client.get("/reports", headers={"X-Request-Timeout": "20m"})
    print(f"a report for one who waits 20 ms    {answer.status_code} {answer.json()['title']}")


def say(slo: SLO) -> None:
    """Print what an objective has seen."""
    burn = slo.burn_rate()
    rate = "unknown" if burn is None else f"{burn:.1f}"
    print(f"{slo.name:9} {slo.good_events:3} good, {slo.bad_events:2} bad; burn rate since the start {rate}")


async def main() -> None:
    """Serve, call, and stop."""
    # Said to be TCP, so that asyncio sends small answers at once; and it listens, so that who is early waits.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(guarded, log_level="warning", ws="none"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        port = listening.getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10.0) as client:
            await calls(client)
        server.should_exit = True
        await serving
    print()
    for slo in (orders, reports):
        say(slo)
    print("At 1.0 the budget would last just as long as the window.")


if __name__ == "__main__":
    asyncio.run(main())
