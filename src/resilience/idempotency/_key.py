"""Keys: how they look on the wire, how more are made of one, and where a store keeps them."""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

from resilience.errors import IdempotencyKeyError

Syntax: TypeAlias = Literal["lenient", "strict"]

MAX_KEY_LENGTH: Final = 255
"""Characters of a key. Source: what Stripe accepts."""

_PLAIN = re.compile(r"[\x21-\x7E]+")
# RFC 9651: a String is printable ASCII in quotes; only the quote and the backslash are escaped, nothing else.
_STRING = re.compile(r'"((?:[\x20\x21\x23-\x5B\x5D-\x7E]|\\["\\])*)"')
# Parameters of an Item; they are read over.
_BARE_ITEM = (
    r'(?:"(?:[\x20\x21\x23-\x5B\x5D-\x7E]|\\["\\])*"'  # a string
    r"|[?][01]|:[A-Za-z0-9+/=]*:|@?-?[0-9][0-9.]*"  # a boolean, bytes, a date or a number
    r"|[A-Za-z*][!#-\'*+.^-z|~:/0-9A-Z-]*)"  # a token
)
_PARAMETERS = re.compile(rf"(?:; *[a-z*][a-z0-9_.*-]*(?:={_BARE_ITEM})?)*")


def parse_key(header: str, *, syntax: Syntax = "lenient") -> str:
    """
    Read the value of an ``Idempotency-Key`` header.

    A quoted value is a Structured Field String; its parameters are ignored. ``"k"`` and ``k`` are the same
    key. Join repeated header lines with ``", "`` before: they are refused then, as they must be.

    Args:
        header: The value of the header.
        syntax: ``lenient`` also takes what most clients send: the key without quotes. ``strict`` does not.

    Raises:
        IdempotencyKeyError: It is no key: malformed, empty, or longer than 255 characters.

    Example:
        >>> parse_key('"order-42";v=1'), parse_key("order-42")
        ('order-42', 'order-42')

    """
    if len(header) > 4 * MAX_KEY_LENGTH:
        raise _refused("it is too long")
    text = header.strip(" \t")
    if text.startswith('"'):
        string = _STRING.match(text)
        if string is None or not _PARAMETERS.fullmatch(text, string.end()):
            raise _refused("it is not a structured-field string")
        return check_key(re.sub(r"\\(.)", r"\1", string[1]))
    if syntax == "strict":
        raise _refused("it must be a string in quotes")
    if text and (not _PLAIN.fullmatch(text) or "," in text):
        raise _refused("it has characters that a key without quotes cannot have")
    return check_key(text)


def format_key(key: str, *, bare: bool = False) -> str:
    """
    Return *key* as the value of an ``Idempotency-Key`` header: a string in quotes, unless *bare*.

    Raises:
        IdempotencyKeyError: It is no key, or, if *bare*, one that needs quotes.

    """
    check_key(key)
    if not bare:
        return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if not _PLAIN.fullmatch(key) or key.startswith('"') or "," in key:
        raise _refused("it cannot be sent without quotes")
    return key


def check_key(key: object) -> str:
    """
    Return *key*, if it is one: 1 to 255 characters of printable ASCII.

    Raises:
        IdempotencyKeyError: It is none.

    """
    if not isinstance(key, str):
        raise _refused(f"it must be a string, got {type(key).__name__}")
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise _refused(f"it must have 1 to {MAX_KEY_LENGTH} characters, got {len(key)}")
    if not re.fullmatch(r"[\x20-\x7E]+", key):
        raise _refused("it must be printable ASCII")
    return key


def derive_key(namespace: str, *parts: str) -> str:
    """
    Make a key out of what names a piece of work: a topic, a partition and an offset, say.

    The same parts always give the same key, and others another one. It tells nothing about the parts to
    those who do not know them.

    Raises:
        IdempotencyKeyError: There are no parts.

    Example:
        >>> one, same = (derive_key("orders", "partition-3", "offset-17") for _ in range(2))
        >>> one == same
        True

    """
    if not parts:
        raise _refused("it cannot be derived from nothing")
    message = framed(part.encode() for part in parts)
    digest = hmac.digest(namespace.encode(), message, "sha256")
    return base64.urlsafe_b64encode(digest[:24]).decode()


def lookup_key(*parts: str) -> bytes:
    """
    Return where a store keeps a key: a hash of everything that it is scoped to.

    Put the name of the layer first, then whoever owns the key (the authenticated caller), what it is for
    (method and route), and the key itself. No two lists of parts share a place, stores never see what callers
    wrote, and its length is always the same.

    Example:
        >>> lookup_key("orders", "ann", "k") == lookup_key("orders", "an", "nk")
        False

    """
    return hashlib.sha256(b"resilience.idempotency.key\0" + framed(part.encode() for part in parts)).digest()


def framed(parts: Iterable[bytes]) -> bytes:
    """Join byte strings so that no other list of them gives the same bytes."""
    return b"".join(len(part).to_bytes(8) + part for part in parts)


def _refused(problem: str) -> IdempotencyKeyError:
    return IdempotencyKeyError("idempotency", problem=problem)
