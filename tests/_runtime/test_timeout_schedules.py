"""Whatever tasks do with their time: generated code, flows and ``asyncio.timeout`` end it alike, to the instant."""

import asyncio
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.doubles import clock_replaced
from tests.virtual_loop import VirtualLoop

from resilience import CircuitBreaker, Fallback, Pipeline, Retry, Timeout
from resilience._runtime import _asyncio_cuts, adrive
from resilience._runtime import compile as compiling
from resilience.backoff import constant
from resilience.deadline import current_deadline, deadline

pytestmark = pytest.mark.skipif(not compiling.is_on(), reason="nothing is generated here")

TICK = 1 / 16
"""Seconds of which all times are multiples, so that sums of them are exact."""

LIMITS = [(4,), (8,), (8, 4), (12, 8, 4)]
"""How many ticks calls may take; the outermost policy's first."""

MADE = [
    *LIMITS, (), ("again",), ("again", 4), (8, "again", 4), ("else", 12),
    (-4,), (-8, 4), (8, -4), ("again", -4), (-8, "again", -4), ("else", -12),
]  # fmt: skip
"""
How many ticks calls may take that policies bound, and where they are repeated or replaced. Of a negative number
nobody tells what is inside.
"""


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
    others = {"again": again, "else": instead}
    made = [
        [
            others[each]() if each in others else Timeout(abs(each) * TICK, propagate=each > 0)
            for each in limits
        ]
        for limits in MADE
    ]
    for each in made:
        each.insert(1 if each and isinstance(each[0], Fallback) else 0, CircuitBreaker())
    calls = [Pipeline(f"limits {n}", *each)(perform) for n, each in enumerate(made)]
    return calls, [limit for each in made for limit in each if isinstance(limit, Timeout)]


def again():
    """Return what calls up to three times, with 2 ticks between two calls."""
    return Retry(attempts=3, backoff=constant(2 * TICK), budget=None)


def instead():
    """Return what gives another result when a call fails, after a tick."""

    async def other(outcome):
        await asyncio.sleep(TICK)
        return "another"

    return Fallback(handler=other)


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
        elif kind == "within":
            with deadline(about[0] * TICK):
                await perform(n, about[1])
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


ENDS = ["swallow", "raise", "fail", "take back"]


def cleaned(step, ends=ENDS):
    return st.tuples(st.just("clean"), steps_of(step), st.sampled_from(ends), st.integers(0, 5))


def called(step, which=LIMITS):
    return st.tuples(st.just("call"), st.integers(0, len(which) - 1), steps_of(step))


def within(step):
    return st.tuples(st.just("within"), st.integers(1, 13), steps_of(step))


tidy = st.one_of(plain, cleaned(plain), cleaned(cleaned(plain)))
once = st.one_of(plain, called(tidy), called(tidy), cleaned(called(tidy)))
nested = st.one_of(once, called(once), cleaned(called(once)))


def late(ends):
    """Return steps with calls that have a deadline; what they are cut short in ends in one of the *ends*."""
    tidy = st.one_of(plain, cleaned(plain, ends), cleaned(cleaned(plain, ends), ends))
    alone = st.one_of(plain, called(tidy, MADE), called(tidy, MADE), cleaned(called(tidy, MADE), ends))
    inside = st.one_of(alone, called(alone, MADE), called(within(alone), MADE))
    return st.one_of(alone, within(inside), within(inside), within(within(inside)), cleaned(within(inside)))


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


COVERED = [(0, [("within", 1, [("call", 0, [("call", 1, [("fail",)])])])], [])]


@given(tasks_of(late(ENDS)))
@example(COVERED)
@example([(0, [("within", 2, [("call", 8, [("clean", [("sleep", 9)], "fail", 0)])])], [])])
def test_generated_code_keeps_deadlines_as_flows_do(tasks):
    generated = history(policies, tasks)
    with patch.object(compiling, "is_on", lambda: False):
        driven = history(policies, tasks)
    assert generated == driven


# Who takes one cancellation back still has the other one, where there are two: see below.
@given(tasks_of(late(["swallow", "raise", "fail"])))
def test_flows_keep_deadlines_as_asyncio_does(tasks):
    with patch.object(compiling, "is_on", lambda: False):
        driven = history(policies, tasks)
        with (
            patch.object(_asyncio_cuts, "covers", lambda until: False),
            patch.object(_asyncio_cuts, "cut_at", lambda until: None),  # so that `asyncio.timeout_at` does it
        ):
            expected = history(policies, tasks)
    # A call within a call is cancelled twice at the deadline of both if each has a timer of its own.
    assert without_cancels(driven) == without_cancels(expected)


def without_cancels(seen):
    *tasks, ends, timed_out = seen
    return [[(what, when) for what, when, _ in notes] for notes in tasks], ends, timed_out


def test_no_deadline_of_a_schedule_is_kept_by_a_flow_alone():
    async def perform(n, steps):
        return n

    async def body():
        with deadline(1.0):
            return [await call(n, []) for n, call in enumerate(calls * 2)]

    calls, _ = policies(perform)
    asyncio.run(body())  # the first calls come before their code
    with patch.object(adrive, "run", side_effect=AssertionError("driven as a flow")):
        assert asyncio.run(body()) == [*range(2 * len(MADE))]


def test_the_schedules_run_generated_code():
    async def perform(n, steps):
        return n

    calls, limits = policies(perform)
    assert ["end_of_time" in limits[0].source(call) for call in calls[: len(LIMITS)]] == [True] * len(LIMITS)
