"""A policy for each key, such as one circuit breaker for each host."""

import threading
from collections.abc import Callable, Hashable, Iterator
from functools import wraps
from typing import Any, Generic, Literal, ParamSpec, TypeVar

from resilience._runtime import fork, wrap
from resilience._runtime.census import Reading
from resilience._runtime.flow import Call, Flow, Inner
from resilience._runtime.policy import Binding, Policy, Step, Traits, all_right
from resilience.errors import ConfigError, Problem
from resilience.events import held_back
from resilience.keyed._arguments import Arguments, no_key, takes
from resilience.keyed._batch import Batch, make, sample
from resilience.keyed._entry import Entry, Passage
from resilience.keyed._machine import Places
from resilience.keyed._settings import KeyedSettings

P = ParamSpec("P")
Q = TypeVar("Q", bound=Policy)
R = TypeVar("R")


def _with_parentheses(init: Callable[P, None]) -> Callable[P, None]:
    """Say how to write the decorator where the function itself came instead of settings."""

    @wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        if not kwargs and len(args) > 1 and callable(args[1]):
            rule = "must be a non-empty string or None (write @Keyed(factory=...), with parentheses)"
            raise ConfigError("Keyed", [Problem("name", args[1], rule)])
        init(*args, **kwargs)

    return checked


class Keyed(Policy, Generic[Q]):
    """
    Keep a policy for each key, made by *factory* when the key is first asked for.

    ``keyed[key]`` is the policy of a key. As a decorator, or in a pipeline, it finds the key of each
    call by *key*. Beyond *max_keys* a policy that is as a new one makes room: nothing under way,
    nothing learnt that counts. If there is none, keys without a policy share one overflow policy.

    The policies take the name of this one: in telemetry they are one series, and keys appear
    nowhere.

    Args:
        name: Name for telemetry, errors and budgets. Default: that of the pipeline or function.
        factory: Makes a policy, a new one each time: a callable that takes nothing, or the key if
            it has one argument without a default. It is called once when this is made, with None
            as the key if it takes one, for the overflow policy.
        key: The key of a call: the name of an argument, or a callable that takes the arguments.
            Default: none, so that policies are asked for by key alone.
        max_keys: Policies kept, >= 1. Default 10 000.

    Raises:
        ConfigError: A setting is wrong, see `KeyedSettings`, or *factory* fails or makes no policy.

    Example:
        >>> from resilience import CircuitBreaker
        >>> breakers = Keyed("inventory", factory=CircuitBreaker, key="host")
        >>> @breakers
        ... def stock(sku: str, host: str) -> int:
        ...     return 7
        >>> stock("a-1", host="eu"), stock("a-1", "us")
        (7, 7)
        >>> breakers["eu"].state, len(breakers)
        (<CircuitState.CLOSED: 'closed'>, 2)

    """

    __slots__ = (
        "_arguments",
        "_batch",
        "_lock",
        "_overflow",
        "_places",
        "_settings",
        "_version",
        "overflowed",
    )

    kind = "keyed"

    @_with_parentheses
    def __init__(
        self,
        name: str | None = None,
        *,
        factory: Callable[[], Q] | Callable[[Any], Q],
        key: str | Callable[..., Hashable] | None = None,
        max_keys: int = 10_000,
    ) -> None:
        settings = all_right(name, lambda: KeyedSettings(factory=factory, key=key, max_keys=max_keys))
        super().__init__(name)
        self._settings = settings
        self._overflow = Entry[Q](sample(settings))
        self._places: Places[Entry[Q]] = Places(max_keys)
        self._arguments = Arguments()
        self._batch: Batch[Q] | None = None
        self._version = 0
        self._lock = threading.RLock()
        self.overflowed = 0
        """How many times a key was served by the overflow policy. Counts this process alone."""
        fork.register(self)
        if name is not None:
            self._name_policies(name)

    @property
    def settings(self) -> KeyedSettings:
        """Its settings, frozen."""
        return self._settings

    @property
    def traits(self) -> Traits:
        """What a pipeline must know of the policies that the factory makes, by the example of one."""
        return self._overflow.policy.traits

    @property
    def parts(self) -> tuple[Policy, ...]:
        """What the overflow policy is made of, as an example of the others."""
        return self._overflow.policy.parts

    @property
    def overflow(self) -> Q:
        """The policy of all keys that have none of their own."""
        return self._overflow.policy

    @property
    def evicted(self) -> int:
        """How many policies have made room for others. Counts this process alone."""
        return self._places.evicted

    @property
    def is_idle(self) -> bool:
        """Whether it is as a new one: every policy is idle."""
        with self._lock:
            return all(each.is_idle() for each in [self._overflow, *self._places.entries().values()])

    def __getitem__(self, key: Hashable) -> Q:
        """
        Return the policy of *key*, made now if there is none, or the overflow policy.

        Ask for it every time: one that is kept may lose its place, and the key gets a new one.
        """
        return self._entry_of(key, None).policy

    def __len__(self) -> int:
        """How many keys have a policy of their own."""
        return len(self._places)

    def __bool__(self) -> Literal[True]:
        """One without keys yet is a policy as well."""
        return True

    def __contains__(self, key: Hashable) -> bool:
        """Whether *key* has a policy of its own now."""
        with self._lock:
            return key in self._places

    def __iter__(self) -> Iterator[Hashable]:
        """Go through the keys that have a policy of their own now, those used longest ago first."""
        with self._lock:
            return iter(list(self._places))

    def adopt_name(self, name: str) -> str:
        """Take *name* unless there is one already, for the policies too; return the name."""
        is_new = self._name is None
        name = super().adopt_name(name)
        if is_new:
            self._name_policies(name)
        return name

    def _name_policies(self, name: str) -> None:
        with self._lock:
            entries = [self._overflow, *self._places.entries().values()]
        for entry in entries:
            entry.policy.adopt_name(name)

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """
        Guard *fn*, as every policy does.

        Raises:
            TypeError: *fn* cannot be guarded, such as a class.
            ConfigError: There is no *key*, or *fn* has no argument of that name, or *fn* is a
                generator function and a policy of the factory cannot guard a stream.

        """
        guarded = super().__call__(fn)
        key = self._settings.key
        plain: Callable[..., Any] = getattr(guarded, "__func__", guarded)  # of a classmethod, a staticmethod
        if isinstance(key, str) and not takes(plain, key):
            rule = f"must be the name of an argument of {wrap.name_of(plain)}"
            raise ConfigError("Keyed", [Problem("key", key, rule)])
        return guarded

    def step_for(self, binding: Binding) -> Step:
        """
        Return the step that finds the key and goes through its policy.

        Raises:
            ConfigError: There is no *key* to find it by.

        """
        if self._settings.key is None:
            raise no_key()
        here = Binding(self.adopt_name(binding.name), binding.classify)

        def step(call: Call, inner: Inner) -> Flow:
            return self._around(here, call, inner)

        return step

    def obstacles(self, settings: KeyedSettings) -> list[Problem]:
        """
        Return why the settings cannot be taken: the factory fails, or policies cannot change so.

        What the factory makes is kept for `_configure`, which follows if all is well: it is called once for
        a key, and before anything has changed, in the pipeline around this one too.
        """
        self._batch = None
        if settings.factory is self._settings.factory:
            return []
        with self._lock:
            entries = self._places.entries()
        try:
            batch = Batch[Q](settings)
            batch.make(entries)
        except ConfigError as error:
            return list(error.problems)
        for entry, new in self._pairs(entries, batch):
            if type(new) is type(entry.policy) and (problems := entry.policy.obstacles(new.settings)):
                return problems  # what one of them cannot take, the others cannot
        self._batch = batch
        return []

    def _pairs(self, entries: dict[Hashable, Entry[Q]], batch: Batch[Q]) -> list[tuple[Entry[Q], Q]]:
        each = [(entry, batch.made[key]) for key, entry in entries.items()]
        return [(self._overflow, batch.overflow), *each]

    def _configure(self, settings: KeyedSettings) -> None:
        if settings.factory is self._settings.factory:
            with self._lock:
                self._settings = settings
                self._places.max_keys = settings.max_keys
            return
        batch, self._batch = self._batch, None
        if batch is None or batch.settings is not settings:
            batch = Batch[Q](settings)
        while True:
            with held_back(), self._lock:
                entries = self._places.entries()
                missing = [key for key in entries if key not in batch.made]
                if not missing:
                    self._renew(self._pairs(entries, batch))
                    self._settings = settings
                    self._places.max_keys = settings.max_keys
                    self._version += 1
                    break
            batch.make(missing)
        if self._name is not None:
            self._name_policies(self._name)

    def _renew(self, pairs: list[tuple[Entry[Q], Q]]) -> None:
        """Let each policy take the settings of a new one, or its place; all or none. The lock is held."""
        before = [(entry, entry.policy) for entry, _ in pairs]
        parts: list[Policy] = []
        for _, policy in before:
            parts += [policy, *policy.parts]
        settings = [(part, part.settings, part._classify) for part in parts]
        try:
            for entry, new in pairs:
                entry.renew(new)
        except BaseException:
            for entry, policy in before:
                entry.put(policy)
            for part, former, classify in settings:
                if part.settings is not former:
                    part._configure(former)
                part._classify = classify
                part._flow = None
            raise

    def _around(self, binding: Binding, call: Call, inner: Inner) -> Flow:
        key = self._arguments.key_of(call, self._settings.key)
        passage: Passage[Q] = Passage()
        try:
            entry = self._entry_of(key, passage)
            outcome = yield from entry.step_for(binding)(call, inner)
        except BaseException:
            self._leave(passage)
            raise
        if call.held is not None and outcome.error is None:
            call.held.append(lambda ending: self._leave(passage))  # noqa: ARG005  # however it ends
        else:
            self._leave(passage)
        return outcome

    def _entry_of(self, key: Hashable, passage: Passage[Q] | None) -> Entry[Q]:
        """Return the entry of *key*, made now if need be; *passage*, if any, goes through it."""
        fresh: Entry[Q] | None = None
        version = -1
        while True:
            with self._lock:
                entry = self._places.get(key)
                if entry is None and not self._places.make_room(lambda each: each.is_idle()):
                    entry = self._overflow
                    self.overflowed += 1
                if entry is None and fresh is not None and version == self._version:
                    entry = fresh
                    if self._name is not None:
                        entry.policy.adopt_name(self._name)
                    self._places.put(key, entry)
                if entry is not None:
                    if passage is not None:
                        passage.entry = entry
                        entry.passages.add(passage)
                    return entry
                settings, version = self._settings, self._version
            # User code, and so not under the lock: of two threads, one makes a policy in vain.
            fresh = Entry(make(settings, key, self._overflow.policy))

    def _leave(self, passage: Passage[Q]) -> None:
        with self._lock:
            if passage.entry is not None:
                passage.entry.passages.discard(passage)

    def readings(self) -> Iterator[Reading]:
        """Return how many keys it keeps apart. What their policies count is told under its name as well."""
        yield Reading("resilience.keyed.usage", len(self._places), is_level=True)
        yield Reading("resilience.keyed.limit", self._settings.max_keys, is_level=True)
        yield Reading("resilience.keyed.evictions", self.evicted)
        yield Reading("resilience.keyed.overflows", self.overflowed)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        # Entries anew, because a call that goes on in the child still leaves the old one.
        self._overflow = Entry(self._overflow.policy)
        for key, entry in self._places.entries().items():
            self._places.put(key, Entry(entry.policy))
        self._places.evicted = self.overflowed = 0
