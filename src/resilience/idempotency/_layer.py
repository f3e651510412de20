"""The layer between callers and the work: claims keys, hands out sessions, answers what is done already."""

import threading
from typing import ClassVar, Final, Literal, NamedTuple

from resilience import _clock
from resilience._runtime import census, fork
from resilience._runtime.arguments import name_problems
from resilience._runtime.flow import Sleep
from resilience.deadline import current_deadline
from resilience.errors import (
    ConfigError,
    IdempotencyInProgressError,
    IdempotencyMismatchError,
    IdempotencyNotReplayableError,
    IdempotencyStoreError,
    Problem,
)
from resilience.events import emit
from resilience.idempotency import _drive
from resilience.idempotency._drive import Ask, Steps
from resilience.idempotency._envelope import Cipher, EnvelopeError, seal, unseal
from resilience.idempotency._heart import heart_of
from resilience.idempotency._machine import Answer, Claim, Claimed, InFlight, Mismatch, Replay
from resilience.idempotency._owner import new_owner
from resilience.idempotency._session import Session
from resilience.idempotency._settings import IdempotencySettings
from resilience.idempotency._store import Store
from resilience.typing import Seconds

FIRST_LOOK: Final = 0.01
RAREST_LOOK: Final = 0.25

_REQUESTS: Final = "resilience.idempotency.requests"
_RESULT: Final = "resilience.idempotency.result"
_CONFLICT: Final = "resilience.idempotency.conflict"


class Replayed(NamedTuple):
    """
    The work is done: here is what was kept of it.

    Attributes:
        content: The bytes that `Session.complete` was given.

    """

    content: bytes


class IdempotencyLayer:
    """
    One effect per key: claim the key, do the work in a session, keep the result; answer repetitions with it.

    What `idempotent` and middleware are made of. It deals in bytes: keys from `lookup_key`, fingerprints, and
    contents that its users encode. Thread-safe, and bound to no event loop.

    Args:
        name: What it is called in telemetry. It is not part of keys.
        store: Where keys are kept.
        settings: How long, and what becomes of a key when the work does not end. Default: the defaults.
        codec: What stands in the envelope of a content: it is never read as anything else. Default ``"raw"``.
        cipher: Encrypts contents at rest. Default None.

    Attributes:
        executed: How many requests claimed their key.
        replayed: How many were answered with what was kept.
        in_progress: How many found the key claimed.
        mismatched: How many had the key of a different request.
        not_replayable: How many were done already, with a result that was not kept.
        missing_key: How many had no usable key, where there must be one.
        store_errors: How many found no store.
        takeovers: How many of those executed took over the key of one that never ended.
        lost: How many sessions found at their end that somebody else has taken the key over.
        unsaved: How many results could not be stored at once, because the store failed.

    Raises:
        ConfigError: Something of this is wrong.

    Example:
        >>> from resilience.idempotency.stores import MemoryStore
        >>> layer = IdempotencyLayer("orders", store=MemoryStore())
        >>> from resilience.idempotency import lookup_key
        >>> place = lookup_key("orders", "ann", "POST /orders", "k-1")
        >>> with layer.begin(place, b"fingerprint") as session:
        ...     session.complete(b"created")
        True
        >>> layer.begin(place, b"fingerprint").content
        b'created'

    """

    __slots__ = (
        "__weakref__",
        "_cipher",
        "_codec",
        "_lock",
        "executed",
        "heart",
        "in_progress",
        "lost",
        "mismatched",
        "missing_key",
        "name",
        "not_replayable",
        "replayed",
        "settings",
        "store",
        "store_errors",
        "takeovers",
        "unsaved",
    )  # fmt: skip

    kind: ClassVar[str] = "idempotency"

    def __init__(
        self,
        name: str,
        *,
        store: Store,
        settings: IdempotencySettings | None = None,
        codec: str = "raw",
        cipher: Cipher | None = None,
    ) -> None:
        problems = name_problems(name) if name is not None else [Problem("name", name, "must be given")]
        problems += layer_problems(store, cipher)
        if not codec.isascii() or not 1 <= len(codec) <= 255:  # its length is one byte
            problems.append(Problem("codec", codec, "must have a name of 1 to 255 ASCII characters"))
        if problems:
            raise ConfigError("Idempotency", problems)
        self.name = name
        self.store = store
        self.settings = IdempotencySettings() if settings is None else settings
        self._codec = codec
        self._cipher = cipher
        self.heart = heart_of(store, self.settings.lease)
        self._after_fork()
        fork.register(self)
        census.enroll(self)

    def __repr__(self) -> str:
        return f"<IdempotencyLayer {self.name!r}>"

    def __del__(self) -> None:
        census.leave(self)

    def _count(self, result: str, n: int = 1) -> None:
        """Count *n* more of what is called *result* here."""
        with self._lock:
            setattr(self, result, getattr(self, result) + n)

    def readings(self) -> "list[census.Reading]":
        """Return how many requests came to which result."""
        counts = {
            "executed": self.executed,
            "replayed": self.replayed,
            "in_progress": self.in_progress,
            "mismatch": self.mismatched,
            "not_replayable": self.not_replayable,
            "missing_key": self.missing_key,
            "store_error": self.store_errors,
        }
        return [census.Reading(_REQUESTS, value, ((_RESULT, result),)) for result, value in counts.items()]

    def begin(
        self, key: bytes, fingerprint: bytes, *, store: Store | None = None, wait_for: Seconds | None = None
    ) -> Session | Replayed:
        """
        Claim *key*: return a session to do the work in, or what was kept of it.

        Args:
            key: Where the key is kept: what `lookup_key` returns.
            fingerprint: What the request is; the same key with another one is refused.
            store: What to use in place of the layer's store, such as that store inside a transaction.
            wait_for: Seconds to wait for one that is in progress. Default: that of the settings.

        Raises:
            IdempotencyInProgressError: It is being done.
            IdempotencyMismatchError: The key belongs to a different request.
            IdempotencyNotReplayableError: It is done, but the result was not kept.
            IdempotencyStoreError: The store failed, or what it holds cannot be read.

        """
        return _drive.run(self._beginning(self.store if store is None else store, key, fingerprint, wait_for))

    async def abegin(
        self, key: bytes, fingerprint: bytes, *, store: Store | None = None, wait_for: Seconds | None = None
    ) -> Session | Replayed:
        """Do what `begin` does, in a task."""
        return await _drive.arun(
            self._beginning(self.store if store is None else store, key, fingerprint, wait_for)
        )

    def _beginning(
        self, store: Store, key: bytes, fingerprint: bytes, wait_for: Seconds | None
    ) -> Steps[Session | Replayed]:
        settings = self.settings
        ask = Claim(new_owner(), fingerprint, settings.lease, settings.ttl, settings.takeover)
        until = _clock.monotonic() + (settings.wait_for if wait_for is None else wait_for)
        if (deadline := current_deadline()) is not None:
            until = min(until, deadline)
        pause = FIRST_LOOK
        session = Session(self, store, key, ask.owner)
        while True:
            try:
                answer = yield Ask(store, "claim", (key, ask))
            except GeneratorExit:
                raise
            except Exception as error:
                self._count("store_errors")
                if not settings.fail_open:
                    session.give_up()  # should it have been claimed all the same
                    raise IdempotencyStoreError(self.name) from error
                return session.without_protection()
            except BaseException:  # cancelled: the claim may be ours, and nobody will work on it
                yield from session.releasing()
                raise
            if isinstance(answer, Claimed):
                self._count("executed")
                self._count("takeovers", answer.takeover)
                return session.won(answer)
            left = until - _clock.monotonic()
            if not isinstance(answer, InFlight) or answer.unknown_outcome or left <= 0:
                return self._refused(answer, key)
            yield Sleep(min(pause, left))
            pause = min(2 * pause, RAREST_LOOK)

    def _refused(self, answer: Answer, key: bytes) -> Replayed:
        if isinstance(answer, Replay):
            try:
                content = unseal(answer.value, key=key, codec=self._codec, cipher=self._cipher)
            except EnvelopeError as error:
                self._count("store_errors")
                raise IdempotencyStoreError(self.name) from error
            self._count("replayed")
            return Replayed(content)
        if isinstance(answer, InFlight):
            self._count("in_progress")
            self._tell("in_progress")
            raise IdempotencyInProgressError(
                self.name, answer.retry_after, unknown_outcome=answer.unknown_outcome
            )
        if isinstance(answer, Mismatch):
            self._count("mismatched")
            self._tell("mismatch")
            raise IdempotencyMismatchError(self.name)
        self._count("not_replayable")
        self._tell("not_replayable")
        raise IdempotencyNotReplayableError(self.name)

    def sealed(self, content: bytes, key: bytes) -> bytes | None:
        """Return *content* in its envelope, or None if that is longer than what is kept."""
        envelope = seal(content, key=key, codec=self._codec, cipher=self._cipher)
        return envelope if len(envelope) <= self.settings.max_value_bytes else None

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        # A child counts what it does itself: its parent reports what came before.
        self.executed = self.replayed = self.in_progress = self.mismatched = self.not_replayable = 0
        self.missing_key = self.store_errors = self.takeovers = self.lost = self.unsaved = 0

    def _tell(self, result: Literal["in_progress", "mismatch", "not_replayable"]) -> None:
        emit(_CONFLICT, self.name, {_RESULT: result})


def layer_problems(store: object, cipher: object) -> list[Problem]:
    """Return what is wrong with what a layer is given."""
    problems: list[Problem] = []
    if isinstance(store, type) or not (hasattr(store, "claim") and hasattr(store, "aclaim")):
        problems.append(Problem("store", store, "must be a store: MemoryStore, SQLiteStore ..."))
    if cipher is not None and not isinstance(cipher, Cipher):
        problems.append(Problem("cipher", cipher, "must have encrypt() and decrypt(), or be None"))
    return problems
