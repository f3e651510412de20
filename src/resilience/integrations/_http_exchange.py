"""One request through its policies: what each attempt sends, and what comes back."""

import itertools
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import cache
from typing import Any, Final

from resilience import _clock
from resilience.deadline import current_deadline, encode_timeout
from resilience.errors import DeadlineExceededError
from resilience.integrations._http_idempotency import field_for
from resilience.integrations._http_request import Body, Replay, Watched
from resilience.integrations._http_response import AsyncIncoming, Drain, SyncIncoming, Waits
from resilience.integrations._http_settings import HttpSettings
from resilience.integrations._http_verdict import LIBRARIES, UNSENT, fields_of, kinds
from resilience.outcome import CallContext
from resilience.priority import Priority, current_priority
from resilience.rate_limiter import RateLimiter
from resilience.streaming import Streamed
from resilience.typing import Seconds

SENDS: Final = "resilience.sends"
"""Key of ``request.extensions``: counts how often one logical request was sent, redirects included."""

RESEND_COUNT: Final = "resilience.resend_count"
"""Key of ``request.extensions`` of what is sent: how often the logical request was sent before, from 0."""

_REFUSED_STREAM: Final = 7


class Family:
    """The classes of httpx or of httpx2 that requests and responses are made of."""

    __slots__ = ("incoming", "incoming_async", "library", "watched")

    def __init__(self, library: Any) -> None:
        sync, asynchronous = library.SyncByteStream, library.AsyncByteStream
        self.library = library
        self.watched: Callable[[Any], Watched] = type("WatchedStream", (Watched, sync, asynchronous), {})
        self.incoming: Callable[..., SyncIncoming] = type("ResponseStream", (SyncIncoming, sync), {})
        self.incoming_async: Callable[..., AsyncIncoming] = type(
            "AsyncResponseStream", (AsyncIncoming, asynchronous), {}
        )


@cache
def family_named(name: str) -> Family:
    """Return the classes of the library called *name*, which is in use."""
    return Family(sys.modules[name])


def library_of(thing: object) -> str | None:
    """Return which library *thing* is of, by its class; None if it is of neither."""
    # Not by what `import httpx` gives: httpx2 may go by that name too.
    for base in type(thing).__mro__:
        root = base.__module__.partition(".")[0]
        if root in LIBRARIES:
            return root
    return None


class Exchange:
    """
    One request, over all its attempts.

    Attributes:
        context: What policies are told about it.
        until: The caller's deadline, or None.

    """

    __slots__ = (
        "_body",
        "_family",
        "_key_field",
        "_limiters",
        "_own_waits",
        "_request",
        "_sends",
        "_settings",
        "context",
        "until",
    )

    def __init__(
        self,
        request: Any,
        settings: HttpSettings,
        limiters: Callable[[], Collection[RateLimiter]],
        name: str,
        origin: str,
    ) -> None:
        library = library_of(request)
        if library is None:
            raise TypeError(f"a request of httpx or httpx2 is needed, got {request!r}")
        self._family = family_named(library)
        self._request = request
        self._settings = settings
        self._limiters = limiters
        self._body = Body(request.stream, self._family.library, self._family.watched, name)
        self._own_waits: dict[str, Seconds | None] = dict(request.extensions.get("timeout") or {})
        # Redirects and the legs of an authentication carry it on.
        self._sends: itertools.count[int] = request.extensions.setdefault(SENDS, itertools.count())
        self.until = current_deadline()
        key, self._key_field = field_for(request, settings, origin)
        self.context = self._context(key)

    def _context(self, key: str | None) -> CallContext:
        request, replay = self._request, self._body.replay
        idempotent: bool | None = request.method in self._settings.idempotent_methods
        if replay is Replay.ONCE:
            idempotent, key = False, None
        elif replay is Replay.IN_TURN and idempotent:
            idempotent = None  # again, if need be, but not beside itself
        return CallContext(operation=request.method, idempotent=idempotent, idempotency_key=key)

    def send(self, request: Any, transport: Any) -> Any:
        """Make one attempt, on this thread."""
        waits, attempt = self._attempt(request)
        try:
            response = transport.handle_request(attempt)
        except Exception as error:
            self._note(error)
            if waits.ended(error):
                raise DeadlineExceededError(started=True) from error
            raise
        finally:
            self._body.end()
        return self._received(response, waits, self._family.incoming)

    async def asend(self, request: Any, transport: Any) -> Any:
        """Make one attempt, in this task."""
        waits, attempt = self._attempt(request)
        try:
            response = await transport.handle_async_request(attempt)
        except Exception as error:
            self._note(error)
            if waits.ended(error):
                raise DeadlineExceededError(started=True) from error
            raise
        finally:
            self._body.end()
        return self._received(response, waits, self._family.incoming_async)

    def deliver(self, held: Streamed[Any]) -> Any:
        """Return the response to the client, which reads and closes it."""
        held.value.stream.hand_over(held, self.until)
        return held.value

    def _attempt(self, request: Any) -> tuple[Waits, Any]:
        """Return what one attempt sends: a copy, for the client may send the request itself again."""
        until = current_deadline()
        left = None if until is None else until - _clock.monotonic()
        if left is not None and left <= 0:
            raise DeadlineExceededError("deadline exceeded: not started")
        waits = Waits(self._own_waits, until)
        headers, settings = request.headers.copy(), self._settings
        if left is not None and settings.timeout_header is not None:
            headers.setdefault(settings.timeout_header, encode_timeout(left))
        priority = current_priority()
        if priority is not Priority.NORMAL and settings.priority_header is not None:
            headers.setdefault(settings.priority_header, priority.value)
        if settings.idempotency_header is not None:
            if self._key_field is None:  # one that came with a redirect from elsewhere stays behind
                headers.pop(settings.idempotency_header, None)
            else:
                headers.setdefault(settings.idempotency_header, self._key_field)
        self._body.begin()
        extensions = {**request.extensions, RESEND_COUNT: next(self._sends)}
        if waits.mapping:
            extensions["timeout"] = waits.mapping
        make = self._family.library.Request
        attempt = make(
            request.method, request.url, headers=headers, stream=self._body.stream, extensions=extensions
        )
        return waits, attempt

    def _note(self, error: Exception) -> None:
        if _was_refused(error) and not self._body.is_gone:
            error.unsent = True  # type: ignore[attr-defined]  # what `http_verdict` looks at

    def _received(self, response: Any, waits: Waits, incoming: Callable[..., Any]) -> Any:
        is_empty = self._request.method == "HEAD" or response.status_code in {204, 304}
        drain = Drain(self._settings.drain_bytes, self._settings.drain_seconds)
        response.stream = incoming(response, waits, drain, is_empty=is_empty)
        with suppress(Exception):  # the answer is there: who cannot take the server's word does not lose it
            limiters = self._limiters()
            if limiters and (fields := fields_of(response)):
                for limiter in limiters:
                    limiter.follow(**fields.terms)
        return response


def _was_refused(error: Exception) -> bool:
    """Whether an HTTP/2 server said that it has not looked at the request: RFC 9113, 8.7 and 6.8."""
    if kinds(error) & UNSENT or "RemoteProtocolError" not in kinds(error):
        return False
    cause = error.__cause__
    event = cause.args[0] if cause is not None and cause.args else None
    if getattr(event, "error_code", None) == _REFUSED_STREAM and getattr(event, "remote_reset", False):
        return True
    return type(event).__name__ == "ConnectionTerminated" and getattr(event, "last_stream_id", None) == 0
