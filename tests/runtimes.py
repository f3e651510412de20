"""
One test body for threads, asyncio and trio.

A body is an ``async def`` that awaits nothing but what the runtime gives it, and so are the
functions that it guards. In the `sync` runtime nothing is ever suspended: every await blocks its
thread, guarded functions are plain functions, and what runs beside the body runs on threads.

    def test_a_full_gate_refuses(runtime):
        gate = Turnstile(limit=1)

        async def body():
            fetch = runtime.wrap(gate, fail_times(1, KeyError, then="here"))
            with pytest.raises(KeyError):
                await fetch()
            assert await fetch() == "here"

        runtime.run(body)
"""

import asyncio
import contextvars
import inspect
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio

from resilience.testing import Script

PATIENCE = 20.0
"""Seconds after which a wait that should have ended fails the test."""

Body = Callable[..., Awaitable[Any]]


class Job:
    """Something that runs beside the body; awaiting it gives its result, or raises its error."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None

    def done(self) -> bool:
        raise NotImplementedError

    def cancel(self) -> None:
        raise NotImplementedError

    async def join(self) -> None:
        """Wait for its end, however it ends."""
        raise NotImplementedError

    def __await__(self) -> Generator[Any, None, Any]:
        return self._result().__await__()

    async def _result(self) -> Any:
        await self.join()
        if self.error is not None:
            raise self.error
        return self.value

    async def _work(
        self, fn: Body, args: tuple[Any, ...], cancelled: type[BaseException] | None = None
    ) -> None:
        try:
            self.value = await fn(*args)
        except BaseException as error:
            self.error = error
            if cancelled is not None and isinstance(error, cancelled):
                raise


class Runtime:
    """
    Where a test body runs: see the module.

    Attributes:
        name: ``sync``, ``asyncio`` or ``trio``.
        cancels: Whether what runs can be cancelled; threads cannot.
        cancelled: What a cancellation raises.

    """

    name: str
    cancels = True
    cancelled: type[BaseException]

    def run(self, body: Body) -> Any:
        """Run the body to its end and return what it returns."""
        raise NotImplementedError

    def guarded(self, policy: Any, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate *fn*, made a function of this runtime's colour, and return just that."""
        return policy(self.coloured(fn))

    def coloured(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """
        Return *fn* in this runtime's colour.

        It may be plain, also when it returns an awaitable, a coroutine function, or an async
        generator function.
        """
        if inspect.isasyncgenfunction(fn) or inspect.iscoroutinefunction(fn):
            return fn
        if isinstance(fn, Script):
            return fn.acall

        async def in_colour(*args: Any, **kwargs: Any) -> Any:
            value = fn(*args, **kwargs)
            return await value if inspect.isawaitable(value) else value

        in_colour.__name__, in_colour.__qualname__ = _names(fn)
        return in_colour

    def wrap(self, policy: Any, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate *fn*; the body awaits the calls, or iterates over them with ``async for``."""
        return self.guarded(policy, fn)

    async def call(self, policy: Any, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make one call: ``policy.call`` or ``policy.acall``."""
        return await policy.acall(self.coloured(fn), *args, **kwargs)

    def guard(self, policy: Any) -> AbstractAsyncContextManager[Any]:
        """Enter ``policy.guard()`` with ``async with``."""
        guard: AbstractAsyncContextManager[Any] = policy.guard()
        return guard

    async def sleep(self, seconds: float) -> None:
        """Let real time pass."""
        raise NotImplementedError

    async def checkpoint(self) -> None:
        """Let others run, and be cancelled here."""
        await self.sleep(0)

    def event(self) -> Any:
        """Return something with ``set()``, ``is_set()`` and an awaitable ``wait()``."""
        raise NotImplementedError

    def spawn(self, fn: Body, *args: Any) -> Job:
        """Run *fn* beside the body; it does not outlive the body."""
        raise NotImplementedError

    async def gather(self, *fns: Body) -> list[Any]:
        """Run all at once; return their results, or raise the first error."""
        jobs = [self.spawn(fn) for fn in fns]
        return [await job for job in jobs]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until *holds*, looking again and again."""
        end = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < end, "it never came about"
            await self.sleep(0.001)

    def cancel(self, job: Job) -> None:
        """Cancel what runs beside the body."""
        job.cancel()


# --- threads ---


def step(awaitable: Awaitable[Any]) -> Any:
    """Run an awaitable that never suspends."""
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration as stop:
        return stop.value
    finally:
        close = getattr(awaitable, "close", None)
        if close is not None:
            close()
    raise AssertionError("a body of the sync runtime may await only what the runtime gives it")


class ThreadJob(Job):
    def __init__(self, fn: Body, args: tuple[Any, ...]) -> None:
        super().__init__()
        context = contextvars.copy_context()
        work: Callable[[], object] = lambda: step(self._work(fn, args))
        self.thread = threading.Thread(target=context.run, args=(work,), daemon=True)
        self.thread.start()

    def done(self) -> bool:
        return not self.thread.is_alive()

    async def join(self) -> None:
        self.thread.join(PATIENCE)
        assert self.done(), "a thread of the test never ended"


class ThreadEvent:
    def __init__(self) -> None:
        self._event = threading.Event()
        self.set, self.is_set = self._event.set, self._event.is_set

    async def wait(self) -> None:
        assert self._event.wait(PATIENCE), "nobody set the event"


class SyncRuntime(Runtime):
    name = "sync"
    cancels = False

    def run(self, body: Body) -> Any:
        return step(body())

    def coloured(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isasyncgenfunction(fn):
            make: Callable[..., Any] = fn

            def in_colour(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
                return (yield from _plain(make(*args, **kwargs)))

        elif inspect.iscoroutinefunction(fn):
            work: Callable[..., Coroutine[Any, Any, Any]] = fn

            def in_colour(*args: Any, **kwargs: Any) -> Any:
                return step(work(*args, **kwargs))

        else:
            plain = fn

            def in_colour(*args: Any, **kwargs: Any) -> Any:
                value = plain(*args, **kwargs)
                return step(value) if inspect.isawaitable(value) else value

        in_colour.__name__, in_colour.__qualname__ = _names(fn)
        return in_colour

    def wrap(self, policy: Any, fn: Callable[..., Any]) -> Callable[..., Any]:
        guarded = self.guarded(policy, fn)
        if inspect.isgeneratorfunction(guarded):
            return lambda *args, **kwargs: _Awaited(guarded(*args, **kwargs))

        async def call(*args: Any, **kwargs: Any) -> Any:
            return guarded(*args, **kwargs)

        return call

    async def call(self, policy: Any, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return policy.call(self.coloured(fn), *args, **kwargs)

    @asynccontextmanager
    async def guard(self, policy: Any) -> AsyncGenerator[Any, None]:
        with policy.guard() as permit:
            yield permit

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  # to block is what this runtime is about

    def event(self) -> Any:
        return ThreadEvent()

    def spawn(self, fn: Body, *args: Any) -> Job:
        return ThreadJob(fn, args)


def _names(fn: Callable[..., Any]) -> tuple[str, str]:
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    return named.__name__, named.__qualname__


def _plain(source: AsyncGenerator[Any, Any]) -> Generator[Any, Any, None]:
    """Turn an async generator that never suspends into a plain one."""
    advance = source.asend(None)
    try:
        while True:
            try:
                item = step(advance)
            except StopAsyncIteration:
                return
            try:
                advance = source.asend((yield item))
            except GeneratorExit:
                raise
            except BaseException as error:
                advance = source.athrow(error)
    finally:
        step(source.aclose())


class _Awaited:
    """A plain generator, used like an async one."""

    def __init__(self, source: Generator[Any, Any, Any]) -> None:
        self.source = source

    def __aiter__(self) -> "_Awaited":
        return self

    async def __anext__(self) -> Any:
        return await self.asend(None)

    async def asend(self, value: Any) -> Any:
        return self._next(lambda: self.source.send(value))

    async def athrow(self, error: BaseException) -> Any:
        return self._next(lambda: self.source.throw(error))

    async def aclose(self) -> None:
        self.source.close()

    def _next(self, advance: Callable[[], Any]) -> Any:
        # A plain function: in a coroutine the StopIteration would become a RuntimeError.
        try:
            return advance()
        except StopIteration:
            pass
        raise StopAsyncIteration


# --- asyncio ---


class AsyncioJob(Job):
    def __init__(self, fn: Body, args: tuple[Any, ...]) -> None:
        super().__init__()
        self.task = asyncio.get_running_loop().create_task(self._work(fn, args, asyncio.CancelledError))

    def done(self) -> bool:
        return self.task.done()

    def cancel(self) -> None:
        self.task.cancel()

    async def join(self) -> None:
        await asyncio.wait([self.task])


class AsyncioRuntime(Runtime):
    name = "asyncio"
    cancelled = asyncio.CancelledError

    def run(self, body: Body) -> Any:
        async def main() -> Any:
            return await body()

        return asyncio.run(main())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def event(self) -> Any:
        return asyncio.Event()

    def spawn(self, fn: Body, *args: Any) -> Job:
        return AsyncioJob(fn, args)


# --- trio ---


class TrioJob(Job):
    def __init__(self, fn: Body, args: tuple[Any, ...], nursery: trio.Nursery) -> None:
        super().__init__()
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        nursery.start_soon(self._run, fn, args)

    async def _run(self, fn: Body, args: tuple[Any, ...]) -> None:
        try:
            with self.scope:
                await self._work(fn, args, trio.Cancelled)
        finally:
            self.ended.set()

    def done(self) -> bool:
        return self.ended.is_set()

    def cancel(self) -> None:
        self.scope.cancel()

    async def join(self) -> None:
        await self.ended.wait()


class TrioRuntime(Runtime):
    name = "trio"
    cancelled = trio.Cancelled

    def __init__(self) -> None:
        self.nursery: trio.Nursery | None = None

    def run(self, body: Body) -> Any:
        async def main() -> Any:
            escaped: BaseException | None = None
            value: Any = None
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                try:
                    value = await body()
                except BaseException as error:
                    escaped = error  # raised below, outside the nursery's exception group
                nursery.cancel_scope.cancel()
            if escaped is not None:
                raise escaped
            return value

        return trio.run(main)

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    def event(self) -> Any:
        return trio.Event()

    def spawn(self, fn: Body, *args: Any) -> Job:
        assert self.nursery is not None, "spawn() belongs into a body"
        return TrioJob(fn, args, self.nursery)


@pytest.fixture(params=[SyncRuntime, AsyncioRuntime, TrioRuntime], ids=lambda kind: kind.name)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Threads, asyncio and trio, one after the other."""
    made: Runtime = request.param()
    return made


@pytest.fixture(params=[AsyncioRuntime, TrioRuntime], ids=lambda kind: kind.name)
def async_runtime(request: pytest.FixtureRequest) -> Runtime:
    """The runtimes that can cancel: asyncio and trio."""
    made: Runtime = request.param()
    return made
