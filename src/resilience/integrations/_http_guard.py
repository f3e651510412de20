"""The policies of one client, over all its transports."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, TypeAlias, cast

from resilience import ConfigError, ConfigWarning, Keyed, Pipeline, Policy, RateLimiter
from resilience.errors import Problem
from resilience.integrations._http_exchange import Exchange
from resilience.integrations._http_settings import HttpSettings
from resilience.integrations._http_verdict import http_verdict
from resilience.streaming import StreamedCalls

Policies: TypeAlias = Policy | Callable[[], Policy]
"""A policy, or what makes one."""

Per: TypeAlias = Literal["host"] | None

_NAME: Final = "http"
"""Name of policies that were given none."""


def origin_of(request: Any) -> str:
    """
    Return the scheme, host and port of a request, by which ``per="host"`` keeps policies apart.

    Example:
        >>> from types import SimpleNamespace
        >>> url = SimpleNamespace(scheme="https", host="inventory", port=None)
        >>> origin_of(SimpleNamespace(url=url))
        'https://inventory:443'

    """
    url = request.url
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return f"{url.scheme}://{url.host}:{port}"


class Guard:
    """
    The policies of one client, over all its transports.

    Attributes:
        policy: What every request goes through.
        settings: What is sent along, and what may be sent again.

    """

    __slots__ = ("_calls", "policy", "settings")

    def __init__(self, policy: Policies, per: Per, settings: HttpSettings) -> None:
        if per not in (None, "host"):  # a tuple: what was given may not be hashable
            raise _wrong("per", per, "must be 'host' or None")
        if per == "host":
            self.policy: Policy = _per_host(policy)
        elif isinstance(policy, Policy):
            self.policy = policy
        else:
            raise _wrong("policy", policy, "must be a policy; what makes one needs per='host'")
        self.settings = settings
        self._calls = StreamedCalls(self.policy, _NAME, classify=http_verdict)

    def call(self, request: Any, transport: Any) -> Any:
        """Send *request* through the policies and *transport*, on this thread."""
        exchange = self._exchange(request)

        def send(request: Any) -> Any:
            return exchange.send(request, transport)

        return exchange.deliver(self._calls.call(send, request, context=exchange.context))

    async def acall(self, request: Any, transport: Any) -> Any:
        """Send *request* through the policies and *transport*, in this task."""
        exchange = self._exchange(request)

        async def send(request: Any) -> Any:
            return await exchange.asend(request, transport)

        return exchange.deliver(await self._calls.acall(send, request, context=exchange.context))

    def warn_if_stacked(self, transport: object) -> None:
        """Warn of a transport that retries by itself inside policies that retry."""
        retries = getattr(getattr(transport, "_pool", None), "_retries", 0)
        if retries and any(part.traits.repeats for part in self.policy.parts):
            message = f"{self.policy.name}: the transport connects up to {1 + retries} times in every attempt"
            warnings.warn(message, ConfigWarning, stacklevel=3)  # of who made the client

    def _exchange(self, request: Any) -> Exchange:
        limiters, origin = lambda: self._limiters(request), origin_of(request)
        return Exchange(request, self.settings, limiters, self.policy.name, origin)

    def _limiters(self, request: Any) -> list[RateLimiter]:
        """Return the limiters in the way of *request* that follow what a server says."""
        found = _limiters_in(self.policy, request)
        return [limiter for limiter in found if not isinstance(limiter.settings.rate, (int, float))]


def _per_host(policy: Policies) -> Keyed[Policy]:
    if isinstance(policy, Keyed):
        keyed = cast("Keyed[Policy]", policy)
        if keyed.settings.key is None:
            keyed.reconfigure(key=origin_of)
        elif keyed.settings.key is not origin_of:
            raise _wrong("policy", keyed, "must be a Keyed without key=, since per='host' is its key")
        return keyed
    if isinstance(policy, Policy):
        return Keyed(factory=policy.copy, key=origin_of)
    if not callable(policy):
        rule = "must be a policy, of which each host gets a copy, a Keyed, or a callable that makes one"
        raise _wrong("policy", policy, rule)
    return Keyed(factory=policy, key=origin_of)


def _limiters_in(policy: Policy, request: Any) -> Iterator[RateLimiter]:
    if isinstance(policy, RateLimiter):
        yield policy
    elif isinstance(policy, Pipeline):
        for each in policy.policies:
            yield from _limiters_in(each, request)
    elif isinstance(policy, Keyed):
        keyed = cast("Keyed[Policy]", policy)
        key = keyed.settings.key
        # Not callable: the name of an argument, and what sends a request has one only.
        yield from _limiters_in(keyed[key(request) if callable(key) else request], request)


def _wrong(setting: str, value: object, rule: str) -> ConfigError:
    return ConfigError("ResilientTransport", [Problem(setting, value, rule)])
