"""A policy for each key, such as one circuit breaker for each host."""

import inspect
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from inspect import Parameter
from typing import Any, Final, Generic, Literal, ParamSpec, TypeAlias, TypeVar, cast
from weakref import WeakKeyDictionary

from resilience._runtime import fork, wrap
from resilience._runtime.flow import Call, Flow, Inner
from resilience._runtime.gate import Gate
from resilience._runtime.pipeline import Pipeline
from resilience._runtime.policy import Binding, Policy, Step, Traits, all_right
from resilience.errors import ConfigError, Problem
from resilience.keyed._machine import Places
from resilience.keyed._settings import ANY_NUMBER, KeyedSettings

P = ParamSpec("P")
Q = TypeVar("Q", bound=Policy)
R = TypeVar("R")

MOST_BINDINGS: Final = 8
"""Places of use that an entry remembers its step for."""


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

    __slots__ = ("_arguments", "_lock", "_overflow", "_places", "_settings", "_version", "overflowed")

    kind = "keyed"

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
        self._overflow = _Entry(self._sample(self._settings))
        self._places: Places[_Entry[Q]] = Places(max_keys)
        self._arguments = _Arguments()
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
        if isinstance(key, str) and not _takes(plain, key):
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
            raise _no_key()
        here = Binding(self.adopt_name(binding.name), binding.classify)

        def step(call: Call, inner: Inner) -> Flow:
            return self._around(here, call, inner)

        return step

    def _configure(self, settings: KeyedSettings) -> None:
        old = self._settings
        if settings.factory is old.factory:
            with self._lock:
                self._settings = settings
                self._places.max_keys = settings.max_keys
            return
        # Everything is made before anything changes: a factory that fails leaves all as it was.
        overflow = self._sample(settings)
        made: dict[Hashable, Q] = {}
        while True:
            with self._lock:
                entries = self._places.entries()
                missing = [key for key in entries if key not in made]
                if not missing:
                    self._settings = settings
                    self._places.max_keys = settings.max_keys
                    self._version += 1
                    break
            for key in missing:
                made[key] = self._make(settings, key, overflow)
        self._overflow.renew(overflow)
        for key, entry in entries.items():
            entry.renew(made[key])
        if self._name is not None:
            self._name_policies(self._name)

    def _around(self, binding: Binding, call: Call, inner: Inner) -> Flow:
        key = self._key_of(call)
        passage: _Passage[Q] = _Passage()
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

    def _entry_of(self, key: Hashable, passage: "_Passage[Q] | None") -> "_Entry[Q]":
        """Return the entry of *key*, made now if need be; *passage*, if any, goes through it."""
        fresh: _Entry[Q] | None = None
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
            fresh = _Entry(self._make(settings, key, self._overflow.policy))

    def _leave(self, passage: "_Passage[Q]") -> None:
        with self._lock:
            if passage.entry is not None:
                passage.entry.passages.discard(passage)

    def _sample(self, settings: KeyedSettings) -> Q:
        try:
            return self._made(settings, None)
        except ConfigError:
            raise
        except Exception as error:
            problem = Problem("factory", settings.factory, f"must make a policy, but raised {error!r}")
            raise ConfigError("Keyed", [problem]) from error

    def _make(self, settings: KeyedSettings, key: Hashable, overflow: Q) -> Q:
        policy = self._made(settings, key)
        if policy is overflow:
            problem = Problem("factory", settings.factory, "must make a new policy each time")
            raise ConfigError("Keyed", [problem])
        return policy

    def _made(self, settings: KeyedSettings, key: Hashable) -> Q:
        policy = settings.make(key)
        if not isinstance(policy, Policy):
            problem = Problem("factory", settings.factory, f"must make a policy, but made {policy!r}")
            raise ConfigError("Keyed", [problem])
        return cast("Q", policy)

    def _key_of(self, call: Call) -> Hashable:
        function, how = call.function, self._settings.key
        if how is None:  # taken away at run time
            raise _no_key()
        key: Hashable
        if isinstance(how, str):
            key = self._arguments.find(function, how, call)
        else:
            key = how(*call.args, **call.kwargs)
        try:
            hash(key)
        except TypeError as error:
            raise TypeError(f"{wrap.name_of(function)}: {key!r} cannot be a key: {error}") from error
        return key

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        # Entries anew, because a call that goes on in the child still leaves the old one.
        self._overflow = _Entry(self._overflow.policy)
        for key, entry in self._places.entries().items():
            self._places.put(key, _Entry(entry.policy))
        self._places.evicted = self.overflowed = 0


class _Passage(Generic[Q]):
    """
    One call's way through a policy, or through what a stream's end still has to settle.

    Attributes:
        entry: Where the policy is; None before it was found.

    """

    __slots__ = ("entry",)

    def __init__(self) -> None:
        self.entry: _Entry[Q] | None = None


class _Entry(Generic[Q]):
    """
    A key's policy.

    Attributes:
        policy: The policy.
        passages: Who goes through it now.

    """

    __slots__ = ("_steps", "passages", "policy")

    def __init__(self, policy: Q) -> None:
        self.policy = policy
        self.passages: set[_Passage[Q]] = set()
        self._steps: dict[int, tuple[Binding, Step]] = {}

    def is_idle(self) -> bool:
        """Whether nobody goes through the policy, and it is as a new one."""
        return not self.passages and _is_idle(self.policy)

    def step_for(self, binding: Binding) -> Step:
        """Return the policy's step for *binding*, the same one each time."""
        spot = id(binding.classify)  # the name is always that of the Keyed
        known = self._steps.get(spot)
        if known is None:
            if len(self._steps) >= MOST_BINDINGS:
                self._steps = {}  # somebody brings a new classifier each time
            # With its binding, so that the classifier's id stays its own.
            known = self._steps.setdefault(spot, (binding, self.policy.step_for(binding)))
        return known[1]

    def renew(self, other: Q) -> None:
        """Take the settings of *other* and keep the state, if it is of the same type; else take it."""
        if type(other) is type(self.policy):
            self.policy.take_settings(other)
        else:
            self.policy = other
        self._steps = {}


def _is_idle(policy: Policy) -> bool:
    """Ask a policy whether it is as a new one. A gate that does not say is not, anything else is."""
    says: bool | None = getattr(policy, "is_idle", None)
    if says is not None:
        return says
    if isinstance(policy, Pipeline):
        return all(_is_idle(each) for each in policy.policies)
    return not isinstance(policy, Gate)


def _no_key() -> ConfigError:
    rule = "must be given to guard functions; without it, ask for a policy: keyed[key]"
    return ConfigError("Keyed", [Problem("key", None, rule)])


class _Arguments:
    """Finds an argument of a call by its name."""

    __slots__ = ("_places",)

    def __init__(self) -> None:
        self._places: WeakKeyDictionary[Any, dict[str, _Place]] = WeakKeyDictionary()

    def find(self, function: Any, name: str, call: Call) -> Any:
        """Return the argument called *name*, or its default."""
        if name in call.kwargs:
            return call.kwargs[name]
        # A bound method is a new object each time; its function stays, and has one argument more.
        lasting = function.__func__ if inspect.ismethod(function) else function
        args = call.args if lasting is function else (function.__self__, *call.args)
        position, default = self._place(lasting, name)
        if position is not None and position < len(args):
            return args[position]
        if default is Parameter.empty:
            raise TypeError(f"{wrap.name_of(function)}: the call has no argument {name!r} to be its key")
        return default

    def _place(self, function: Any, name: str) -> "_Place":
        known: dict[str, _Place] = {}
        with suppress(TypeError):  # an object that cannot be a weak key is looked at each time
            known = self._places.setdefault(function, known)
        if name not in known:
            known[name] = _place(function, name)
        return known[name]


_Place: TypeAlias = tuple[int | None, object]
"""Where an argument is among the positional ones, if it is, and its default, if it has one."""


def _place(function: Callable[..., Any], name: str) -> _Place:
    for position, parameter in enumerate(_parameters(function)):
        if parameter.name == name and parameter.kind not in ANY_NUMBER:
            is_named_only = parameter.kind is Parameter.KEYWORD_ONLY
            return (None if is_named_only else position), parameter.default
    return None, Parameter.empty


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a call of *function* may have an argument called *name*."""
    return any(
        each.kind is Parameter.VAR_KEYWORD or (each.name == name and each.kind not in ANY_NUMBER)
        for each in _parameters(function)
    )


def _parameters(function: Callable[..., Any]) -> list[Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:  # a builtin that does not tell
        return []
