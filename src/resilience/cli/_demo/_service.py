"""
The service: an ASGI application that asks the dependency for each checkout.

Both sides are this program, with the same middlewares; only the client differs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import httpx
from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import generate_latest

from resilience import CircuitBreaker, ConcurrencyLimiter, Pipeline, RejectedError, telemetry
from resilience.cli._demo._child import Line
from resilience.cli._demo._plan import (
    ATTEMPT_TIMEOUT,
    ATTEMPTS,
    HOST,
    OBJECTIVE,
    PATIENCE,
    PAUSE,
    TOTAL_TIMEOUT,
)
from resilience.cli._demo._serving import answer, serving
from resilience.integrations.asgi import DeadlineMiddleware, LoadSheddingMiddleware, SLIMiddleware
from resilience.integrations.httpx import resilient
from resilience.slo import SLO
from resilience.typing import Seconds

MOST_AT_ONCE: Final = 250
"""Requests that the service takes at once: more than the patience of its users ever lets it have."""

Ask = Callable[[], Awaitable[bool]]


def http_client(base_url: str, timeout: Seconds | None = None) -> httpx.AsyncClient:
    """Return a client for the loopback interface, where the environment's proxies are of no use."""
    return httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=timeout)


def naive_client(base_url: str) -> Ask:
    """Return a function that asks as people often write it: again, a moment later, whatever went wrong."""
    client = http_client(base_url, timeout=ATTEMPT_TIMEOUT)

    async def ask() -> bool:
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE)
            try:
                response = await client.get("/stock")
            except httpx.TransportError:
                continue
            if response.status_code < 500:
                return True
        return False

    return ask


def resilient_client(base_url: str, inventory: Pipeline) -> Ask:
    """Return a function that asks through the golden path."""
    client = resilient(http_client(base_url), inventory)

    async def ask() -> bool:
        try:
            response = await client.get("/stock")
        except (httpx.TransportError, RejectedError, TimeoutError):
            return False
        return response.status_code < 500

    return ask


class Service:
    """The application, and what can be seen of its policies."""

    __slots__ = ("_ask", "_breaker", "_limiter", "_slo", "app")

    def __init__(self, side: str, base_url: str) -> None:
        self._breaker: CircuitBreaker | None = None
        self._limiter: ConcurrencyLimiter | None = None
        if side == "naive":
            self._ask = naive_client(base_url)
        else:
            inventory = Pipeline.standard("inventory", total_timeout=TOTAL_TIMEOUT)
            self._ask = resilient_client(base_url, inventory)
            for policy in inventory.policies:
                if isinstance(policy, CircuitBreaker):
                    self._breaker = policy
                elif isinstance(policy, ConcurrencyLimiter):
                    self._limiter = policy
        self._slo = SLO(
            "checkout",
            objective=OBJECTIVE,
            window="30d",
            route="/checkout",
            latency_threshold=PATIENCE,
            minimum_events=20,
        )
        app: Any = LoadSheddingMiddleware(
            self._serve, ConcurrencyLimiter("requests", limit=MOST_AT_ONCE), exempt={"/metrics"}
        )
        app = DeadlineMiddleware(app, default=PATIENCE)
        self.app: Any = SLIMiddleware(app, slos=[self._slo])

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002  # every ASGI application takes it
        if scope["path"] == "/metrics":
            await answer(send, 200, generate_latest(), b"text/plain; version=0.0.4; charset=utf-8")
        elif scope["path"] != "/checkout":
            await answer(send, 404, b"not found")
        elif await self._ask():
            await answer(send, 200, b"bought")
        else:
            await answer(send, 503, b"sorry")

    def report(self) -> dict[str, object]:
        """Return what its objective and its policies say."""
        report: dict[str, object] = {
            "good": self._slo.good_events,
            "bad": self._slo.bad_events,
            "burn": self._slo.burn_rate(),
        }
        if self._breaker is not None:
            report["breaker"] = self._breaker.state.value
        if self._limiter is not None:
            report["limit"] = self._limiter.limit
            report["inflight"] = self._limiter.inflight
            report["queued"] = self._limiter.queued
        return report


async def run(line: Line, settings: Mapping[str, Any]) -> None:
    """Serve until the line ends."""
    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    telemetry.configure(call_metrics=True)
    service = Service(settings["side"], f"http://{HOST}:{settings['dependency']}")
    async with serving(service.app, settings["port"]) as (port, task):
        line.say(port=port)
        reports = asyncio.create_task(line.say_often(service.report))
        task.add_done_callback(lambda _: reports.cancel())
        async for command in line.commands():
            if command["do"] == "expose":
                line.say(exposition=generate_latest().decode())
        reports.cancel()
