"""What an operator does with keys: look, forget, clear up."""

from dataclasses import dataclass
from typing import Literal

from resilience.idempotency._store import Store
from resilience.typing import Seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """
    What a store knows of a key.

    Attributes:
        state: ``pending``, ``completed``, ``tombstone`` (done, but the result was not kept) or ``released``.
        epoch: Number of its latest claim.
        lease_left: Seconds until a pending key may be taken over; 0.0 or less if it may be, or if it is
            held for good. None if it is not pending.
        kept_for: Seconds until the record goes.
        size: Bytes of the result in its envelope, or None if there is none.

    """

    state: Literal["pending", "completed", "tombstone", "released"]
    epoch: int
    lease_left: Seconds | None
    kept_for: Seconds
    size: int | None


_STATES: tuple[Literal["pending", "completed", "tombstone", "released"], ...] = (
    "pending", "completed", "tombstone", "released",
)  # fmt: skip


def inspect_key(store: Store, key: bytes) -> KeyInfo | None:
    """
    Return what *store* knows of a key, or None. The result itself stays where it is.

    Args:
        store: A store that serves plain functions.
        key: What `function_key` returns for an `idempotent` function, or `lookup_key` for others.

    Example:
        >>> from resilience.idempotency import function_key
        >>> from resilience.idempotency.stores import MemoryStore
        >>> inspect_key(MemoryStore(), function_key("orders.place", "order-42")) is None
        True

    """
    record = store.inspect(key)
    if record is None:
        return None
    state = _STATES[record.state]
    return KeyInfo(
        state=state,
        epoch=record.epoch,
        lease_left=record.lease_until if state == "pending" else None,
        kept_for=record.expires_at,
        size=None if record.value is None else len(record.value),
    )


def expire_key(store: Store, key: bytes) -> bool:
    """
    Forget a key: the next call with it does the work. False if there is nothing to forget.

    This is how an operator resolves a key that is held. A call that is in progress goes on, and its result is
    not kept.
    """
    return store.expire(key)


def purge_keys(store: Store, *, batch: int = 1000) -> int:
    """
    Remove all records whose time is over, a batch at a time; return how many.

    Stores remove a few with every so many claims, and Redis all by itself: this is for a large rest.

    Args:
        store: A store that serves plain functions.
        batch: Records removed in one statement, >= 1. Default 1000. Source: own; a few milliseconds.

    """
    removed = 0
    while (count := store.purge(batch)) > 0:
        removed += count
    return removed
