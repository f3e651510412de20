"""Several policies as one. The first is the outermost."""

import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, Self, TypeVar
from weakref import WeakSet

from resilience._runtime import compose, fork, wrap
from resilience._runtime.epoch import epoch
from resilience._runtime.flow import Call, Flow, Inner
from resilience._runtime.hot import Hot
from resilience._runtime.policy import Binding, Policy, Step, checked, hinting, inherited_problems, nest
from resilience._runtime.watch import watched
from resilience.errors import ConfigError, ConfigWarning, Problem
from resilience.events import emit, held_back
from resilience.outcome import CallContext, Classifier, ErrorMatch, errors_in

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """
    What a pipeline is made of.

    Attributes:
        policies: Its policies; the first is the outermost.

    """

    policies: tuple[Policy, ...]


class Pipeline(Policy):
    """
    Several policies as one; the first is the outermost.

    A pipeline checks itself when it is built. Settings that cannot work together raise one
    `ConfigError`; those that are only unwise give a `ConfigWarning` each. Policies without a
    name, a classifier or a budget of their own inherit the pipeline's.

    Args:
        name: Name for telemetry, errors and the retry budget. Default: that of the first function
            it guards.
        policies: The policies, from the outermost to the innermost.
        on: Errors that count as bad: a type, a tuple of types, or a predicate.
        classify: Judge of outcomes, for every policy without one of its own.

    Raises:
        ConfigError: The policies contradict each other, or a setting is wrong.

    Example:
        >>> from resilience import Pipeline, Retry, Timeout
        >>> inventory = Pipeline("inventory", Retry(attempts=2), Timeout(0.8))
        >>> inventory.call(len, "four")
        4

    """

    __slots__ = ("_hots", "_lock", "_outers", "_policies", "_version")

    kind = "pipeline"

    def __init__(
        self,
        name: "str | Policy | None" = None,
        /,
        *policies: Policy,
        on: ErrorMatch | None = None,
        classify: Classifier | None = None,
    ) -> None:
        if isinstance(name, Policy):
            policies = (name, *policies)
            name = None
        problems = [*inherited_problems(name, on, classify), *_problems(policies)]
        if problems:
            example = "Retry(...), Timeout(...)"
            problems = [hinting(each, "Pipeline", f"Pipeline({example})", example) for each in problems]
            raise ConfigError(f"Pipeline {name!r}" if isinstance(name, str) else "Pipeline", problems)
        for unwise in compose.unwise(_flat(policies)):
            warnings.warn(f"{name or 'pipeline'}: {unwise}", ConfigWarning, stacklevel=2)
        self._begin(name, policies, classify if on is None else errors_in(on))

    def _begin(self, name: str | None, policies: Sequence[Policy], classify: Classifier | None) -> None:
        """Be a pipeline of these policies, which are all right."""
        super().__init__(name, classify=classify)
        self._policies = tuple(policies)
        self._outers: WeakSet[Pipeline] = WeakSet()
        self._version = 0
        self._hots: tuple[tuple[int, Binding] | None, list[tuple[Policy, Hot]]] = (None, [])
        self._lock = threading.RLock()
        self._adopt()
        fork.register(self)
        if name is not None:
            self._name_policies(name)

    @property
    def policies(self) -> tuple[Policy, ...]:
        """Its policies, the first is the outermost."""
        return self._policies

    @property
    def parts(self) -> tuple[Policy, ...]:
        """All its policies, those of inner pipelines among them."""
        return tuple(part for policy in self._policies for part in policy.parts)

    @property
    def settings(self) -> PipelineSettings:
        """What it is made of."""
        return PipelineSettings(policies=self._policies)

    def adopt_name(self, name: str) -> str:
        """Take *name* unless there is one already, for its policies too; return the name."""
        name = super().adopt_name(name)
        self._name_policies(name)
        return name

    def _name_policies(self, name: str) -> None:
        for policy in self._policies:
            policy.adopt_name(name)

    def _adopt(self) -> None:
        """Tell its policies who is inside whom, and its pipelines whose reloads are checked here too."""
        for policy in self._policies:
            if isinstance(policy, Pipeline):
                policy._outers.add(self)
        calls_again = False
        for part in self.parts:
            part._is_inner = calls_again  # its own policies
            calls_again = calls_again or part.traits.repeats or part.traits.races
        for outer in self._outers:
            outer._adopt()

    def step_for(self, binding: Binding) -> Step:
        """Return the step that goes through every policy, following later reloads."""
        return _Bound(self, Binding(self.adopt_name(binding.name), binding.classify)).step

    def own_hots(self, binding: Binding) -> list[tuple[Policy, Hot]]:
        """Return the success paths of its policies, in the order of admission."""
        bound = self._bound(binding)
        key, hots = self._hots
        if key != (epoch.n, bound):
            key = (epoch.n, bound)  # first: what changes from here on ends this epoch
            ordered = compose.in_order_of_admission(self._policies)
            hots = [each for policy in ordered for each in policy.own_hots(bound)]
            self._hots = key, hots
        return hots

    def _flow_inside(self, part: Policy, binding: Binding, inner: Inner) -> Inner | None:
        """Return the flow of what is inside *part*, around *inner*; None if *part* is none of its parts."""
        bound = self._bound(binding)
        around: list[tuple[Policy, Step]] = []
        for policy in reversed(compose.in_order_of_admission(self._policies)):
            if part is policy or part in policy.parts:
                return policy._flow_inside(part, bound, nest(around, inner))
            around.insert(0, (policy, policy._step_of(bound)))
        return None

    def _bound(self, binding: Binding) -> Binding:
        return Binding(self.adopt_name(binding.name), self._classify or binding.classify)

    def flow_for(self, name: str, classify: Classifier | None = None) -> Inner:
        """Return the flow of calls to the function called *name*; *classify* replaces the pipeline's own."""
        if classify is None:
            return super().flow_for(name)
        binding = Binding(self.adopt_name(name))
        bound = _Bound(self, binding, classify)
        return watched(self.name, checked(classify), lambda inner: nest([(self, bound.step)], inner))

    def bind(
        self,
        fn: Callable[P, R],
        *,
        classify: Classifier | None = None,
        context: Callable[..., CallContext] | None = None,
    ) -> Callable[P, R]:
        """
        Guard *fn* with a classifier and a context of its own: what integrations use.

        Args:
            fn: The function, as for the decorator.
            classify: Judge of outcomes in place of the pipeline's, for policies without their own.
            context: Called with the arguments of each call; returns its `CallContext`.

        """
        guarded: Callable[P, R] = wrap.wrap(self, fn, classify=classify, context=context)
        return guarded

    def reload(
        self, *policies: Policy, on: ErrorMatch | None = None, classify: Classifier | None = None
    ) -> None:
        """
        Take the settings of *policies*, and keep the state of the present ones.

        Each new policy is matched with a present one of its type, in order; the present one takes
        over its settings and stays, with its window, its permits and its place in telemetry. New
        kinds are added, those no longer listed are dropped. Calls under way end as they began.

        Args:
            policies: All the policies from now on, the first the outermost; at least one.
            on: Errors that count as bad, in place of the present classifier.
            classify: Judge of outcomes, in place of the present classifier.

        Raises:
            ConfigError: The new pipeline is not valid, by itself or within one that it is part of.
                The present one stays as it is.

        """
        try:
            problems = [*inherited_problems(None, on, classify), *self._obstacles(policies)]
            if not policies:
                problems.append(
                    Problem("policies", policies, "must be all policies from now on, at least one")
                )
            if problems:
                raise ConfigError(f"Pipeline {self.name!r}", problems)
            with held_back(), self._lock:
                self._swap(policies)
                if on is not None or classify is not None:
                    self._classify = classify if on is None else errors_in(on)
                    epoch.end()
        except Exception as error:
            emit("resilience.pipeline.reload_failed", self.name, {"error.type": type(error).__qualname__})
            raise
        emit("resilience.pipeline.reload", self.name, {})

    def _swap(self, policies: Sequence[Policy]) -> None:
        """Take the settings of *policies*, all or none. The lock is held."""
        before = [(policy, policy.settings, policy._classify) for policy in self._policies]
        taken: list[Policy] = []
        try:
            for policy, match in zip(policies, self._matches(policies), strict=True):
                if match is not None and match is not policy:
                    match.take_settings(policy)
                taken.append(match or policy)
        except BaseException:
            for policy, settings, classify in before:
                if policy.settings is not settings:
                    policy._configure(settings)
                policy._classify, policy._flow = classify, None
            epoch.end()  # code may have been generated from what was taken for a moment
            raise
        self._policies = tuple(taken)
        self._adopt()
        self._version += 1
        epoch.end()
        if self._name is not None:
            self._name_policies(self._name)

    def _matches(self, policies: Sequence[Policy]) -> list[Policy | None]:
        """Return for each of *policies* the present one that takes its place, if there is one."""
        listed = {id(policy) for policy in policies}
        present = [policy for policy in self._policies if id(policy) not in listed]
        here = {id(policy) for policy in self._policies}
        matches: list[Policy | None] = []
        for policy in policies:
            match = policy if id(policy) in here else None  # listed again, as it is
            if match is None:
                match = next((old for old in present if type(old) is type(policy)), None)
                if match is not None:
                    present.remove(match)
            matches.append(match)
        return matches

    def obstacles(self, settings: PipelineSettings) -> list[Problem]:
        """Return why the settings cannot be taken while keeping the state, if they cannot."""
        return self._obstacles(settings.policies)

    def _obstacles(self, policies: Sequence[object]) -> list[Problem]:
        if any(_is_within(self, policy) for policy in policies):
            rule = (
                "must not contain the pipeline itself: give the policies of another, reload(*other.policies)"
            )
            return [Problem("policies", policies, rule)]
        problems = _problems(policies)
        known = [policy for policy in policies if isinstance(policy, Policy)]
        if len(known) == len(policies):
            problems += self._obstacles_around(known)
        problems += [
            problem
            for policy, match in zip(known, self._matches(known), strict=True)
            if match is not None and match is not policy
            for problem in match.obstacles(policy.settings)
        ]
        return problems

    def _obstacles_around(self, policies: Sequence[Policy]) -> list[Problem]:
        """Return what could not work in the pipelines around this one if *policies* were in its place."""
        problems: list[Problem] = []
        for outer in self._outers:
            if self in outer._policies:
                instead = [
                    each for policy in outer._policies for each in (policies if policy is self else [policy])
                ]
                problems += _problems(instead) or outer._obstacles_around(instead)
        return problems

    def copy(self) -> Self:
        """Return another pipeline of copies of its policies, which have seen no call yet."""
        made = type(self).__new__(type(self))  # without the warnings, which were given once
        with self._lock:
            made._begin(self._name, [policy.copy() for policy in self._policies], self._classify)
        return made

    def describe(self) -> str:
        """
        Say what happens to a call, in the real order of admission, with every setting and its source.

        Example:
            >>> from resilience import Pipeline, Timeout
            >>> print(Pipeline("stock", Timeout(0.8)).describe())
            pipeline 'stock'
              1. timeout 'stock' (name from the pipeline)
                   duration = 0.8 (set)
                   thread = False (default)
                   max_abandoned = 40 (default)
                   propagate = True (default)

        """
        return "\n".join([f"pipeline {self.name!r}", *(f"  {line}" for line in self.details())])

    def details(self) -> list[str]:
        """Return what `describe` says of its policies, line by line."""
        lines: list[str] = []
        for number, policy in enumerate(compose.in_order_of_admission(self._policies), 1):
            inherited = " (name from the pipeline)" if policy.name == self.name else ""
            lines.append(f"{number}. {policy.kind} {policy.name!r}{inherited}")
            lines += [f"     {line}" for line in policy.details()]
        return lines

    def _configure(self, settings: PipelineSettings) -> None:
        with held_back(), self._lock:
            self._swap(settings.policies)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()


class _Bound:
    """A pipeline, bound to where it is used; put together anew after a reload."""

    __slots__ = ("_binding", "_built", "_instead", "_pipeline")

    def __init__(self, pipeline: Pipeline, binding: Binding, instead: Classifier | None = None) -> None:
        self._pipeline = pipeline
        self._binding = binding
        self._instead = instead
        self._built: tuple[int, Inner, Inner] | None = None

    def step(self, call: Call, inner: Inner) -> Flow:
        pipeline = self._pipeline
        version = pipeline._version  # its own pipeline
        built = self._built
        if built is None or built[0] != version or built[1] is not inner:
            classify = self._instead or pipeline._classify or self._binding.classify
            binding = Binding(self._binding.name, classify)
            ordered = compose.in_order_of_admission(pipeline.policies)
            run = nest([(policy, policy._step_of(binding)) for policy in ordered], inner)
            self._built = built = (version, inner, run)
        return built[2](call)


def _flat(policies: Iterable[Policy]) -> list[Policy]:
    return [part for policy in policies for part in policy.parts]


def _is_within(pipeline: Pipeline, policy: object) -> bool:
    """Whether *pipeline* is *policy*, or a part of it."""
    if policy is pipeline:
        return True
    return isinstance(policy, Pipeline) and any(_is_within(pipeline, each) for each in policy.policies)


def _problems(policies: Sequence[object]) -> list[Problem]:
    strangers = [
        Problem("policies", policy, "must be policies such as Retry(...)")
        for policy in policies
        if not isinstance(policy, Policy)
    ]
    if strangers:
        return strangers
    return compose.problems(_flat([policy for policy in policies if isinstance(policy, Policy)]))
