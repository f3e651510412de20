"""Keys in the memory of one process."""

import heapq
import math
import threading
from collections import deque

from resilience import _clock
from resilience._core.check import Check
from resilience._runtime import fork
from resilience.idempotency import _machine as machine
from resilience.idempotency._machine import Answer, Claim, Record
from resilience.idempotency._store import ThreadedStore
from resilience.typing import Clock, Seconds


class StoreFullError(RuntimeError):
    """There is no room for a further key: all of them are claimed by calls that have not ended."""


class MemoryStore(ThreadedStore):
    """
    Keep keys in this process: for tests, and where one process is all there is.

    Threads and event loops of the process share it. Its keys are gone when the process ends, and a child
    that is forked begins with none: what is in flight belongs to the parent.

    Args:
        max_entries: Keys kept, >= 1. Beyond that the ones go that are done and expire first; if all are
            claimed, a claim fails. Default 10,000. Source: own; with results of 1 kB that is 10 MB.
        clock: Where the time comes from. Default: the package's clock, which `FakeClock` moves.

    Raises:
        ConfigError: A setting is wrong.

    Example:
        >>> store = MemoryStore(max_entries=100)
        >>> len(store)
        0

    """

    __slots__ = ("_clock", "_due", "_lock", "_max_entries", "_most_due", "_records")

    def __init__(self, *, max_entries: int = 10_000, clock: Clock | None = None) -> None:
        check = Check("MemoryStore")
        check.whole("max_entries", max_entries)
        check.that(clock is None or callable(clock), "clock", clock, "must be callable or None")
        check.done()
        self._max_entries = max_entries
        self._clock = clock
        self._after_fork()
        fork.register(self)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._most_due = 2 * self._max_entries + 64
        self._records: dict[bytes, Record] = {}
        self._due = _Due([])

    def _now(self) -> Seconds:
        return _clock.monotonic() if self._clock is None else self._clock()

    def __len__(self) -> int:
        """How many keys are kept, with those that expired and are not cleared away yet."""
        return len(self._records)

    def __bool__(self) -> bool:
        """An empty store is a store."""
        return True

    def claim(self, key: bytes, ask: Claim) -> Answer:
        """Claim a key, or say why not."""
        with self._lock:
            now = _clock.monotonic() if self._clock is None else self._clock()
            records, due = self._records, self._due
            known = records.get(key)
            answer, fresh = machine.claim(known, ask, now)
            if fresh is not None:
                if due.first <= now:
                    self._clear(now, 2)  # two out for one in: it never grows by what is over
                if known is None and len(records) >= self._max_entries:
                    self._make_room(now)
                records[key] = fresh
            return answer

    def renew(self, key: bytes, owner: bytes, lease: Seconds) -> bool:
        """Extend the lease; False if the key is no longer *owner*'s."""
        with self._lock:
            return machine.renew(self._records.get(key), owner, lease, self._now())

    def complete(self, key: bytes, owner: bytes, value: bytes | None, retention: Seconds) -> bool:
        """Keep the result, None for a tombstone; False if the key is no longer *owner*'s."""
        with self._lock:
            now = _clock.monotonic() if self._clock is None else self._clock()
            record = self._records.get(key)
            done = machine.complete(record, owner, value, retention, now)
            if done and record is not None:
                self._note(key, record)
            return done

    def release(self, key: bytes, owner: bytes) -> bool:
        """Give the key back; False if it is no longer *owner*'s."""
        with self._lock:
            record = self._records.get(key)
            done = machine.release(record, owner, self._now())
            if done and record is not None:
                self._note(key, record)
            return done

    def inspect(self, key: bytes) -> Record | None:
        """Return what is known about a key. Its instants are seconds from now."""
        with self._lock:
            record, now = self._records.get(key), self._now()
            if record is None or record.expires_at <= now:
                return None
            left, kept = record.lease_until - now, record.expires_at - now
            return Record(
                record.fingerprint, record.state, record.owner, record.epoch, left, kept, record.value
            )

    def expire(self, key: bytes) -> bool:
        """Forget what is known about a key, whoever owns it; False if there is nothing."""
        with self._lock:
            record = self._records.get(key)
            done = machine.expire(record, self._now())
            if done and record is not None:
                self._note(key, record)
            return done

    def purge(self, limit: int = 1000) -> int:
        """Remove up to *limit* records that count as absent; return how many."""
        with self._lock:
            now = self._now()
            over = [key for key, record in self._records.items() if record.expires_at <= now]
            for key in over[:limit]:
                del self._records[key]
            return min(len(over), limit)

    # In a task there is nothing to wait for: the lock is held for a look-up, never for an await.

    async def aclaim(self, key: bytes, ask: Claim) -> Answer:
        """Claim a key, or say why not."""
        return self.claim(key, ask)

    async def arenew(self, key: bytes, owner: bytes, lease: Seconds) -> bool:
        """Extend the lease; False if the key is no longer *owner*'s."""
        return self.renew(key, owner, lease)

    async def acomplete(self, key: bytes, owner: bytes, value: bytes | None, retention: Seconds) -> bool:
        """Keep the result, None for a tombstone; False if the key is no longer *owner*'s."""
        return self.complete(key, owner, value, retention)

    async def arelease(self, key: bytes, owner: bytes) -> bool:
        """Give the key back; False if it is no longer *owner*'s."""
        return self.release(key, owner)

    def _note(self, key: bytes, record: Record) -> None:
        self._due.add(record.expires_at, key)
        if len(self._due) > self._most_due:
            # Released and claimed again and again: most entries are out of date.
            ended = [(each.expires_at, name) for name, each in self._records.items() if each.state]
            self._due = _Due(sorted(ended))

    def _clear(self, now: Seconds, most: int) -> None:
        while most and self._due.first <= now:
            _, key = self._due.pop()
            record = self._records.get(key)
            if record is not None and record.expires_at <= now:
                del self._records[key]
                most -= 1

    def _make_room(self, now: Seconds) -> None:
        while len(self._due):
            expires_at, key = self._due.pop()
            record = self._records.get(key)
            if record is not None and record.expires_at == expires_at and record.state:
                del self._records[key]
                return
        # Claims whose owner never came back, for the whole of the retention.
        over = next((key for key, record in self._records.items() if record.expires_at <= now), None)
        if over is None:
            raise StoreFullError(f"all of {self._max_entries} keys are claimed by calls that have not ended")
        del self._records[over]


class _Due:
    """
    Keys that are done, by the instant at which they expire; entries that are out of date are skipped.

    Those that come in the order of their instants, as all do where there is one retention, stand in a line;
    the others in a heap.

    Attributes:
        first: The earliest instant; infinite if there is none.

    """

    __slots__ = ("_heap", "_last", "_line", "first")

    def __init__(self, entries: list[tuple[Seconds, bytes]]) -> None:
        self._line = deque(entries)
        self._heap: list[tuple[Seconds, bytes]] = []
        self._last = entries[-1][0] if entries else -math.inf
        self.first = entries[0][0] if entries else math.inf

    def __len__(self) -> int:
        return len(self._line) + len(self._heap)

    def add(self, instant: Seconds, key: bytes) -> None:
        if instant >= self._last:
            self._line.append((instant, key))
            self._last = instant
        else:
            heapq.heappush(self._heap, (instant, key))
        if instant < self.first:  # noqa: PLR1730  # min() takes three times as long
            self.first = instant

    def pop(self) -> tuple[Seconds, bytes]:
        line, heap = self._line, self._heap
        entry = heapq.heappop(heap) if heap and (not line or heap[0] < line[0]) else line.popleft()
        self.first = min(line[0][0] if line else math.inf, heap[0][0] if heap else math.inf)
        if not line:
            self._last = -math.inf
        return entry
