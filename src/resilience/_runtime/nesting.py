"""Code within code: what is inside a policy that calls again, or that has no statements."""

import linecache
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any

from resilience._runtime import stepping, templates
from resilience._runtime.flow import leaf
from resilience._runtime.generated import (
    add_own,
    code_of,
    has_fake_timers,
    knows_deadlines,
    names_with,
    nobody,
    numbers,
)
from resilience._runtime.hot import Hot
from resilience._runtime.inside import Inside, driven_inside
from resilience._runtime.judging import asked_once
from resilience._runtime.plan import AttemptPlan, InnerPlan
from resilience._runtime.policy import Binding, Policy
from resilience._runtime.signature import Signature


def asked(hots: list[tuple[Policy, Hot]], *, for_deadline: bool) -> list[tuple[Policy, Hot]]:
    """Return *hots*, in which each classifier is asked once where some judge values."""
    if not any(hot.classify for _, hot in hots):
        return hots
    return asked_once(hots, for_deadline=for_deadline)


class Nest:
    """
    Makes functions from what is inside certain policies of one policy, in one epoch.

    Attributes:
        files: The files of those which are no attempts, the outermost first.

    """

    def __init__(
        self, policy: Policy, name: str, fn: Callable[..., Any], signature: Signature, made_in: int
    ) -> None:
        self._policy, self._name, self._fn, self._signature = policy, name, fn, signature
        self._made_in = made_in
        self.files: list[str] = []

    def attempts(self, part: Policy, hots: list[tuple[Policy, Hot]], made_in: int) -> Inside | None:
        """Return what is inside *part*, which calls again: *hots*; None if it is gone."""
        flow = self._policy._flow_inside(part, Binding(self._name), leaf)
        if flow is None:
            return None
        driven = driven_inside(self._fn, flow, is_async=self._signature.is_async)
        if has_fake_timers(hots, is_async=self._signature.is_async):
            return driven, driven
        plan = AttemptPlan(hots, flow, self._fn, driven, made_in)
        filename = f"<resilience {self._name} {next(numbers)}, further attempts>"
        return self._function(plan, driven, filename, None), driven

    def step(self, hots: list[tuple[Policy, Hot]]) -> Callable[..., Any] | None:
        """Return what runs the first of *hots* without statements, and those inside; None if it is gone."""
        around, part, rest = stepping.parted(hots)
        flow = None if part is None else self._policy._flow_inside(part, Binding(self._name), leaf)
        if part is None or flow is None:
            return None
        is_async, fn = self._signature.is_async, self._fn
        driven = driven_inside(fn, flow, is_async=is_async, context=stepping.context_here)
        filename = f"<resilience {self._name} {next(numbers)}, inside {part.kind}>"
        self.files.append(filename)
        inner, next_part, _ = stepping.parted(rest)
        step = None if next_part is None else self.step(rest)
        if next_part is not None and step is None:
            return None
        inner = asked(inner, for_deadline=knows_deadlines(is_async=is_async))
        plan = InnerPlan(inner, flow, fn, driven, self._made_in, self.attempts, next_part)
        run = self._function(plan, driven, filename, step)
        of_part: Any = hots[len(around)][1].step
        return stepping.run_of(of_part, fn, run, flow, self._made_in, is_async=is_async)

    def _function(
        self, plan: InnerPlan, driven: Callable[..., Any], filename: str, step: Callable[..., Any] | None
    ) -> FunctionType:
        fn, is_async = self._fn, self._signature.is_async
        namespace = names_with(fn, driven, is_async=is_async)
        add_own(self._signature, namespace)
        code = code_of(self._signature, plan, namespace, filename, nobody, looks=not is_async, step=step)
        by_position, by_keyword = templates.defaults_of(fn)
        function = FunctionType(code, namespace, None, by_position)
        function.__kwdefaults__ = by_keyword
        weakref.finalize(function, linecache.cache.pop, filename, None).atexit = False
        return function
