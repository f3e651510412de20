"""Keys in a file: one host, many processes, nothing to install."""

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from resilience import _clock
from resilience._core.check import Check
from resilience._runtime import fork
from resilience.idempotency import _machine as machine
from resilience.idempotency._machine import Answer, Claim, Claimed, Record, State
from resilience.idempotency._store import ThreadedStore
from resilience.typing import Clock, Seconds

_SCHEMA_VERSION: Final = 1
_APPLICATION_ID: Final = 0x52495001  # so that no other file is taken for one of these

_CREATE: Final = """
CREATE TABLE IF NOT EXISTS idempotency (
    key BLOB PRIMARY KEY, fingerprint BLOB NOT NULL, state INTEGER NOT NULL, owner BLOB NOT NULL,
    epoch INTEGER NOT NULL, lease_until REAL NOT NULL, expires_at REAL NOT NULL,
    taken_over INTEGER NOT NULL, value BLOB
) WITHOUT ROWID"""
_INDEX: Final = "CREATE INDEX IF NOT EXISTS idempotency_expires_at ON idempotency (expires_at)"

# One statement claims, also under eight processes: where WHERE is false nothing comes back.
_CLAIM: Final = """
INSERT INTO idempotency AS r (key, fingerprint, state, owner, epoch, lease_until, expires_at, taken_over)
VALUES (:key, :fingerprint, 0, :owner, 1, :now + :lease, :now + max(:lease, :retention), 0)
ON CONFLICT (key) DO UPDATE SET
    fingerprint = excluded.fingerprint, owner = excluded.owner, epoch = r.epoch + 1,
    lease_until = excluded.lease_until, expires_at = excluded.expires_at, value = NULL,
    taken_over = (r.state = 0 AND r.expires_at > :now), state = 0
WHERE r.expires_at <= :now OR r.state = 3
    OR (r.state = 0 AND r.lease_until <= :now AND :takeover
        AND r.fingerprint = excluded.fingerprint AND r.owner <> :owner)
RETURNING epoch, taken_over"""
_LOOK: Final = """
SELECT fingerprint, state, owner, epoch, lease_until, expires_at, value FROM idempotency
WHERE key = :key"""
_RENEW: Final = """
UPDATE idempotency SET lease_until = :now + :lease, expires_at = max(expires_at, :now + :lease)
WHERE key = :key AND owner = :owner AND state = 0 AND expires_at > :now RETURNING 1"""
# A completion that is repeated changes nothing, and is true again.
_COMPLETE: Final = """
UPDATE idempotency SET
    value = CASE state WHEN 0 THEN :value ELSE value END,
    expires_at = CASE state WHEN 0 THEN :now + :retention ELSE expires_at END,
    state = CASE WHEN state > 0 THEN state WHEN :value IS NULL THEN 2 ELSE 1 END
WHERE key = :key AND owner = :owner AND state < 3 AND expires_at > :now RETURNING 1"""
_RELEASE: Final = """
UPDATE idempotency SET state = 3
WHERE key = :key AND owner = :owner AND state IN (0, 3) AND expires_at > :now RETURNING 1"""
_EXPIRE: Final = """
UPDATE idempotency SET state = 3, owner = zeroblob(16), value = NULL
WHERE key = :key AND state < 3 AND expires_at > :now RETURNING 1"""
_PURGE: Final = """
DELETE FROM idempotency WHERE key IN (SELECT key FROM idempotency WHERE expires_at <= :now LIMIT :limit)"""

_TURNS: Final = 10
"""Times that a claim is tried again where the record changes between its two statements."""

_WALL: Final = time.time() - time.monotonic()


def _wall() -> Seconds:
    # All processes of a host share this clock, and it goes on over restarts; a fake clock stands in for it.
    return time.time() if _clock.fake is None else _WALL + _clock.monotonic()


class SQLiteStore(ThreadedStore):
    """
    Keep keys in a file: shared by all processes of one host, still there after a restart.

    The file is made on first use. Not for network file systems. In a task the work is done by a worker
    thread. Of the expired records a few go with every claim.

    Args:
        path: The file, in a directory that exists.
        busy_timeout: Seconds to wait for other processes that write, > 0. Default 5.0. Source: sqlite3.
        synchronous: ``"FULL"`` survives a loss of power, ``"NORMAL"`` may lose the last results then (and
            so do the work again) and is several times faster; both survive a crash of the process. Default
            FULL. Source: SQLite.
        clock: Where the time comes from, the same for all processes. Default: the system's wall clock.

    Raises:
        ConfigError: A setting is wrong.

    Example:
        >>> with SQLiteStore("orders.db") as store:
        ...     store.purge()
        0

    """

    __slots__ = (
        "_abandoned", "_busy_timeout", "_claims", "_clock", "_connection", "_farewell", "_lock", "_path",
        "_synchronous",
    )  # fmt: skip

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout: Seconds = 5.0,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        clock: Clock | None = None,
    ) -> None:
        check = Check("SQLiteStore")
        named = isinstance(path, (str, os.PathLike)) and str(path).strip() not in ("", ":memory:")
        check.that(named, "path", path, "must name a file (keys in memory are kept by MemoryStore)")
        if named:
            there = Path(path).absolute()
            is_in = os.path.isdir(there.parent)  # noqa: PTH112  # that of `Path` raises if a name is too long
            check.that(is_in, "path", path, "must lie in a directory that exists")
            is_file = not os.path.isdir(there)  # noqa: PTH112  # as above
            check.that(is_file, "path", path, "must name a file, not a directory")
        check.seconds("busy_timeout", busy_timeout)
        known = synchronous in ("FULL", "NORMAL")
        check.that(known, "synchronous", synchronous, "must be 'FULL' or 'NORMAL'")
        check.that(clock is None or callable(clock), "clock", clock, "must be callable or None")
        check.done()
        self._path = Path(path).absolute()
        self._busy_timeout = busy_timeout
        self._synchronous = synchronous
        self._clock: Clock = _wall if clock is None else clock
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._abandoned: list[sqlite3.Connection] = []
        self._farewell: weakref.finalize[Any, SQLiteStore] | None = None
        self._claims = 0
        fork.register(self)

    def _after_fork(self) -> None:
        # The parent's connection must be neither used nor closed here: closing drops the parent's file locks.
        if self._connection is not None:
            self._abandoned.append(self._connection)
        if self._farewell is not None:
            self._farewell.detach()
        self._connection = None
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the file. The next use opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if self._farewell is not None:
                self._farewell.detach()
            if connection is not None:
                connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SQLiteStore {str(self._path)!r}>"

    def claim(self, key: bytes, ask: Claim) -> Answer:
        """Claim a key, or say why not."""
        for _ in range(_TURNS):
            now = self._clock()
            won = self._execute(
                _CLAIM,
                key=key,
                fingerprint=ask.fingerprint,
                owner=ask.owner,
                now=now,
                lease=ask.lease,
                retention=ask.retention,
                takeover=ask.takeover,
            )
            if won:
                self._tidy()
                return Claimed(won[0][0], bool(won[0][1]))
            rows = self._execute(_LOOK, key=key)
            if rows:
                answer, fresh = machine.claim(_record(rows[0]), ask, self._clock())
                if fresh is None:
                    return answer
            # Removed or given back in between: there may be something to claim now.
        raise sqlite3.OperationalError("a key changed hands again and again while it was claimed")

    def renew(self, key: bytes, owner: bytes, lease: Seconds) -> bool:
        """Extend the lease; False if the key is no longer *owner*'s."""
        return bool(self._execute(_RENEW, key=key, owner=owner, now=self._clock(), lease=lease))

    def complete(self, key: bytes, owner: bytes, value: bytes | None, retention: Seconds) -> bool:
        """Keep the result, None for a tombstone; False if the key is no longer *owner*'s."""
        now = self._clock()
        return bool(self._execute(_COMPLETE, key=key, owner=owner, now=now, value=value, retention=retention))

    def release(self, key: bytes, owner: bytes) -> bool:
        """Give the key back; False if it is no longer *owner*'s."""
        return bool(self._execute(_RELEASE, key=key, owner=owner, now=self._clock()))

    def inspect(self, key: bytes) -> Record | None:
        """Return what is known about a key. Its instants are seconds from now."""
        rows, now = self._execute(_LOOK, key=key), self._clock()
        if not rows:
            return None
        record = _record(rows[0])
        record.lease_until -= now
        record.expires_at -= now
        return record if record.expires_at > 0 else None

    def expire(self, key: bytes) -> bool:
        """Forget what is known about a key, whoever owns it; False if there is nothing."""
        return bool(self._execute(_EXPIRE, key=key, now=self._clock()))

    def purge(self, limit: int = 1000) -> int:
        """Remove up to *limit* records that count as absent; return how many."""
        with self._lock:
            return self._connected().execute(_PURGE, {"now": self._clock(), "limit": limit}).rowcount

    def _tidy(self) -> None:
        self._claims += 1
        if self._claims % 100 == 0:  # twice as many out as came in, so that what is over never piles up
            self.purge(200)

    def _execute(self, statement: str, **values: Any) -> list[Any]:
        with self._lock:
            cursor = self._connected().execute(statement, values)
            try:
                return cursor.fetchall()
            finally:
                cursor.close()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connection = self._open()
            # A store that nobody closes, such as one in a module, is closed with its last user.
            self._farewell = weakref.finalize(self, connection.close)
        return self._connection

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=self._busy_timeout, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        until = time.monotonic() + self._busy_timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                break
            except sqlite3.OperationalError as error:
                # While another process is changing the mode, SQLite does not wait by itself.
                if "locked" not in str(error) or time.monotonic() >= until:
                    raise
                time.sleep(0.005)
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        # Begin as a writer: one that reads first, and then writes, fails at once where another writes.
        connection.execute("BEGIN IMMEDIATE")
        try:
            known = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if known not in (0, _APPLICATION_ID) or (tables and known != _APPLICATION_ID):
                raise sqlite3.DatabaseError(f"{self._path} is a database of something else")
            if version > _SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"{self._path} was written by a later version of this package")
            if version < _SCHEMA_VERSION:
                connection.execute(_CREATE)
                connection.execute(_INDEX)
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _record(row: Sequence[Any]) -> Record:
    fingerprint, state, owner, epoch, lease_until, expires_at, value = row
    return Record(fingerprint, State(state), owner, epoch, lease_until, expires_at, value)
