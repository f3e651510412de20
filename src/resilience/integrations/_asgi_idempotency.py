"""One effect per key: repeated requests are answered with what the first one brought."""

import math
from collections.abc import Collection
from http import HTTPStatus
from typing import Final, Literal

from resilience.errors import (
    ConfigError,
    IdempotencyError,
    IdempotencyInProgressError,
    IdempotencyMismatchError,
    IdempotencyNotReplayableError,
)
from resilience.idempotency import (
    Cipher,
    IdempotencyLayer,
    IdempotencySettings,
    Replayed,
    Session,
    Store,
    lookup_key,
)
from resilience.integrations._asgi_idempotency_answer import KEPT_HEADERS, RELEASED, Recorded, replay
from resilience.integrations._asgi_idempotency_checks import is_size, problems_in
from resilience.integrations._asgi_idempotency_request import (
    ClientLeft,
    Fingerprint,
    Paths,
    Principal,
    Refusal,
    body_of,
    fingerprint_of,
    key_of,
    owner_of,
)
from resilience.integrations._asgi_messages import (
    ASGIApp,
    Receive,
    Scope,
    Send,
    send_problem,
)
from resilience.typing import Seconds

METHODS: Final = frozenset({"POST", "PATCH"})
"""Methods of which a repetition may have a second effect. Source: the IETF draft."""

PROBLEM_TYPES: Final = "/problems/idempotency/"


class IdempotencyMiddleware:
    """
    Carry out a request with an ``Idempotency-Key`` once, and answer its repetitions with what it brought.

    A key belongs to the caller that *principal* names, and to one method and path: no caller gets what
    another one was answered. The same key with another request is refused (422), and one whose first request
    is at work told to come again (409). A request without a key passes as it is, except where one is
    *required*.

    What that promises: with ``on_error="release"`` a request has its effect at least once, with ``"hold"`` at
    most once. Answers with a status of *release_statuses* give the key back in either case.

    The answer goes to the client as the application sends it, and is recorded beside. When its last part is
    sent it is stored already; a client that leaves meanwhile changes nothing. Work in the background after it
    is not part of it. Websockets and lifespan pass through.

    Args:
        app: The application.
        store: Where keys are kept: of `resilience.idempotency.stores`.
        principal: Returns, from the scope, who asks: a text, a whole number, bytes or a UUID; None if nobody
            knows, which is answered 400. The middleware belongs inside what authenticates.
        name: What keys are scoped to, and what telemetry calls it. Default ``"http"``.
        methods: Methods of which keys count. Default POST and PATCH (the IETF draft).
        paths: Templates of the paths on which keys count, such as ``"/orders/{id}"``. Default None: all.
        required: Whether a request without a key is answered 400; or the templates of the paths on which it
            is. Default False.
        header: Where a request says its key. Default ``Idempotency-Key``.
        syntax: ``"lenient"`` also takes keys without quotes, as most clients send them; ``"strict"`` only
            strings of RFC 9651. Default ``"lenient"``.
        ttl: Seconds for which an answer is kept, > 0. Default 86 400 (Stripe).
        lease: Seconds for which nobody takes over from a process that is not heard of, > 0; also how long an
            application that asks is not told at most that its client has left. Default 60.0.
        renew: Whether the lease is renewed while the application is at work. Default True.
        wait_for: Seconds to wait for the first request with the key before it is 409, >= 0. Default 0.0.
        on_error: ``"release"`` or ``"hold"``: what becomes of a key when the application fails, is cancelled
            or answers 5xx. Default ``"release"``.
        on_lease_expiry: ``"takeover"`` or ``"hold"``: what becomes of it when its process is gone. Default:
            takeover with ``on_error="release"``, else hold.
        fail_open: Whether a request is carried out without protection where the store fails. Default False:
            it is answered 503.
        retry_after: Most seconds to stay away, > 0, that a client is told with 409 and 503, rounded up; with
            409 the rest of the lease, if that is less. Default 1.0. Source: own; most requests end before.
        max_request_bytes: Longest body of a request with a key, >= 1; a longer one is answered 413. Default
            1 048 576. Source: own; nginx's ``client_max_body_size``.
        max_response_bytes: Longest answer that is kept, with its headers, >= 1. Of a longer one it is only
            kept that there was one. Default 262 144 (Granit).
        release_statuses: Statuses below 500 that give the key back. Default 401, 403, 404, 405, 408, 409,
            421, 422, 425 and 429: nothing was done.
        replay_headers: Further headers that a replay has, beside those that say what the answer is.
        fingerprint: Makes, from the scope and the body, what must be the same where the key is the same.
            Default: method, path, query, type of content and content.
        cipher: Encrypts answers at rest. Default None.
        problem_types: What the ``type`` of the problems that are sent begins with, a URI. Default
            ``/problems/idempotency/``.

    Attributes:
        layer: What counts how requests were answered.

    Raises:
        ConfigError: A setting is wrong; every problem is listed.

    Example:
        >>> from resilience.idempotency.stores import MemoryStore
        >>> async def app(scope, receive, send): ...
        >>> app = IdempotencyMiddleware(app, store=MemoryStore(), principal=lambda scope: scope["user"].id)

    """

    __slots__ = (
        "_fingerprint", "_header", "_is_strict", "_keep", "_methods", "_most", "_paths", "_principal",
        "_problem_types", "_released", "_required", "_retry_after", "app", "layer",
    )  # fmt: skip

    def __init__(
        self,
        app: ASGIApp,
        *,
        store: Store,
        principal: Principal,
        name: str = "http",
        methods: Collection[str] = METHODS,
        paths: Collection[str] | None = None,
        required: bool | Collection[str] = False,
        header: str = "Idempotency-Key",
        syntax: Literal["lenient", "strict"] = "lenient",
        ttl: Seconds = 86_400.0,
        lease: Seconds = 60.0,
        renew: bool = True,
        wait_for: Seconds = 0.0,
        on_error: Literal["release", "hold"] = "release",
        on_lease_expiry: Literal["takeover", "hold"] | None = None,
        fail_open: bool = False,
        retry_after: Seconds = 1.0,
        max_request_bytes: int = 1_048_576,
        max_response_bytes: int = 262_144,
        release_statuses: Collection[int] = RELEASED,
        replay_headers: Collection[str] = (),
        fingerprint: Fingerprint | None = None,
        cipher: Cipher | None = None,
        problem_types: str = PROBLEM_TYPES,
    ) -> None:
        problems = problems_in(
            principal=principal,
            methods=methods,
            paths=paths,
            required=required,
            header=header,
            syntax=syntax,
            retry_after=retry_after,
            max_request_bytes=max_request_bytes,
            max_response_bytes=max_response_bytes,
            release_statuses=release_statuses,
            replay_headers=replay_headers,
            fingerprint=fingerprint,
            problem_types=problem_types,
        )
        settings: IdempotencySettings | None = None
        try:
            settings = IdempotencySettings(
                ttl=ttl,
                lease=lease,
                renew=renew,
                wait_for=wait_for,
                on_error=on_error,
                on_lease_expiry=on_lease_expiry,
                fail_open=fail_open,
                max_value_bytes=max_response_bytes if is_size(max_response_bytes) else 1,
            )
        except ConfigError as error:
            problems += error.problems
        try:
            self.layer = IdempotencyLayer(name, store=store, settings=settings, codec="asgi", cipher=cipher)
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError("IdempotencyMiddleware", problems)
        self.app = app
        self._principal = principal
        self._methods = frozenset(methods)
        self._paths = None if paths is None else Paths(paths)
        self._required = _everywhere if required is True else Paths(required).match if required else None
        self._header = header.lower().encode()
        self._is_strict = syntax == "strict"
        self._retry_after = retry_after
        self._most = max_request_bytes
        self._released = frozenset(release_statuses)
        self._keep = frozenset(each.lower().encode() for each in (*KEPT_HEADERS, *replay_headers))
        self._fingerprint = fingerprint
        self._problem_types = problem_types

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in self._methods:
            name = self._header
            fields = [value for key, value in scope["headers"] if key == name]
            counts = fields or (self._required is not None and self._required(scope))
            if counts and (self._paths is None or self._paths.match(scope)):
                await self._guarded(fields, scope, receive, send)
                return
        app = self.app  # a name of this function: what is called as an attribute is looked up each time
        await app(scope, receive, send)

    async def _guarded(self, fields: list[bytes], scope: Scope, receive: Receive, send: Send) -> None:
        try:
            key = self._key(fields)
            owner = owner_of(scope, self._principal)
            body = await body_of(scope, receive, self._most)
            begun = await self._begin(key, owner, body, scope)
        except ClientLeft:
            return
        except Refusal as refusal:
            await self._refuse(send, refusal)
            return
        if isinstance(begun, Replayed):
            await replay(send, begun.content)
            return
        settings = self.layer.settings
        recorded = Recorded(
            begun,
            body,
            receive,
            send,
            keep=self._keep,
            released=self._released,
            most=settings.max_value_bytes,
            holds=settings.on_error == "hold",
            patience=settings.lease,
        )
        async with begun:
            with begun.work(key):
                await self.app(scope, recorded.receive, recorded.send)

    def _key(self, fields: list[bytes]) -> str:
        try:
            if fields:
                return key_of(fields, strict=self._is_strict)
            raise Refusal(HTTPStatus.BAD_REQUEST, "key-missing", "This request must have an idempotency key.")
        except Refusal:
            self.layer._count("missing_key")
            raise

    async def _begin(self, key: str, owner: str, body: bytes, scope: Scope) -> Session | Replayed:
        layer = self.layer
        place = lookup_key("asgi", layer.name, owner, scope["method"], scope["path"], key)
        try:
            return await layer.abegin(place, fingerprint_of(scope, body, self._fingerprint))
        except IdempotencyError as error:
            raise self._refusal_of(error) from error

    def _refusal_of(self, error: IdempotencyError) -> Refusal:
        most = self._retry_after
        if isinstance(error, IdempotencyMismatchError):
            detail = "The idempotency key was used before, for a different request."
            return Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "key-reused", detail)
        if isinstance(error, IdempotencyNotReplayableError):
            detail = "The request was carried out before. Its answer was not kept, and cannot be repeated."
            return Refusal(HTTPStatus.CONFLICT, "response-not-stored", detail)
        if not isinstance(error, IdempotencyInProgressError):
            detail = "It is not known whether the request was carried out before. It was not carried out now."
            return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "store-unavailable", detail, retry_after=most)
        if error.unknown_outcome:
            detail = "Nobody knows whether the first request with this key was carried out."
            return Refusal(HTTPStatus.CONFLICT, "outcome-unknown", detail)
        left = most if error.retry_after is None else min(error.retry_after, most)
        detail = "The first request with this key is still in progress."
        return Refusal(HTTPStatus.CONFLICT, "request-in-progress", detail, retry_after=left)

    async def _refuse(self, send: Send, refusal: Refusal) -> None:
        headers: list[tuple[bytes, bytes]] = []
        if refusal.retry_after is not None:
            headers.append((b"retry-after", str(max(1, math.ceil(refusal.retry_after))).encode()))
        kind = self._problem_types + refusal.kind
        await send_problem(send, refusal.status, refusal.detail, kind, headers)


def _everywhere(_: Scope) -> bool:
    return True
