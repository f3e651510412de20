"""Timeouts of calls in asyncio: generated code, flows and ``asyncio.timeout`` come to the same end."""

import asyncio
import contextvars
import functools
import sys
import time
from typing import Any

import anyio
import pytest
import trio

from resilience import Pipeline, Timeout
from resilience._runtime import compile as compiling
from resilience.deadline import current_deadline, deadline, remaining

SHORT = 0.03
LONG = 5.0


class Blocks:
    """What asyncio has."""

    name = "asyncio"

    def limit(self, seconds: float, *inner: float) -> Any:
        """Return a decorator that bounds calls, the outermost first."""

        def decorate(fn: Any) -> Any:
            body = self.limit(*inner)(fn) if inner else fn

            @functools.wraps(fn)
            async def bounded(*args: Any, **kwargs: Any) -> Any:
                async with asyncio.timeout(seconds):
                    return await body(*args, **kwargs)

            return bounded

        return decorate


class Policies:
    """What this package has."""

    def __init__(self, name: str, *, propagate: bool = True) -> None:
        self.name = name
        self.propagate = propagate

    def limit(self, *seconds: float) -> Any:
        limits = [Timeout(each, name=f"stock {each:g}", propagate=self.propagate) for each in seconds]
        return limits[0] if len(limits) == 1 else Pipeline("stock", *limits)


@pytest.fixture(params=["asyncio", "generated", "driven", "generated, untold", "driven, untold"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """All ways to bound a call, also those that do not tell what is inside."""
    if request.param == "asyncio":
        return Blocks()
    name, _, untold = request.param.partition(", ")
    if name == "generated" and not compiling.is_on():
        pytest.skip("nothing is generated here")
    if name == "driven":
        monkeypatch.setattr(compiling, "is_on", lambda: False)
    return Policies(name, propagate=not untold)


@pytest.fixture(params=["generated", "driven"])
def policies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two ways of this package: they know of deadlines."""
    if request.param == "generated" and not compiling.is_on():
        pytest.skip("nothing is generated here")
    if request.param == "driven":
        monkeypatch.setattr(compiling, "is_on", lambda: False)
    return Policies(request.param)


def cancels() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


def block_for(seconds: float) -> None:
    """Let no callback run, so that all that is due meanwhile comes in one tick."""
    time.sleep(seconds)


async def nap(seconds: float = LONG, result: Any = "late") -> Any:
    await asyncio.sleep(seconds)
    return result


async def ending(awaitable: Any) -> Any:
    """Return what came of it, and how many cancellations are left to bear."""
    try:
        result = await awaitable
    except BaseException as error:
        return type(error), cancels()
    return result, cancels()


def test_the_generated_way_is_generated() -> None:
    if not compiling.is_on():
        pytest.skip("nothing is generated here")
    limit = Timeout(SHORT)
    assert "end_of_time" in limit.source(limit(nap))


# --- one call ----------------------------------------------------------------------------------------------------


def test_a_result_in_time_comes_out(way: Any) -> None:
    assert asyncio.run(ending(way.limit(LONG)(nap)(0, "here"))) == ("here", 0)


def test_a_result_without_any_await_comes_out(way: Any) -> None:
    async def here() -> str:
        return "here"

    assert asyncio.run(ending(way.limit(LONG)(here)())) == ("here", 0)


def test_an_error_in_time_comes_out_as_it_is(way: Any) -> None:
    first, cause = KeyError("first"), OSError("cause")

    @way.limit(LONG)
    async def fail() -> None:
        await asyncio.sleep(0)
        try:
            raise first
        except KeyError:
            raise ValueError("bad") from cause

    with pytest.raises(ValueError, match="bad") as caught:
        asyncio.run(fail())
    assert caught.value.__cause__ is cause
    assert caught.value.__context__ is first
    assert not hasattr(caught.value, "__notes__")


def test_what_takes_too_long_is_cancelled_in_time(way: Any) -> None:
    saw = []

    async def fetch() -> None:
        try:
            await nap()
        except asyncio.CancelledError:
            saw.append(cancels())
            raise

    async def body() -> Any:
        began = time.monotonic()
        result = await ending(way.limit(SHORT)(fetch)())
        return *result, time.monotonic() - began

    error, left, took = asyncio.run(body())
    assert (error, left, saw) == (TimeoutError, 0, [1])
    assert SHORT <= took < SHORT + 1.0


def test_a_result_that_comes_late_all_the_same_is_returned(way: Any) -> None:
    @way.limit(SHORT)
    async def stubborn() -> str:
        try:
            await nap()
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)
        return "late"

    assert asyncio.run(ending(stubborn())) == ("late", 0)


def test_a_late_result_leaves_nothing_to_cancel_what_comes_after(way: Any) -> None:
    @way.limit(SHORT)
    async def stubborn() -> str:
        block_for(SHORT * 1.5)
        return "late"

    async def body() -> Any:
        assert await stubborn() == "late"
        await asyncio.sleep(SHORT)
        return cancels()

    assert asyncio.run(body()) == 0


def test_an_error_while_cleaning_up_comes_out(way: Any) -> None:
    @way.limit(SHORT)
    async def untidy() -> None:
        try:
            await nap()
        except asyncio.CancelledError:
            raise KeyError("in cleanup")  # noqa: B904  # the context is what is looked at

    async def body() -> Any:
        try:
            await untidy()
        except KeyError as error:
            return error, cancels()

    error, left = asyncio.run(body())
    assert left == 0
    context = error.__context__
    if sys.version_info >= (3, 13) and way.name != "driven":
        assert type(context) is TimeoutError
        context = context.__cause__
    assert type(context) is asyncio.CancelledError


def test_a_group_of_errors_while_cleaning_up_comes_out(way: Any) -> None:
    async def fail_late() -> None:
        try:
            await nap()
        finally:
            raise KeyError("in cleanup")

    @way.limit(SHORT)
    async def untidy() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail_late())

    async def body() -> Any:
        try:
            await untidy()
        except BaseExceptionGroup as error:
            return [type(each) for each in error.exceptions], cancels()

    assert asyncio.run(body()) == ([KeyError], 0)


def test_system_exit_comes_out(way: Any) -> None:
    @way.limit(LONG)
    async def leave() -> None:
        await asyncio.sleep(0)
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        asyncio.run(leave())


def test_the_time_of_one_call_is_not_that_of_the_next(way: Any) -> None:
    fetch = way.limit(4 * SHORT)(nap)

    async def body() -> Any:
        return [await fetch(3 * SHORT, n) for n in range(3)]

    assert asyncio.run(body()) == [0, 1, 2]


# --- cancelled from outside --------------------------------------------------------------------------------------


def test_a_cancellation_from_outside_stays_one(way: Any) -> None:
    async def body() -> Any:
        task = asyncio.create_task(ending(way.limit(LONG)(nap)()))
        await asyncio.sleep(0.001)
        task.cancel("enough")
        return await task

    assert asyncio.run(body()) == (asyncio.CancelledError, 1)


def test_the_message_of_a_cancellation_is_kept(way: Any) -> None:
    async def body() -> Any:
        task = asyncio.create_task(way.limit(LONG)(nap)())
        await asyncio.sleep(0.001)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        return caught.value.args

    assert asyncio.run(body()) == ("enough",)


@pytest.mark.parametrize("at", [0.5, 1.5], ids=["cancelled first", "out of time first"])
def test_a_cancellation_in_the_tick_of_the_timer_wins(way: Any, at: float) -> None:
    async def body() -> Any:
        task = asyncio.create_task(ending(way.limit(SHORT)(nap)()))
        asyncio.get_running_loop().call_later(SHORT * at, task.cancel)
        await asyncio.sleep(0)
        block_for(SHORT * 2)
        return await task

    assert asyncio.run(body()) == (asyncio.CancelledError, 1)


def test_a_cancellation_after_the_timer_wins_during_the_cleanup(way: Any) -> None:
    cleaning = asyncio.Event()

    @way.limit(SHORT)
    async def tidy() -> None:
        try:
            await nap()
        finally:
            cleaning.set()
            await asyncio.sleep(SHORT)

    async def body() -> Any:
        task = asyncio.create_task(ending(tidy()))
        await cleaning.wait()
        task.cancel()
        return await task

    assert asyncio.run(body()) == (asyncio.CancelledError, 1)


def test_a_call_cancelled_twice_has_two_cancellations_to_bear(way: Any) -> None:
    async def body() -> Any:
        task = asyncio.create_task(ending(way.limit(LONG)(nap)()))
        await asyncio.sleep(0.001)
        task.cancel()
        task.cancel()
        return await task

    assert asyncio.run(body()) == (asyncio.CancelledError, 2)


def test_cancellations_from_before_are_not_counted(way: Any) -> None:
    async def body() -> Any:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        return await ending(way.limit(SHORT)(nap)())

    assert asyncio.run(body()) == (TimeoutError, 1)


def test_a_call_that_takes_back_all_cancellations_is_out_of_time(way: Any) -> None:
    @way.limit(SHORT)
    async def forgiving() -> None:
        try:
            await nap()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            raise

    assert asyncio.run(ending(forgiving())) == (TimeoutError, 0)


def test_an_error_of_cancellation_that_nobody_asked_for_comes_out(way: Any) -> None:
    @way.limit(LONG)
    async def odd() -> None:
        raise asyncio.CancelledError("of its own")

    assert asyncio.run(ending(odd())) == (asyncio.CancelledError, 0)


# --- one in another ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "ends"), [((LONG, SHORT), "inner"), ((2 * LONG, LONG), "neither")])
def test_of_two_limits_the_one_that_comes_first_ends_the_call(way: Any, seconds: Any, ends: str) -> None:
    fetch = way.limit(*seconds)(nap)
    result = asyncio.run(ending(fetch(LONG if ends == "inner" else 0)))
    assert result == ((TimeoutError, 0) if ends == "inner" else ("late", 0))


def test_two_limits_in_one_tick_are_one_timeout(way: Any) -> None:
    async def body() -> Any:
        task = asyncio.create_task(ending(way.limit(SHORT * 1.5, SHORT)(nap)()))
        await asyncio.sleep(0)
        block_for(SHORT * 2)
        return await task

    assert asyncio.run(body()) == (TimeoutError, 0)


def test_the_outer_limit_ends_a_call_that_outlasts_the_inner_one(way: Any) -> None:
    async def stubborn() -> None:
        try:
            await nap()
        except asyncio.CancelledError:
            await nap()

    assert asyncio.run(ending(way.limit(2 * SHORT, SHORT)(stubborn)())) == (TimeoutError, 0)


def test_two_functions_with_limits_nest(way: Any) -> None:
    inner = way.limit(SHORT)(nap)

    @way.limit(LONG)
    async def outer() -> Any:
        return await ending(inner()), await ending(inner(0, "here"))

    assert asyncio.run(ending(outer())) == (((TimeoutError, 0), ("here", 0)), 0)


def test_the_outer_of_two_functions_ends_both(way: Any) -> None:
    inner = way.limit(LONG)(nap)
    outer = way.limit(SHORT)(inner)
    assert asyncio.run(ending(outer())) == (TimeoutError, 0)


def test_a_function_may_call_itself(way: Any) -> None:
    @way.limit(SHORT)
    async def fall(depth: int) -> Any:
        return await fall(depth - 1) if depth else await nap()

    @way.limit(LONG)
    async def climb(depth: int) -> int:
        return depth and 1 + await climb(depth - 1)

    assert asyncio.run(ending(fall(5))) == (TimeoutError, 0)
    assert asyncio.run(ending(climb(5))) == (5, 0)


def test_a_function_that_is_out_of_time_may_call_itself_to_clean_up(way: Any) -> None:
    @way.limit(SHORT)
    async def fetch(cleans: bool = False) -> Any:
        if cleans:
            return await nap(0)
        try:
            return await nap()
        except asyncio.CancelledError:
            with_none = contextvars.Context()  # where the deadline that has passed is not known
            await asyncio.create_task(fetch(True), context=with_none)
            raise

    assert asyncio.run(ending(fetch())) == (TimeoutError, 0)


@pytest.mark.parametrize("inside", [SHORT, LONG])
def test_a_block_of_the_users_inside_is_its_own(way: Any, inside: float) -> None:
    @way.limit(LONG if inside == SHORT else SHORT)
    async def fetch() -> Any:
        async with asyncio.timeout(inside) as block:
            try:
                await nap()
            except TimeoutError:  # never: the block raises it outside
                return "wrong"
        return block

    async def body() -> Any:
        return await ending(fetch())

    assert asyncio.run(body()) == (TimeoutError, 0)


@pytest.mark.parametrize(("outside", "expired"), [(SHORT, True), (LONG, False)])
def test_a_block_of_the_users_outside_is_its_own(way: Any, outside: float, expired: bool) -> None:
    fetch = way.limit(LONG if outside == SHORT else SHORT)(nap)

    async def body() -> Any:
        block = asyncio.timeout(outside)
        with pytest.raises(TimeoutError):
            async with block:
                await fetch()
        return block.expired(), cancels()

    assert asyncio.run(body()) == (expired, 0)


def test_anyio_scopes_inside_are_their_own(way: Any) -> None:
    @way.limit(LONG)
    async def fetch() -> Any:
        with anyio.move_on_after(SHORT) as scope:
            await nap()
        with pytest.raises(TimeoutError):
            with anyio.fail_after(SHORT):
                await nap()
        return scope.cancelled_caught

    assert asyncio.run(ending(fetch())) == (True, 0)


def test_the_limit_ends_an_anyio_scope_inside(way: Any) -> None:
    @way.limit(SHORT)
    async def fetch() -> None:
        with anyio.move_on_after(LONG):
            await nap()

    assert asyncio.run(ending(fetch())) == (TimeoutError, 0)


def test_anyio_scopes_outside_are_their_own(way: Any) -> None:
    fetch = way.limit(LONG)(nap)

    async def body() -> Any:
        with anyio.move_on_after(SHORT) as scope:
            await fetch()
        with pytest.raises(TimeoutError):
            with anyio.fail_after(SHORT):
                await fetch()
        return scope.cancelled_caught, cancels()

    assert asyncio.run(body()) == (True, 0)


def test_the_limit_ends_a_call_in_an_anyio_scope(way: Any) -> None:
    fetch = way.limit(SHORT)(nap)

    async def body() -> Any:
        with anyio.move_on_after(LONG) as scope:
            return *await ending(fetch()), scope.cancelled_caught

    assert asyncio.run(body()) == (TimeoutError, 0, False)


# --- many tasks --------------------------------------------------------------------------------------------------


def test_each_of_many_tasks_has_its_own_time(way: Any) -> None:
    fetch = way.limit(0.2)(nap)

    async def body() -> Any:
        calls = [ending(fetch(LONG if n % 3 else 0.01, n)) for n in range(60)]
        return await asyncio.gather(*calls)

    expected = [(TimeoutError, 0) if n % 3 else (n, 0) for n in range(60)]
    assert asyncio.run(body()) == expected


def test_calls_that_begin_one_after_the_other_end_so(way: Any) -> None:
    ends: list[float] = []
    fetch = way.limit(0.1)(nap)

    async def one(n: int) -> None:
        await asyncio.sleep(n * 0.02)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await fetch()
        ends.append(time.monotonic() - began)

    async def body() -> None:
        await asyncio.gather(*(one(n) for n in range(8)))

    asyncio.run(body())
    assert all(0.1 <= took < 1.0 for took in ends)


def test_a_group_of_tasks_inside_is_cancelled(way: Any) -> None:
    cut = []

    async def child() -> None:
        try:
            await nap()
        except asyncio.CancelledError:
            cut.append(cancels())
            raise

    @way.limit(SHORT)
    async def fetch() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(child())

    assert asyncio.run(ending(fetch())) == (TimeoutError, 0)
    assert cut == [1, 1, 1]


def test_a_group_of_tasks_outside_sees_an_error(way: Any) -> None:
    fetch = way.limit(SHORT)(nap)

    async def body() -> Any:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fetch())
                group.create_task(nap())
        except BaseExceptionGroup as error:
            return [type(each) for each in error.exceptions]

    assert asyncio.run(body()) == [TimeoutError]


def test_a_child_outlives_the_call_that_made_it(way: Any) -> None:
    @way.limit(SHORT)
    async def fetch() -> Any:
        return asyncio.create_task(nap(2 * SHORT, "child"))

    async def body() -> Any:
        return await (await fetch())

    assert asyncio.run(ending(body())) == ("child", 0)


# --- deadlines ---------------------------------------------------------------------------------------------------


def test_the_nearest_deadline_is_seen_inside_and_none_afterwards(policies: Any) -> None:
    async def look() -> Any:
        return remaining(), await asyncio.create_task(in_child())

    async def in_child() -> Any:
        return remaining()

    async def body() -> Any:
        inside = await policies.limit(60.0, 30.0)(look)()
        return *inside, remaining()

    own, child, after = asyncio.run(body())
    assert 29.0 < child <= own <= 30.0
    assert after is None


@pytest.mark.parametrize("error", [KeyError, asyncio.CancelledError, SystemExit, None])
def test_no_deadline_is_left_after_an_error(policies: Any, error: Any) -> None:
    @policies.limit(SHORT)
    async def fail() -> None:
        if error is None:
            await nap()
        raise error

    async def body() -> Any:
        try:
            await fail()
        except BaseException as raised:
            return type(raised), current_deadline()

    assert asyncio.run(body()) == (error or TimeoutError, None)


def test_a_deadline_of_the_caller_that_comes_first_ends_the_call(policies: Any) -> None:
    async def body() -> Any:
        with deadline(SHORT):
            result = await ending(policies.limit(LONG)(nap)())
        return *result, current_deadline()

    error, left, after = asyncio.run(body())
    assert (error.__name__, left, after) == ("DeadlineExceededError", 0, None)


def test_a_deadline_of_the_caller_that_comes_later_does_not(policies: Any) -> None:
    async def body() -> Any:
        with deadline(LONG):
            return await ending(policies.limit(SHORT)(nap)())

    assert asyncio.run(body()) == (TimeoutError, 0)


def test_a_deadline_set_inside_is_gone_with_its_block(policies: Any) -> None:
    @policies.limit(60.0)
    async def fetch() -> Any:
        with deadline(5.0):
            inner = remaining()
        return inner, remaining()

    async def body() -> Any:
        return *await fetch(), remaining()

    inner, outer, after = asyncio.run(body())
    assert inner <= 5.0 < outer <= 60.0
    assert after is None


@pytest.mark.parametrize("error", [None, KeyError])
def test_a_generator_left_open_does_not_bring_the_deadline_back(policies: Any, error: Any) -> None:
    async def numbers() -> Any:
        with deadline(30.0):
            yield 1
            yield 2

    async def body() -> Any:
        stream = numbers()

        @policies.limit(60.0)
        async def first() -> None:
            await anext(stream)
            if error is not None:
                raise error

        await ending(first())
        await stream.aclose()
        return current_deadline()

    assert asyncio.run(body()) is None


def test_trio_comes_to_the_same_end(policies: Any) -> None:
    async def doze(seconds: float) -> str:
        await trio.sleep(seconds)
        return "here"

    fetch = policies.limit(LONG, SHORT)(doze)

    async def body() -> Any:
        with pytest.raises(TimeoutError):
            await fetch(LONG)
        return await fetch(0), current_deadline()

    assert trio.run(body) == ("here", None)


def test_trio_and_asyncio_take_turns(policies: Any) -> None:
    async def here() -> str:
        return "here"

    fetch = policies.limit(LONG)(here)

    async def body() -> Any:
        return await fetch()

    assert [asyncio.run(body()), trio.run(body), asyncio.run(body()), trio.run(body)] == ["here"] * 4


# Fails for generated code, until that is mended: it takes the task of asyncio, whose loop stands still, for its own.
def test_trio_run_by_a_task_of_asyncio_has_its_own_time(policies: Any) -> None:
    async def doze(seconds: float) -> str:
        await trio.sleep(seconds)
        return "here"

    fetch = policies.limit(SHORT)(doze)

    async def body() -> Any:
        with pytest.raises(TimeoutError):
            await fetch(1.0)
        return await fetch(0)

    async def task() -> Any:
        return trio.run(body)

    assert asyncio.run(task()) == "here"
