"""Keep good results for a while, and call once where many ask for the same."""

import threading
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeAlias

from resilience import _clock
from resilience._runtime import fork, wrap
from resilience._runtime.census import Reading
from resilience._runtime.flow import Call, Command, Dispose, Flow, Inner, Park, Waiter
from resilience._runtime.policy import Binding, Judge, Policy, Step, Traits, all_right
from resilience.cache._flight import Flight
from resilience.cache._machine import Entries, Spot
from resilience.cache._settings import CacheSettings
from resilience.errors import ConfigError, DeadlineExceededError, Problem
from resilience.outcome import Classifier, ErrorMatch, Outcome, Verdict
from resilience.typing import Seconds

P = ParamSpec("P")

Waiting: TypeAlias = Generator[Command, Any, Outcome[Any] | None]


def _with_parentheses(init: Callable[P, None]) -> Callable[P, None]:
    """Say how to write the decorator where the function itself came instead of settings."""

    @wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        if not kwargs and len(args) > 1 and callable(args[1]):
            rule = "must be a non-empty string or None (write @Cache(ttl=...), with parentheses)"
            raise ConfigError("Cache", [Problem("name", args[1], rule)])
        init(*args, **kwargs)

    return checked


class Cache(Policy):
    """
    Return the last good result while it is fresh; else call, once for all who ask for the same.

    Only results judged good are kept. Where a call fails, a result that has been fresh no more
    than *stale_for* seconds ago stands in. While a call for a key is under way, others who ask for
    that key wait for it and get its result or its error; if it is cancelled, one of them makes the
    call in its stead. A call from inside the function that would have to wait for its own end, also
    by way of other keys and other caches, does not wait: it is made, and its result is not kept.

    All callers get the same object: do not change it, and do not cache what can be read only once.
    Generators cannot be guarded. Arguments are kept as long as the result, ``self`` among them.

    Args:
        name: Name for telemetry. Default: that of the pipeline or function.
        ttl: Seconds for which a result is fresh, > 0. No default.
        stale_for: Seconds after that for which it stands in where a call fails, >= 0. Default 0.0.
        key: Makes the key of a call from its arguments. Default: the arguments themselves, as
            ``functools.lru_cache`` does.
        max_entries: Results kept, >= 1; beyond that the one that was not asked for the longest
            goes. Default 1024.
        on: Errors that count as bad: a type, a tuple of types, or a predicate.
        classify: Judge of outcomes, in place of *on*.

    Raises:
        ConfigError: A setting is wrong; see `CacheSettings`.

    Example:
        >>> cache = Cache(ttl=60.0)
        >>> @cache
        ... def price(sku: str) -> int:
        ...     print("asking")
        ...     return 7
        >>> price("a-1"), price("a-1")
        asking
        (7, 7)
        >>> cache.hits, cache.misses
        (1, 1)

    """

    __slots__ = ("_entries", "_flights", "_lock", "hits", "misses", "shared", "stale")

    kind = "cache"
    streams = False

    @_with_parentheses
    def __init__(
        self,
        name: str | None = None,
        *,
        ttl: Seconds,
        stale_for: Seconds = 0.0,
        key: Callable[..., Hashable] | None = None,
        max_entries: int = 1024,
        on: ErrorMatch | None = None,
        classify: Classifier | None = None,
    ) -> None:
        settings = all_right(
            name,
            lambda: CacheSettings(ttl=ttl, stale_for=stale_for, key=key, max_entries=max_entries),
            on=on,
            classify=classify,
        )
        super().__init__(name, on=on, classify=classify)
        self._entries = Entries(settings)
        self._flights: dict[Spot, Flight] = {}
        self._lock = threading.RLock()
        self._zero()
        fork.register(self)

    def _zero(self) -> None:
        # Counts of this process.
        self.hits = 0
        """How many calls got a fresh result."""
        self.misses = 0
        """How many calls ran the function."""
        self.shared = 0
        """How many calls waited and got what another call brought."""
        self.stale = 0
        """How many calls, of those that missed or shared, got a result that was no longer fresh."""

    @property
    def settings(self) -> CacheSettings:
        """Its settings, frozen."""
        return self._entries.settings

    @property
    def traits(self) -> Traits:
        """It turns failures into results, if results may stand in."""
        return Traits(replaces=self.settings.stale_for > 0)

    def __len__(self) -> int:
        """How many results are kept, with those whose time is over and that nobody asked for since."""
        return len(self._entries)

    def __bool__(self) -> Literal[True]:
        """An empty cache is a cache."""
        return True

    def key_of(self, *args: Any, **kwargs: Any) -> Hashable:
        """Return the key of a call with these arguments."""
        key = self.settings.key
        return _Arguments(_arguments(args, kwargs)) if key is None else key(*args, **kwargs)

    def invalidate(self, key: Hashable) -> None:
        """
        Forget the results for *key*. A call that is under way now brings nothing into the cache.

        Args:
            key: What *key* of the settings returns. Without that setting a key is made of all
                arguments of a call: what `key_of` returns.

        Raises:
            TypeError: The cache has no *key* setting, and *key* is not from `key_of`: there can be no
                result for it.

        Example:
            >>> cache = Cache(ttl=60.0)
            >>> price = cache(lambda sku: print("asking"))
            >>> price("a-1")
            asking
            >>> cache.invalidate(cache.key_of("a-1"))
            >>> price("a-1")
            asking

        """
        if self.settings.key is None and not isinstance(key, _Arguments):
            rule = "without Cache(key=...), use invalidate(cache.key_of(...)) with the arguments of the call"
            raise TypeError(f"{key!r} is not the key of any call: {rule}")
        with self._lock:
            self._entries.drop_key(key)
            for spot in [spot for spot in self._flights if spot[1] == key]:
                del self._flights[spot]

    def clear(self) -> None:
        """Forget everything. A call that is under way now brings nothing into the cache."""
        with self._lock:
            self._entries.clear()
            self._flights.clear()

    @property
    def is_idle(self) -> bool:
        """Whether it is as a new one: nothing kept could still be used, and nothing is under way."""
        with self._lock:
            return not self._flights and self._entries.is_idle(_clock.monotonic())

    def step_for(self, binding: Binding) -> Step:
        """Return the step that looks, calls and keeps."""
        judge = self.judge(binding)

        def step(call: Call, inner: Inner) -> Flow:
            return self._around(judge, call, inner)

        return step

    def _configure(self, settings: CacheSettings) -> None:
        with self._lock:
            if settings.key is not self.settings.key:
                self._flights.clear()
            self._entries.configure(settings)

    def _around(self, judge: Judge, call: Call, inner: Inner) -> Flow:
        spot = self._spot(call)
        flight: Flight | None = None
        try:
            while True:
                waiter: Waiter | None = None
                with self._lock:
                    entry = self._entries.usable(spot, _clock.monotonic())
                    if entry is not None and self._entries.is_fresh(entry):
                        self.hits += 1
                        return Outcome(entry.value)
                    ahead = self._flights.get(spot)
                    if ahead is None:
                        flight = self._flights[spot] = Flight()
                    else:
                        waiter = ahead.join()
                if flight is not None:
                    return (yield from self._lead(flight, spot, judge, call, inner))
                if ahead is None or waiter is None:
                    # The function called itself, or what waits for it: to wait would be for ever.
                    with self._lock:
                        self.misses += 1
                    return (yield from inner(call))
                outcome = yield from self._follow(ahead, waiter, spot, call)
                if outcome is not None:
                    return outcome
        finally:
            if flight is not None:
                try:
                    self._land(flight, spot)
                except BaseException:
                    self._land(flight, spot)  # interrupted: nobody must wait for it for ever
                    raise

    def _lead(self, flight: Flight, spot: Spot, judge: Judge, call: Call, inner: Inner) -> Flow:
        with self._lock:
            self.misses += 1
        with flight.mark:
            outcome = yield from inner(call)
        verdict = judge(outcome, call.context)
        with self._lock:
            is_current = self._flights.get(spot) is flight  # else invalidated: what was read is too old
            if verdict is Verdict.GOOD:
                if is_current and outcome.error is None:
                    self._entries.store(spot, outcome.value, _clock.monotonic())
                elif is_current:  # a good error, such as "not found", is the newer answer
                    self._entries.drop(spot)
                flight.bring(outcome)
                return outcome
            instead, is_stale = self._stand_in(spot)
            self.stale += is_stale
            # A deadline is this caller's own: others may have more time, so one of them calls then.
            if not isinstance(outcome.error, DeadlineExceededError) or call.context.deadline is None:
                flight.bring(instead or outcome, is_stale=is_stale)
        if instead is None:
            return outcome
        self._land(flight, spot)
        if outcome.error is None:
            yield Dispose(outcome.value)
        return instead

    def _follow(self, flight: Flight, waiter: Waiter, spot: Spot, call: Call) -> Waiting:
        """Wait for what *flight* brings; None if it ends without, so that somebody must begin anew."""
        until = call.context.deadline
        outcome: Outcome[Any] | None = None
        is_late = False
        try:
            while not (flight.mark.is_over or is_late):
                left = None if until is None else until - _clock.monotonic()
                if left is None or left > 0:
                    yield Park(waiter, left)
                else:
                    is_late = True
        finally:
            with self._lock:
                flight.leave(waiter)
        with self._lock:
            if is_late:
                outcome, is_stale = self._stand_in(spot)
            else:
                outcome, is_stale = flight.brought()
            if outcome is not None:
                self.shared += 1
                self.stale += is_stale
        return Outcome(error=DeadlineExceededError()) if is_late and outcome is None else outcome

    def _stand_in(self, spot: Spot) -> tuple[Outcome[Any] | None, bool]:
        """Return what is kept, if it may be used still, and whether it is stale. The lock is held."""
        entry = self._entries.usable(spot, _clock.monotonic())
        if entry is None:
            return None, False
        return Outcome(entry.value), not self._entries.is_fresh(entry)

    def _land(self, flight: Flight, spot: Spot) -> None:
        # Doing it twice does no harm: an interrupt may strike in the middle of the first time.
        with self._lock:
            if self._flights.get(spot) is flight:
                del self._flights[spot]
            flight.mark.is_over = True
            waiters = list(flight.waiters)
        for waiter in waiters:
            waiter.wake()

    def _spot(self, call: Call) -> Spot:
        function = call.function
        make = self.settings.key
        key = _arguments(call.args, call.kwargs) if make is None else make(*call.args, **call.kwargs)
        spot = (function, key)
        try:
            hash(spot)
        except TypeError as error:
            rule = "give Cache(key=...) a function that returns a hashable key"
            raise TypeError(f"{wrap.name_of(function)}: {error}; {rule}") from error
        return spot

    def readings(self) -> Iterator[Reading]:
        """Return where results came from, and how many are kept."""
        requests, result = "resilience.cache.requests", "resilience.cache.result"
        yield Reading(requests, self.hits, ((result, "hit"),))
        yield Reading(requests, self.misses, ((result, "miss"),))
        yield Reading(requests, self.shared, ((result, "shared"),))
        yield Reading("resilience.cache.stale_results", self.stale)
        yield Reading("resilience.cache.usage", len(self._entries), is_level=True)
        yield Reading("resilience.cache.limit", self.settings.max_entries, is_level=True)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        for flight in self._flights.values():
            flight.waiters.clear()  # threads and tasks of the parent
        self._flights.clear()
        self._zero()


class _Arguments(tuple[Any, ...]):
    """A key made of arguments, equal to that of the call: told apart from any other key by its type."""

    __slots__ = ()


def _arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the arguments as a key. Unlike `functools`, the order of named ones does not matter."""
    return args, tuple(sorted(kwargs.items())) if len(kwargs) > 1 else tuple(kwargs.items())
