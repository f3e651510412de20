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
from functools import partial
from types import CodeType, CoroutineType, FunctionType
from typing import Any, Final

from resilience import _clock
from resilience._runtime import drive, templates, text
from resilience._runtime.flow import PLAIN, leaf
from resilience._runtime.hot import Hot, Replay, Visible, epoch
from resilience._runtime.inside import Inside, driven_inside
from resilience._runtime.judging import asked_once
from resilience._runtime.locked import needs_locks
from resilience._runtime.plan import InnerPlan, Plan
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
    if not is_on() or hasattr(fn, "__signature__") or policy.hots(Binding(name)) is None:
        return None
    signature = templates.signature_of(fn, name, is_async=is_async)
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
        return "".join(linecache.getlines(self._filename))

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
            source = text.plain(self._signature)
            linecache.cache[self._filename] = (len(source), None, templates.lines(source), self._filename)
            return made_in, templates.template(source, frozenset()).filled({}, self._filename)
        if any(hot.classify for _, hot in hots):
            hots = asked_once(hots, for_deadline=knows_deadlines(is_async=self._signature.is_async))
        inside = partial(_inside, self._policy, self._name, self._fn, self._signature)
        plan = Plan(hots, self._policy.flow_for(self._name), self._fn, self._slow, made_in, inside)
        own = weakref.ref(self)

        def home() -> FunctionType | None:
            wrapper = own()
            return None if wrapper is None else wrapper._running()

        return made_in, _code(self._signature, plan, namespace, self._filename, home, looks=self._looks)


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
) -> CodeType:
    """
    Return code that goes by *plan*, as of a file of that name.

    The *namespace* gets what it looks up. *home* returns the function which that belongs to, as long as there
    is one: once nobody runs the code any more, what is its alone is taken away there.
    """
    namespace[signature.own("monotonic")] = _clock.monotonic
    hots = list(zip(plan.policies, plan.hots, strict=True))
    source, objects = written_out(signature, hots, namespace, looks=looks, is_inner=plan.is_inner)
    objects["plan"] = plan
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


def _inside(
    policy: Policy,
    name: str,
    fn: Callable[..., Any],
    signature: Signature,
    part: Policy,
    hots: list[tuple[Policy, Hot]],
    made_in: int,
) -> Inside | None:
    """Return what is inside *part* of *policy*: *hots* around *fn*; None if *part* is gone."""
    flow = policy._flow_inside(part, Binding(name), leaf)
    if flow is None:
        return None
    driven = driven_inside(fn, flow, is_async=signature.is_async)
    if has_fake_timers(hots, is_async=signature.is_async):
        return driven, driven
    namespace = _names_with(fn, driven, is_async=signature.is_async)
    _add_own(signature, namespace)
    plan = InnerPlan(hots, flow, fn, driven, made_in)
    filename = f"<resilience {name} {next(_numbers)}, further attempts>"
    code = _code(signature, plan, namespace, filename, _nobody, looks=not signature.is_async)
    by_position, by_keyword = templates.defaults_of(fn)
    inner = FunctionType(code, namespace, None, by_position)
    inner.__kwdefaults__ = by_keyword
    weakref.finalize(inner, linecache.cache.pop, filename, None).atexit = False
    return inner, driven


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
) -> tuple[str, dict[str, object]]:
    """Return a function's text, and the objects in it; *namespace* gets what else it looks up."""
    shapes = [hot for _, hot in hots]
    trio = sys.modules.get("trio")
    if trio is not None:
        namespace[signature.own("in_trio_task")] = trio.lowlevel.in_trio_task
    source = templates.source(
        signature,
        shapes,
        for_deadline=usage.used,
        for_coroutine=looks,
        for_trio=trio is not None,
        for_fake=signature.is_async and _clock.fake is not None,
        is_inner=is_inner,
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
