"""
Idempotency keys: a request that is repeated is answered with what the first one brought.

`idempotent` guards functions, `idempotency_key` gives a request its key, `IdempotencyLayer` is what
middleware is made of, and the stores are in `resilience.idempotency.stores`.
"""

from resilience.errors import (
    IdempotencyError,
    IdempotencyInProgressError,
    IdempotencyKeyError,
    IdempotencyMismatchError,
    IdempotencyNotReplayableError,
    IdempotencyStoreError,
)
from resilience.idempotency._codec import Codec, JsonCodec
from resilience.idempotency._context import (
    CurrentClaim,
    carried,
    child_key,
    current_claim,
    current_idempotency_key,
    idempotency_key,
)
from resilience.idempotency._envelope import Cipher
from resilience.idempotency._fingerprint import fingerprint_request, fingerprint_value
from resilience.idempotency._key import check_key, derive_key, format_key, lookup_key, parse_key
from resilience.idempotency._layer import IdempotencyLayer, Replayed
from resilience.idempotency._operate import KeyInfo, expire_key, inspect_key, purge_keys
from resilience.idempotency._policy import function_key, idempotent
from resilience.idempotency._session import Session
from resilience.idempotency._settings import IdempotencySettings
from resilience.idempotency._store import Store

__all__ = [
    "Cipher",
    "Codec",
    "CurrentClaim",
    "IdempotencyError",
    "IdempotencyInProgressError",
    "IdempotencyKeyError",
    "IdempotencyLayer",
    "IdempotencyMismatchError",
    "IdempotencyNotReplayableError",
    "IdempotencySettings",
    "IdempotencyStoreError",
    "JsonCodec",
    "KeyInfo",
    "Replayed",
    "Session",
    "Store",
    "carried",
    "check_key",
    "child_key",
    "current_claim",
    "current_idempotency_key",
    "derive_key",
    "expire_key",
    "fingerprint_request",
    "fingerprint_value",
    "format_key",
    "function_key",
    "idempotency_key",
    "idempotent",
    "inspect_key",
    "lookup_key",
    "parse_key",
    "purge_keys",
]
