"""The idempotency key of one logical request, over its attempts, its redirects and its authentication."""

import uuid
from typing import Any, Final, NamedTuple

from resilience.idempotency import carried, check_key, fingerprint_request, format_key, idempotency_key
from resilience.integrations._http_settings import HttpSettings

OWN_KEY: Final = "idempotency_key"
"""Key of ``request.extensions`` that callers set: the key of one request, or None for none."""

KEPT: Final = "resilience.idempotency"
"""Key of ``request.extensions`` of what was sent: a `Key`, the same for the whole logical request."""


class Key(NamedTuple):
    """
    The key of a logical request.

    Attributes:
        key: The key; where the caller wrote the header itself, what it wrote.
        field: What stands in the header.
        method: Method of the request that it was made for.
        origin: Scheme, host and port of that request.
        block: The `idempotency_key` block that it is the key of, or None.

    """

    key: str
    field: str
    method: str
    origin: str
    block: idempotency_key | None = None

    def __repr__(self) -> str:
        return f"<Key of {self.method} {self.origin}>"  # keys stay out of logs


def field_for(request: Any, settings: HttpSettings, origin: str) -> tuple[str | None, str | None]:
    """
    Return the key that *request* is sent with, and what stands in its header; None and None for none.

    The first time it is made, and kept with the request: clients hand that on to redirects and to further
    legs of an authentication. It belongs to one method at one origin, and goes nowhere else.

    Raises:
        IdempotencyMismatchError: The `idempotency_key` block around belongs to a different request.
        IdempotencyKeyError: What is given as a key is none.

    """
    header = settings.idempotency_header
    if header is None:
        return None, None
    written: str | None = request.headers.get(header)
    kept: Key | None = request.extensions.get(KEPT)
    if kept is None or _is_outdated(request, kept, written):
        kept = _made(request, settings, origin, written)
        if kept is None:
            return None, None
        request.extensions[KEPT] = kept
    if (kept.method, kept.origin) != (request.method, origin):
        return None, None
    return kept.key, kept.field


def _is_outdated(request: Any, kept: Key, written: str | None) -> bool:
    """Whether the caller sends the same request again with another key."""
    if written is not None:
        return written != kept.field
    if OWN_KEY in request.extensions:
        return bool(request.extensions[OWN_KEY] != kept.key)
    block = carried()
    return block is not None and block is not kept.block


def _made(request: Any, settings: HttpSettings, origin: str, written: str | None) -> Key | None:
    if written is not None:
        return Key(written, written, request.method, origin)
    block: idempotency_key | None = None
    if OWN_KEY in request.extensions:
        key: object = request.extensions[OWN_KEY]
    elif request.method in settings.idempotent_methods:
        key = None
    elif (block := carried()) is not None:
        key = block.bind(_fingerprint(request, origin))
    else:
        make = settings.generate_keys
        key = make() if callable(make) else str(uuid.uuid4()) if make else None
    if key is None:
        return None
    checked = check_key(key)
    return Key(checked, format_key(checked, bare=settings.bare_keys), request.method, origin, block)


def _fingerprint(request: Any, origin: str) -> bytes:
    """Tell requests apart, without reading streams: the bodies of those are compared by the server."""
    content: bytes = getattr(request, "_content", b"")
    kind: str = request.headers.get("content-type", "").partition(";")[0].strip()
    path, _, query = str(request.url.raw_path, "ascii").partition("?")
    headers = [("host", origin), ("content-type", kind)]
    return fingerprint_request(request.method, path, content, query=query, headers=headers)
