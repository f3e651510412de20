"""Whatever tasks do with their time: generated code, flows and ``asyncio.timeout`` end it alike, to the instant."""

import asyncio
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.doubles import clock_replaced
from tests.virtual_loop import VirtualLoop

from resilience import Pipeline, Timeout
from resilience._runtime import compile as compiling
from resilience.deadline import current_deadline

pytestmark = pytest.mark.skipif(not compiling.is_on(), reason="nothing is generated here")

TICK = 1 / 16
"""Seconds of which all times are multiples, so that sums of them are exact."""

LIMITS = [(4,), (8,), (8, 4), (12, 8, 4)]
"""How many ticks calls may take; the outermost policy's first."""


def blocks(perform):
    """Return what bounds calls of *perform*: what asyncio has."""

    def bounded(fn, seconds):
        async def call(*args):
            async with asyncio.timeout(seconds):
                return await fn(*args)

        return call

    calls = []
    for limits in LIMITS:
        call = perform
        for ticks in reversed(limits):
            call = bounded(call, ticks * TICK)
        calls.append(call)
    return calls, []


def policies(perform):
    """Return what bounds calls of *perform*, and the policies that do it."""
    made = [[Timeout(ticks * TICK) for ticks in limits] for limits in LIMITS]
    calls = [Pipeline(f"limits {n}", *each)(perform) for n, each in enumerate(made)]
    return calls, [limit for each in made for limit in each]


class Failed(Exception):
    pass


def history(way, tasks):
    """Return what happened in each task, and when."""
    seen = [[] for _ in tasks]

    async def perform(n, steps):
        for step in steps:
            await act(n, *step)
        return "done"

    async def act(n, kind, *about):
        if kind == "sleep":
            await asyncio.sleep(about[0] * TICK)
        elif kind == "fail":
            raise Failed
        elif kind == "call":
            await call(n, *about)
        else:
            await cleaned(n, *about)

    async def cleaned(n, steps, then, ticks):
        try:
            await perform(n, steps)
        except asyncio.CancelledError:
            note(n, "cut")
            if then == "fail":
                raise Failed from None
            if then == "take back":
                asyncio.current_task().uncancel()
            elif ticks:
                await asyncio.sleep(ticks * TICK)
            if then != "swallow":
                raise

    async def call(n, which, steps):
        try:
            end = await calls[which](n, steps)
        except BaseException as error:
            note(n, type(error).__name__)
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            note(n, end)

    def note(n, what):
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        seen[n].append((what, (loop.time() - 64.0) / TICK, task.cancelling()))

    async def task(n, start, steps):
        try:
            await asyncio.sleep(start * TICK)
            await perform(n, steps)
        except BaseException as error:
            note(n, type(error).__name__)
        assert current_deadline() is None

    async def body():
        loop = asyncio.get_running_loop()
        begun = [asyncio.create_task(task(n, start, steps)) for n, (start, steps, _) in enumerate(tasks)]
        for one, (_, _, cancels) in zip(begun, tasks, strict=True):
            for ticks in cancels:
                loop.call_later(ticks * TICK, one.cancel)
        # One who is cancelled before the first step notes nothing, whatever the way.
        seen.append([type(end).__name__ for end in await asyncio.gather(*begun, return_exceptions=True)])

    calls, limits = way(perform)
    with (
        asyncio.Runner(loop_factory=VirtualLoop) as runner,
        clock_replaced(runner.get_loop().time),
    ):
        runner.run(body())
    assert not any(getattr(limit.queue, "began", None) for limit in limits)
    seen.append([limit.timed_out for limit in limits])
    return seen


ticks = st.integers(0, 13)
plain = st.one_of(st.tuples(st.just("sleep"), ticks), st.tuples(st.just("sleep"), ticks), st.just(("fail",)))


def steps_of(step):
    return st.lists(step, min_size=1, max_size=4)


def cleaned(step):
    then = st.sampled_from(["swallow", "raise", "fail", "take back"])
    return st.tuples(st.just("clean"), steps_of(step), then, st.integers(0, 5))


def called(step):
    return st.tuples(st.just("call"), st.integers(0, len(LIMITS) - 1), steps_of(step))


tidy = st.one_of(plain, cleaned(plain), cleaned(cleaned(plain)))
once = st.one_of(plain, called(tidy), called(tidy), cleaned(called(tidy)))
nested = st.one_of(once, called(once), cleaned(called(once)))


def tasks_of(step):
    cancels = st.lists(ticks, max_size=3)
    return st.lists(st.tuples(st.integers(0, 6), steps_of(step), cancels), min_size=1, max_size=4)


TWO_AT_ONCE = [(0, [("call", 2, [("clean", [("sleep", 13)], "raise", 4)])], [4])]


@given(tasks_of(once))
@example(TWO_AT_ONCE)
def test_generated_code_ends_calls_as_asyncio_does(tasks):
    *generated, _ = history(policies, tasks)
    *expected, _ = history(blocks, tasks)
    assert generated == expected


@given(tasks_of(nested))
@example(TWO_AT_ONCE)
def test_generated_code_ends_calls_within_calls_as_flows_do(tasks):
    generated = history(policies, tasks)
    with patch.object(compiling, "is_on", lambda: False):
        driven = history(policies, tasks)
    assert generated == driven


def test_the_schedules_run_generated_code():
    async def perform(n, steps):
        return n

    calls, limits = policies(perform)
    assert ["end_of_time" in limits[0].source(call) for call in calls] == [True] * len(LIMITS)
