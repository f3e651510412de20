"""What every policy is: a name, a decorator, and a flow around the call."""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, ParamSpec, Protocol, Self, TypeVar

from resilience._runtime import census, wrap
from resilience._runtime.arguments import all_right as all_right  # with what else a policy is made of
from resilience._runtime.arguments import hinting as hinting
from resilience._runtime.arguments import inherited_problems as inherited_problems
from resilience._runtime.arguments import name_problems as name_problems
from resilience._runtime.census import Reading
from resilience._runtime.describe import explained
from resilience._runtime.epoch import epoch
from resilience._runtime.flow import Call, Flow, Inner
from resilience._runtime.hot import Hot
from resilience._runtime.watch import watch, watched
from resilience.errors import ConfigError, Problem
from resilience.outcome import (
    CallContext,
    Classifier,
    ErrorMatch,
    Outcome,
    Verdict,
    any_error_is_bad,
    errors_in,
    hint,
)
from resilience.typing import Seconds

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Binding:
    """
    What a policy inherits where it is used.

    Attributes:
        name: Name of the pipeline, or of the function that is decorated.
        classify: The pipeline's classifier, or None.

    """

    name: str
    classify: Classifier | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """
    What a pipeline must know of a policy to check that its policies make sense together.

    Attributes:
        bound: Longest time its inner call may take, in seconds, or None.
        repeats: Whether it calls again after a failure.
        races: Whether it calls again while a call is under way.
        budgeted: Whether a budget pays for further calls.
        replaces: Whether it turns failures into results.
        window: Seconds of history its decisions are taken over, or None.
        waits: Longest time it may wait for admission, in seconds.
        rank: For a gate that never waits: its place among neighbouring gates, lowest asked first.

    """

    bound: Seconds | None = None
    repeats: bool = False
    races: bool = False
    budgeted: bool = True
    replaces: bool = False
    window: Seconds | None = None
    waits: Seconds = 0.0
    rank: int | None = None


NO_TRAITS = Traits()


class Policy(ABC):
    """
    Something that decides whether, when and how often a call is made.

    Thread-safe, and bound to no event loop: one object serves threads, asyncio and trio at once.
    """

    __slots__ = ("__weakref__", "_acalled", "_called", "_classify", "_flow", "_is_inner", "_name", "_step")

    kind: ClassVar[str]
    """What it is in telemetry and `describe()`, for example ``circuit_breaker``."""

    streams: ClassVar[bool] = True
    """Whether it can guard a generator."""

    learning: ClassVar[tuple[str, ...]] = ()
    """Names of the settings that may be objects which serve one policy only."""

    def __init__(
        self, name: str | None, *, on: ErrorMatch | None = None, classify: Classifier | None = None
    ) -> None:
        # Not at the first call: a child that another thread forks during an import waits for it for ever.
        from resilience._runtime import by_hand as by_hand  # noqa: PLC0415  # it knows policies

        problems = inherited_problems(name, on, classify)
        if problems:
            raise ConfigError(type(self).__name__, problems)
        self._name = name
        self._flow: Inner | None = None
        self._called = self._acalled = wrap.UNMADE  # what `call` and `acall` go through
        self._step: tuple[object, Step] | None = None
        # Whether a policy around it in its pipeline calls again: then its calls are attempts of that one.
        self._is_inner = False
        self._classify: Classifier | None = classify if on is None else errors_in(on)
        census.enroll(self)

    def __del__(self, leave: Callable[[Any], None] = census.leave) -> None:
        leave(self)  # bound, because names are gone when the interpreter ends

    @property
    def name(self) -> str:
        """Its own name, else that of the first pipeline or function it was used for."""
        return self._name or self.kind

    def readings(self) -> Iterable[Reading]:
        """Return every number that it keeps, by the names of the telemetry registry."""
        return ()

    @property
    def traits(self) -> Traits:
        """What a pipeline must know of it."""
        return NO_TRAITS

    @property
    def parts(self) -> "tuple[Policy, ...]":
        """What it is made of: itself, unless it combines others."""
        return (self,)

    @property
    @abstractmethod
    def settings(self) -> Any:
        """Its settings, frozen."""

    @abstractmethod
    def step_for(self, binding: Binding) -> "Step":
        """Return what runs this policy around an inner flow, where *binding* holds."""

    @abstractmethod
    def _configure(self, settings: Any) -> None:
        """Take new settings, checked already, and keep the state."""

    def reconfigure(self, **changes: Any) -> None:
        """
        Change settings at run time and keep the state.

        A pipeline that this policy is part of is not checked again: `Pipeline.reload` does that.

        Raises:
            ConfigError: A setting is unknown or wrong. Nothing has changed then.

        Example:
            >>> from resilience import Timeout
            >>> timeout = Timeout(0.8)
            >>> timeout.reconfigure(duration=1.5)
            >>> timeout.settings.duration
            1.5

        """
        fields = self.settings.__dataclass_fields__
        problems = [
            Problem(name, value, "is not a setting") for name, value in changes.items() if name not in fields
        ]
        known = {name: value for name, value in changes.items() if name in fields}
        try:
            settings = replace(self.settings, **known)
            problems += self.obstacles(settings)
        except ConfigError as error:
            raise ConfigError(type(self).__name__, [*problems, *error.problems]) from None
        if problems:
            raise ConfigError(type(self).__name__, problems)
        self._configure(settings)
        epoch.end()

    def copy(self) -> Self:
        """
        Return another policy of the same name with the same settings, which has seen no call yet.

        Policies of one name are one series in telemetry, and spend from one budget. What was given as a
        limit or a rate that learns is copied as it is.

        Example:
            >>> from resilience import CircuitBreaker
            >>> breaker = CircuitBreaker("stock", probes=3)
            >>> breaker.copy().settings == breaker.settings
            True

        """
        present = self.settings  # once: they may be changed meanwhile
        settings = {name: getattr(present, name) for name in present.__dataclass_fields__}
        for name in self.learning:
            settings[name] = deepcopy(settings[name])
        if (rng := getattr(self, "_random", None)) is not None:
            settings["rng"] = rng
        made = type(self)(name=self._name, **settings)
        made._classify = self._classify
        return made

    def obstacles(self, settings: Any) -> list[Problem]:  # noqa: ARG002  # most can take any settings
        """Return why *settings*, which are right in themselves, cannot be taken while keeping the state."""
        return []

    def details(self) -> list[str]:
        """Return what `Pipeline.describe` says of it, line by line."""
        return [f"{setting} = {value} ({source})" for setting, value, source in explained(self.settings)]

    def take_settings(self, other: "Policy") -> None:
        """Take the settings and the classifier of *other*, a policy of the same type; keep the state."""
        self._configure(other.settings)
        self._classify = other._classify
        self._flow = None
        epoch.end()

    def adopt_name(self, name: str) -> str:
        """Take *name* unless there is one already, since names, once used, stay; return the name."""
        if self._name is None:
            self._name = name
        return self._name

    def flow_for(self, name: str, classify: Classifier | None = None) -> Inner:
        """Return the flow of calls to the function called *name*."""
        cached = self._flow
        if cached is not None and classify is None:
            return cached
        binding = Binding(self.adopt_name(name), classify)
        step = self._step_of(binding)
        flow = watched(self.name, self._present_judge(binding), lambda inner: nest([(self, step)], inner))
        if classify is None:
            self._flow = flow
        return flow

    def _flow_inside(self, part: "Policy", binding: Binding, inner: Inner) -> Inner | None:  # noqa: ARG002  # one part
        """Return the flow of what is inside *part*, around *inner*; None if *part* is none of its parts."""
        return inner if part is self else None

    def hots(self, binding: Binding) -> "list[tuple[Policy, Hot]] | None":
        """
        Return its success path, and those of its parts in the order of admission, as statements.

        A part without statements takes part by its step. None if that is so for all: then calls are driven
        as flows. So they are where attempts race and others follow each other: what one of them has paid
        for, the other must know.
        """
        hots = self._known_inside(self.own_hots(binding), binding)
        steps = sum(hot.step is not None for _, hot in hots)
        if steps == len(hots) or (steps and _shares_attempts([policy for policy, _ in hots])):
            return None
        if watch.watcher is None:
            return hots
        watching = watch.watcher.hots(self.adopt_name(binding.name), self._present_judge(binding))
        classify = self._classify or binding.classify
        return [*((watcher, hot.judged_by(classify)) for watcher, hot in watching), *hots]

    @staticmethod
    def _known_inside(hots: "list[tuple[Policy, Hot]]", binding: Binding) -> "list[tuple[Policy, Hot]]":
        """Let limits of time that are no deadlines in force be flows where a step inside must know them."""
        steps = [place for place, (_, hot) in enumerate(hots) if hot.step is not None]
        last = steps[-1] if steps else 0
        return [
            (policy, Hot(step=policy._step_of(binding)))
            if place < last and hot.limit is not None and not hot.tells
            else (policy, hot)
            for place, (policy, hot) in enumerate(hots)
        ]

    def own_hots(self, binding: Binding) -> "list[tuple[Policy, Hot]]":
        """Return what takes part of it, and of its parts, without those who watch."""
        hot = self.hot(binding) or Hot(step=self._step_of(binding))
        return [(self, hot.judged_by(self._classify or binding.classify))]

    def hot(self, binding: Binding) -> Hot | None:  # noqa: ARG002  # most have none
        """Return its success path as statements, where there is one at present."""
        return None

    def _step_of(self, binding: Binding) -> "Step":
        """Return what `step_for` does, the same one for flows and for generated code."""
        key, known = (binding, self._classify), self._step
        if known is None or known[0] != key:
            self._step = known = (key, self.step_for(binding))
        return known[1]

    def _give_back_token(self, token: Any) -> None:  # noqa: B027  # most hold nothing
        """Give back what generated code took, and no flow has taken over."""

    def judge(self, binding: Binding) -> "Judge":
        """Return the classifier in force: its own, else the pipeline's, else the default."""
        return checked(self._classify or binding.classify or any_error_is_bad)

    def _present_judge(self, binding: Binding) -> "Judge":
        """Return `judge` as it is at each call, for those who stand outside and are not made anew."""
        present = weakref.ref(self)  # no cycle: it may own the code that asks; it is there while a call is

        def judge(outcome: Outcome[Any], context: CallContext) -> Verdict:
            policy = present()
            return (
                any_error_is_bad(outcome, context)
                if policy is None
                else policy.judge(binding)(outcome, context)
            )

        return judge

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """
        Guard *fn* and return a function of the same name, signature and colour.

        Args:
            fn: A function, a coroutine function, a generator function of either kind, a method, a
                ``functools.partial`` or another callable object.

        Raises:
            TypeError: *fn* cannot be guarded, such as a class.
            ConfigError: This policy cannot guard a stream, and *fn* is a generator function.

        """
        guarded: Callable[P, R] = wrap.wrap(self, fn)
        return guarded

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """
        Call the plain function *fn* once under this policy.

        Raises:
            TypeError: *fn* is a coroutine function; use `acall`.

        """
        result: R = wrap.call(self, fn, args, kwargs)
        return result

    async def acall(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Await ``fn(*args, **kwargs)`` once under this policy."""
        result: R = await wrap.acall(self, fn, args, kwargs)
        return result

    def source(self, guarded: Callable[..., Any], /) -> str:
        """
        Return the text of the function that was generated for *guarded*, one that a policy has decorated.

        Where calls are driven step by step instead, it says so. Read it to see what a call costs.

        Raises:
            TypeError: *guarded* is no function that a policy has decorated.

        """
        return wrap.source(guarded)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


def _shares_attempts(policies: list[Policy]) -> bool:
    traits = [part.traits for policy in policies for part in (policy, *policy.parts)]
    return any(each.races for each in traits) and any(each.repeats for each in traits)


class Step(Protocol):
    """One policy, bound to where it is used."""

    def __call__(self, call: Call, inner: Inner, /) -> Flow:
        """Return the flow of *call* through this policy, around *inner*."""
        ...


Judge = Callable[[Outcome[Any], CallContext], Verdict]


def checked(classify: Classifier) -> Judge:
    """Return *classify*, refusing anything but a verdict."""
    if classify is any_error_is_bad:
        return any_error_is_bad

    def judge(outcome: Outcome[Any], context: CallContext) -> Verdict:
        if isinstance(outcome.value, wrap.Opened):
            return Verdict.GOOD  # a stream that has begun; it is judged by its end
        verdict = classify(outcome, context)
        if not isinstance(verdict, Verdict):
            msg = f"a classifier must return a Verdict, got {verdict!r}"
            raise TypeError(msg)
        outcome.retry_after = hint(outcome.retry_after)
        return verdict

    return judge


def nest(steps: "list[tuple[Policy, Step]]", innermost: Inner) -> Inner:
    """Put the steps of the policies around *innermost*; the first is the outermost."""
    inner = innermost
    for policy, step in reversed(steps):
        inner = _around(policy, step, inner)
    return inner


def _around(policy: Policy, step: Step, inner: Inner) -> Inner:
    def flow(call: Call) -> Flow:
        replay = call.replay
        if replay is not None and replay.is_at(policy):
            return replay.found()
        return step(call, inner)

    return flow
