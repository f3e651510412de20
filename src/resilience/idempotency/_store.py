"""What a store of keys must do, and how one description of its steps serves threads and tasks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeVar, runtime_checkable

from resilience.idempotency._machine import Answer, Claim, Record
from resilience.typing import Seconds

T = TypeVar("T")


@runtime_checkable
class Store(Protocol):
    """
    Where keys are kept. Every operation is one atomic step, by the rules of the machine.

    *key* is what `lookup_key` returns. Where the store has a clock of its own, that clock counts. An
    operation that fails raises whatever its library raises; each may be repeated with the same owner, so a
    lost answer does no harm. The methods with an ``a`` are the same for tasks.

    Attributes:
        async_only: Whether only the methods with an ``a`` work.
        leases: Whether a claim is visible to others, and may be taken over, before it is completed. In
            one transaction it is not.

    """

    @property
    def async_only(self) -> bool:
        """Whether it serves tasks only."""
        ...

    @property
    def leases(self) -> bool:
        """Whether its claims run out."""
        ...

    def claim(self, key: bytes, ask: Claim) -> Answer:
        """Claim a key, or say why not."""
        ...

    def renew(self, key: bytes, owner: bytes, lease: Seconds) -> bool:
        """Let the lease end *lease* seconds from now, >= 0; False if the key is no longer *owner*'s."""
        ...

    def complete(self, key: bytes, owner: bytes, value: bytes | None, retention: Seconds) -> bool:
        """Keep the result, None for a tombstone; False if the key is no longer *owner*'s."""
        ...

    def release(self, key: bytes, owner: bytes) -> bool:
        """Give the key back; False if it is no longer *owner*'s."""
        ...

    def inspect(self, key: bytes) -> Record | None:
        """Return what is known about a key. Its instants are seconds from now."""
        ...

    def expire(self, key: bytes) -> bool:
        """Forget what is known about a key, whoever owns it; False if there is nothing."""
        ...

    def purge(self, limit: int = 1000) -> int:
        """Remove up to *limit* records that count as absent; return how many."""
        ...

    async def aclaim(self, key: bytes, ask: Claim) -> Answer:
        """Do as `claim` does, in this task."""
        ...

    async def arenew(self, key: bytes, owner: bytes, lease: Seconds) -> bool:
        """Do as `renew` does, in this task."""
        ...

    async def acomplete(self, key: bytes, owner: bytes, value: bytes | None, retention: Seconds) -> bool:
        """Do as `complete` does, in this task."""
        ...

    async def arelease(self, key: bytes, owner: bytes) -> bool:
        """Do as `release` does, in this task."""
        ...

    async def ainspect(self, key: bytes) -> Record | None:
        """Do as `inspect` does, in this task."""
        ...

    async def aexpire(self, key: bytes) -> bool:
        """Do as `expire` does, in this task."""
        ...

    async def apurge(self, limit: int = 1000) -> int:
        """Do as `purge` does, in this task."""
        ...


class ThreadedStore(ABC):
    """A store whose steps block: tasks have them done by a worker thread, and wait until it is done."""

    __slots__ = ("__weakref__",)

    async_only = False
    leases = True

    @abstractmethod
    def claim(self, key: bytes, ask: Claim) -> Answer:
        """Claim a key, or say why not."""

    @abstractmethod
    def renew(self, key: bytes, owner: bytes, lease: Seconds) -> bool:
        """Extend the lease; False if the key is no longer *owner*'s."""

    @abstractmethod
    def complete(self, key: bytes, owner: bytes, value: bytes | None, retention: Seconds) -> bool:
        """Keep the result, None for a tombstone; False if the key is no longer *owner*'s."""

    @abstractmethod
    def release(self, key: bytes, owner: bytes) -> bool:
        """Give the key back; False if it is no longer *owner*'s."""

    @abstractmethod
    def inspect(self, key: bytes) -> Record | None:
        """Return what is known about a key. Its instants are seconds from now."""

    @abstractmethod
    def expire(self, key: bytes) -> bool:
        """Forget what is known about a key, whoever owns it; False if there is nothing."""

    @abstractmethod
    def purge(self, limit: int = 1000) -> int:
        """Remove up to *limit* records that count as absent; return how many."""

    async def aclaim(self, key: bytes, ask: Claim) -> Answer:
        """Claim a key, or say why not."""
        return await in_thread(lambda: self.claim(key, ask))

    async def arenew(self, key: bytes, owner: bytes, lease: Seconds) -> bool:
        """Extend the lease; False if the key is no longer *owner*'s."""
        return await in_thread(lambda: self.renew(key, owner, lease))

    async def acomplete(self, key: bytes, owner: bytes, value: bytes | None, retention: Seconds) -> bool:
        """Keep the result, None for a tombstone; False if the key is no longer *owner*'s."""
        return await in_thread(lambda: self.complete(key, owner, value, retention))

    async def arelease(self, key: bytes, owner: bytes) -> bool:
        """Give the key back; False if it is no longer *owner*'s."""
        return await in_thread(lambda: self.release(key, owner))

    async def ainspect(self, key: bytes) -> Record | None:
        """Return what is known about a key. Its instants are seconds from now."""
        return await in_thread(lambda: self.inspect(key))

    async def aexpire(self, key: bytes) -> bool:
        """Forget what is known about a key, whoever owns it; False if there is nothing."""
        return await in_thread(lambda: self.expire(key))

    async def apurge(self, limit: int = 1000) -> int:
        """Remove up to *limit* records that count as absent; return how many."""
        return await in_thread(lambda: self.purge(limit))


async def in_thread(work: Callable[[], T]) -> T:
    """Do *work* in a worker thread; a cancellation waits for its end, so that nothing stays half-done."""
    import anyio.to_thread  # noqa: PLC0415  # only for async functions

    return await anyio.to_thread.run_sync(work)


class SteppedStore(ThreadedStore):
    """
    A store on a server: each operation is a generator that yields commands and is sent their replies.

    `_run` drives one on a thread and `_arun` in a task. Where the store has only one kind of client, the
    other colour goes by way of a worker thread, or is refused.
    """

    __slots__ = ()

    @abstractmethod
    def _run(self, steps: Generator[Any, Any, T]) -> T: ...

    @abstractmethod
    async def _arun(self, steps: Generator[Any, Any, T]) -> T: ...

    @abstractmethod
    def _claiming(self, key: bytes, ask: Claim) -> Generator[Any, Any, Answer]: ...

    @abstractmethod
    def _renewing(self, key: bytes, owner: bytes, lease: Seconds) -> Generator[Any, Any, bool]: ...

    @abstractmethod
    def _completing(
        self, key: bytes, owner: bytes, value: bytes | None, retention: Seconds
    ) -> Generator[Any, Any, bool]: ...

    @abstractmethod
    def _releasing(self, key: bytes, owner: bytes) -> Generator[Any, Any, bool]: ...

    @abstractmethod
    def _inspecting(self, key: bytes) -> Generator[Any, Any, Record | None]: ...

    @abstractmethod
    def _expiring(self, key: bytes) -> Generator[Any, Any, bool]: ...

    @abstractmethod
    def _purging(self, limit: int) -> Generator[Any, Any, int]: ...

    def claim(self, key: bytes, ask: Claim) -> Answer:
        """Claim a key, or say why not."""
        return self._run(self._claiming(key, ask))

    def renew(self, key: bytes, owner: bytes, lease: Seconds) -> bool:
        """Extend the lease; False if the key is no longer *owner*'s."""
        return self._run(self._renewing(key, owner, lease))

    def complete(self, key: bytes, owner: bytes, value: bytes | None, retention: Seconds) -> bool:
        """Keep the result, None for a tombstone; False if the key is no longer *owner*'s."""
        return self._run(self._completing(key, owner, value, retention))

    def release(self, key: bytes, owner: bytes) -> bool:
        """Give the key back; False if it is no longer *owner*'s."""
        return self._run(self._releasing(key, owner))

    def inspect(self, key: bytes) -> Record | None:
        """Return what is known about a key. Its instants are seconds from now."""
        return self._run(self._inspecting(key))

    def expire(self, key: bytes) -> bool:
        """Forget what is known about a key, whoever owns it; False if there is nothing."""
        return self._run(self._expiring(key))

    def purge(self, limit: int = 1000) -> int:
        """Remove up to *limit* records that count as absent; return how many."""
        return self._run(self._purging(limit))

    async def aclaim(self, key: bytes, ask: Claim) -> Answer:
        """Claim a key, or say why not."""
        return await self._arun(self._claiming(key, ask))

    async def arenew(self, key: bytes, owner: bytes, lease: Seconds) -> bool:
        """Extend the lease; False if the key is no longer *owner*'s."""
        return await self._arun(self._renewing(key, owner, lease))

    async def acomplete(self, key: bytes, owner: bytes, value: bytes | None, retention: Seconds) -> bool:
        """Keep the result, None for a tombstone; False if the key is no longer *owner*'s."""
        return await self._arun(self._completing(key, owner, value, retention))

    async def arelease(self, key: bytes, owner: bytes) -> bool:
        """Give the key back; False if it is no longer *owner*'s."""
        return await self._arun(self._releasing(key, owner))

    async def ainspect(self, key: bytes) -> Record | None:
        """Return what is known about a key. Its instants are seconds from now."""
        return await self._arun(self._inspecting(key))

    async def aexpire(self, key: bytes) -> bool:
        """Forget what is known about a key, whoever owns it; False if there is nothing."""
        return await self._arun(self._expiring(key))

    async def apurge(self, limit: int = 1000) -> int:
        """Remove up to *limit* records that count as absent; return how many."""
        return await self._arun(self._purging(limit))
