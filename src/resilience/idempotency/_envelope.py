"""
What stands in a store: bytes that say how to read them.

    version (1 byte) │ flags (1 byte) │ length of the codec's name (1 byte) │ name │ content

The content is encrypted if the flags say so. A record that cannot be read is an error, never a reason to do
the work again.
"""

from typing import Final, Protocol, runtime_checkable

from resilience.idempotency._key import framed

VERSION: Final = 1
_ENCRYPTED: Final = 1


class EnvelopeError(ValueError):
    """A stored result cannot be read: by another version, another codec, another cipher, or changed."""


@runtime_checkable
class Cipher(Protocol):
    """What encrypts results at rest: an AEAD, such as AES-GCM, with keys of your own."""

    def encrypt(self, plain: bytes, context: bytes) -> bytes:
        """Encrypt *plain* for one place: *context* is authenticated, and not secret."""
        ...

    def decrypt(self, sealed: bytes, context: bytes) -> bytes:
        """Return what was encrypted for the same *context*; raise if it was not."""
        ...


def seal(content: bytes, *, key: bytes, codec: str, cipher: Cipher | None = None) -> bytes:
    """Put *content* into an envelope; encrypted, it can be read under this *key* only."""
    name = codec.encode()
    flags = 0 if cipher is None else _ENCRYPTED
    head = bytes((VERSION, flags, len(name))) + name
    if cipher is not None:
        content = cipher.encrypt(content, framed((head, key)))
    return head + content


def unseal(sealed: bytes, *, key: bytes, codec: str, cipher: Cipher | None = None) -> bytes:
    """
    Return what `seal` put in.

    Raises:
        EnvelopeError: It cannot be read.

    """
    head_length = 3 + sealed[2] if len(sealed) > 2 else 3  # drawn above
    head, content = sealed[:head_length], sealed[head_length:]
    if len(head) < head_length:
        raise EnvelopeError("a stored result is cut off")
    if head[0] != VERSION:
        raise EnvelopeError(
            f"a stored result has version {head[0]}, and this package reads version {VERSION}"
        )
    if head[3:] != codec.encode():
        raise EnvelopeError(f"a stored result was written by the codec {head[3:]!r}, not {codec!r}")
    if bool(head[1] & _ENCRYPTED) != (cipher is not None):
        raise EnvelopeError(
            "a stored result is encrypted, and there is no cipher"
            if cipher is None
            else "a stored result is not encrypted, though there is a cipher"
        )
    if cipher is None:
        return content
    try:
        return cipher.decrypt(content, framed((head, key)))
    except Exception as error:
        raise EnvelopeError("a stored result cannot be decrypted") from error
