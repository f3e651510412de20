"""Keys in Redis or Valkey."""

import hashlib
import inspect
from collections.abc import Generator
from typing import Any, Final, NamedTuple, Protocol, TypeVar, cast

from resilience._core.check import Check
from resilience.errors import ConfigError, Problem
from resilience.idempotency._machine import (
    NOBODY,
    Answer,
    Claim,
    Claimed,
    InFlight,
    Mismatch,
    NotReplayable,
    Record,
    Replay,
    State,
)
from resilience.idempotency._store import SteppedStore, in_thread
from resilience.idempotency.stores import _redis_scripts as scripts
from resilience.typing import Seconds

T = TypeVar("T")

PATIENCE: Final = 2.0
"""Seconds that a client made from a URL waits for the server: for a connection, and for an answer."""


class Client(Protocol):
    """What is needed of a client: that of redis-py or valkey-py, of either colour, for a cluster or not."""

    def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> Any:
        """Run a script that the server knows."""
        ...

    def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any:
        """Run a script, and let the server know it."""
        ...


class _Script:
    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class _Run(NamedTuple):
    """Run a script on one key. The reply is the script's."""

    script: _Script
    key: bytes
    values: tuple[Any, ...]


_CLAIM = _Script(scripts.CLAIM)
_RENEW = _Script(scripts.RENEW)
_COMPLETE = _Script(scripts.COMPLETE)
_RELEASE = _Script(scripts.RELEASE)
_EXPIRE = _Script(scripts.EXPIRE)
_INSPECT = _Script(scripts.INSPECT)


class RedisStore(SteppedStore):
    """
    Keep keys in Redis or Valkey: shared by all hosts, one round trip an operation.

    Each key is one record and each operation one script on it, so a cluster works; the server's clock counts.
    Replication is asynchronous: a failover may forget a claim or a result, and so may a restart without
    append-only file, or a ``maxmemory-policy`` other than ``noeviction``. Where work must not be done twice
    even then, use `PostgresStore`.

    Args:
        client: A client of redis-py or valkey-py, sync or asyncio, for a cluster or not, that returns bytes
            (no ``decode_responses``); or a URL (``redis://``, ``rediss://``, ``valkey://``, ``valkeys://``)
            for a sync client that waits at most 2 s. An asyncio client serves async functions only; a sync
            client serves both, tasks by a worker thread.
        prefix: What the names of all keys begin with. Default ``"idempotency:"``.

    Raises:
        ConfigError: A setting is wrong.

    Example:
        >>> RedisStore("redis://localhost:6379/0", prefix="orders:")
        <RedisStore 'orders:'>

    """

    __slots__ = ("_client", "_owned", "_prefix", "async_only")

    def __init__(self, client: Client | str, *, prefix: str = "idempotency:") -> None:
        check = Check("RedisStore")
        schemes = ("redis://", "rediss://", "valkey://", "valkeys://", "unix://")
        usable = client.startswith(schemes) if isinstance(client, str) else hasattr(client, "evalsha")
        check.that(usable, "client", client, f"must be a client, or a URL with one of {', '.join(schemes)}")
        check.that(isinstance(prefix, str), "prefix", prefix, "must be a string")
        check.done()
        self._owned = isinstance(client, str)
        self._client = _connect(client) if isinstance(client, str) else client
        self._prefix = prefix.encode()
        # Sync clients have close() alone.
        self.async_only = inspect.iscoroutinefunction(getattr(self._client, "aclose", None))
        if _decodes(self._client):
            rule = "must return bytes: make it without decode_responses"
            raise ConfigError("RedisStore", [Problem("client", client, rule)])

    def __repr__(self) -> str:
        return f"<RedisStore {self._prefix.decode()!r}>"

    def close(self) -> None:
        """Close the client, if the store has made it from a URL."""
        if self._owned:
            cast("Any", self._client).close()

    def _run(self, steps: Generator[_Run, Any, T]) -> T:
        if self.async_only:
            steps.close()
            raise TypeError("this RedisStore has an asyncio client: it serves async functions only")
        reply: Any = None
        try:
            while True:
                command = steps.send(reply)
                name = self._prefix + command.key.hex().encode()
                try:
                    reply = self._client.evalsha(command.script.sha, 1, name, *command.values)
                except Exception as error:
                    if not _is_unknown_script(error):
                        raise
                    reply = self._client.eval(command.script.text, 1, name, *command.values)
        except StopIteration as stop:
            return cast("T", stop.value)

    async def _arun(self, steps: Generator[_Run, Any, T]) -> T:
        if not self.async_only:
            return await in_thread(lambda: self._run(steps))
        reply: Any = None
        while True:
            try:
                command = steps.send(reply)
            except StopIteration as stop:
                return cast("T", stop.value)
            name = self._prefix + command.key.hex().encode()
            try:
                reply = await self._client.evalsha(command.script.sha, 1, name, *command.values)
            except Exception as error:
                if not _is_unknown_script(error):
                    raise
                reply = await self._client.eval(command.script.text, 1, name, *command.values)

    def _claiming(self, key: bytes, ask: Claim) -> Generator[_Run, Any, Answer]:
        times = (_ms(ask.lease), _ms(ask.retention))
        reply = yield _Run(_CLAIM, key, (ask.owner, ask.fingerprint, *times, int(ask.takeover)))
        answer: list[Any] = [_text(reply[0]), *reply[1:]]
        match answer:
            case ["claimed", epoch, takeover]:
                return Claimed(int(epoch), bool(takeover))
            case ["replay", value]:
                return Replay(value)
            case ["tombstone"]:
                return NotReplayable()
            case ["inflight", milliseconds]:
                return InFlight(milliseconds / 1000)
            case ["unknown"]:
                return InFlight(None, unknown_outcome=True)
            case ["mismatch"]:
                return Mismatch()
            case _:
                raise ValueError(f"the claim script answered {reply!r}")

    def _renewing(self, key: bytes, owner: bytes, lease: Seconds) -> Generator[_Run, Any, bool]:
        return bool((yield _Run(_RENEW, key, (owner, _ms(lease)))))

    def _completing(
        self, key: bytes, owner: bytes, value: bytes | None, retention: Seconds
    ) -> Generator[_Run, Any, bool]:
        values = () if value is None else (value,)
        return bool((yield _Run(_COMPLETE, key, (owner, _ms(retention), *values))))

    def _releasing(self, key: bytes, owner: bytes) -> Generator[_Run, Any, bool]:
        return bool((yield _Run(_RELEASE, key, (owner,))))

    def _expiring(self, key: bytes) -> Generator[_Run, Any, bool]:
        return bool((yield _Run(_EXPIRE, key, (NOBODY,))))

    def _inspecting(self, key: bytes) -> Generator[_Run, Any, Record | None]:
        reply = yield _Run(_INSPECT, key, ())
        if not reply:
            return None
        fingerprint, state, owner, epoch, lease, expires, *value = reply
        named = State[_text(state).upper()]
        kept = value[0] if value else None
        return Record(fingerprint, named, owner, int(epoch), lease / 1000, expires / 1000, kept)

    def _purging(self, limit: int) -> Generator[_Run, Any, int]:  # noqa: ARG002  # the server does it
        """Remove nothing: each record has a time to live, by which the server removes it."""
        return 0
        yield  # a generator without a step


def _ms(seconds: Seconds) -> int:
    return max(1, round(seconds * 1000)) if seconds > 0 else 0


def _text(word: bytes | str) -> str:
    return word.decode() if isinstance(word, bytes) else word


def _is_unknown_script(error: Exception) -> bool:
    # By name: the class belongs to whichever library the client is of.
    return type(error).__name__ == "NoScriptError"


def _decodes(client: Any) -> bool:
    encoder = getattr(client, "get_encoder", None)
    return callable(encoder) and bool(getattr(encoder(), "decode_responses", False))


def _connect(url: str) -> Client:
    limits: dict[str, Any] = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
    made: Any
    try:
        if url.startswith("valkey"):
            import valkey  # noqa: PLC0415  # when asked for

            made = valkey.Valkey
        else:
            import redis  # noqa: PLC0415  # when asked for

            made = redis.Redis
    except ImportError as error:
        needed = "valkey" if url.startswith("valkey") else "redis: install resilience-policies[redis]"
        raise ImportError(f"RedisStore needs {needed}") from error
    client: Client = made.from_url(url, **limits)
    return client
