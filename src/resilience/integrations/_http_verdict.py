"""What an answer, or the lack of one, says about an HTTP server."""

import time
from collections.abc import Mapping
from typing import Final

from resilience.outcome import CallContext, Outcome, Verdict, any_error_is_bad
from resilience.rates import RateLimitFields, parse_ratelimit

LIBRARIES: Final = frozenset({"httpx", "httpx2"})

UNSENT: Final = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"})
"""
Errors that prove that no byte of the request has left: there was no connection to send it on. A `ProxyError`
is raised while the tunnel is asked for, before there is one.
"""

_OUR_OWN: Final = frozenset(
    {"LocalProtocolError", "UnsupportedProtocol", "InvalidURL", "StreamError", "CookieConflict"}
)
_CONFLICT: Final = 409
_TOO_MANY_REQUESTS: Final = 429
_REQUEST_TIMEOUT: Final = 408
_SERVER_ERROR: Final = 500
_UNAVAILABLE: Final = 503
_GATEWAY_TIMEOUT: Final = 504


def kinds(error: BaseException) -> frozenset[str]:
    """Return the names of httpx's or httpx2's classes that *error* is an instance of."""
    bases = [base for base in type(error).__mro__ if base.__module__.partition(".")[0] in LIBRARIES]
    return frozenset(base.__name__ for base in bases)


def fields_of(response: object) -> RateLimitFields:
    """Return what the headers of *response* say about the server's rate."""
    headers: Mapping[str, str] = getattr(response, "headers", None) or {}
    return parse_ratelimit(headers, wall=time.time())


def http_verdict(outcome: Outcome[object], context: CallContext) -> Verdict:
    """
    Judge a response by its status, and an error of httpx or httpx2 by what it proves.

    | outcome | verdict |
    |---|---|
    | 429; 503 with ``Retry-After``; 409 with it, if the request has an idempotency key | THROTTLED |
    | 504, and every timeout | TIMED_OUT |
    | any status with ``Idempotent-Replayed: true``: an answer of old, which no repetition changes | GOOD |
    | 408, any other 5xx, any other error of the network, the server or a proxy | BAD |
    | any other status, 4xx among them: the server has answered | GOOD |
    | an error of the caller: a wrong URL, a body that is shorter than declared | IGNORED |
    | a refusal by an inner policy, a deadline that passed before the request began | IGNORED |

    ``Retry-After`` becomes the outcome's ``retry_after``, in seconds, also where it is a date; for a
    throttled answer without one, the time until the reset of ``RateLimit`` or ``X-RateLimit-Reset``. An
    error that proves that the request was never sent (`UNSENT`) makes the outcome ``unsent``.

    Works on whatever has a ``status_code``, and on errors with such a ``response``, as raised by
    ``raise_for_status()``: so it may also judge functions that make requests.

    Example:
        >>> from types import SimpleNamespace
        >>> http_verdict(Outcome(SimpleNamespace(status_code=404)), CallContext())
        <Verdict.GOOD: 'good'>

    """
    error = outcome.error
    response = outcome.value if error is None else getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(status, int):
        return _judge_status(outcome, context, status, response)
    if error is None:
        return Verdict.GOOD
    names = kinds(error)
    if names & UNSENT or getattr(error, "unsent", False) is True:
        outcome.unsent = True
    if names & _OUR_OWN:
        return Verdict.IGNORED
    if "TimeoutException" in names:
        return Verdict.TIMED_OUT
    return any_error_is_bad(outcome, context)


def _is_replayed(response: object) -> bool:
    headers: Mapping[str, str] = getattr(response, "headers", None) or {}
    return headers.get("Idempotent-Replayed", "").strip().lower() == "true"


def _judge_status(outcome: Outcome[object], context: CallContext, status: int, response: object) -> Verdict:
    if status < _SERVER_ERROR and status not in {_REQUEST_TIMEOUT, _CONFLICT, _TOO_MANY_REQUESTS}:
        return Verdict.GOOD
    if _is_replayed(response):
        return Verdict.GOOD
    fields = fields_of(response)
    if status == _CONFLICT:
        # The first request with this key is still at work: neither a failure nor yet an answer.
        if context.idempotency_key is None or fields.retry_after is None:
            return Verdict.GOOD
        throttled = True
    else:
        throttled = status == _TOO_MANY_REQUESTS or (
            status == _UNAVAILABLE and fields.retry_after is not None
        )
    outcome.retry_after = fields.pause if throttled else fields.retry_after
    if throttled:
        return Verdict.THROTTLED
    return Verdict.TIMED_OUT if status == _GATEWAY_TIMEOUT else Verdict.BAD
