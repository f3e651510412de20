"""One test body for httpx and httpx2, each on threads, asyncio and trio."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any, Self

from tests.runtimes import Runtime

from resilience.integrations.httpx import resilient


async def at_some_pace(attempt: Callable[[float], Awaitable[None]]) -> None:
    """
    Run what takes a time that must be long for the machine and short for a test: if it fails, with a longer one.

    What is to be shown has to hold at every pace; how long the machine takes beside it may not matter.
    """
    for seconds in (0.2, 0.8):
        try:
            await attempt(seconds)
        except Exception:
            continue
        return
    await attempt(3.2)


class Client:
    """A client of either colour, awaited in both."""

    def __init__(self, web: "Web", inner: Any) -> None:
        self.web = web
        self.inner = inner

    async def __aenter__(self) -> Self:
        await self.web.do(self.inner, "__aenter__", "__enter__")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.web.do(self.inner, "__aexit__", "__exit__", None, None, None)

    async def request(self, method: str, url: str, **kwargs: Any) -> Any:
        return await self.web.do(self.inner, "request", "request", method, url, **kwargs)

    async def get(self, url: str, **kwargs: Any) -> Any:
        return await self.request("GET", url, **kwargs)

    async def send(self, request: Any, **kwargs: Any) -> Any:
        return await self.web.do(self.inner, "send", "send", request, **kwargs)

    @asynccontextmanager
    async def stream(self, method: str, url: str, **kwargs: Any) -> AsyncGenerator[Any, None]:
        response = await self.send(self.inner.build_request(method, url, **kwargs), stream=True)
        try:
            yield response
        finally:
            await self.web.do(response, "aclose", "close")

    @property
    def pool(self) -> list[Any]:
        transport = self.inner._transport
        transport = getattr(transport, "_wrapped", transport)
        connections: list[Any] = transport._pool.connections
        return connections

    @property
    def busy(self) -> int:
        """How many connections of its pool are in use."""
        return sum(not (connection.is_idle() or connection.is_closed()) for connection in self.pool)


class Web:
    """
    Makes clients of one library for one runtime.

    Attributes:
        lib: ``httpx`` or ``httpx2``.
        runtime: Where the test body runs.

    """

    def __init__(self, lib: ModuleType, runtime: Runtime) -> None:
        self.lib = lib
        self.runtime = runtime
        self.is_async = runtime.name != "sync"

    async def do(self, on: Any, in_task: str, on_thread: str, *args: Any, **kwargs: Any) -> Any:
        if self.is_async:
            return await getattr(on, in_task)(*args, **kwargs)
        return getattr(on, on_thread)(*args, **kwargs)

    def bare(self, **options: Any) -> Any:
        kind = self.lib.AsyncClient if self.is_async else self.lib.Client
        return kind(**{"trust_env": False, "timeout": 5.0, **options})

    def transport(self, **options: Any) -> Any:
        kind = self.lib.AsyncHTTPTransport if self.is_async else self.lib.HTTPTransport
        return kind(**{"trust_env": False, **options})

    def client(self, policy: Any, *, settings: dict[str, Any] | None = None, **options: Any) -> Client:
        return Client(self, resilient(self.bare(**options), policy, **(settings or {})))

    async def read(self, response: Any) -> bytes:
        body: bytes = await self.do(response, "aread", "read")
        return body

    async def chunks(self, response: Any) -> AsyncIterator[bytes]:
        if self.is_async:
            async for chunk in response.aiter_raw():
                yield chunk
        else:
            for chunk in response.iter_raw():
                yield chunk

    def body(self, parts: Iterable[bytes]) -> Any:
        """Return a generator of the client's colour."""

        async def in_task() -> AsyncGenerator[bytes, None]:
            for part in parts:
                yield part

        return in_task() if self.is_async else (part for part in parts)
