"""A key that was claimed, until its work ends."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from resilience.errors import IdempotencyStoreError
from resilience.idempotency import _drive
from resilience.idempotency._context import CurrentClaim, claimed
from resilience.idempotency._drive import Ask, Steps
from resilience.idempotency._heart import Retrying, spawn_retry, watch_in_loop
from resilience.idempotency._machine import Claimed
from resilience.idempotency._store import Store

if TYPE_CHECKING:
    from resilience.idempotency._layer import IdempotencyLayer


class Session:
    """
    The time in which the work is done: from a claim that was won to `complete` or `release`.

    Use it as a block, with ``async with`` in a task: its lease is renewed inside. A block that ends without
    either gives the key back or holds it, as the layer's ``on_error`` says. Every method has a twin with an
    ``a`` for tasks, whose store operation goes on to its end when the task is cancelled.

    Attributes:
        epoch: The fencing token, greater than that of every earlier claim on record; 0 without protection.
        takeover: Whether an earlier owner never came to an end, so that some of the work may be done already.
        is_lost: Whether somebody else has taken the key over: the result will not be kept.
        is_protected: Whether there is a claim; not, where the store failed and the layer fails open.

    """

    __slots__ = (
        "_ended", "_forget", "_key", "_layer", "_owner", "_store", "epoch", "is_lost", "is_protected",
        "takeover",
    )  # fmt: skip

    def __init__(self, layer: "IdempotencyLayer", store: Store, key: bytes, owner: bytes) -> None:
        self._layer = layer
        self._store = store
        self._key = key
        self._owner = owner
        self._ended = False
        self._forget: Callable[[], object] | None = None
        self.epoch = 0
        self.takeover = False
        self.is_lost = False
        self.is_protected = True

    def work(self, key: str) -> claimed:
        """
        Return the block around the work itself, in which `current_claim` and `child_key` know of it.

        The requests that are made inside are not the one that is answered: the caller's `idempotency_key`
        block does not count there.

        Args:
            key: The key, as the caller said it.

        """
        return claimed(CurrentClaim(key, self._key, self, self.epoch, takeover=self.takeover))

    def won(self, answer: Claimed) -> Self:
        """Begin."""
        self.epoch, self.takeover = answer
        return self

    def without_protection(self) -> Self:
        """Begin without a claim: nothing is stored, and nothing asked."""
        self.is_protected, self._ended = False, True
        return self

    def complete(self, content: bytes | None) -> bool:
        """
        Keep *content*, None to keep only that the work is done; the session ends.

        False if it is not kept: somebody else took the key over, or the store failed and is tried again in
        the background until the lease ends. The work is done all the same: give its caller the result.
        """
        return _drive.run(self._completing(content))

    async def acomplete(self, content: bytes | None) -> bool:
        """Do what `complete` does, in a task."""
        return await _drive.arun(self._completing(content))

    def release(self) -> bool:
        """Give the key back: the next call does the work. False if it is not ours, or the store failed."""
        return _drive.run(self.releasing())

    async def arelease(self) -> bool:
        """Do what `release` does, in a task."""
        return await _drive.arun(self.releasing())

    def hold(self) -> None:
        """End without an end: nobody may do the work until an operator, or the time, decides."""
        _drive.run(self._holding())

    async def ahold(self) -> None:
        """Do what `hold` does, in a task."""
        await _drive.arun(self._holding())

    def renew(self) -> bool:
        """Extend the lease by its length; False if somebody else has taken the key over."""
        return _drive.run(self._renewing())

    async def arenew(self) -> bool:
        """Do what `renew` does, in a task."""
        return await _drive.arun(self._renewing())

    def __enter__(self) -> Self:
        if self._renews():
            self._layer.heart.watch(self)
            self._forget = lambda: self._layer.heart.forget(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _drive.run(self._leaving())

    async def __aenter__(self) -> Self:
        if not self._store.async_only:
            return self.__enter__()
        if self._renews():
            self._forget = watch_in_loop(self, self._layer.settings.lease / 3)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _drive.arun(self._leaving())

    def _renews(self) -> bool:
        return self._layer.settings.renew and self._store.leases and not self._ended

    def _rest(self) -> None:
        forget, self._forget = self._forget, None
        if forget is not None:
            forget()

    def beat(self) -> None:
        """Renew the lease from the background. A store that fails is asked again at the next beat."""
        try:
            kept = self._store.renew(self._key, self._owner, self._layer.settings.lease)
        except Exception:  # noqa: BLE001  # see above
            return
        self._beaten(kept=kept)

    async def abeat(self) -> bool:
        """Do what `beat` does, in a task; whether to go on."""
        try:
            kept = await self._store.arenew(self._key, self._owner, self._layer.settings.lease)
        except Exception:  # noqa: BLE001  # see beat
            return not self._ended
        self._beaten(kept=kept)
        return kept and not self._ended

    def _beaten(self, *, kept: bool) -> None:
        if not kept and not self._ended:
            self.is_lost = True
            self._rest()

    def _renewing(self) -> Steps[bool]:
        if self._ended:
            return False
        kept: bool = yield Ask(self._store, "renew", (self._key, self._owner, self._layer.settings.lease))
        self._beaten(kept=kept)
        return kept

    def _completing(self, content: bytes | None) -> Steps[bool]:
        if self._ended:
            return False
        self._ended = True
        self._rest()
        layer = self._layer
        try:
            sealed = None if content is None else layer.sealed(content, self._key)
        except Exception:  # of a cipher: the work is done all the same, and must not be again
            yield from self._ending("complete", (self._key, self._owner, None, layer.settings.ttl))
            raise
        return (yield from self._ending("complete", (self._key, self._owner, sealed, layer.settings.ttl)))

    def releasing(self) -> Steps[bool]:
        """Give the key back, as steps."""
        if self._ended:
            return False
        self._ended = True
        self._rest()
        return (yield from self._ending("release", (self._key, self._owner)))

    def _holding(self) -> Steps[None]:
        if self._ended:
            return
        self._ended = True
        self._rest()
        if self._store.leases and not self._layer.settings.takeover:
            # At once, so that nobody waits for a lease behind which there is no work any more.
            yield from self._ending("renew", (self._key, self._owner, 0.0))

    def _leaving(self) -> Steps[None]:
        if self._ended:
            self._rest()
        elif self._layer.settings.on_error == "hold":
            yield from self._holding()
        else:
            yield from self.releasing()

    def _ending(self, operation: str, values: tuple[Any, ...]) -> Steps[bool]:
        try:
            kept: bool = yield Ask(self._store, operation, values)
        except Exception as error:
            self._layer._count("unsaved")
            if not self._store.leases:  # the work will be rolled back: to say that it is done would be a lie
                raise IdempotencyStoreError(self._layer.name) from error
            # The work is done, or failed by itself: that is what the caller hears.
            self._again(operation, values)
            return False
        except BaseException:
            self._again(operation, values)  # interrupted: it may not have been done
            raise
        if not kept:
            self.is_lost = True
            self._layer._count("lost")
        return kept

    def give_up(self) -> None:
        """Release in the background what may have been claimed, where the store failed to say."""
        self._ended = True
        self._again("release", (self._key, self._owner))

    def _again(self, operation: str, values: tuple[Any, ...]) -> None:
        store = self._store
        if not store.leases:
            return  # the transaction is broken, and will be rolled back
        until = time.monotonic() + self._layer.settings.lease
        name = "a" + operation if store.async_only else operation
        job = Retrying(lambda: getattr(store, name)(*values), until)
        if store.async_only:
            spawn_retry(job)
        else:
            self._layer.heart.retry(job)
