"""
The life of one key: a machine that is told the time.

    absent ──claim──► PENDING ──complete──► COMPLETED ──retention──► absent
      ▲                │   ▲ └─complete without a value─► TOMBSTONE ─┘
      └────release─────┘   └ claim after the lease ran out: new owner, epoch + 1

A record that was released counts as absent; it is kept for its epoch alone. Every store carries these
rules out in one atomic step each; the stores that have a language of their own say them again in it.
"""

import enum
from typing import Final, NamedTuple, TypeAlias

from resilience.typing import Seconds


class State(enum.IntEnum):
    """Where a key stands."""

    PENDING = 0
    """Somebody is at work, or was when last heard of."""
    COMPLETED = 1
    """Done, and the result is there."""
    TOMBSTONE = 2
    """Done, and the result was not kept."""
    RELEASED = 3
    """Given back, as if it had never been claimed."""


class Record:
    """
    What is known about a key.

    Attributes:
        fingerprint: What the request was; another one must not have the key.
        state: Where it stands.
        owner: Random bytes of the claim that owns it. Whoever cannot say them changes nothing.
        epoch: Number of the claim, greater with each: a fencing token.
        lease_until: Instant until which the owner is left alone, by the store's clock.
        expires_at: Instant from which the record counts as absent.
        value: The result, if it is there.

    """

    __slots__ = ("epoch", "expires_at", "fingerprint", "lease_until", "owner", "state", "value")

    def __init__(
        self,
        fingerprint: bytes,
        state: State,
        owner: bytes,
        epoch: int,
        lease_until: Seconds,
        expires_at: Seconds,
        value: bytes | None = None,
    ) -> None:
        self.fingerprint = fingerprint
        self.state = state
        self.owner = owner
        self.epoch = epoch
        self.lease_until = lease_until
        self.expires_at = expires_at
        self.value = value

    def __repr__(self) -> str:
        return f"<Record {self.state.name} epoch={self.epoch} expires_at={self.expires_at:.3f}>"


class Claim(NamedTuple):
    """
    The wish to work on a key.

    Attributes:
        owner: 16 random bytes, new for each claim.
        fingerprint: What the request is.
        lease: Seconds for which nobody else may take the key, unless renewed.
        retention: Seconds that the record is kept.
        takeover: Whether a claim whose lease ran out may be taken over.

    """

    owner: bytes
    fingerprint: bytes
    lease: Seconds
    retention: Seconds
    takeover: bool = True


class Claimed(NamedTuple):
    """
    The key is ours.

    Attributes:
        epoch: Fencing token: greater than that of every earlier claim on record.
        takeover: Whether an owner before never came to an end.

    """

    epoch: int
    takeover: bool = False


class Replay(NamedTuple):
    """The work is done; here is its result."""

    value: bytes


class NotReplayable(NamedTuple):
    """The work is done; its result was not kept."""


class InFlight(NamedTuple):
    """
    Somebody else is at work.

    Attributes:
        retry_after: Seconds until its lease ends, or None if that does not matter.
        unknown_outcome: Whether its lease ran out and may not be taken over.

    """

    retry_after: Seconds | None
    unknown_outcome: bool = False


class Mismatch(NamedTuple):
    """The key belongs to a different request."""


Answer: TypeAlias = Claimed | Replay | NotReplayable | InFlight | Mismatch

NOBODY: Final = bytes(16)
"""The owner of a record that an operator has released."""

# Looked up once: to find a member of an enumeration takes longer than the rule around it.
_PENDING, _COMPLETED, _TOMBSTONE, _RELEASED = State

_FIRST = Claimed(1)
_MISMATCH = Mismatch()
_NOT_REPLAYABLE = NotReplayable()


def claim(  # noqa: PLR0911  # one return a row of the table
    record: Record | None, ask: Claim, now: Seconds
) -> tuple[Answer, Record | None]:
    """
    Answer a claim; return with it the record to be kept in place of *record*, or None if it stays.

    A claim that is repeated by its own owner, as when an answer was lost on the way, is the claim it had.
    """
    owner, fingerprint, lease, retention, takeover = ask
    kept = retention if retention > lease else lease  # noqa: FURB136  # max() takes three times as long
    if record is None:
        return _FIRST, Record(fingerprint, _PENDING, owner, 1, now + lease, now + kept)
    taken_over = False
    if record.expires_at > now and record.state is not _RELEASED:
        if record.fingerprint != fingerprint:
            return _MISMATCH, None
        if record.state is not _PENDING:
            return (_NOT_REPLAYABLE if record.value is None else Replay(record.value)), None
        if record.owner == owner:
            return Claimed(record.epoch), None
        if record.lease_until > now:
            return InFlight(record.lease_until - now), None
        if not takeover:
            return InFlight(None, unknown_outcome=True), None
        taken_over = True
    epoch = record.epoch + 1
    fresh = Record(fingerprint, _PENDING, owner, epoch, now + lease, now + kept)
    return Claimed(epoch, taken_over), fresh


def renew(record: Record | None, owner: bytes, lease: Seconds, now: Seconds) -> bool:
    """
    Extend the lease; False if it is no longer *owner*'s.

    It is, also when it ran out, as long as nobody took the key over.
    """
    if record is None or record.owner != owner or record.expires_at <= now or record.state is not _PENDING:
        return False
    record.expires_at = max(record.expires_at, now + lease)
    record.lease_until = now + lease
    return True


def complete(
    record: Record | None, owner: bytes, value: bytes | None, retention: Seconds, now: Seconds
) -> bool:
    """
    Keep the result, None for a tombstone; False if the key is no longer *owner*'s.

    Repeated by its owner it changes nothing and is True again.
    """
    if record is None or record.owner != owner or record.expires_at <= now or record.state is _RELEASED:
        return False
    if record.state is _PENDING:
        record.value = value
        record.expires_at = now + retention
        # Last: an interrupt before it leaves the claim as it was.
        record.state = _TOMBSTONE if value is None else _COMPLETED
    return True


def release(record: Record | None, owner: bytes, now: Seconds) -> bool:
    """Give the key back; False if it is no longer *owner*'s. Repeated by its owner it is True again."""
    if record is None or record.owner != owner or record.expires_at <= now:
        return False
    if record.state is _PENDING:
        record.state = _RELEASED
    return record.state is _RELEASED


def expire(record: Record | None, now: Seconds) -> bool:
    """Forget what is known, whoever owns it; the epoch goes on. False if there is nothing."""
    if record is None or record.state is _RELEASED or record.expires_at <= now:
        return False
    record.owner = NOBODY
    record.value = None
    record.state = _RELEASED
    return True
