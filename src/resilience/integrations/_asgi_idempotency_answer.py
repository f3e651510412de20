"""The answer to a request with a key: recorded while it goes to the client, and sent again from a store."""

import json
from collections.abc import Collection, Iterable, Sequence
from http import HTTPStatus
from typing import Final

from resilience.idempotency import Session
from resilience.integrations._asgi_messages import Message, Receive, Send, ends_answer
from resilience.typing import Seconds

REPLAYED: Final = b"idempotent-replayed"

KEPT_HEADERS: Final = frozenset({
    "content-type", "content-encoding", "content-language", "content-disposition", "content-location",
    "location", "etag", "last-modified", "link",
})  # fmt: skip
"""Headers that say what an answer is, and so belong to a replay."""

NEVER_KEPT: Final = frozenset({
    "set-cookie", "www-authenticate", "authentication-info", "authorization", "proxy-authenticate",
    "proxy-authentication-info", "proxy-authorization", "connection", "keep-alive", "transfer-encoding",
    "te", "trailer", "upgrade", "content-length", "date", "server", "retry-after", "traceparent",
    "tracestate", "x-request-id", "idempotent-replayed",
})  # fmt: skip
"""Headers that belong to one connection, one client or one moment."""

RELEASED: Final = frozenset({401, 403, 404, 405, 408, 409, 421, 422, 425, 429})
"""Statuses that say that the request was not carried out, and may be another time."""

_BESIDE: Final = frozenset({"http.response.push", "http.response.early_hint", "http.response.debug"})
"""Messages that are no part of the answer."""

_LENGTH: Final = 4

Headers = Sequence[tuple[bytes, bytes]]


def encoded(status: int, headers: Headers, body: bytes) -> bytes:
    """Return an answer as what a store keeps."""
    pairs = [(str(name, "latin-1"), str(value, "latin-1")) for name, value in headers]
    head = json.dumps([status, pairs], separators=(",", ":")).encode()
    return len(head).to_bytes(_LENGTH) + head + body


async def replay(send: Send, content: bytes) -> None:
    """Send the answer that a store has kept, marked as that."""
    end = _LENGTH + int.from_bytes(content[:_LENGTH])
    status, pairs = json.loads(content[_LENGTH:end])
    body = content[end:]
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
    if status not in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:  # which have no body, nor a length
        headers.append((b"content-length", str(len(body)).encode()))
    headers.append((REPLAYED, b"true"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Recorded:
    """
    One request that is carried out: its body is there already, and its answer is recorded on its way.

    The answer is stored before its last part is sent on, so that whoever has seen all of it can rely on the
    replay. Until then a client that leaves stops nothing, for up to *patience* seconds: who repeats a request
    that timed out is to find its result.
    """

    __slots__ = (
        "_body", "_free", "_gone", "_has_left", "_headers", "_holds", "_is_over", "_keep", "_most", "_parts",
        "_patience", "_receive", "_released", "_send", "_session", "_size", "_status",
    )  # fmt: skip

    def __init__(
        self,
        session: Session,
        body: bytes,
        receive: Receive,
        send: Send,
        *,
        keep: Collection[bytes],
        released: Collection[int],
        most: int,
        holds: bool,
        patience: Seconds,
    ) -> None:
        import anyio  # noqa: PLC0415  # comes with the first request that has a key

        self._session = session
        self._body: bytes | None = body
        self._receive = receive
        self._send = send
        self._keep = keep
        self._released = released
        self._most = most
        self._holds = holds
        self._patience = patience
        self._status = 0
        self._headers: Headers = ()
        self._parts: list[bytes] | None = []
        self._size = 0
        self._is_over = self._has_left = False
        self._gone: OSError | None = None
        self._free = anyio.Event()

    async def receive(self) -> Message:
        """Give the application the body, and then what the server says."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if not self._has_left:
            message = await self._receive()
            if message["type"] != "http.disconnect":
                return message
            self._has_left = True
        await self._until_free()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Note a part of the answer, and send it on."""
        if self._is_over:
            await self._send(message)
            return
        self._note(message)
        if not (self._status and ends_answer(message)):
            await self._send_on(message)
            return
        self._is_over = True
        await self._end()
        self._free.set()
        if self._gone is not None:
            raise self._gone
        await self._send(message)

    async def _until_free(self) -> None:
        import anyio  # noqa: PLC0415  # see above

        with anyio.move_on_after(self._patience):
            await self._free.wait()

    async def _send_on(self, message: Message) -> None:
        if self._gone is None:
            try:
                await self._send(message)
            except OSError as error:  # what a server of ASGI 2.4 raises when nobody listens any more
                self._gone = error
        if self._gone is not None and self._parts is None:
            raise self._gone

    def _note(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            self._begin(message)
        elif kind == "http.response.body":
            if self._parts is not None:
                part = message.get("body", b"")
                self._size += len(part)
                self._parts.append(part)
                if self._size > self._most:
                    self._drop()
        elif kind not in _BESIDE:  # files that the server sends, trailers: the bytes never come by here
            self._drop()

    def _begin(self, message: Message) -> None:
        if self._status:
            return
        self._status = message["status"]
        pairs: Iterable[tuple[bytes, bytes]] = message.get("headers", ())
        headers = [(bytes(name).lower(), bytes(value)) for name, value in pairs]
        self._headers = [pair for pair in headers if pair[0] in self._keep]
        is_stream = any(
            name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers
        )
        if message.get("trailers") or is_stream or self._is_failure or self._status in self._released:
            self._drop()

    @property
    def _is_failure(self) -> bool:
        return self._status >= HTTPStatus.INTERNAL_SERVER_ERROR

    def _drop(self) -> None:
        """Record no more: it is too much, or not to be kept."""
        self._parts = None
        self._free.set()

    async def _end(self) -> None:
        session = self._session
        if self._is_failure and self._holds:
            await session.ahold()
        elif self._is_failure or self._status in self._released:
            await session.arelease()
        else:
            parts = self._parts
            content = None if parts is None else encoded(self._status, self._headers, b"".join(parts))
            try:
                await session.acomplete(content)
            except Exception:  # noqa: BLE001, S110  # of a cipher: kept is that it is done; the answer is good
                pass
