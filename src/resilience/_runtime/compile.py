"""
Policies and a function's own signature become one function: the success path of every policy, inlined.

A policy writes its success path as statements, in its ``_hot.py``, next to the methods that they repeat. They
are put around one call of the user's function (``text.py``). Whatever is not plain success goes the slow way,
as flows: before anything was taken, simply by making the call there; after the function failed, as a
`Replay`, in which each policy finds the token of what it gave out, and the call its outcome.

The environment variable ``RESILIENCE_COMPILE=0`` lets every call go the slow way.
"""

import builtins
import inspect
import itertools
import linecache
import os
import re
import sys
import weakref
from collections.abc import Callable
from functools import lru_cache
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

MOST_TEMPLATES: Final = 1_000
"""Texts and code that are kept of each sort; what comes after is made each time."""

_numbers = itertools.count(1)


def is_on() -> bool:
    """Whether functions are generated: not if the environment says no, and not without a GIL."""
    has_gil = getattr(sys, "_is_gil_enabled", None)
    return _IS_WANTED and (has_gil is None or has_gil())


_IS_WANTED: Final = os.environ.get("RESILIENCE_COMPILE", "1") != "0"


def compiled(
    policy: Policy, fn: Callable[..., Any], name: str, slow: Callable[..., Any], *, is_async: bool
) -> Callable[..., Any] | None:
    """Return a generated function that does as *slow* does, or None where none can be made."""
    # What says of itself that it takes other arguments than it does cannot be written out.
    if not is_on() or hasattr(fn, "__signature__") or policy.hots(Binding(name)) is None:
        return None
    signature = _signature_of(fn, name, is_async=is_async)
    return None if signature is None else Wrapper(policy, fn, name, slow, signature).function()


def _signature_of(fn: Callable[..., Any], name: str, *, is_async: bool) -> Signature | None:
    """Return how *fn* is called, as text; None if nobody can know."""
    key = None
    if type(fn) is FunctionType:
        code = fn.__code__
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _STARRED)
        defaults = (len(fn.__defaults__ or ()), tuple(fn.__kwdefaults__ or ()))
        key = (name.rpartition(".")[2], code.co_varnames, counts, defaults, is_async)
        if key in _signatures:
            return _signatures[key]
    try:
        parameters = list(inspect.signature(fn, follow_wrapped=False).parameters.values())
    except (TypeError, ValueError):
        return None
    if not all(each.name.isidentifier() for each in parameters):
        return None
    signature = Signature(name, parameters, is_async=is_async)
    if key is not None and len(_signatures) < MOST_TEMPLATES:
        _signatures[key] = signature
    return signature


_signatures: Final[dict[object, Signature]] = {}

_BUILTINS: Final = ("BaseException", "Exception", "KeyError", "isinstance", "type")
"""Builtins that the text uses."""

_STARRED: Final = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


def _defaults_of(fn: Callable[..., Any]) -> tuple[tuple[Any, ...] | None, dict[str, Any] | None]:
    """Return the defaults of *fn*, by position and by keyword."""
    if type(fn) is FunctionType:
        return fn.__defaults__, fn.__kwdefaults__
    parameters = inspect.signature(fn, follow_wrapped=False).parameters.values()
    given = [each for each in parameters if each.default is not each.empty]
    by_position = tuple(each.default for each in given if each.kind is not each.KEYWORD_ONLY)
    return by_position, {each.name: each.default for each in given if each.kind is each.KEYWORD_ONLY}


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
            "clock": _clock,
            "CoroutineType": CoroutineType,
            "first": self._afirst if is_async else self._first,
            "fn": fn,
            "reject": _reject,
            "Replay": Replay,
            "set_block": block.set,
            "slow": slow,
            "wrapper": self,
        }
        if is_async:
            from resilience._runtime import _asyncio_queue  # noqa: PLC0415  # asyncio comes with async functions

            self._namespace |= _asyncio_queue.NAMES
        self._made = self._code(self._namespace)

    def function(self) -> FunctionType:
        """Return the function, which owns this object from here on."""
        namespace, self._namespace = (
            self._namespace or {},
            None,
        )  # the function's: it has a name for this object
        for name in (*namespace, *_BUILTINS):
            if (own := self._signature.own(name)) != name:
                namespace[own] = namespace[name] if name in namespace else vars(builtins)[name]
        self._stub, _ = _template(text.stub(self._signature), frozenset())
        by_position, by_keyword = _defaults_of(self._fn)
        guarded = FunctionType(self._stub, namespace, None, by_position)
        guarded.__kwdefaults__ = by_keyword
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
        objects: dict[str, object] = {}
        if hots is None:
            source = text.plain(self._signature)
        else:
            shapes = [hot for _, hot in hots]
            trio = sys.modules.get("trio")
            if trio is not None:
                namespace[self._signature.own("in_trio_task")] = trio.lowlevel.in_trio_task
            source = _source(self._signature, shapes, usage.used, self._looks, trio is not None)
            objects["plan"] = Plan(hots, self._policy.flow_for(self._name), self._fn, self._slow)
            for place, hot in enumerate(shapes, 1):
                for name, value in hot.names.items():
                    objects[f"{name}_{place}"] = value
                if hot.limit is not None:
                    objects[f"limit_{place}"] = hot.limit
        objects = {self._signature.own(name): value for name, value in objects.items()}
        code, by_name = _template(source, frozenset(objects))
        for name in by_name:
            namespace[name] = objects[name]
        consts = tuple(
            objects[each[1:]] if isinstance(each, str) and each[:1] == _MARK else each
            for each in code.co_consts
        )
        linecache.cache[self._filename] = (len(source), None, _lines(source), self._filename)
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
        error = self._refusal(place)
        if error is None:
            return self._slow(*args, **kwargs)
        replay = None
        try:
            if place == 0:  # nobody stands around it
                raise error
            replay = Replay(self, [*tokens, None], error, None, at=self.policies[place])
            if replay.settle():
                raise error
            return self.replayed(replay, args, kwargs)
        finally:
            if replay is not None:
                replay.close()
            del error, replay  # no cycle: frame -> error -> traceback -> frame

    async def arefused(
        self, place: int, tokens: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Do as `refused` does, in this task."""
        error = self._refusal(place)
        if error is None:
            return await self._slow(*args, **kwargs)
        replay = None
        try:
            if place == 0:
                raise error
            replay = Replay(self, [*tokens, None], error, None, at=self.policies[place])
            if replay.settle():
                raise error
            return await self.areplayed(replay, args, kwargs)
        finally:
            if replay is not None:
                replay.close()
            del error, replay

    def _refusal(self, place: int) -> Exception | None:
        refuse = self.hots[place].refuse
        return None if refuse is None else refuse()


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

        module = compile(_OWNER.sub(constant, source), "<resilience>", "exec")
        code = next(each for each in module.co_consts if isinstance(each, CodeType))
        template = code, frozenset(by_name)
        if len(_templates) < MOST_TEMPLATES:
            _templates[key] = template
    return template


_OWNER: Final = re.compile(r"(?<![.\w])([A-Za-z_]\w*)\.(?=[A-Za-z_])")
"""A name, of which an attribute is used."""

_WORD: Final = re.compile(r"(?<![.\w])([A-Za-z_]\w*)(?![\w.])")
"""A name that is used itself."""


def _source(
    signature: Signature, hots: list[Hot], for_deadline: bool, for_coroutine: bool, for_trio: bool
) -> str:
    """Return the text for a function and policies, put together once for each kind of both."""
    flags = {"for_deadline": for_deadline, "for_coroutine": for_coroutine, "for_trio": for_trio}
    key = (signature.head, *flags.values(), *[hot.shape for hot in hots])
    source = _sources.get(key)
    if source is None:
        source = text.hot(signature, [Part(hot, place) for place, hot in enumerate(hots, 1)], **flags)
        if len(_sources) < MOST_TEMPLATES:
            _sources[key] = source
    return source


_sources: Final[dict[object, str]] = {}


@lru_cache(MOST_TEMPLATES)
def _lines(source: str) -> list[str]:
    return source.splitlines(keepends=True)
