"""
One GCRA for each key, in a dictionary of floats.

All keys share rate, burst and clock, so that a key needs no more than its ``tat``, and only while it
owes something: a key that owes nothing is as good as new, and forgetting it changes no decision.

**Forgetting costs nothing.** A key that was not served for as long as a burst takes to come back owes
nothing. So keys are kept in two generations: those served since the last swap, and those served in the
time before, which is at least as long as a burst. At a swap the old generation is dropped as it is,
without looking at it. Large tables are cut into shards, because to free a million floats takes tens of
milliseconds.

**Too many keys.** A key that still owes is never forgotten, or it would get a second burst. Beyond
*max_keys* new keys share one more entry, and a key that gets one of its own later starts with what the
shared one owes: no key ever gets more than its bound, whatever the others do.
"""

from collections.abc import Hashable
from typing import Final

from resilience._core.gcra import tie, unspent, wait
from resilience._core.permit import NEVER, Refusal
from resilience.outcome import Verdict
from resilience.rate_limiter._rule import RatePermit
from resilience.rate_limiter._settings import RateLimiterSettings
from resilience.typing import Seconds

SHARD: Final = 65_536
"""About how many keys a shard holds: freeing them takes some 2 ms."""

SWEEP_EVERY: Final[Seconds] = 1.0
"""How often a shard is looked through for keys that owe nothing, if the table is full: 20 ms at most."""

SPARE: Final[Seconds] = 1e-6
"""What keys are kept longer than a burst takes, so that a tie is worked off as well."""


class KeyedPermit(RatePermit):
    """
    Leave to spend permits of one key.

    Attributes:
        key: Whose permits they are; `OVERFLOW` if they are those that many keys share.

    """

    __slots__ = ("key",)

    def __init__(self, key: Hashable, at: float, n: int, generation: int) -> None:
        super().__init__(at, n, generation)
        self.key = key


OVERFLOW: Final = object()
"""Stands for the key in the permits of the entry that many keys share."""


class _Shard:
    """
    A part of the keys, in two generations.

    Attributes:
        young: ``tat`` of the keys served since the last swap.
        old: ``tat`` of those served in the time before it, and not since.
        swap_at: Instant from which the next swap is due.
        sweep_at: Instant from which the shard may be looked through again.

    """

    __slots__ = ("old", "swap_at", "sweep_at", "young")

    def __init__(self, swap_at: Seconds, sweep_at: Seconds) -> None:
        self.young: dict[Hashable, float] = {}
        self.old: dict[Hashable, float] = {}
        self.swap_at = swap_at
        self.sweep_at = sweep_at

    def __len__(self) -> int:
        return len(self.young) + len(self.old)

    def owing(self, t: float, more: float = 0.0) -> dict[Hashable, float]:
        """Return the keys that owe something at *t*, once *more* is added to what is owed."""
        entries = {key: max(tat, t) + more for key, tat in self.old.items()}
        entries.update((key, max(tat, t) + more) for key, tat in self.young.items())
        return {key: tat for key, tat in entries.items() if tat > t}


class KeyedGcra:
    """
    Decide which requests may pass, for each key by itself. Not thread-safe: the policy holds a lock.

    Instants and waits are those of `RateMachine`. There are no reservations. Of the permits of one key
    only the last one can be given back: to give back others takes a history that no key has.

    Attributes:
        settings: The settings in force.
        generation: Number that changes whenever permits given out before can no longer be given back.
        acquired: Permits given out, including those that were given back.
        overflowed: Those among them that came out of the shared entry.
        burst: Permits that one key may take at once after a pause.
        rate: Permits per second and key.

    """

    __slots__ = (
        "_keys",
        "_now",
        "_overflow",
        "_room",
        "_shards",
        "_shift",
        "acquired",
        "burst",
        "generation",
        "overflowed",
        "rate",
        "settings",
    )

    def __init__(self, settings: RateLimiterSettings, now: Seconds) -> None:
        self.settings = settings
        self.generation = 0
        self.acquired = self.overflowed = 0
        self.burst = settings.capacity
        self.rate = settings.permits_per_second
        self._room = self.burst - 1 + tie(self.rate)
        self._shift = -now * self.rate
        self._now = now
        self._overflow = 0.0
        self._keys = 0
        self._shards = self._make_shards()

    def __len__(self) -> int:
        """How many keys have an entry of their own."""
        return self._keys

    @property
    def capacity(self) -> int:
        """Most permits that one request can ever get."""
        return self.burst

    def admit(self, key: Hashable, now: Seconds, n: int = 1) -> KeyedPermit | Refusal:
        """
        Give out *n* permits of *key* to be used at *now*; or none, and say when there will be enough.

        Raises:
            TypeError: The key is not hashable.

        """
        if n > self.burst:
            return NEVER
        t = self._clock(now)
        shard = self._shard(key)
        tat = self._tat(shard, key)
        room = self._room + (1 - n)
        if tat - t > room:
            return Refusal(wait(tat, room, now, self.rate, self._shift))
        x = max(tat, t) + n
        self.acquired += n
        return KeyedPermit(self._store(shard, key, x, n, t), x, n, self.generation)

    def wait_for(self, key: Hashable, now: Seconds, n: int = 1, ahead: int = 0) -> Seconds | None:
        """Return the seconds until *n* permits of *key* could be had after *ahead* others, or None."""
        if n > self.burst:
            return None
        t = self._clock(now)
        tat = max(self._tat(self._shard(key), key), t) + ahead
        room = self._room + (1 - n)
        return 0.0 if tat - t <= room else wait(tat, room, now, self.rate, self._shift)

    def remaining(self, key: Hashable, now: Seconds) -> int:
        """Return how many permits of *key* could be had at *now*."""
        t = self._clock(now)
        return max(0, int(self._room + 1 - max(0.0, self._tat(self._shard(key), key) - t)))

    def settle(self, permit: KeyedPermit, verdict: Verdict, now: Seconds) -> None:
        """Take note that a call ended. Its permits are spent however it did, unless it is IGNORED."""
        if verdict is Verdict.IGNORED:
            self.release(permit, now)

    def release(self, permit: KeyedPermit, now: Seconds) -> None:
        """Take permits back, if they are the last of their key: at most what is still unspent."""
        n, permit.n = permit.n, 0
        if n == 0 or permit.generation != self.generation:
            return
        t = self._clock(now)
        back = unspent(permit.at, t, n)
        if permit.key is OVERFLOW:
            if self._overflow == permit.at:
                self._overflow -= back
            return
        shard = self._shard(permit.key)
        entries = shard.young if permit.key in shard.young else shard.old
        if entries.get(permit.key) != permit.at:
            return
        if permit.at - back > t:
            entries[permit.key] = permit.at - back
        else:
            del entries[permit.key]
            self._keys -= 1

    def configure(self, settings: RateLimiterSettings, now: Seconds) -> None:
        """Take new settings; what is owed stays owed. See `Gcra.set_rate`."""
        t = self._clock(now)
        more = settings.capacity - self.burst
        if more:
            self.generation += 1
            self._overflow = max(self._overflow, t) + more
        entries: dict[Hashable, float] = {}
        for shard in self._shards:
            entries.update(shard.owing(t, more))
        self.settings = settings
        self.burst = settings.capacity
        self.set_rate(settings.permits_per_second, now)
        self._shards = self._make_shards()
        for key, tat in entries.items():
            self._of(key).young[key] = tat
        self._keys = len(entries)

    def set_rate(self, rate: float, now: Seconds) -> None:
        """Go on at *rate* permits per second. Permits come back at the old rate until *now*."""
        t = self._clock(now)
        self.rate = rate
        self._shift = t - self._now * rate
        self._room = self.burst - 1 + tie(rate)
        for shard in self._shards:  # what is owed now may take longer than was thought
            shard.swap_at = self._now + self._burst_duration

    def after_fork(self, now: Seconds) -> None:
        """Become the machine of a child: permits in use are the parent's."""
        self._advance(now)
        self.generation += 1
        self.acquired = self.overflowed = 0

    def _advance(self, now: Seconds) -> Seconds:
        self._now = max(self._now, now)
        return self._now

    def _clock(self, now: Seconds) -> float:
        return self._advance(now) * self.rate + self._shift

    @property
    def _burst_duration(self) -> Seconds:
        """Seconds after which a key that was not served owes nothing."""
        return self.burst / self.rate + SPARE

    def _make_shards(self) -> list[_Shard]:
        shards = -(-self.settings.max_keys // SHARD)
        return [_Shard(self._now + self._burst_duration, self._now) for _ in range(shards)]

    def _of(self, key: Hashable) -> _Shard:
        return self._shards[hash(key) % len(self._shards)]

    def _shard(self, key: Hashable) -> _Shard:
        """Return the shard of *key*, after the swap if one is due."""
        shard = self._of(key)
        late = self._now - shard.swap_at
        if late >= 0:
            self._keys -= len(shard)
            # Nobody came since the swap was due, or it would have been made: so much for the young, too.
            shard.old = {} if late >= self._burst_duration else shard.young
            shard.young = {}
            shard.swap_at = self._now + self._burst_duration
            self._keys += len(shard)
        return shard

    def _tat(self, shard: _Shard, key: Hashable) -> float:
        tat = shard.young.get(key)
        return shard.old.get(key, self._overflow) if tat is None else tat

    def _store(self, shard: _Shard, key: Hashable, x: float, n: int, t: float) -> Hashable:
        """Write down what *key* owes now; return whose permits they are."""
        if key not in shard.young and shard.old.pop(key, None) is None:
            if self._keys >= self.settings.max_keys:
                self._sweep(shard, t)
            if self._keys >= self.settings.max_keys:
                self._overflow = x
                self.overflowed += n
                return OVERFLOW
            self._keys += 1
        shard.young[key] = x
        return key

    def _sweep(self, shard: _Shard, t: float) -> None:
        """Forget the keys that owe nothing, unless that was done just now."""
        if self._now >= shard.sweep_at:
            self._keys -= len(shard)
            shard.young, shard.old = shard.owing(t), {}
            shard.sweep_at = self._now + SWEEP_EVERY
            self._keys += len(shard)
