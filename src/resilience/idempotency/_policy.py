"""`idempotent`: functions that do their work once per key, as far as the store allows."""

import functools
import inspect
import uuid
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar, cast

from resilience._runtime import wrap
from resilience._runtime.arguments import name_problems
from resilience.deadline import check_deadline
from resilience.errors import ConfigError, IdempotencyKeyError, IdempotencyStoreError, Problem
from resilience.idempotency._codec import Codec, JsonCodec, result_of
from resilience.idempotency._context import carried
from resilience.idempotency._envelope import Cipher
from resilience.idempotency._fingerprint import arguments_of, fingerprint_value
from resilience.idempotency._key import check_key, lookup_key
from resilience.idempotency._layer import IdempotencyLayer, Replayed, layer_problems
from resilience.idempotency._settings import IdempotencySettings
from resilience.idempotency._store import Store
from resilience.typing import Seconds

P = ParamSpec("P")
R = TypeVar("R")

_ARGUMENTS: Literal["arguments"] = "arguments"


class idempotent:  # noqa: N801  # used like a function
    """
    Do the work of a function once per key; a further call with the key gets the result that was kept.

    What that promises depends on the settings and the store: with ``on_error="release"`` at least once, with
    ``"hold"`` at most once, and with *transaction* once per transaction that commits.

    Args:
        name: What keys are scoped to, and what telemetry calls it. Default: the function's module and
            qualified name; give one to be able to rename the function.
        store: Where keys are kept.
        key: Makes the key of a call from its arguments: a string, a whole number, a UUID, or None for none.
            Default: the key of the `idempotency_key` block around.
        ttl: Seconds for which a result is kept, counted from when the work ended, > 0. Default 86 400.
        lease: Seconds for which nobody takes over from one who is not heard of, > 0. Default 60.0.
        renew: Whether the lease is renewed while the work goes on. Default True.
        wait_for: Seconds to wait for a call with the same key that is in progress, >= 0. Default 0.0.
        on_error: ``"release"`` or ``"hold"``: what becomes of the key when the function raises or is
            cancelled. Default ``"release"``.
        on_lease_expiry: ``"takeover"`` or ``"hold"``: what becomes of it when its owner is gone. Default:
            takeover with ``on_error="release"``, else hold.
        fail_open: Whether to go on without protection where the store fails. Default False.
        max_value_bytes: Longest result that is kept, >= 1. Default 262 144.
        required: Whether a call without a key is an error. Default True.
        fingerprint: Makes, from the arguments, what must be the same where the key is the same: bytes, or a
            plain value. Default: all arguments. None: nothing; the key alone says it all.
        codec: How results become bytes. Default: JSON, with dataclasses as the function's annotation says.
        cipher: Encrypts results at rest. Default None.
        transaction: Returns, from the arguments, the connection on which the function works, where the store
            is a `PostgresStore`: claim, work and result are then one transaction.

    Raises:
        ConfigError: A setting is wrong.

    Example:
        >>> from resilience.idempotency.stores import MemoryStore
        >>> @idempotent(store=MemoryStore(), key=lambda order: order)
        ... def place(order: str) -> str:
        ...     print("placing")
        ...     return f"receipt of {order}"
        >>> place("o-1"), place("o-1")
        placing
        ('receipt of o-1', 'receipt of o-1')

    """

    __slots__ = (
        "_cipher", "_codec", "_fingerprint", "_key", "_name", "_settings", "_store", "_transaction",
    )  # fmt: skip

    def __init__(
        self,
        name: str | None = None,
        *,
        store: Store,
        key: Callable[..., object] | None = None,
        ttl: Seconds = 86_400.0,
        lease: Seconds = 60.0,
        renew: bool = True,
        wait_for: Seconds = 0.0,
        on_error: Literal["release", "hold"] = "release",
        on_lease_expiry: Literal["takeover", "hold"] | None = None,
        fail_open: bool = False,
        max_value_bytes: int = 262_144,
        required: bool = True,
        fingerprint: Callable[..., object] | Literal["arguments"] | None = _ARGUMENTS,
        codec: Codec | None = None,
        cipher: Cipher | None = None,
        transaction: Callable[..., Any] | None = None,
    ) -> None:
        problems = name_problems(name)
        try:
            self._settings = IdempotencySettings(
                ttl=ttl,
                lease=lease,
                renew=renew,
                wait_for=wait_for,
                on_error=on_error,
                on_lease_expiry=on_lease_expiry,
                fail_open=fail_open,
                max_value_bytes=max_value_bytes,
                required=required,
            )
        except ConfigError as error:
            problems += error.problems
        problems += layer_problems(store, cipher)
        for setting, value in (("key", key), ("transaction", transaction)):
            if value is not None and not callable(value):
                problems.append(Problem(setting, value, "must be callable or None"))
        if fingerprint is not None and fingerprint != _ARGUMENTS and not callable(fingerprint):
            problems.append(Problem("fingerprint", fingerprint, "must be callable, 'arguments' or None"))
        if codec is not None and not isinstance(codec, Codec):
            problems.append(Problem("codec", codec, "must have a name, encode() and decode(), or be None"))
        if transaction is not None and not hasattr(store, "transaction"):
            problems.append(Problem("transaction", transaction, "needs a PostgresStore"))
        if transaction is not None and on_error == "hold":
            problems.append(
                Problem("on_error", on_error, "must be 'release' where a rollback gives the key back")
            )
        if transaction is not None and fail_open:
            problems.append(
                Problem("fail_open", fail_open, "must be False in a transaction, which fails with the store")
            )
        if problems:
            raise ConfigError("idempotent", problems)
        self._name = name
        self._store = store
        self._key = key
        self._fingerprint = fingerprint
        self._codec = codec
        self._cipher = cipher
        self._transaction = transaction

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """
        Guard *fn* and return a function of the same name, signature and colour, with a ``layer``.

        Raises:
            TypeError: *fn* is no function, or a generator function, whose items cannot be kept.
            ConfigError: The store serves async functions only, and *fn* is a plain one.

        """
        given: Any = fn
        if isinstance(given, (classmethod, staticmethod)):
            method = cast("staticmethod[..., Any]", given)
            return cast("Callable[P, R]", type(method)(self(method.__func__)))
        if isinstance(given, type) or not callable(given):
            raise TypeError(f"idempotent guards functions and callable objects, got {given!r}")
        if inspect.isgeneratorfunction(given) or inspect.isasyncgenfunction(given):
            raise TypeError(f"{wrap.name_of(given)} is a generator function: what it yields cannot be kept")
        is_async = wrap.is_async(given)
        if self._store.async_only and not is_async:
            rule = f"must serve plain functions, such as {wrap.name_of(given)}: give it a sync client"
            raise ConfigError("idempotent", [Problem("store", self._store, rule)])
        work = _Work(self, given)
        guarded = work.asynchronous() if is_async else work.synchronous()
        named = given if hasattr(given, "__name__") else type(given)
        guarded.__name__, guarded.__qualname__ = named.__name__, named.__qualname__
        functools.update_wrapper(guarded, given, updated=("__dict__",) if inspect.isroutine(given) else ())
        guarded.layer = work.layer
        return cast("Callable[P, R]", guarded)

    def layer_for(self, fn: Callable[..., Any]) -> tuple[IdempotencyLayer, Codec]:
        """Return the layer of one function, and what encodes its results."""
        codec = JsonCodec(result_of(fn)) if self._codec is None else self._codec
        layer = IdempotencyLayer(
            self._name or wrap.name_of(fn),
            store=self._store,
            settings=self._settings,
            codec=codec.name,
            cipher=self._cipher,
        )
        return layer, codec

    def fingerprint_for(self, fn: Callable[..., Any]) -> Callable[..., bytes]:
        """Return what makes the fingerprint of a call of *fn* from its arguments."""
        given = self._fingerprint
        if given is None:
            return lambda *_, **__: b""
        if not callable(given):
            return arguments_of(fn)

        def fingerprint(*args: Any, **kwargs: Any) -> bytes:
            return fingerprint_value(given(*args, **kwargs))

        return fingerprint

    @property
    def key(self) -> Callable[..., object] | None:
        """What makes the key of a call from its arguments."""
        return self._key

    @property
    def transaction(self) -> Callable[..., Any] | None:
        """What returns the connection on which the function works."""
        return self._transaction


class _Work:
    """One function, guarded."""

    __slots__ = ("codec", "fingerprint", "fn", "key", "layer", "transaction")

    def __init__(self, guard: idempotent, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.key = guard.key
        self.transaction = guard.transaction
        self.layer, self.codec = guard.layer_for(fn)
        self.fingerprint = guard.fingerprint_for(fn)

    def synchronous(self) -> Any:
        layer, fn = self.layer, self.fn

        def guarded(*args: Any, **kwargs: Any) -> Any:
            key, fingerprint = self.named(args, kwargs)
            if key is None:
                return fn(*args, **kwargs)
            with self.around(args, kwargs) as store:
                begun = layer.begin(self.place(key), fingerprint, store=store)
                if isinstance(begun, Replayed):
                    return self.decoded(begun)
                with begun:
                    with begun.work(key):
                        value = fn(*args, **kwargs)
                    content, problem = self.encoded(value)
                    self.check_kept(begun.complete(content), problem)
                return value

        return guarded

    def asynchronous(self) -> Any:
        layer, fn = self.layer, self.fn
        from resilience._runtime import adrive as adrive  # noqa: PLC0415  # now, so that no call pays for it

        async def guarded(*args: Any, **kwargs: Any) -> Any:
            key, fingerprint = self.named(args, kwargs)
            if key is None:
                return await fn(*args, **kwargs)
            async with self.around(args, kwargs) as store:
                begun = await layer.abegin(self.place(key), fingerprint, store=store)
                if isinstance(begun, Replayed):
                    return self.decoded(begun)
                async with begun:
                    with begun.work(key):
                        value = await fn(*args, **kwargs)
                    content, problem = self.encoded(value)
                    self.check_kept(await begun.acomplete(content), problem)
                return value

        return guarded

    def named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str | None, bytes]:
        """Return the key of a call, None for none, and its fingerprint."""
        check_deadline()
        if self.key is None:
            block = carried()
            if block is None:
                self.check_required()
                return None, b""
            fingerprint = self.fingerprint(*args, **kwargs)
            return block.bind(fingerprint_value((self.layer.name, fingerprint))), fingerprint
        given = self.key(*args, **kwargs)
        if given is None:
            self.check_required()
            return None, b""
        if isinstance(given, uuid.UUID) or (isinstance(given, int) and not isinstance(given, bool)):
            given = str(given)
        try:
            return check_key(given), self.fingerprint(*args, **kwargs)
        except IdempotencyKeyError as error:
            self.layer._count("missing_key")
            raise IdempotencyKeyError(self.layer.name, problem=error.problem) from None

    def check_required(self) -> None:
        """Refuse the call, unless it may be made without a key."""
        if self.layer.settings.required:
            self.layer._count("missing_key")
            where = "no idempotency_key() block around" if self.key is None else "key= returned None"
            raise IdempotencyKeyError(self.layer.name, problem=where)

    def place(self, key: str) -> bytes:
        """Return where the key is kept."""
        return function_key(self.layer.name, key)

    def around(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "_Around":
        """Return the block around claim, work and result: the transaction, if they share one."""
        if self.transaction is None:
            return _Around(None, None)
        connection = self.transaction(*args, **kwargs)
        return _Around(cast("Any", self.layer.store).transaction(connection), connection)

    def encoded(self, value: object) -> tuple[bytes | None, Exception | None]:
        """Return the result as bytes, or what is wrong with it. The work is done, and must not be again."""
        try:
            return self.codec.encode(value), None
        except Exception as error:  # noqa: BLE001  # raised as soon as the store knows that the work is done
            error.add_note(
                f"{self.layer.name} ran, and will not run again for this key; its result is not kept"
            )
            return None, error

    def check_kept(self, kept: bool, problem: Exception | None) -> None:  # the answer of complete
        """Raise what is wrong with the result, and whatever must roll a transaction back."""
        try:
            if problem is not None:
                raise problem
            if self.transaction is not None and not kept:
                raise IdempotencyStoreError(self.layer.name)
        finally:
            problem = None  # no cycle: frame -> error -> traceback -> frame

    def decoded(self, begun: Replayed) -> Any:
        """Return the result that was kept."""
        try:
            return self.codec.decode(begun.content)
        except Exception as error:
            raise IdempotencyStoreError(self.layer.name) from error


class _Around:
    """The transaction of the caller's connection, of either colour; or nothing."""

    __slots__ = ("_block", "_store")

    def __init__(self, store: Store | None, connection: Any) -> None:
        self._store = store
        self._block: Any = None if connection is None else connection.transaction()

    def __enter__(self) -> Store | None:
        if self._block is not None:
            self._block.__enter__()
        return self._store

    def __exit__(self, *ending: object) -> bool | None:
        return None if self._block is None else self._block.__exit__(*ending)

    async def __aenter__(self) -> Store | None:
        if self._block is not None:
            await self._block.__aenter__()
        return self._store

    async def __aexit__(self, *ending: object) -> bool | None:
        return None if self._block is None else await self._block.__aexit__(*ending)


def function_key(name: str, key: str) -> bytes:
    """Return where the key of an `idempotent` function is kept; *name* is that of its layer."""
    return lookup_key("function", name, key)
