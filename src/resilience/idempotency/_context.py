"""What a block or a function knows of its key: `idempotency_key`, `child_key` and the claim at work."""

import threading
import uuid
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Self

from resilience.errors import IdempotencyMismatchError
from resilience.idempotency._key import check_key, derive_key

_NAMESPACE = "resilience.idempotency.child"


class idempotency_key:  # noqa: N801  # used like a function
    """
    Give one logical request a key: whatever sends it inside this block sends the key along.

    Retries and hedges of the request carry the same key, and so do redirects that repeat it at its origin.
    A second, different request in the block is an error, not a second use of the key: make more with
    `child_key`. Requests whose methods may be repeated anyway, such as GET, carry none and do not count.
    Blocks nest; the inner one counts. Enter it above retries: one entered inside a retried function without
    a key makes a new key for each attempt.

    Args:
        key: The key, 1 to 255 printable ASCII characters. Default: a new random one (UUID version 4).

    Attributes:
        key: The key.

    Raises:
        IdempotencyKeyError: *key* is none.

    Example:
        >>> with idempotency_key("order-42") as carried:
        ...     print(carried.key, current_idempotency_key())
        order-42 order-42

    """

    __slots__ = ("_fingerprint", "_lock", "_token", "key")

    def __init__(self, key: str | None = None) -> None:
        self.key = str(uuid.uuid4()) if key is None else check_key(key)
        self._fingerprint: bytes | None = None
        self._lock = threading.Lock()
        self._token: Token[idempotency_key | None] | None = None

    def __enter__(self) -> Self:
        if self._token is not None:
            raise RuntimeError("an idempotency_key() block is entered once: make a new one")
        self._token = _carried.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _carried.reset(self._token)

    def bind(self, fingerprint: bytes) -> str:
        """
        Return the key, for the request with this fingerprint and for no other.

        Raises:
            IdempotencyMismatchError: The key was handed out for a different request already.

        """
        with self._lock:  # hedges run at once
            if self._fingerprint is None:
                self._fingerprint = fingerprint
            if self._fingerprint != fingerprint:
                raise IdempotencyMismatchError("idempotency_key")
        return self.key


class CurrentClaim:
    """
    The claim that an `idempotent` function, or the handler of a request, works under.

    Attributes:
        key: The key, as the caller said it.
        place: Where the key is kept: no two callers or functions share it, whatever keys they use.
        epoch: The fencing token: hand it to whatever the function writes to, which must refuse smaller ones.
        takeover: Whether an earlier call with the key never came to an end, so that some of the work may be
            done already.

    """

    __slots__ = ("_session", "epoch", "key", "place", "takeover")

    def __init__(self, key: str, place: bytes, session: object, epoch: int, *, takeover: bool) -> None:
        self.key = key
        self.place = place
        self.epoch = epoch
        self.takeover = takeover
        self._session = session

    @property
    def is_lost(self) -> bool:
        """Whether somebody else has taken the key over, so that this result will not be kept."""
        return bool(getattr(self._session, "is_lost", False))

    def __repr__(self) -> str:
        return f"<CurrentClaim epoch={self.epoch}>"  # keys stay out of logs


_carried: ContextVar[idempotency_key | None] = ContextVar("resilience.idempotency_key", default=None)
_claimed: ContextVar[CurrentClaim | None] = ContextVar("resilience.idempotency_claim", default=None)


def carried() -> idempotency_key | None:
    """Return the block that requests made here belong to, or None."""
    return _carried.get()


def current_idempotency_key() -> str | None:
    """Return the key of the block around, or None. Inside an `idempotent` function: of blocks inside it."""
    block = _carried.get()
    return None if block is None else block.key


def current_claim() -> CurrentClaim | None:
    """Return the claim that the `idempotent` function, or the handler, around works under, or None."""
    return _claimed.get()


def child_key(*steps: str) -> str:
    """
    Derive a key for one step of the work: the same on every repetition, another for every other step.

    The parent is the `idempotency_key` block around, else the claim around, of an `idempotent` function or of
    a request: then no other function and no other caller gets the same key, whatever keys they use.

    Raises:
        LookupError: There is no key around.
        IdempotencyKeyError: There are no steps.

    Example:
        >>> with idempotency_key("order-42"):
        ...     child_key("charge") == child_key("charge"), child_key("charge") == child_key("ship")
        (True, False)

    """
    block, claim = _carried.get(), _claimed.get()
    if block is not None:
        return derive_key(_NAMESPACE, block.key, *steps)
    if claim is None:
        raise LookupError("child_key() belongs into an idempotency_key() block or an idempotent function")
    return derive_key(_NAMESPACE + ".claim", claim.place.hex(), *steps)


class claimed:  # noqa: N801  # used like a function
    """The block in which an `idempotent` function runs: its claim is current, and the caller's key is not."""

    __slots__ = ("_claim", "_tokens")

    def __init__(self, claim: CurrentClaim) -> None:
        self._claim = claim

    def __enter__(self) -> None:
        # The requests that it makes are not the request that it answers: they need keys of their own.
        self._tokens = (_claimed.set(self._claim), _carried.set(None))

    def __exit__(self, *_: object) -> None:
        _claimed.reset(self._tokens[0])
        _carried.reset(self._tokens[1])
