"""
Policies and a function's own signature become one function: the success path of every policy, inlined.

A policy writes its success path as statements, in its ``_hot.py``, next to the methods that they repeat. They
are put around one call of the user's function (``text.py``), and made into code once for each kind of
policies and parameters (``templates.py``, ``generated.py``). What is inside a policy that calls again, or
that has no statements, is code of its own (``nesting.py``). Whatever is not plain success goes by the code's
`Plan` (``plan.py``).

The environment variable ``RESILIENCE_COMPILE=0`` lets every call go the slow way. Free-threaded builds, and
``RESILIENCE_LOCKS=1``, get the same statements under locks: it is decided when the code is generated.
"""

import linecache
import os
import weakref
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, Final

from resilience._runtime import stepping, templates, text
from resilience._runtime.epoch import epoch
from resilience._runtime.generated import (
    add_own,
    code_of,
    has_fake_timers,
    knows_deadlines,
    names_with,
    nobody,
    numbers,
)
from resilience._runtime.locked import needs_locks
from resilience._runtime.nesting import Nest, asked
from resilience._runtime.plan import Plan
from resilience._runtime.policy import Binding, Policy
from resilience._runtime.signature import Signature


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
        self._filename = f"<resilience {name} {next(numbers)}>"
        self._inside: list[str] = []  # the files of what is inside policies without statements
        self._namespace: dict[str, Any] | None = names_with(fn, slow, is_async=is_async)
        self._namespace["first"] = self._afirst if is_async else self._first
        self._namespace["wrapper"] = self
        self._guarded: Callable[[], FunctionType | None] = nobody  # until there is one
        # What a step sees, and a key is made from, is what was given; a reload may bring one at any time.
        self._as_given = templates.as_given(name.rpartition(".")[2], is_async=is_async)
        self._stub = templates.stub(self._as_given)
        self._made = (-1, self._stub)

    def function(self) -> FunctionType:
        """Return the function, which owns this object from here on."""
        namespace, self._namespace = self._namespace or {}, None  # the function's: it knows this object
        add_own(self._signature, namespace)
        code = self._stub
        if self._hands_on:
            code = templates.handing_on(self._as_given)
            present = FunctionType(self._stub, namespace)
            namespace = {"__name__": namespace["__name__"], "wrapper": self, "present": present}
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

    def _running(self) -> FunctionType | None:
        """Return the function that has the present code, or None if nobody needs it any more."""
        guarded = self._guarded()
        if guarded is None or not self._hands_on:
            return guarded
        present: FunctionType = guarded.__globals__["present"]
        return present

    def _put(self, code: CodeType) -> None:
        """Let the next calls run *code*. The lock of the epoch is held."""
        guarded, running = self._guarded(), self._running()
        if guarded is None or running is None:
            return
        if self._hands_on:
            present = FunctionType(code, running.__globals__, None, guarded.__defaults__)
            present.__kwdefaults__ = guarded.__kwdefaults__
            guarded.__globals__["present"] = present
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
        around, part, _ = stepping.parted(hots)
        signature = self._signature if part is None else self._as_given
        made = Nest(self._policy, self._name, self._fn, signature, made_in)
        step = None if part is None else made.step(hots)
        if part is not None and step is None:  # it is gone, and so are these statements
            return self._plain(made_in)
        self._inside = made.files
        is_async = self._signature.is_async
        # Around a step a task under a deadline goes the slow way: a flow knows whether it was started.
        for_deadline = knows_deadlines(is_async=is_async) and not (is_async and part is not None)
        around = asked(around, for_deadline=for_deadline)
        flow = self._policy.flow_for(self._name)
        plan = Plan(around, flow, self._fn, self._slow, made_in, made.attempts, part)
        own = weakref.ref(self)

        def home() -> FunctionType | None:
            wrapper = own()
            return None if wrapper is None else wrapper._running()

        code = code_of(signature, plan, namespace, self._filename, home, looks=self._looks, step=step)
        return made_in, code

    def _plain(self, made_in: int) -> tuple[int, CodeType]:
        source = text.plain(self._as_given)
        linecache.cache[self._filename] = (len(source), None, templates.lines(source), self._filename)
        self._inside = []
        return made_in, templates.template(source, frozenset()).filled({}, self._filename)
