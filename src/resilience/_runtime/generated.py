"""
What generated code is made of: a text, the objects in it, and the names that it looks up.

Most objects stand in the code as constants. What may lead back to the function is looked up by name instead,
so that the collector sees it.
"""

import builtins
import itertools
import linecache
import sys
import weakref
from collections.abc import Callable
from types import CodeType, CoroutineType, FunctionType
from typing import Any, Final

from resilience import _clock
from resilience._runtime import drive, templates
from resilience._runtime.flow import PLAIN
from resilience._runtime.hot import Hot, Visible, leads_out
from resilience._runtime.locked import IS_FREE_THREADED, needs_locks
from resilience._runtime.plan import AttemptPlan, Plan
from resilience._runtime.policy import Policy
from resilience._runtime.replay import Ended, Replay
from resilience._runtime.signature import Signature
from resilience.deadline import _innermost as block
from resilience.deadline import usage
from resilience.errors import DeadlineExceededError
from resilience.outcome import CallContext, Outcome, Verdict

numbers = itertools.count(1)
"""What tells files and names of generated code apart."""

_BUILTINS: Final = ("BaseException", "Exception", "KeyError", "float", "isinstance", "type")
"""Builtins that the text uses."""


def nobody() -> None:
    """Return no function: nobody runs the code yet, or it stays with the one function that is made of it."""


def code_of(
    signature: Signature,
    plan: Plan,
    namespace: dict[str, Any],
    filename: str,
    home: Callable[[], FunctionType | None],
    *,
    looks: bool,
    step: Callable[..., Any] | None = None,
) -> CodeType:
    """
    Return code that goes by *plan*, as of a file of that name; *step* runs the policy without statements.

    The *namespace* gets what it looks up. *home* returns the function which that belongs to, as long as there
    is one: once nobody runs the code any more, what is its alone is taken away there.
    """
    hots = list(zip(plan.policies, plan.hots, strict=True))
    source, objects = written_out(
        signature,
        hots,
        namespace,
        looks=looks and step is None,  # at what the function returns
        is_inner=plan.is_inner,
        is_attempt=isinstance(plan, AttemptPlan),
        has_step=step is not None,
    )
    objects["plan"] = plan
    if step is not None:
        objects["step"] = step
    if signature.takes(objects):
        objects = {signature.own(name): value for name, value in objects.items()}
    held = {name: value for name, value in objects.items() if is_visible(value)}
    constants = {name: value for name, value in objects.items() if name not in held}
    linecache.cache[filename] = (len(source), None, templates.lines(source), filename)
    number = next(numbers)
    renamed = {name: f"{name} {number}" for name in held}
    code = templates.template(source, frozenset(constants)).filled(constants, filename, renamed)
    namespace |= {renamed[name]: value for name, value in held.items()}

    def forget(_code: object) -> None:  # nobody uses its names any more
        function = home()  # not the namespace itself: no cycle
        if function is not None:
            for name in renamed.values():
                function.__globals__.pop(name, None)

    plan.code = weakref.ref(code, forget)
    return code


def is_visible(value: object) -> bool:
    """
    Whether a function must hold *value* so that the collector sees it: see `Visible`.

    All of them on free-threaded builds, where the constants of code live for ever.
    """
    if IS_FREE_THREADED:
        return True
    kinds = type(value).__mro__  # a policy is an abstract base class, whose instances are slow to tell
    # A classifier is the user's; so is what a machine was given to ask, which may know the function.
    return Policy in kinds or Visible in kinds or callable(value) or leads_out(value)


def names_with(fn: Callable[..., Any], slow: Callable[..., Any], *, is_async: bool) -> dict[str, Any]:
    """Return what code around *fn* looks up."""
    own = fn.__module__ if isinstance(fn, FunctionType) else __name__
    return {**names(is_async=is_async), "__name__": own, "fn": fn, "slow": slow}


def add_own(signature: Signature, namespace: dict[str, Any]) -> None:
    """Let *namespace* know things also by what the text calls them that has parameters of these names."""
    if signature.takes((*namespace, *_BUILTINS)):
        for name in (*namespace, *_BUILTINS):
            if (own := signature.own(name)) != name:
                namespace[own] = namespace[name] if name in namespace else vars(builtins)[name]


def names(*, is_async: bool) -> dict[str, Any]:
    """Return what all generated code looks up."""
    found = {
        "__builtins__": builtins,  # functions in C that import something look for it in the frame that calls
        "block": block.get,
        "CallContext": CallContext,
        "CoroutineType": CoroutineType,
        "DeadlineExceededError": DeadlineExceededError,
        "Ended": Ended,
        "GOOD": Verdict.GOOD,
        "Outcome": Outcome,
        "PLAIN": PLAIN,
        "reject": _reject,
        "Replay": Replay,
        "set_block": block.set,
    }
    if is_async:
        from resilience._runtime import (  # noqa: PLC0415  # asyncio comes with async functions
            _asyncio_cuts,
            _asyncio_queue,
        )

        found |= _asyncio_queue.NAMES | _asyncio_cuts.NAMES
    return found


def has_fake_timers(hots: list[tuple[Policy, Hot]], *, is_async: bool) -> bool:
    """Whether a fake clock bounds calls: only flows know how to wait for one."""
    return is_async and _clock.fake is not None and any(hot.limit for _, hot in hots)


def knows_deadlines(*, is_async: bool) -> bool:
    """Whether generated code keeps a deadline that is in force, rather than leaving such calls to flows."""
    return usage.used and not (is_async and _clock.fake is not None)


def written_out(
    signature: Signature,
    hots: list[tuple[Policy, Hot]],
    namespace: dict[str, Any],
    *,
    looks: bool,
    is_inner: bool = False,
    is_attempt: bool = False,
    has_step: bool = False,
) -> tuple[str, dict[str, object]]:
    """Return a function's text, and the objects in it; *namespace* gets what else it looks up."""
    shapes = [hot for _, hot in hots]
    trio = sys.modules.get("trio")
    if trio is not None:
        namespace[signature.own("in_trio_task")] = trio.lowlevel.in_trio_task
    clock, names_of_clock = _clock.reading()
    namespace |= {signature.own(name): value for name, value in names_of_clock.items()}
    source = templates.source(
        signature,
        shapes,
        for_deadline=usage.used and not is_attempt,  # for which flows keep one that is in force
        for_coroutine=looks,
        for_trio=trio is not None,
        for_fake=signature.is_async and (_clock.fake is not None or (has_step and not is_inner)),
        is_inner=is_inner,
        has_step=has_step,
        is_locked=needs_locks(),
        clock=clock,
    )
    objects: dict[str, object] = {}
    for place, hot in enumerate(shapes, 1):
        for name, value in hot.names.items():
            objects[f"{name}_{place}"] = value
        if hot.limit is not None:
            objects[f"limit_{place}"] = hot.limit
    return source, objects


def _reject(fn: Callable[..., Any], value: Any) -> None:
    value.close()
    raise TypeError(drive.returned_a_coroutine(fn))
