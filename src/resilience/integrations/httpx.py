"""
Policies around the clients of httpx and httpx2: one implementation, two families of classes.

    client = resilient(httpx2.AsyncClient(base_url="https://inventory"), inventory)
    client = httpx.Client(transport=ResilientTransport(inventory, wrapped=httpx.HTTPTransport()))

Neither library is imported here: whichever the client, the transport or the request is of is in use.
"""

from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, Unpack

from resilience import ConfigError
from resilience.errors import Problem
from resilience.integrations._http_exchange import RESEND_COUNT, library_of
from resilience.integrations._http_guard import Guard, Per, Policies
from resilience.integrations._http_request import IDEMPOTENT_METHODS, BodyGoneError
from resilience.integrations._http_settings import HttpOptions, HttpSettings
from resilience.integrations._http_verdict import UNSENT, http_verdict

__all__ = [
    "IDEMPOTENT_METHODS",
    "UNSENT",
    "AsyncResilientTransport",
    "BodyGoneError",
    "HttpSettings",
    "ResilientTransport",
    "async_request_hook",
    "http_verdict",
    "request_hook",
    "resilient",
]

if TYPE_CHECKING:
    import httpx
    import httpx2

    class _Base(httpx.BaseTransport, httpx2.BaseTransport):
        def handle_request(self, request: Any) -> Any: ...

    class _AsyncBase(httpx.AsyncBaseTransport, httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: Any) -> Any: ...

else:
    # Clients ask a transport for its methods, not for its class.
    _Base = _AsyncBase = object

C = TypeVar("C")


class ResilientTransport(_Base):
    """
    Send each request through policies, and then through the transport *wrapped*: for sync clients.

    A redirect, or a further leg of an authentication, is a request of its own. What is judged bad is said in
    `http_verdict`; what may be repeated, and what travels in headers, in `HttpSettings`.

    Args:
        policy: A policy or pipeline. With ``per="host"`` each host gets a copy of it; it may be a callable
            that makes one there, or a `Keyed` without ``key=``. Policies without a classifier judge by
            `http_verdict`.
        wrapped: What sends: a transport of httpx or httpx2.
        per: ``"host"`` for policies of its own for each scheme, host and port, at most 10 000 of them (as
            many as the `Keyed` says); None for one set. Default None.
        settings: The fields of `HttpSettings`.

    Raises:
        ConfigError: A setting is wrong, *wrapped* is no sync transport, or *policy* holds a `Cache` or a
            `Fallback`, which belong around the function that reads the response.

    """

    __slots__ = ("_guard", "_wrapped")

    def __init__(
        self, policy: Policies, *, wrapped: Any, per: Per = None, **settings: Unpack[HttpOptions]
    ) -> None:
        guard = Guard(policy, per, HttpSettings(**settings))
        self._around(guard, wrapped)
        guard.warn_if_stacked(wrapped)

    def _around(self, guard: Guard, wrapped: Any) -> Self:
        _check_wrapped(wrapped, "handle_request", "a sync transport, such as HTTPTransport()")
        self._guard = guard
        self._wrapped = wrapped
        return self

    def handle_request(self, request: Any) -> Any:
        """Send one request, as often as the policies say, and return a response."""
        return self._guard.call(request, self._wrapped)

    def close(self) -> None:
        """Close the transport inside."""
        self._wrapped.close()

    def __enter__(self) -> Self:
        self._wrapped.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self._wrapped.__exit__(kind, error, trace)

    if not TYPE_CHECKING:  # so that type checkers refuse it as well

        async def __aenter__(self) -> NoReturn:
            raise TypeError(_FOR_SYNC)

        async def handle_async_request(self, request: Any) -> NoReturn:  # noqa: ARG002  # it refuses every one
            """Refuse: an async client needs the other one."""
            raise TypeError(_FOR_SYNC)


class AsyncResilientTransport(_AsyncBase):
    """
    Send each request through policies, and then through the transport *wrapped*: for async clients.

    Under asyncio and trio. All else is as for `ResilientTransport`.

    Args:
        policy: A policy or pipeline, or what makes one for each host: see `ResilientTransport`.
        wrapped: What sends: an async transport of httpx or httpx2.
        per: ``"host"`` for policies of its own for each scheme, host and port.
        settings: The fields of `HttpSettings`.

    Raises:
        ConfigError: A setting is wrong, *wrapped* is no async transport, or *policy* does not fit.

    """

    __slots__ = ("_guard", "_wrapped")

    def __init__(
        self, policy: Policies, *, wrapped: Any, per: Per = None, **settings: Unpack[HttpOptions]
    ) -> None:
        guard = Guard(policy, per, HttpSettings(**settings))
        self._around(guard, wrapped)
        guard.warn_if_stacked(wrapped)

    def _around(self, guard: Guard, wrapped: Any) -> Self:
        _check_wrapped(wrapped, "handle_async_request", "an async transport, such as AsyncHTTPTransport()")
        self._guard = guard
        self._wrapped = wrapped
        return self

    async def handle_async_request(self, request: Any) -> Any:
        """Send one request, as often as the policies say, and return a response."""
        return await self._guard.acall(request, self._wrapped)

    async def aclose(self) -> None:
        """Close the transport inside."""
        await self._wrapped.aclose()

    async def __aenter__(self) -> Self:
        await self._wrapped.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await self._wrapped.__aexit__(kind, error, trace)

    if not TYPE_CHECKING:  # so that type checkers refuse it as well

        def __enter__(self) -> NoReturn:
            raise TypeError(_FOR_ASYNC)

        def handle_request(self, request: Any) -> NoReturn:  # noqa: ARG002  # it refuses every one
            """Refuse: a sync client needs the other one."""
            raise TypeError(_FOR_ASYNC)


_FOR_SYNC = "ResilientTransport is for sync clients: use AsyncResilientTransport"
_FOR_ASYNC = "AsyncResilientTransport is for async clients: use ResilientTransport"


def resilient(client: C, policy: Policies, *, per: Per = None, **settings: Unpack[HttpOptions]) -> C:
    """
    Put policies around all transports of *client*, those of its proxies and mounts too; return the client.

    The client keeps its settings: proxies of the environment, certificates, limits, HTTP/2. Do it once,
    before the client is used.

    Args:
        client: A ``Client`` or ``AsyncClient`` of httpx or httpx2.
        policy: A policy or pipeline, or what makes one for each host: see `ResilientTransport`.
        per: ``"host"`` for policies of its own for each scheme, host and port.
        settings: The fields of `HttpSettings`.

    Raises:
        ConfigError: *client* is no such client, or has policies already, or a setting is wrong.

    """
    given: Any = client
    if library_of(client) is None or not hasattr(given, "_transport") or not hasattr(given, "_mounts"):
        rule = "must be a Client or AsyncClient of httpx or httpx2"
        raise ConfigError("resilient", [Problem("client", client, rule)])
    transports = [given._transport, *(each for each in given._mounts.values() if each is not None)]
    if any(isinstance(each, (ResilientTransport, AsyncResilientTransport)) for each in transports):
        rule = "must not have policies already: two layers would multiply their attempts"
        raise ConfigError("resilient", [Problem("client", client, rule)])
    guard = Guard(policy, per, HttpSettings(**settings))
    kind: Any = AsyncResilientTransport if hasattr(given, "aclose") else ResilientTransport
    # One and the same transport may be mounted more than once.
    around = {id(each): kind.__new__(kind)._around(guard, each) for each in transports}
    for each in transports:
        guard.warn_if_stacked(each)
    given._transport = around[id(given._transport)]
    given._mounts = {pattern: around.get(id(each)) for pattern, each in given._mounts.items()}
    return client


def request_hook(span: Any, request: Any) -> None:
    """
    Set ``http.request.resend_count`` on a span of opentelemetry-instrumentation-httpx.

    It is the number of times that the logical request had been sent before: by retries and hedges,
    redirects and further legs of an authentication. The first one has none, as the conventions say. Pass it
    as ``HTTPXClientInstrumentor().instrument(request_hook=request_hook)``.
    """
    extensions: dict[str, Any] = getattr(request, "extensions", None) or {}
    count = extensions.get(RESEND_COUNT, 0)
    if count:
        with suppress(Exception):  # a span never breaks the request that it watches
            span.set_attribute("http.request.resend_count", count)


async def async_request_hook(span: Any, request: Any) -> None:
    """Set ``http.request.resend_count``, as `request_hook` does, for async clients."""
    request_hook(span, request)


def _check_wrapped(wrapped: object, method: str, kind: str) -> None:
    is_ours = isinstance(wrapped, (ResilientTransport, AsyncResilientTransport))
    if is_ours or not callable(getattr(wrapped, method, None)):
        raise ConfigError("ResilientTransport", [Problem("wrapped", wrapped, f"must be {kind}")])
