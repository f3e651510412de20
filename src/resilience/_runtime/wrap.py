"""From a policy and a function to a guarded function of the same colour and signature."""

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import replace
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from resilience import _clock
from resilience._runtime import drive
from resilience._runtime.epoch import epoch
from resilience._runtime.flow import PLAIN, Call, Flow, Inner
from resilience.deadline import current_deadline
from resilience.errors import ConfigError, DeadlineExceededError, Problem
from resilience.outcome import CallContext, Classifier, Outcome

if TYPE_CHECKING:
    from resilience._runtime.policy import Policy

_GENERATES: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_AWAITS: Final = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE

_OURS: Final = {"__wrapped__"}
"""What is noted on a function that a policy has decorated."""

ContextOf: TypeAlias = Callable[..., CallContext]
"""Takes the arguments of a call and returns what is known about it."""

Maker: TypeAlias = Callable[[Inner, Callable[..., Any], ContextOf | None], Callable[..., Any]]
"""Makes the guarded function from a flow and the function."""


def wrap(
    policy: "Policy",
    fn: Callable[..., Any],
    *,
    classify: Classifier | None = None,
    context: ContextOf | None = None,
) -> Any:
    """Return *fn* guarded by *policy*; *context* is asked for the context of each call."""
    if isinstance(fn, (classmethod, staticmethod)):
        method = cast("staticmethod[..., Any]", fn)  # both have what is needed here
        return type(method)(wrap(policy, method.__func__, classify=classify, context=context))
    if isinstance(fn, type) or not callable(fn):
        msg = f"{type(policy).__name__} guards functions and callable objects, got {fn!r}"
        raise TypeError(msg)
    make = _maker(fn)
    if make in (_stream, _astream):
        rule = "must not be a generator function: {} cannot guard a stream"
        unable = [type(part).__name__ for part in policy.parts if not part.streams]
        problems = [Problem("fn", fn, rule.format(name)) for name in unable]
        if problems:
            raise ConfigError(type(policy).__name__, problems)
    flow = policy.flow_for(name_of(fn), classify)
    guarded = make(flow, fn, context)
    if context is None and classify is None and make in (_sync, _async):
        from resilience._runtime import compile  # noqa: A004, PLC0415  # it knows policies, which know this file

        guarded = compile.compiled(policy, fn, name_of(fn), guarded, is_async=make is _async) or guarded
    named = _named(fn)  # partials and callable objects have no name of their own
    guarded.__name__, guarded.__qualname__ = named.__name__, named.__qualname__
    # The attributes of a function are notes about it; those of an object are its state, which is not copied.
    notes = ("__dict__",) if inspect.isroutine(fn) else ()
    return functools.update_wrapper(guarded, fn, updated=notes)


def source(guarded: Callable[..., Any]) -> str:
    """Return what `Policy.source` returns."""
    from resilience._runtime import compile  # noqa: A004, PLC0415  # it knows policies, which know this file

    if not hasattr(guarded, "__wrapped__"):
        msg = f"source() takes a function that a policy has decorated, got {guarded!r}"
        raise TypeError(msg)
    text = compile.source_of(guarded)
    return text or f"# {guarded.__qualname__}: no text; each call is driven step by step\n"


def call(policy: "Policy", fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call *fn* once under *policy*."""
    if not _is_free_of(_GENERATES | _AWAITS, fn):
        if is_async(fn):
            msg = f"{name_of(fn)} is a coroutine function: use acall()"
            raise TypeError(msg)
        if _unwrapped(fn, inspect.isgeneratorfunction) or _unwrapped(fn, inspect.isasyncgenfunction):
            return wrap(policy, fn)(*args, **kwargs)
    made = policy._called
    if made.made_in != epoch.n:
        made = policy._called = _made(policy, fn, is_async=False)
    return made.call(policy, fn, args, kwargs)


def drive_call(
    policy: "Policy", fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call *fn* once under *policy*, step by step."""
    request = _call(fn, args, kwargs, None)
    return drive.unwrap(drive.run(_flow_of(policy, fn)(request)))


async def acall(
    policy: "Policy", fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Await ``fn(*args, **kwargs)`` once under *policy*."""
    if not _is_free_of(_GENERATES, fn) and (
        not callable(fn) or inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn)
    ):
        msg = f"acall() takes a function that returns an awaitable, got {fn!r}"
        raise TypeError(msg)
    made = policy._acalled
    if made.made_in != epoch.n:
        made = policy._acalled = _made(policy, fn, is_async=True)
    try:
        return await made.call(policy, fn, args, kwargs)
    except NotAwaitable as misuse:
        raise TypeError(str(misuse)) from None


async def drive_acall(
    policy: "Policy", fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Await ``fn(*args, **kwargs)`` once under *policy*, step by step."""
    request = _call(fn, args, kwargs, None)
    return drive.unwrap(await arun(_flow_of(policy, fn)(request), request))


class NotAwaitable(BaseException):
    """What a function returned cannot be awaited. No error of the function: nobody learns from it."""


def cannot_be_awaited(fn: Callable[..., Any], value: object) -> str:
    """Return what is wrong with what *fn* returned."""
    name = getattr(fn, "__qualname__", repr(fn))
    return f"{name} returned {value!r}, which cannot be awaited: use call()"


class Made:
    """
    What makes a call by hand in one epoch.

    Attributes:
        made_in: Number of the epoch.
        call: Takes the policy, the function and its arguments.

    """

    __slots__ = ("call", "made_in")

    def __init__(self, made_in: int, call: Callable[..., Any]) -> None:
        self.made_in = made_in
        self.call = call


UNMADE: Final = Made(-1, drive_call)


def _made(policy: "Policy", fn: Callable[..., Any], *, is_async: bool) -> Made:
    from resilience._runtime import by_hand  # noqa: PLC0415  # it knows policies, which know this file

    made_in = epoch.n  # first: what changes from here on ends this epoch
    name = policy.adopt_name(name_of(fn))
    return Made(made_in, by_hand.generated(policy, name, is_async=is_async))


def _flow_of(policy: "Policy", fn: Callable[..., Any]) -> Inner:
    flow = policy._flow  # once it is there, the function's name is of no use
    return policy.flow_for(name_of(fn)) if flow is None else flow


def _is_free_of(flags: int, fn: Any) -> bool:
    """Whether *fn* surely is a function with none of *flags*: a quick look, before `inspect` is asked."""
    if type(fn) is not FunctionType:
        if isinstance(fn, BuiltinFunctionType):
            return True
        if isinstance(fn, MethodType):
            fn = fn.__func__
        elif type(fn) is functools.partial:
            fn = fn.func
    if type(fn) is not FunctionType or fn.__code__.co_flags & flags:
        return False
    return not fn.__dict__ or fn.__dict__.keys() == _OURS  # where else is written what it is


async def arun(flow: Flow, request: Call) -> Outcome[Any]:
    """Run *flow* in this task, within the caller's deadline."""
    from resilience._runtime import adrive  # noqa: PLC0415  # anyio comes with the first async function

    until = request.context.deadline
    if until is None:
        return await adrive.run(flow)
    fn, started = request.fn, False

    def noticed(*args: Any, **kwargs: Any) -> Any:
        nonlocal started
        started = True
        return fn(*args, **kwargs)

    request.fn = noticed
    outcome = await adrive.backend().within(flow, until)
    return Outcome(error=DeadlineExceededError(started=started)) if outcome is None else outcome


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether calling *fn* makes a coroutine."""
    return _unwrapped(fn, inspect.iscoroutinefunction)


def name_of(fn: Callable[..., Any]) -> str:
    """Return the function's module and qualified name."""
    named = _named(fn)
    module = getattr(named, "__module__", None)
    return f"{module}.{named.__qualname__}" if module else str(named.__qualname__)


def _unwrapped(fn: Callable[..., Any], ask: Callable[[object], bool]) -> bool:
    # inspect looks through functools.partial, but not into callable objects.
    return ask(fn) or (not inspect.isroutine(fn) and ask(type(_inner(fn)).__call__))


def _inner(fn: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def _named(fn: Callable[..., Any]) -> Any:
    """Return what gives *fn* its name: the function of a partial, the class of an object."""
    inner = _inner(fn)
    return inner if hasattr(inner, "__qualname__") else type(inner)


def _maker(
    fn: Callable[..., Any],
) -> Callable[[Inner, Callable[..., Any], ContextOf | None], Callable[..., Any]]:
    if _is_free_of(_GENERATES | _AWAITS, fn):
        return _sync
    if is_async(fn):
        _prepare_async()
        return _async
    if _unwrapped(fn, inspect.isasyncgenfunction):
        _prepare_async()
        return _astream
    if _unwrapped(fn, inspect.isgeneratorfunction):
        return _stream
    return _sync


def _prepare_async() -> None:
    # At decoration, so that the first call does not pay for the import in the event loop.
    from resilience._runtime import adrive as adrive  # noqa: PLC0415  # see above


def _call(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: ContextOf | None
) -> Call:
    known = PLAIN if context is None else context(*args, **kwargs)
    until = current_deadline()
    if until is not None:
        if until <= _clock.monotonic():
            raise DeadlineExceededError
        known = replace(known, deadline=until)
    return Call(fn, args, kwargs, known)


def _sync(flow: Inner, fn: Callable[..., Any], context: ContextOf | None) -> Callable[..., Any]:
    def guarded(*args: Any, **kwargs: Any) -> Any:
        return drive.unwrap(drive.run(flow(_call(fn, args, kwargs, context))))

    return guarded


def _async(flow: Inner, fn: Callable[..., Any], context: ContextOf | None) -> Callable[..., Any]:
    async def guarded(*args: Any, **kwargs: Any) -> Any:
        request = _call(fn, args, kwargs, context)
        return drive.unwrap(await arun(flow(request), request))

    return guarded


class Opened:
    """A stream whose first item is there already, or that ended before it."""

    __slots__ = ("empty", "first", "result", "source")

    def __init__(self, source: Any, first: Any = None, *, empty: bool = False, result: Any = None) -> None:
        self.source = source
        self.first = first
        self.empty = empty
        self.result = result

    def close(self) -> None:
        """Close a stream that nobody will read."""
        self.source.close()


class AOpened(Opened):
    """The same for an async stream."""

    __slots__ = ()

    async def aclose(self) -> None:
        """Close a stream that nobody will read."""
        await self.source.aclose()


def _stream(flow: Inner, fn: Callable[..., Any], context: ContextOf | None) -> Callable[..., Any]:
    def first_item(sources: list[Any], *args: Any, **kwargs: Any) -> Opened:
        source = fn(*args, **kwargs)
        sources.append(source)
        try:
            return Opened(source, next(source))
        except StopIteration as stop:
            return Opened(source, empty=True, result=stop.value)

    def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        request = _call(fn, args, kwargs, context)
        sources: list[Any] = []
        request.fn = functools.partial(first_item, sources)
        request.held = []
        opened: Opened | None = None
        ending: Outcome[Any] | None = None
        try:
            opened = cast("Opened", drive.unwrap(drive.run(flow(request))))
            result = opened.result if opened.empty else (yield from _rest(opened))
            ending = Outcome(result)
        except Exception as error:
            ending = None if opened is None else Outcome(error=error)
            raise
        else:
            return result
        finally:
            try:
                if opened is None:  # what was begun will not be read
                    for source in sources:
                        drive.dispose(source)
                request.let_go(ending)
            except BaseException:
                request.let_go(None)  # interrupted between two entries
                raise
            finally:
                ending = None  # no cycle: frame -> outcome -> error -> traceback -> frame

    return guarded


def _rest(opened: Opened) -> Generator[Any, Any, Any]:
    source, item = opened.source, opened.first
    while True:
        try:
            sent = yield item
        except GeneratorExit:
            source.close()
            raise
        except BaseException as error:  # noqa: BLE001  # whatever the reader throws belongs to the stream
            try:
                item = source.throw(error)
            except StopIteration as stop:
                return stop.value
        else:
            try:
                item = source.send(sent)
            except StopIteration as stop:
                return stop.value


def _astream(flow: Inner, fn: Callable[..., Any], context: ContextOf | None) -> Callable[..., Any]:
    from resilience._runtime import adrive  # noqa: PLC0415  # imported already, by _prepare_async

    async def first_item(sources: list[Any], *args: Any, **kwargs: Any) -> AOpened:
        source = fn(*args, **kwargs)
        sources.append(source)
        try:
            return AOpened(source, await anext(source))
        except StopAsyncIteration:
            return AOpened(source, empty=True)

    async def guarded(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        request = _call(fn, args, kwargs, context)
        sources: list[Any] = []
        request.fn = functools.partial(first_item, sources)
        request.held = []
        opened: AOpened | None = None
        ending: Outcome[Any] | None = None
        try:
            opened = cast("AOpened", drive.unwrap(await arun(flow(request), request)))
            item = opened.first
            while not opened.empty:
                try:
                    sent = yield item
                except GeneratorExit:
                    await opened.source.aclose()
                    raise
                except BaseException as error:  # noqa: BLE001  # whatever the reader throws belongs to the stream
                    item = await opened.source.athrow(error)
                else:
                    item = await opened.source.asend(sent)
            ending = Outcome(None)
        except StopAsyncIteration:
            ending = Outcome(None)
        except Exception as error:
            ending = None if opened is None else Outcome(error=error)
            raise
        finally:
            try:
                if opened is None:  # what was begun will not be read
                    for source in sources:
                        await adrive.dispose(source)
                request.let_go(ending)
            except BaseException:
                request.let_go(None)  # interrupted between two entries
                raise
            finally:
                ending = None  # no cycle, as in the plain stream

    return guarded
