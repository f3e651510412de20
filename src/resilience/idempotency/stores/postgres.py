"""Keys in PostgreSQL, by psycopg 3: beside the work, or in the same transaction with it."""

import re
import sys
from collections.abc import Generator, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar, cast

from resilience._core.check import Check
from resilience.idempotency import _machine as machine
from resilience.idempotency._machine import NOBODY, Answer, Claim, Claimed, InFlight, Record, State
from resilience.idempotency._store import SteppedStore, in_thread
from resilience.idempotency.stores import _postgres_sql as sql
from resilience.idempotency.stores._pool import AsyncPool, Pool
from resilience.typing import Seconds

T = TypeVar("T")

PATIENCE: Final = 10
"""Seconds that a connection of the store's own waits to be made, and then for any statement."""

_TURNS: Final = 10
"""Times that a claim is tried again where the row changes between its two statements."""

_TIDY_EVERY: Final = 100
_TIDIED: Final = 2 * _TIDY_EVERY


class _Statement(NamedTuple):
    """Execute it. The reply is the list of its rows."""

    text: str
    values: Mapping[str, Any]


_Steps = Generator[_Statement, list[Any], T]


class _SqlStore(SteppedStore):
    """The steps, whoever executes them."""

    __slots__ = ("_table",)

    _table: str

    def _say(self, text: str, **values: Any) -> _Statement:
        return _Statement(text.format(table=self._table), values)

    def _claiming(self, key: bytes, ask: Claim) -> _Steps[Answer]:
        for _ in range(_TURNS):
            rows = yield self._say(sql.CLAIM, key=key, **ask._asdict())
            if rows:
                return Claimed(rows[0][0], rows[0][1])
            # A new statement: to the one that lost, the row that won may be invisible.
            rows = yield self._say(sql.LOOK, key=key)
            if rows:
                answer, fresh = machine.claim(_record(rows[0]), ask, 0.0)
                if fresh is None:
                    return answer
            # Removed or given back in between: there may be something to claim now.
        raise RuntimeError("a key changed hands again and again while it was claimed")

    def _renewing(self, key: bytes, owner: bytes, lease: Seconds) -> _Steps[bool]:
        return bool((yield self._say(sql.RENEW, key=key, owner=owner, lease=lease)))

    def _completing(self, key: bytes, owner: bytes, value: bytes | None, retention: Seconds) -> _Steps[bool]:
        return bool((yield self._say(sql.COMPLETE, key=key, owner=owner, value=value, retention=retention)))

    def _releasing(self, key: bytes, owner: bytes) -> _Steps[bool]:
        return bool((yield self._say(sql.RELEASE, key=key, owner=owner)))

    def _inspecting(self, key: bytes) -> _Steps[Record | None]:
        rows = yield self._say(sql.LOOK, key=key)
        record = _record(rows[0]) if rows else None
        return record if record is not None and record.expires_at > 0 else None

    def _expiring(self, key: bytes) -> _Steps[bool]:
        return bool((yield self._say(sql.EXPIRE, key=key, owner=NOBODY)))

    def _purging(self, limit: int) -> _Steps[int]:
        return len((yield self._say(sql.PURGE, limit=limit)))


class PostgresStore(_SqlStore):
    """
    Keep keys in a table of PostgreSQL, by the server's clock.

    A claim that is won is one statement, a lost one two, a completion one. Where the work itself is in the
    same database, `transaction` closes the gap between the work and its result. Call `migrate` once before.
    Of the expired rows a few go with every hundredth claim; `purge` removes more.

    Args:
        conninfo: A connection string for libpq, for connections of the store's own, of both colours; they
            give up after 10 s. Or a ``ConnectionPool`` or ``AsyncConnectionPool`` of psycopg_pool; give it
            ``kwargs={"autocommit": True}`` to save two round trips. A sync pool serves tasks by a worker
            thread, an async pool serves async functions only.
        table: Name of the table. Default ``"resilience_idempotency"``.

    Raises:
        ConfigError: A setting is wrong.

    Example:
        >>> store = PostgresStore("host=db.internal dbname=orders")
        >>> "CREATE TABLE" in store.schema()
        True

    """

    __slots__ = ("_apool", "_claims", "_pool", "async_only")

    def __init__(self, conninfo: Any, *, table: str = "resilience_idempotency") -> None:
        check = Check("PostgresStore")
        usable = isinstance(conninfo, str) or hasattr(conninfo, "connection")
        check.that(usable, "conninfo", conninfo, "must be a connection string, or a pool of psycopg_pool")
        named = isinstance(table, str) and re.fullmatch(r"[a-z_][a-z0-9_]{0,40}", table)
        check.that(named, "table", table, "must be a plain name of small letters, digits and underscores")
        check.done()
        self._table = table
        self._claims = 0
        self._pool: Any = conninfo
        self._apool: Any = None
        self.async_only = False
        if isinstance(conninfo, str):
            self._pool, self._apool = _own_pools(conninfo)
        elif "Async" in type(conninfo).__name__:
            self._pool, self._apool, self.async_only = None, conninfo, True

    def __repr__(self) -> str:
        return f"<PostgresStore {self._table!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def close(self) -> None:
        """Close the connections of the store's own that threads have used."""
        if isinstance(self._pool, Pool):
            self._pool.close()

    async def aclose(self) -> None:
        """Close the connections of the store's own that threads and this event loop have used."""
        if isinstance(self._apool, AsyncPool) and not _in_trio():
            await self._apool.close()
        self.close()

    def schema(self) -> str:
        """Return the statements that `migrate` executes on an empty database, for a migration tool."""
        texts = [sql.VERSIONS]
        for number, migration in enumerate(sql.MIGRATIONS, 1):
            texts += [migration, sql.REACHED.replace("%(version)s", str(number))]
        return "\n".join(text.format(table=self._table).strip().rstrip(";") + ";" for text in texts) + "\n"

    def migrate(self) -> int:
        """Make the table, or take it to this version of the package; return the version of its schema."""
        return self._run(self._migrating())

    async def amigrate(self) -> int:
        """Make the table, or take it to this version of the package; return the version of its schema."""
        return await self._arun(self._migrating())

    def _migrating(self) -> _Steps[int]:
        # All or nothing, and one process at a time.
        yield _Statement("BEGIN", {})
        yield _Statement("SELECT pg_advisory_xact_lock(hashtext(%(table)s))", {"table": self._table})
        yield self._say(sql.VERSIONS)
        version = int((yield self._say(sql.VERSION))[0][0])
        for number, migration in enumerate(sql.MIGRATIONS[version:], version + 1):
            yield self._say(migration)
            yield self._say(sql.REACHED, version=number)
        yield _Statement("COMMIT", {})
        return max(version, len(sql.MIGRATIONS))

    def transaction(self, connection: Any) -> "TransactionStore":
        """
        Return this store inside the transaction that *connection* is in.

        Claim, work and result are committed together, or not at all: what the work does in this database
        happens once per key. One who comes meanwhile is told that the call is in progress. Let an error
        leave the transaction: its rollback gives the key back.

        Args:
            connection: A connection of psycopg, sync or async, on which the work is done as well.

        """
        return TransactionStore(connection, self._table)

    def _claiming(self, key: bytes, ask: Claim) -> _Steps[Answer]:
        self._claims += 1
        if (
            self._claims % _TIDY_EVERY == 0
        ):  # twice as many out as came in, so that what is over never piles up
            yield from self._purging(_TIDIED)
        return (yield from super()._claiming(key, ask))

    def _run(self, steps: _Steps[T]) -> T:
        if self._pool is None:
            steps.close()
            raise TypeError("this PostgresStore has an async pool: it serves async functions only")
        if not isinstance(self._pool, Pool):
            with self._pool.connection() as connection:
                return _drive(connection, steps)
        connection = self._pool.take()
        try:
            return _drive(connection, steps)
        finally:
            if not _is_idle(connection):
                connection.close()
            self._pool.give_back(connection)

    async def _arun(self, steps: _Steps[T]) -> T:
        if self._apool is None or (self._pool is not None and _in_trio()):
            return await in_thread(lambda: self._run(steps))
        if not isinstance(self._apool, AsyncPool):
            async with self._apool.connection() as connection:
                return await _adrive(connection, steps)
        connection = await self._apool.take()
        try:
            return await _adrive(connection, steps)
        finally:
            if not _is_idle(connection):
                await connection.close()
            await self._apool.give_back(connection)


class TransactionStore(_SqlStore):
    """
    A `PostgresStore` inside a transaction of the caller's: see `PostgresStore.transaction`.

    There are no leases in it: nobody sees the claim before it is committed, together with its result.
    """

    __slots__ = ("_connection", "async_only")

    leases = False

    def __init__(self, connection: Any, table: str) -> None:
        self._connection = connection
        self._table = table
        self.async_only = "Async" in type(connection).__name__

    def _claiming(self, key: bytes, ask: Claim) -> _Steps[Answer]:
        number = int.from_bytes(key[:8], "big", signed=True)
        rows = yield self._say(sql.TRY_LOCK, number=number)
        if not rows[0][0]:
            return InFlight(None)
        return (yield from super()._claiming(key, ask))

    def _releasing(self, key: bytes, owner: bytes) -> _Steps[bool]:  # noqa: ARG002  # the rollback does it
        """Do nothing: a transaction that failed takes no statement, and its rollback gives the key back."""
        return True
        yield  # a generator without a step

    def _run(self, steps: _Steps[T]) -> T:
        if self.async_only:
            steps.close()
            raise TypeError("this transaction is on an async connection: it serves async functions only")
        return _drive(self._connection, steps)

    async def _arun(self, steps: _Steps[T]) -> T:
        if not self.async_only:
            return await in_thread(lambda: self._run(steps))
        return await _adrive(self._connection, steps)


def _own_pools(conninfo: str) -> tuple[Pool, AsyncPool]:
    try:
        import psycopg  # noqa: PLC0415  # when asked for
    except ImportError as error:
        raise ImportError("PostgresStore needs psycopg: install resilience-policies[postgres]") from error
    options = f"-c statement_timeout={PATIENCE}s"
    settings: dict[str, Any] = {"autocommit": True, "connect_timeout": PATIENCE}
    if "options=" not in conninfo:  # whoever sets options knows better
        settings["options"] = options
    return (
        Pool(lambda: psycopg.connect(conninfo, **settings)),
        AsyncPool(lambda: psycopg.AsyncConnection.connect(conninfo, **settings)),
    )


def _drive(connection: Any, steps: _Steps[T]) -> T:
    rows: Any = None
    while True:
        try:
            command = steps.send(rows)
        except StopIteration as stop:
            return cast("T", stop.value)
        with connection.cursor(row_factory=_plain_rows()) as cursor:
            cursor.execute(command.text, command.values or None)
            rows = cursor.fetchall() if cursor.description else []


async def _adrive(connection: Any, steps: _Steps[T]) -> T:
    rows: Any = None
    while True:
        try:
            command = steps.send(rows)
        except StopIteration as stop:
            return cast("T", stop.value)
        async with connection.cursor(row_factory=_plain_rows()) as cursor:
            await cursor.execute(command.text, command.values or None)
            rows = await cursor.fetchall() if cursor.description else []


def _plain_rows() -> Any:
    # The connection may be the user's, with rows of their own liking.
    from psycopg.rows import tuple_row  # noqa: PLC0415  # when asked for

    return tuple_row


def _is_idle(connection: Any) -> bool:
    """Whether nothing is left of what was done on it: no transaction, no answer that is under way."""
    return not connection.closed and connection.pgconn.transaction_status == 0


def _in_trio() -> bool:
    # psycopg's async connections know asyncio only.
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_task()


def _record(row: Any) -> Record:
    fingerprint, state, owner, epoch, lease_until, expires_at, value = row
    return Record(fingerprint, State(state), owner, epoch, lease_until, expires_at, value)
