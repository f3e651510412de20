"""
Policies and a function's own signature become one function: the success path of every policy, inlined.

A policy writes its success path as statements, in its ``_hot.py``, next to the methods that they repeat. They
are put around one call of the user's function (``text.py``), and made into code once for each kind of
policies and parameters (``templates.py``). Whatever is not plain success goes by the code's `Plan`
(``plan.py``).

The environment variable ``RESILIENCE_COMPILE=0`` lets every call go the slow way. Free-threaded builds, and
``RESILIENCE_LOCKS=1``, get the same statements under locks: it is decided when the code is generated.
"""

import builtins
import itertools
import linecache
import os
import sys
import weakref
from collections.abc import Callable
from types import CodeType, CoroutineType, FunctionType
from typing import Any, Final

from resilience import _clock
from resilience._runtime import drive, stepping, templates, text
from resilience._runtime.flow import PLAIN, leaf
from resilience._runtime.hot import Ended, Hot, Replay, Visible, epoch
from resilience._runtime.inside import Inside, driven_inside
from resilience._runtime.judging import asked_once
from resilience._runtime.locked import needs_locks
from resilience._runtime.plan import AttemptPlan, InnerPlan, Plan
from resilience._runtime.policy import Binding, Policy
from resilience._runtime.signature import Signature
from resilience.deadline import _innermost as block
from resilience.deadline import usage
from resilience.errors import DeadlineExceededError
from resilience.outcome import CallContext, Outcome, Verdict

_numbers = itertools.count(1)

_BUILTINS: Final = ("BaseException", "Exception", "KeyError", "float", "isinstance", "type")
"""Builtins that the text uses."""


def is_on() -> bool:
    """Whether functions are generated: not if the environment says no."""
    return _IS_WANTED


_IS_WANTED: Final = os.environ.get("RESILIENCE_COMPILE", "1") != "0"


def compiled(
    policy: Policy, fn: Callable[..., Any], name: str, slow: Callable[..., Any], *, is_async: bool
) -> Callable[..., Any] | None:
    """Return a generated function that does as *slow* does, or None where none can be made."""
    # What says of itself that it takes other arguments than it does cannot be written out.
    if not is_on() or hasattr(fn, "__signature__"):
        return None
    hots = policy.hots(Binding(name))
    if hots is None:
        return None
    signature = templates.signature_of(fn, name, is_async=is_async)
    if signature is not None and any(hot.step is not None for _, hot in hots):
        # What a step sees, and a key is made from, is what was given.
        signature = templates.as_given(name.rpartition(".")[2], is_async=is_async)
    return None if signature is None else Wrapper(policy, fn, name, slow, signature).function()


def source_of(guarded: Callable[..., Any]) -> str | None:
    """Return the text that *guarded* is generated from at present, or None if it is not."""
    wrapper: Wrapper | None = getattr(guarded, "__globals__", {}).get("wrapper")
    return wrapper.source if isinstance(wrapper, Wrapper) else None


class Wrapper:
    """
    One function that is guarded, and what is needed to generate it anew when something has changed.

    Its code is that of a stub before the first call, and again once the epoch has ended: the stub has the
    present code made, and puts it in its place. The function stays the same object. While a policy has no
    success path to write out, every call goes the slow way.

    Where locks are needed, the function hands its calls on to another one, and that is replaced: without a
    GIL the code of a function must not change while other threads call it (python/cpython#145272).

    The function owns this object, which knows it by weak reference: no cycle, and so nothing to collect.
    """

    def __init__(
        self,
        policy: Policy,
        fn: Callable[..., Any],
        name: str,
        slow: Callable[..., Any],
        signature: Signature,
    ) -> None:
        self._policy, self._fn, self._name, self._slow = policy, fn, name, slow
        self._signature, is_async = signature, signature.is_async
        self._looks = not is_async
        self._hands_on = needs_locks()
        self._filename = f"<resilience {name} {next(_numbers)}>"
        self._inside: list[str] = []  # the files of what is inside policies without statements
        self._namespace: dict[str, Any] | None = _names_with(fn, slow, is_async=is_async)
        self._namespace["first"] = self._afirst if is_async else self._first
        self._namespace["wrapper"] = self
        self._guarded: Callable[[], FunctionType | None] = _nobody  # until there is one
        self._stub = templates.stub(signature)
        self._made = (-1, self._stub)

    def function(self) -> FunctionType:
        """Return the function, which owns this object from here on."""
        namespace, self._namespace = self._namespace or {}, None  # the function's: it knows this object
        _add_own(self._signature, namespace)
        code = self._stub
        if self._hands_on:
            code = templates.handing_on(self._signature)
            present = FunctionType(self._stub, namespace)
            namespace = {"__name__": namespace["__name__"], "wrapper": self, self._present: present}
        by_position, by_keyword = templates.defaults_of(self._fn)
        guarded = FunctionType(code, namespace, None, by_position)
        guarded.__kwdefaults__ = by_keyword
        self._guarded = weakref.ref(guarded)
        epoch.add(self)
        return guarded

    def __del__(self, forget: Callable[..., object] = linecache.cache.pop) -> None:
        filename = getattr(self, "_filename", None)  # not there if its making was interrupted
        if filename is not None:
            forget(filename, None)

    @property
    def _present(self) -> str:
        """What the function that calls are handed on to is called."""
        return self._signature.own("present")

    def _running(self) -> FunctionType | None:
        """Return the function that has the present code, or None if nobody needs it any more."""
        guarded = self._guarded()
        if guarded is None or not self._hands_on:
            return guarded
        present: FunctionType = guarded.__globals__[self._present]
        return present

    def _put(self, code: CodeType) -> None:
        """Let the next calls run *code*. The lock of the epoch is held."""
        guarded, running = self._guarded(), self._running()
        if guarded is None or running is None:
            return
        if self._hands_on:
            guarded.__globals__[self._present] = FunctionType(code, running.__globals__)
        else:
            guarded.__code__ = code

    @property
    def source(self) -> str:
        """The text of the present code."""
        self._renewed()
        texts = ["".join(linecache.getlines(name)) for name in (self._filename, *self._inside)]
        return "\n\n".join(texts)

    def retire(self) -> None:
        """Let the next call look the code over."""
        self._put(self._stub)

    def _first(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call with code that is up to date, and let the next ones have it."""
        return self._current()(*args, **kwargs)

    async def _afirst(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return await self._current()(*args, **kwargs)

    def _current(self) -> Callable[..., Any]:
        made = self._renewed()
        self._install(made)
        running = self._running()
        # Not the function itself, which has no such code any more if the epoch has just ended.
        return self._slow if running is None or running.__code__ is not made[1] else running

    def is_plain(self) -> None:
        """Look no more for a coroutine: a function that has once returned something else will return none."""
        self._looks = False
        self._made = (-1, self._stub)
        self._install(self._renewed())

    def _renewed(self) -> tuple[int, CodeType]:
        made, running = self._made, self._running()
        if made[0] != epoch.n and running is not None:
            self._made = made = self._made_from(running.__globals__)
        return made

    def _install(self, made: tuple[int, CodeType]) -> None:
        with epoch.lock:
            if made[0] == epoch.n:
                self._put(made[1])

    def _made_from(self, namespace: dict[str, Any]) -> tuple[int, CodeType]:
        """Return the code of the present epoch, and the epoch's number; *namespace* gets what it looks up."""
        made_in = epoch.n  # first: what changes from here on ends this epoch
        hots = self._policy.hots(Binding(self._name))
        if hots is None or has_fake_timers(hots, is_async=self._signature.is_async):
            return self._plain(made_in)
        made = _Made(self._policy, self._name, self._fn, self._signature, made_in)
        around, part, _ = stepping.parted(hots)
        step = None if part is None else made.step(hots)
        if part is not None and step is None:  # it is gone, and so are these statements
            return self._plain(made_in)
        self._inside = made.files
        # Where a deadline is in force, a flow knows whether the function was started.
        for_deadline = knows_deadlines(is_async=self._signature.is_async) and not made.leaves_deadlines(part)
        around = _asked(around, for_deadline=for_deadline)
        flow = self._policy.flow_for(self._name)
        plan = Plan(around, flow, self._fn, self._slow, made_in, made.attempts, part)
        own = weakref.ref(self)

        def home() -> FunctionType | None:
            wrapper = own()
            return None if wrapper is None else wrapper._running()

        code = _code(self._signature, plan, namespace, self._filename, home, looks=self._looks, step=step)
        return made_in, code

    def _plain(self, made_in: int) -> tuple[int, CodeType]:
        source = text.plain(self._signature)
        linecache.cache[self._filename] = (len(source), None, templates.lines(source), self._filename)
        self._inside = []
        return made_in, templates.template(source, frozenset()).filled({}, self._filename)


def _nobody() -> None:
    return None


def _code(
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
    namespace[signature.own("monotonic")] = _clock.monotonic
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
    number = next(_numbers)
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
    """Whether a function must hold *value* so that the collector sees it: see `Visible`."""
    kinds = type(value).__mro__  # a policy is an abstract base class, whose instances are slow to tell
    return Policy in kinds or Visible in kinds or callable(value)  # a classifier: the user's


def _asked(hots: list[tuple[Policy, Hot]], *, for_deadline: bool) -> list[tuple[Policy, Hot]]:
    if not any(hot.classify for _, hot in hots):
        return hots
    return asked_once(hots, for_deadline=for_deadline)


class _Made:
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

    def leaves_deadlines(self, part: Policy | None) -> bool:
        """Whether calls under a deadline go the slow way, since *part* has no statements."""
        return part is not None and self._signature.is_async

    def attempts(self, part: Policy, hots: list[tuple[Policy, Hot]], made_in: int) -> Inside | None:
        """Return what is inside *part*, which calls again: *hots*; None if it is gone."""
        flow = self._policy._flow_inside(part, Binding(self._name), leaf)
        if flow is None:
            return None
        driven = driven_inside(self._fn, flow, is_async=self._signature.is_async)
        if has_fake_timers(hots, is_async=self._signature.is_async):
            return driven, driven
        plan = AttemptPlan(hots, flow, self._fn, driven, made_in)
        filename = f"<resilience {self._name} {next(_numbers)}, further attempts>"
        return self._function(plan, driven, filename, None), driven

    def step(self, hots: list[tuple[Policy, Hot]]) -> Callable[..., Any] | None:
        """Return what runs the first of *hots* without statements, and those inside; None if it is gone."""
        around, part, rest = stepping.parted(hots)
        flow = None if part is None else self._policy._flow_inside(part, Binding(self._name), leaf)
        if part is None or flow is None:
            return None
        is_async, fn = self._signature.is_async, self._fn
        driven = driven_inside(fn, flow, is_async=is_async, context=stepping.context_here)
        filename = f"<resilience {self._name} {next(_numbers)}, inside {part.kind}>"
        self.files.append(filename)
        inner, next_part, _ = stepping.parted(rest)
        step = None if next_part is None else self.step(rest)
        if next_part is not None and step is None:
            return None
        inner = _asked(inner, for_deadline=knows_deadlines(is_async=is_async))
        plan = InnerPlan(inner, flow, fn, driven, self._made_in, self.attempts, next_part)
        run = self._function(plan, driven, filename, step)
        of_part: Any = hots[len(around)][1].step
        return stepping.run_of(of_part, fn, run, flow, self._made_in, is_async=is_async)

    def _function(
        self, plan: InnerPlan, driven: Callable[..., Any], filename: str, step: Callable[..., Any] | None
    ) -> FunctionType:
        fn, is_async = self._fn, self._signature.is_async
        namespace = _names_with(fn, driven, is_async=is_async)
        _add_own(self._signature, namespace)
        code = _code(self._signature, plan, namespace, filename, _nobody, looks=not is_async, step=step)
        by_position, by_keyword = templates.defaults_of(fn)
        function = FunctionType(code, namespace, None, by_position)
        function.__kwdefaults__ = by_keyword
        weakref.finalize(function, linecache.cache.pop, filename, None).atexit = False
        return function


def _names_with(fn: Callable[..., Any], slow: Callable[..., Any], *, is_async: bool) -> dict[str, Any]:
    own = fn.__module__ if isinstance(fn, FunctionType) else __name__
    return {**names(is_async=is_async), "__name__": own, "fn": fn, "slow": slow}


def _add_own(signature: Signature, namespace: dict[str, Any]) -> None:
    """Let *namespace* know things also by what the text calls them that has parameters of these names."""
    if signature.takes((*namespace, *_BUILTINS)):
        for name in (*namespace, *_BUILTINS):
            if (own := signature.own(name)) != name:
                namespace[own] = namespace[name] if name in namespace else vars(builtins)[name]


def names(*, is_async: bool) -> dict[str, Any]:
    """Return what all generated code looks up."""
    found = {
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
