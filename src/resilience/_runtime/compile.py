"""
Policies and a function's own signature become one function: the success path of every policy, inlined.

A policy writes its success path as statements, in its ``_hot.py``, next to the methods that they repeat. They
are put around one call of the user's function (``text.py``). Whatever is not plain success goes the slow way,
as flows: before anything was taken, simply by making the call there; after the function failed, as a
`Replay`, in which each policy finds the token of what it gave out, and the call its outcome.

The environment variable ``RESILIENCE_COMPILE=0`` lets every call go the slow way.
"""

import inspect
import itertools
import linecache
import os
import re
import sys
import weakref
from collections.abc import Callable
from types import CodeType, CoroutineType, FunctionType
from typing import Any, Final

from resilience import _clock
from resilience._runtime import drive, text
from resilience._runtime.flow import Call, Flow, Inner
from resilience._runtime.hot import Hot, Replay, epoch
from resilience._runtime.policy import Binding, Policy
from resilience._runtime.text import Part, Signature
from resilience.deadline import _innermost as block
from resilience.deadline import usage

_numbers = itertools.count(1)


def is_on() -> bool:
    """Whether functions are generated: not if the environment says no, and not without a GIL."""
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return os.environ.get("RESILIENCE_COMPILE", "1") != "0" and has_gil


def compiled(
    policy: Policy, fn: Callable[..., Any], name: str, slow: Callable[..., Any], *, is_async: bool
) -> Callable[..., Any] | None:
    """Return a generated function that does as *slow* does, or None where none can be made."""
    # What says of itself that it takes other arguments than it does cannot be written out.
    if not is_on() or hasattr(fn, "__signature__") or policy.hots(Binding(name)) is None:
        return None
    try:
        signature = inspect.signature(fn, follow_wrapped=False)
    except (TypeError, ValueError):
        return None
    parameters = list(signature.parameters.values())
    if any(text.is_reserved(each.name) for each in parameters):
        return None
    return Wrapper(policy, fn, name, slow, parameters, is_async=is_async).function()


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
        parameters: list[inspect.Parameter],
        *,
        is_async: bool,
    ) -> None:
        self._policy, self._fn, self._name, self._slow = policy, fn, name, slow
        self._signature = Signature(name, parameters, is_async=is_async)
        self._looks = not is_async
        self._filename = f"<resilience {name} {next(_numbers)}>"
        self._namespace: dict[str, Any] | None = {
            "__name__": fn.__module__ if isinstance(fn, FunctionType) else __name__,
            "block": block.get,
            "clock": _clock,
            "CoroutineType": CoroutineType,
            "first": self._afirst if is_async else self._first,
            "fn": fn,
            "reject": _reject,
            "Replay": Replay,
            "set_block": block.set,
            "slow": slow,
            "wrapper": self,
            **{f"default_{each.name}": each.default for each in parameters},
        }
        if is_async:
            from resilience._runtime import _asyncio_queue  # noqa: PLC0415  # asyncio comes with async functions

            self._namespace |= _asyncio_queue.NAMES
        self._made = self._code(self._namespace)

    def function(self) -> FunctionType:
        """Return the function, which owns this object from here on."""
        found: dict[str, Any] = {}
        namespace, self._namespace = self._namespace, None  # the function's, which has a name for this object
        exec(_template(text.stub(self._signature), frozenset())[0], namespace, found)  # noqa: S102  # our own text
        guarded: FunctionType = found[self._signature.function]
        self._stub = guarded.__code__
        self._guarded = weakref.ref(guarded)
        weakref.finalize(self, linecache.cache.pop, self._filename, None).atexit = False
        with epoch.lock:
            epoch.functions.add(self)
        return guarded

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
        objects: dict[str, object] = {}
        if hots is None:
            source = text.plain(self._signature)
        else:
            parts = [Part(each, place) for place, (_, each) in enumerate(hots, 1)]
            source = text.hot(self._signature, parts, for_deadline=usage.used, for_coroutine=self._looks)
            objects["plan"] = Plan(hots, self._policy.flow_for(self._name), self._fn, self._slow)
            for part in parts:
                objects |= part.objects
        module, by_name = _template(source, frozenset(objects))
        namespace |= {name: objects[name] for name in by_name}
        code: CodeType = next(each for each in module.co_consts if isinstance(each, CodeType))
        consts = tuple(
            objects[each[1:]] if isinstance(each, str) and each[:1] == _MARK else each
            for each in code.co_consts
        )
        linecache.cache[self._filename] = (len(source), None, source.splitlines(True), self._filename)
        return made_in, code.replace(co_consts=consts, co_filename=self._filename)


class Plan:
    """
    What one generation of a function's code goes by when a call is not plain success.

    Attributes:
        policies: The policies, the first the outermost.
        hots: Their statements.

    """

    __slots__ = ("_flow", "_fn", "_slow", "hots", "policies")

    def __init__(
        self, hots: list[tuple[Policy, Hot]], flow: Inner, fn: Callable[..., Any], slow: Callable[..., Any]
    ) -> None:
        self.policies = tuple(policy for policy, _ in hots)
        self.hots = tuple(hot for _, hot in hots)
        self._flow, self._fn, self._slow = flow, fn, slow

    def replayed(self, replay: Replay, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Go on with a call whose first attempt has failed."""
        return drive.unwrap(drive.run(self._request(replay, args, kwargs)))

    async def areplayed(self, replay: Replay, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Go on, in this task, with a call whose first attempt has failed."""
        from resilience._runtime import adrive  # noqa: PLC0415  # imported with the first async function

        return drive.unwrap(await adrive.run(self._request(replay, args, kwargs)))

    def _request(self, replay: Replay, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow:
        call = Call(self._fn, args, kwargs)
        call.replay = replay
        return self._flow(call)

    def refused(self, place: int, tokens: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Raise what a call raises that the policy at *place* refuses, or make it the slow way."""
        replay = self._refusal(place, tokens)
        if replay is None:
            return self._slow(*args, **kwargs)
        try:
            if replay.settle():
                raise replay.error
            return self.replayed(replay, args, kwargs)
        finally:
            replay.close()
            del replay

    async def arefused(
        self, place: int, tokens: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Do as `refused` does, in this task."""
        replay = self._refusal(place, tokens)
        if replay is None:
            return await self._slow(*args, **kwargs)
        try:
            if replay.settle():
                raise replay.error
            return await self.areplayed(replay, args, kwargs)
        finally:
            replay.close()
            del replay

    def _refusal(self, place: int, tokens: list[Any]) -> Replay | None:
        refuse = self.hots[place].refuse
        error = None if refuse is None else refuse()
        return None if error is None else Replay(self, [*tokens, None], error, None, at=self.policies[place])


def _reject(fn: Callable[..., Any], value: Any) -> None:
    value.close()
    raise TypeError(drive.returned_a_coroutine(fn))


_MARK: Final = "@"
"""What the name of an object begins with where the object itself will stand, as a constant."""

_templates: Final[dict[tuple[str, frozenset[str]], tuple[CodeType, frozenset[str]]]] = {}


def _template(source: str, names: frozenset[str]) -> tuple[CodeType, frozenset[str]]:
    """
    Compile *source*, once for each text; *names* of objects in it become constants that are put in later.

    As constants the objects live as long as the code. Only where their attributes are used: the compiler
    believes that it knows whether a constant is true, and warns of one that is called. The others are
    returned; they are looked up by name.
    """
    key = (source, names)
    template = _templates.get(key)
    if template is None:
        by_name = {name for name in _WORD.findall(source) if name in names}

        # In the text, since not every Python can take two threads that parse into objects of ``ast``.
        def constant(found: re.Match[str]) -> str:
            name = found[1]
            return f"'{_MARK}{name}'." if name in names else found[0]

        template = compile(_OWNER.sub(constant, source), "<resilience>", "exec"), frozenset(by_name)
        if len(_templates) < MOST_TEMPLATES:
            _templates[key] = template
    return template


_OWNER: Final = re.compile(r"(?<![.\w])([A-Za-z_]\w*)\.(?=[A-Za-z_])")
"""A name, of which an attribute is used."""

_WORD: Final = re.compile(r"(?<![.\w])([A-Za-z_]\w*)(?![\w.])")
"""A name that is used itself."""

MOST_TEMPLATES: Final = 1_000
"""Texts whose code is kept; what comes after is compiled each time."""
