"""
Policies and a function's own signature become one function: the success path of every policy, inlined.

A policy writes its success path as statements, in its ``_hot.py``, next to the methods that they repeat. They
are put around one call of the user's function (``text.py``), and made into code once for each kind of
policies and parameters (``templates.py``). Whatever is not plain success goes by the code's `Plan`
(``plan.py``).

The environment variable ``RESILIENCE_COMPILE=0`` lets every call go the slow way.
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
from resilience._runtime import drive, templates, text
from resilience._runtime.hot import Replay, epoch, has_gil
from resilience._runtime.plan import Plan
from resilience._runtime.policy import Binding, Policy
from resilience._runtime.text import Signature
from resilience.deadline import _innermost as block
from resilience.deadline import usage
from resilience.errors import DeadlineExceededError

_numbers = itertools.count(1)

_BUILTINS: Final = ("BaseException", "Exception", "KeyError", "float", "isinstance", "type")
"""Builtins that the text uses."""


def is_on() -> bool:
    """Whether functions are generated: not if the environment says no, and not without a GIL."""
    return _IS_WANTED and has_gil()


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

    Its code is that of a stub before the first call, and again once the epoch has ended: the stub puts the
    present code in its place. The function stays the same object. While a policy has no success path to write
    out, every call goes the slow way.

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
        self._filename = f"<resilience {name} {next(_numbers)}>"
        self._namespace: dict[str, Any] | None = {
            "__name__": fn.__module__ if isinstance(fn, FunctionType) else __name__,
            "block": block.get,
            "CoroutineType": CoroutineType,
            "DeadlineExceededError": DeadlineExceededError,
            "first": self._afirst if is_async else self._first,
            "fn": fn,
            "reject": _reject,
            "Replay": Replay,
            "set_block": block.set,
            "slow": slow,
            "wrapper": self,
        }
        if is_async:
            from resilience._runtime import (  # noqa: PLC0415  # asyncio comes with async functions
                _asyncio_cuts,
                _asyncio_queue,
            )

            self._namespace |= _asyncio_queue.NAMES | _asyncio_cuts.NAMES
        self._made = self._code(self._namespace)

    def function(self) -> FunctionType:
        """Return the function, which owns this object from here on."""
        namespace, self._namespace = self._namespace or {}, None  # the function's: it knows this object
        if self._signature.takes((*namespace, *_BUILTINS)):
            for name in (*namespace, *_BUILTINS):
                if (own := self._signature.own(name)) != name:
                    namespace[own] = namespace[name] if name in namespace else vars(builtins)[name]
        self._stub = templates.stub(self._signature)
        by_position, by_keyword = templates.defaults_of(self._fn)
        guarded = FunctionType(self._stub, namespace, None, by_position)
        guarded.__kwdefaults__ = by_keyword
        self._guarded = weakref.ref(guarded)
        with epoch.lock:
            epoch.functions.add(self)
        return guarded

    def __del__(self, forget: Callable[..., object] = linecache.cache.pop) -> None:
        filename = getattr(self, "_filename", None)  # not there if its making was interrupted
        if filename is not None:
            forget(filename, None)

    @property
    def source(self) -> str:
        """The text of the present code."""
        self._renewed()
        return "".join(linecache.getlines(self._filename))

    def retire(self) -> None:
        """Let the next call look the code over."""
        guarded = self._guarded()
        if guarded is not None:
            guarded.__code__ = self._stub

    def _first(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call with code that is up to date, and let the next ones have it."""
        return self._current()(*args, **kwargs)

    async def _afirst(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return await self._current()(*args, **kwargs)

    def _current(self) -> Callable[..., Any]:
        made, guarded = self._renewed(), self._guarded()
        self._install(made)
        # Not the function itself, which has no such code any more if the epoch has just ended.
        return self._slow if guarded is None or guarded.__code__ is not made[1] else guarded

    def is_plain(self) -> None:
        """Look no more for a coroutine: a function that has once returned something else will return none."""
        self._looks = False
        self._made = (-1, self._stub)
        self._install(self._renewed())

    @property
    def _has_fake_timers(self) -> bool:
        # Only flows know how to wait for a fake clock; a plain function does not wait.
        return self._signature.is_async and _clock.fake is not None

    def _renewed(self) -> tuple[int, CodeType]:
        made, guarded = self._made, self._guarded()
        if made[0] != epoch.n and guarded is not None:
            self._made = made = self._code(guarded.__globals__)
        return made

    def _install(self, made: tuple[int, CodeType]) -> None:
        guarded = self._guarded()
        with epoch.lock:
            if guarded is not None and made[0] == epoch.n:
                guarded.__code__ = made[1]

    def _code(self, namespace: dict[str, Any]) -> tuple[int, CodeType]:
        """Return the code of the present epoch, and the epoch's number; *namespace* gets what it looks up."""
        made_in = epoch.n  # first: what changes from here on ends this epoch
        hots = self._policy.hots(Binding(self._name))
        if hots is not None and self._has_fake_timers and any(hot.limit for _, hot in hots):
            hots = None
        namespace[self._signature.own("monotonic")] = _clock.monotonic
        objects: dict[str, object] = {}
        if hots is None:
            source = text.plain(self._signature)
        else:
            shapes = [hot for _, hot in hots]
            trio = sys.modules.get("trio")
            if trio is not None:
                namespace[self._signature.own("in_trio_task")] = trio.lowlevel.in_trio_task
            source = templates.source(
                self._signature,
                shapes,
                for_deadline=usage.used,
                for_coroutine=self._looks,
                for_trio=trio is not None,
                for_fake=self._has_fake_timers,
            )
            objects["plan"] = Plan(hots, self._policy.flow_for(self._name), self._fn, self._slow)
            for place, hot in enumerate(shapes, 1):
                for name, value in hot.names.items():
                    objects[f"{name}_{place}"] = value
                if hot.limit is not None:
                    objects[f"limit_{place}"] = hot.limit
        if self._signature.takes(objects):
            objects = {self._signature.own(name): value for name, value in objects.items()}
        code = templates.template(source, frozenset(objects))
        linecache.cache[self._filename] = (len(source), None, templates.lines(source), self._filename)
        return made_in, templates.filled(code, objects, self._filename)


def _reject(fn: Callable[..., Any], value: Any) -> None:
    value.close()
    raise TypeError(drive.returned_a_coroutine(fn))
