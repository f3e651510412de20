"""Whatever strikes, and wherever: a KeyboardInterrupt at every line, a cancellation at every await."""

import asyncio
import contextvars
import gc
import linecache
import sys
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio

import resilience._runtime
from resilience import ConcurrencyLimiter
from resilience._runtime import compile as compiling
from resilience._runtime.flow import Dispose
from resilience._runtime.pipeline import Pipeline
from resilience.deadline import current_deadline, deadline
from resilience.testing import FakeClock

from .dummies import Around, Race, Tap, Turnstile, again, nap, through, within

PACKAGE = str(Path(resilience._runtime.__file__).parents[1])
KIT = str(Path(PACKAGE, "testing"))

FAREWELLS = {"__del__", "forget"}

Scenario = Callable[[], tuple[list[Any], Callable[[], object]]]


# --- a KeyboardInterrupt at every line ---


def is_farewell(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_name not in FAREWELLS:
        frame = frame.f_back
    return frame is not None


class Interrupt:
    """
    Raise a KeyboardInterrupt at the *n*-th line of the package that *work* comes to.

    Left out are lines on which the interpreter does nothing that a signal could interrupt: ``try:``,
    the return of a local, and the way out of a ``with`` block, of which tracing makes a line of its
    own. So are the farewells of objects and weak references: what is raised there reaches nobody.
    """

    def __init__(self, n: int) -> None:
        self.left = n
        self.struck = ""
        self.deadline: float | None = None
        self.visits: Counter[tuple[int, int]] = Counter()

    def run(self, work: Callable[[], object]) -> None:
        # In a context of its own: what is left behind there must not disturb other tests.
        contextvars.copy_context().run(self.trace, work)

    def trace(self, work: Callable[[], object]) -> None:
        was = sys.gettrace()
        sys.settrace(self.enter)
        try:
            work()
        except (KeyboardInterrupt, KeyError):
            pass
        finally:
            sys.settrace(was)
        self.deadline = current_deadline()

    def enter(self, frame: FrameType, event: str, arg: object) -> Any:
        file = frame.f_code.co_filename
        inside = file.startswith(PACKAGE) and not file.startswith(KIT)
        return self.line if inside and not is_farewell(frame) else None

    def line(self, frame: FrameType, event: str, arg: object) -> Any:
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event != "line" or text in ("try:", "return permit"):
            return self.line
        if text.startswith(("with ", "async with ")):
            visit = (id(frame), frame.f_lineno)
            self.visits[visit] += 1
            if self.visits[visit] % 2 == 0:
                return self.line
        self.left -= 1
        if self.left == 0:
            self.struck = f"{frame.f_code.co_qualname}: {text}"
            raise KeyboardInterrupt
        return self.line


def good() -> int:
    return 1


def bad() -> int:
    raise KeyError


async def agood() -> int:
    return 1


async def abad() -> int:
    raise KeyError


def stream() -> Generator[int, None, None]:
    yield 1
    yield 2


async def astream():
    yield 1
    yield 2


async def read(guarded) -> None:
    async for _ in guarded():
        pass


def simple(fn: Callable[[], int]) -> Scenario:
    def make():
        gate = Turnstile()
        return [gate], lambda: gate.call(fn)

    return make


def attempts():
    outer, inner = Turnstile("outer"), Turnstile("inner")
    pipeline = Pipeline("p", outer, Around(again), inner)
    return [outer, inner], lambda: pipeline.call(bad)


def refused():
    outer, full = Turnstile("outer"), Turnstile("full", limit=0)
    pipeline = Pipeline("p", Around(nothing_raised), outer, Around(through), full)
    return [outer, full], lambda: pipeline.call(good)


def nothing_raised(call, inner):
    outcome = yield from inner(call)
    outcome.error = None
    return outcome


class Places(ConcurrencyLimiter):
    @property
    def inside(self):
        return self.inflight

    @property
    def waiting(self):
        return len(self._line)


def around_a_step():
    outer, inner = Places("outer"), Places("inner")
    guarded = Pipeline("p", outer, Around(through), inner)(good)
    guarded()  # the first call generates its code
    return [outer, inner], guarded


def around_a_step_in_asyncio():
    outer, inner = Places("outer"), Places("inner")
    guarded = Pipeline("p", outer, Around(nap(0.5)), inner)(agood)
    asyncio.run(guarded())
    return [outer, inner], lambda: asyncio.run(guarded())


def streamed():
    outer, inner = Turnstile("outer"), Turnstile("inner")
    guarded = Pipeline("p", outer, inner)(stream)
    return [outer, inner], lambda: list(guarded())


def streamed_again():
    gate = Turnstile()
    calls = []

    def flaky() -> Generator[int, None, None]:
        calls.append(True)
        if len(calls) == 1:
            raise KeyError
        yield from stream()

    guarded = Pipeline("p", Around(again), gate)(flaky)
    return [gate], lambda: list(guarded())


def guarded():
    gate = Turnstile()

    def work() -> None:
        with gate.guard():
            pass

    return [gate], work


def by_hand():
    gate = Turnstile()

    def work() -> None:
        permit = gate.try_acquire()
        try:
            permit.settle()
        finally:
            permit.release()

    return [gate], work


def waiting():
    tap = Tap(every=1.0, max_wait=5.0)
    tap.call(good)
    return [tap], lambda: tap.call(good)


def bounded():
    gate = Turnstile()
    pipeline = Pipeline("p", Around(within(5.0)), gate)
    return [gate], lambda: pipeline.call(good)


def with_asyncio(fn: Callable[[], Any], *policies: Callable[[], Any]) -> Scenario:
    def make():
        gates = [Turnstile("outer", limit=3), Turnstile("inner", limit=3)]
        pipeline = Pipeline("p", gates[0], *[policy() for policy in policies], gates[1])
        return gates, lambda: asyncio.run(pipeline.acall(fn))

    return make


def with_trio():
    gate = Turnstile()
    pipeline = Pipeline("p", gate, Around(through))
    return [gate], lambda: trio.run(pipeline.acall, abad)


def astreamed():
    outer, inner = Turnstile("outer"), Turnstile("inner")
    guarded = Pipeline("p", outer, inner)(astream)
    return [outer, inner], lambda: asyncio.run(read(guarded))


SCENARIOS: dict[str, Scenario] = {
    "a good call": simple(good),
    "a bad call": simple(bad),
    "attempts": attempts,
    "a refused call": refused,
    "a stream": streamed,
    "a stream, attempts": streamed_again,
    "a guarded block": guarded,
    "a permit by hand": by_hand,
    "waiting in line": waiting,
    "a bound": bounded,
    "asyncio": with_asyncio(abad),
    "asyncio, attempts": with_asyncio(abad, lambda: Around(again)),
    "asyncio, a bound": with_asyncio(agood, lambda: Around(within(5.0))),
    "asyncio, a race": with_asyncio(agood, lambda: Around(Race(n=2))),
    "asyncio, a stream": astreamed,
    "trio": with_trio,
}
if compiling.is_on():  # no line of these limiters is traced then, some of which no signal can interrupt
    SCENARIOS |= {
        "a step in generated code": around_a_step,
        "asyncio, a step in generated code": around_a_step_in_asyncio,
    }


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_keyboard_interrupt_at_any_line_leaves_nothing_behind(scenario: Scenario) -> None:
    n, leaks = 0, []
    while True:
        n += 1
        interrupt = Interrupt(n)
        with FakeClock(0.0):
            gates, work = scenario()
            interrupt.run(work)
        if not interrupt.struck:
            break
        if interrupt.deadline is not None:
            leaks.append((interrupt.struck, "deadline"))
        for gate in gates:
            inside = 0 if isinstance(gate, Tap) else gate.inside
            if inside or gate.waiting or gate._lock._is_owned():
                leaks.append((interrupt.struck, gate.name))
    gc.collect()  # coroutines that were struck before their first step are reported here, and not elsewhere
    assert leaks == []
    assert n > 30, "it came to all lines"


# --- a cancellation at every await ---


class CancelAt:
    """Await something and cancel it at its *k*-th suspension."""

    def __init__(self, k: int, coroutine: Any, cancel: Callable[[], object]) -> None:
        self.left = k
        self.coroutine = coroutine
        self.cancel = cancel

    def __await__(self) -> Generator[Any, Any, Any]:
        step, reply = self.coroutine.send, None
        while True:
            try:
                trap = step(reply)
            except StopIteration as stop:
                return stop.value
            self.left -= 1
            if self.left == 0:
                self.cancel()
            try:
                reply = yield trap
                step = self.coroutine.send
            except BaseException as error:
                reply, step = error, self.coroutine.throw


async def cancelled_at(runtime, k: int, body: Callable[[], Any]) -> bool:
    """Run *body* and cancel it at its *k*-th suspension; say whether it came that far."""
    steps = []

    async def stepped() -> None:
        cancel = asyncio.current_task().cancel if runtime.name == "asyncio" else steps[0].scope.cancel
        stepping = CancelAt(k, body(), cancel)
        steps.append(stepping)
        await stepping

    steps.append(None)
    job = runtime.spawn(later, runtime, stepped)
    steps[0] = job
    await job.join()
    if job.error is not None and not isinstance(job.error, (runtime.cancelled, KeyError)):
        raise job.error
    return steps[1].left <= 0


async def later(runtime, stepped: Callable[[], Any]) -> None:
    await runtime.checkpoint()
    await stepped()


def of(runtime, *policies: Any, fn: str = "works"):
    """A scenario: the pipeline of *policies*, with gates around and inside."""
    gates = [Turnstile("outer", limit=3), Turnstile("inner", limit=3)]
    pipeline = Pipeline("p", gates[0], *policies, gates[1])

    async def works() -> int:
        await runtime.checkpoint()
        return 1

    async def fails() -> int:
        await runtime.checkpoint()
        raise KeyError

    async def items():
        await runtime.checkpoint()
        yield 1
        await runtime.checkpoint()
        yield 2

    if fn == "items":
        return gates, lambda: read(pipeline(items))
    return gates, lambda: pipeline.acall(works if fn == "works" else fails)


class Closing:
    """A result that takes its time to close."""

    def __init__(self, runtime, log: list[str]) -> None:
        self.runtime, self.log = runtime, log

    async def aclose(self) -> None:
        self.log.append("closing")
        await self.runtime.checkpoint()
        await self.runtime.checkpoint()
        self.log.append("closed")


def disposing(runtime):
    log: list[str] = []
    gate = Turnstile()

    def flow(call, inner):
        yield Dispose(Closing(runtime, log))
        return (yield from inner(call))

    async def body() -> None:
        try:
            await Pipeline("p", gate, Around(flow)).acall(runtime.checkpoint)
        finally:
            assert log in ([], ["closing", "closed"])

    return [gate], body


def queueing(runtime):
    gate = Turnstile(limit=1, max_wait=60.0)

    async def body() -> None:
        permit = gate.try_acquire()
        other = runtime.spawn(gate.acall, runtime.checkpoint)
        try:
            await runtime.checkpoint()
            mine = runtime.spawn(free, permit)
            await gate.acall(runtime.checkpoint)
            await mine
        finally:
            permit.release()
            runtime.cancel(other)

    async def free(permit) -> None:
        await runtime.checkpoint()
        permit.release()

    return [gate], body


def guarding(runtime):
    gate = Turnstile(limit=1, max_wait=60.0)

    async def body() -> None:
        async with gate.guard():
            await runtime.checkpoint()
            holder = runtime.spawn(hold)
        async with gate.guard():
            await runtime.checkpoint()
        await holder

    async def hold() -> None:
        async with gate.guard():
            await runtime.checkpoint()

    return [gate], body


def under_a_deadline(runtime):
    gates, call = of(runtime)

    async def body() -> None:
        with deadline(60.0):
            await call()

    return gates, body


AWAITS = {
    "a call": lambda runtime: of(runtime),
    "a bad call": lambda runtime: of(runtime, fn="fails"),
    "attempts": lambda runtime: of(runtime, Around(again), fn="fails"),
    "a nap": lambda runtime: of(runtime, Around(nap(1.0))),
    "a bound": lambda runtime: of(runtime, Around(within(60.0))),
    "a race": lambda runtime: of(runtime, Around(Race(n=2, after=1.0))),
    "a stream": lambda runtime: of(runtime, fn="items"),
    "a bounded stream": lambda runtime: of(runtime, Around(within(60.0)), fn="items"),
    "a deadline": under_a_deadline,
    "a queue": queueing,
    "a guard": guarding,
    "closing": disposing,
}


SLEEPY = {"attempts", "a nap", "a race"}  # by the real clock they would take seconds


@pytest.mark.parametrize(
    ("name", "clock"),
    [(name, clock) for name in AWAITS for clock in ("fake", "real") if clock == "fake" or name not in SLEEPY],
)
def test_a_cancellation_at_any_await_leaves_nothing_behind(async_runtime, name: str, clock: str) -> None:
    scenario = AWAITS[name]
    awaits = 0
    for k in range(1, 200):
        gates: list[Turnstile] = []

        async def body(k: int = k, gates: list[Turnstile] = gates) -> bool:
            made, work = scenario(async_runtime)
            gates += made
            came_so_far = await cancelled_at(async_runtime, k, work)
            # What was cancelled without being waited for ends soon.
            await async_runtime.until(lambda: not any(gate.inside or gate.waiting for gate in gates))
            return came_so_far

        if clock == "fake":
            with FakeClock():
                came_so_far = async_runtime.run(body)
        else:
            came_so_far = async_runtime.run(body)
        if not came_so_far:
            break
        awaits += 1
        for gate in gates:
            assert not gate._lock._is_owned()
    else:
        raise AssertionError("it never ends")
    assert awaits > 0
